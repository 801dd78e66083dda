"""Contrast normalisation of images by themselves: over the whole image, or around every pixel."""

from torch import Tensor

from cnnkit.ops.checks import require_float
from cnnkit.ops.kernels import gaussian


def global_contrast_norm(images: Tensor, *, floor: float = 0.0) -> Tensor:
    """(x - mu) / max(sigma, floor), mean and deviation over all channels and pixels of each image.

    Goodfellow et al., arXiv:1302.4389, scale CIFAR's 3,072 values to length 55; length sqrt(3072) = 55.4 is
    deviation 1, which is what images of any size get here. An image of one value becomes 0.

    Shape: (N, C, H, W) -> the same

    Raises:
        ValueError: images are not of floating point.
    """
    require_float(images=images)
    centred = images - images.mean((1, 2, 3), keepdim=True)
    deviation = centred.square().mean((1, 2, 3), keepdim=True).sqrt()
    return _divided(centred, deviation, floor)


def local_contrast_norm(
    images: Tensor, *, size: int = 9, sigma: float | None = None, floor: float = 0.0
) -> Tensor:
    """Jarrett, Kavukcuoglu, Ranzato & LeCun, ICCV 2009, section 2: subtractive, then divisive.

        v_ijk = x_ijk - sum_ipq w_pq x_i,j+p,k+q
        y_ijk = v_ijk / max(c, s_jk)     s_jk = sqrt(sum_ipq w_pq v_i,j+p,k+q^2)     c = mean of s_jk

    with w a Gaussian window over which, and over all channels i, the weights have sum 1; c is each image's
    own. What the paper leaves open is as in Torch's `SpatialContrastiveNormalization`: sigma is a quarter of
    the window, and at the border the weights that fall inside are brought to sum 1 again.

    Shape: (N, C, H, W) -> the same

    Args:
        size: of the window, odd.
        sigma: of the Gaussian, in pixels; by default size / 4.
        floor: what c is at least, so that noise of an even image is not blown up.

    Raises:
        ValueError: images are not of floating point, the size is even, or sigma is not positive.
    """
    require_float(images=images)
    along = gaussian(size / 4 if sigma is None else sigma, size).sum(0).tolist()
    inside = _smoothed(images.new_ones(1, 1, *images.shape[2:]), along)
    v = images - _smoothed(images.mean(1, keepdim=True), along) / inside
    s = (_smoothed(v.square().mean(1, keepdim=True), along) / inside).sqrt()
    return _divided(v, s.maximum(s.mean((1, 2, 3), keepdim=True)), floor)


def _smoothed(maps: Tensor, along: list[float]) -> Tensor:
    """The weighted sum around every pixel, beyond the border nothing; a Gaussian is its two axes' product."""
    half = len(along) // 2
    for axis in (2, 3):
        size = maps.shape[axis]
        padded = maps.new_zeros([n + 2 * half * (i == axis) for i, n in enumerate(maps.shape)])
        padded.narrow(axis, half, size).copy_(maps)
        maps = sum(
            (padded.narrow(axis, i, size) * weight for i, weight in enumerate(along)),
            start=maps.new_zeros(()),
        )
    return maps


def _divided(values: Tensor, scale: Tensor, floor: float) -> Tensor:
    """values / max(scale, floor), and 0 where both are 0."""
    scale = scale.clamp(min=floor)
    return values / scale.where(scale > 0, scale.new_ones(()))
