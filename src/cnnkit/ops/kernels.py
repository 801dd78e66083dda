"""Kernels set by hand: differences, smoothing, oriented waves, and a pattern as its own detector.

All are written as correlation kernels, as networks have them: a horizontal difference (-1, 0, 1) answers
positively where brightness grows to the right.

    prewitt, sobel, scharr   a difference along one axis, smoothed along the other by (1, 1, 1), (1, 2, 1),
    (3, 10, 3) roberts                  differences along the two diagonals of a 2 x 2 square laplacian4,
    laplacian8   the sum of second differences, over the 4 or the 8 neighbours
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float
from cnnkit.ops.convolution import correlate

EdgeKernel = Literal["sobel", "prewitt", "scharr", "roberts", "laplacian4", "laplacian8"]

_SMOOTHING = {"prewitt": (1, 1, 1), "sobel": (1, 2, 1), "scharr": (3, 10, 3)}
_WHOLE = {
    "roberts": (((1, 0), (0, -1)), ((0, 1), (-1, 0))),
    "laplacian4": (((0, 1, 0), (1, -4, 1), (0, 1, 0)),),
    "laplacian8": (((1, 1, 1), (1, -8, 1), (1, 1, 1)),),
}


def edge_kernels(name: EdgeKernel) -> Tensor:
    """The kernels of an edge detector: for x and for y, or a single Laplacian. Shape: (1 or 2, 1, size, size)

    Raises:
        ValueError: there is none of that name.
    """
    if name in _SMOOTHING:
        along_x = torch.outer(torch.tensor(_SMOOTHING[name]), torch.tensor((-1, 0, 1))).float()
        return torch.stack([along_x, along_x.T])[:, None]
    if name in _WHOLE:
        return torch.tensor(_WHOLE[name]).float()[:, None]
    raise ValueError(f"no edge kernel {name!r}; there are {', '.join(get_args(EdgeKernel))}")


def edges(images: Tensor, name: EdgeKernel = "sobel") -> Tensor:
    """How strong the edge is at every pixel: sqrt(sum_k (w_k * x)^2) over the kernels of the detector.

    Every plane is taken by itself, and beyond the border its last pixels are repeated, so that the frame is
    no edge. The 2 x 2 kernels of Roberts look at a pixel and its neighbours to the right and below.

    Shape: (..., H, W) -> (..., H, W)

    Raises:
        ValueError: images are not of floating point, or there is no detector of that name.
    """
    require_float(images=images)
    kernels = edge_kernels(name).to(images)
    before, after = (kernels.shape[-1] - 1) // 2, kernels.shape[-1] // 2
    planes = images.reshape(-1, 1, *images.shape[-2:])
    for axis in (2, 3):
        size = planes.shape[axis]
        places = torch.arange(-before, size + after, device=images.device).clamp(0, size - 1)
        planes = planes.index_select(axis, places)
    responses = correlate(planes, kernels)
    return responses.square().sum(1).sqrt().reshape(images.shape)


def gaussian(sigma: float, size: int | None = None) -> Tensor:
    """exp(-(x^2 + y^2) / (2 sigma^2)), of sum 1. Shape: (size, size); without a size it reaches to 3 sigma.

    Raises:
        ValueError: sigma is not positive or the size is even.
    """
    if sigma <= 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    x = _centred(2 * math.ceil(3 * sigma) + 1 if size is None else size)
    along = torch.exp(-x.square() / (2 * sigma**2))
    return torch.outer(along, along) / along.sum() ** 2


def gabor(
    wavelength: float,
    angle: float,
    *,
    sigma: float | None = None,
    aspect: float = 0.5,
    phase: float = 0.0,
    size: int | None = None,
) -> Tensor:
    """A wave under a bell, as in simple cells and learned first layers. Daugman, JOSA A 2, 1985.

        exp(-(x'^2 + aspect^2 y'^2) / (2 sigma^2)) cos(2 pi x' / wavelength + phase)
        x' = x cos(angle) + y sin(angle),     y' = -x sin(angle) + y cos(angle)

    Args:
        wavelength: pixels from crest to crest.
        angle: direction in which the wave runs, in radians, from x (to the right) towards y (down).
        sigma: width of the bell along the wave; 0.56 wavelengths, a bandwidth of one octave, where it is not
        given. aspect: that width over the one along the crests. phase: 0 is a line detector, pi / 2 an edge
        detector.

    Shape: (size, size); without a size it reaches to three times the bell's longer width

    Raises:
        ValueError: wavelength, sigma or aspect is not positive, or the size is even.
    """
    sigma = 0.56 * wavelength if sigma is None else sigma
    if min(wavelength, sigma, aspect) <= 0:
        raise ValueError(
            f"wavelength, sigma and aspect must be positive, got {wavelength}, {sigma} and {aspect}"
        )
    reach = math.ceil(3 * sigma / min(1.0, aspect))
    y, x = torch.meshgrid(*[_centred(2 * reach + 1 if size is None else size)] * 2, indexing="ij")
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    bell = torch.exp(-(along.square() + (aspect * across).square()) / (2 * sigma**2))
    return bell * torch.cos(2 * math.pi * along / wavelength + phase)


def matched_filter(images: Tensor, pattern: Tensor) -> Tensor:
    """How much each window looks like the pattern, from -1 to 1: the pattern itself is the kernel.

        r = sum (x - x~) (t - t~) / (|x - x~| |t - t~|),     x~ and t~ the means of window and pattern

    By Cauchy's inequality r is 1 exactly where the window is the pattern, but for brightness and contrast. A
    window without contrast gives 0.

    Shape: images (..., H, W), pattern (h, w) -> (..., H - h + 1, W - w + 1)

    Raises:
        ValueError: a tensor is not of floating point, or the pattern is not a plane, has no contrast, or is
            larger than the image.
    """
    require_float(images=images, pattern=pattern)
    if pattern.dim() != 2:
        raise ValueError(f"pattern must be (h, w), got shape {tuple(pattern.shape)}")
    template = (pattern - pattern.mean()).to(images)
    if pattern.max() == pattern.min():
        raise ValueError("pattern has no contrast: all its values are equal")
    planes = images.reshape(-1, 1, *images.shape[-2:])
    planes = planes - planes.mean((2, 3), keepdim=True)  # changes no r, and the squares keep more digits
    box = torch.ones_like(template)[None, None] / template.numel()
    likeness = correlate(planes, template[None, None])
    variance = correlate(planes.square(), box) - correlate(planes, box).square()
    rounding = 100 * torch.finfo(images.dtype).eps * planes.square().amax((2, 3), keepdim=True)
    flat = variance <= rounding
    spread = (variance.masked_fill(flat, 1) * template.numel() * template.square().sum()).sqrt()
    response = (likeness / spread).masked_fill(flat, 0)
    return response.reshape(*images.shape[:-2], *response.shape[-2:])


def _centred(size: int) -> Tensor:
    """-r .. r for a size of 2 r + 1."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size must be odd, so that the kernel has a centre, got {size}")
    return torch.arange(size, dtype=torch.get_default_dtype()) - size // 2
