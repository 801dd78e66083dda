"""Correlation and convolution, in one and two dimensions, with their three derived gradients.

What the networks call a convolution is a correlation,

    y[o, i] = b[o] + sum_c sum_u w[o, c, u] x[c, s i + d u - p].

The true convolution turns the kernel by 180 degrees, which makes it commutative (in `full` mode). The rank of
the images less two is the number of spatial axes. The gradients are derived in `algorithm.py`. Every
algorithm gives the same numbers, but for rounding:

    direct      the definition, tap by tap
    im2col      unrolled windows and one matrix product
    fft         products of Fourier transforms, tile by tile; for large kernels
    winograd    F(2x2, 3x3): 3 taps an axis, stride and dilation 1
    winograd4   F(4x4, 3x3): fewer products, more rounding

Half types are computed in float32 and rounded once. Results carry no graph for PyTorch's autograd: here a
gradient is a function.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cnnkit.ops.algorithm import Algorithm
from cnnkit.ops.checks import require_float, require_shape
from cnnkit.ops.columns import Im2col
from cnnkit.ops.direct import Direct
from cnnkit.ops.fft import Fft
from cnnkit.ops.shapes import Axis, Padding, axes
from cnnkit.ops.windows import rotate
from cnnkit.ops.winograd import Winograd

AlgorithmName = Literal["direct", "im2col", "fft", "winograd", "winograd4"]

ALGORITHMS: dict[str, Algorithm] = {
    "direct": Direct(),
    "im2col": Im2col(),
    "fft": Fft(),
    "winograd": Winograd(2),
    "winograd4": Winograd(4),
}


class Gradients(NamedTuple):
    """dL/dx, dL/dw and dL/db, each of the shape of what it belongs to."""

    images: Tensor
    kernels: Tensor
    bias: Tensor


@torch.no_grad()
def correlate(
    images: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    algorithm: AlgorithmName = "direct",
) -> Tensor:
    """y[o, i] = b[o] + sum_c sum_u w[o, c, u] x[c, s i + d u - p].

    Shape: images (N, C, *spatial), kernels (O, C / groups, *kernel), bias (O,) -> (N, O, *out)

    Raises:
        ValueError: a shape does not fit, a tensor is not of floating point or unlike the others, channels do
            not divide into the groups, the kernel is larger than the padded image, a padding is negative, or
            the algorithm is not known or cannot do the case.
    """
    sliding = _sliding(images, kernels, stride, padding, dilation, groups)
    if bias is not None:
        _require_alike(images=images, bias=bias)
        require_shape("bias", bias, kernels.shape[:1])
    maps = _named(algorithm).correlate(_wide(images), _wide(kernels), sliding, groups)
    if bias is not None:
        maps += bias.view(-1, *[1] * len(sliding))
    return maps.to(images.dtype)


@torch.no_grad()
def images_gradient(
    residual: Tensor,
    kernels: Tensor,
    size: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    algorithm: AlgorithmName = "direct",
) -> Tensor:
    """The residual of the layer below: dx[c, j] = sum_o sum_(s i + d u - p = j) r[o, i] w[o, c, u].

    Shape: residual (N, O, *out), kernels (O, C / groups, *kernel), `size` the image's -> (N, C, *size)

    Raises:
        ValueError: as `correlate` does, or the residual has not the shape of the output.
    """
    _require_alike(residual=residual, kernels=kernels)
    _require_groups(groups, kernels.shape[1] * groups, len(kernels))
    sliding = axes(size, kernels.shape[2:], stride=stride, padding=padding, dilation=dilation)
    require_shape("residual", residual, (len(residual), len(kernels), *(a.out for a in sliding)))
    gradient = _named(algorithm).images_gradient(_wide(residual), _wide(kernels), sliding, groups)
    return gradient.to(residual.dtype)


@torch.no_grad()
def kernels_gradient(
    residual: Tensor,
    images: Tensor,
    kernel: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    algorithm: AlgorithmName = "direct",
) -> Tensor:
    """dw[o, c, u] = sum_n sum_i r[o, i] x[c, s i + d u - p].

    Shape: residual (N, O, *out), images (N, C, *spatial), `kernel` its size -> (O, C / groups, *kernel)

    Raises:
        ValueError: as `correlate` does, or the residual has not the shape of the output.
    """
    _require_alike(residual=residual, images=images)
    outputs = residual.shape[1]
    _require_groups(groups, images.shape[1], outputs)
    sliding = axes(images.shape[2:], kernel, stride=stride, padding=padding, dilation=dilation)
    require_shape("residual", residual, (len(images), outputs, *(a.out for a in sliding)))
    gradient = _named(algorithm).kernels_gradient(_wide(residual), _wide(images), sliding, groups)
    return gradient.to(images.dtype).contiguous()


def bias_gradient(residual: Tensor) -> Tensor:
    """db[o] = sum_n sum_i r[o, i]. Shape: (N, O, *out) -> (O,)"""
    require_float(residual=residual)
    return residual.sum((0, *range(2, residual.ndim)))


def correlate_backward(
    residual: Tensor,
    images: Tensor,
    kernels: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    algorithm: AlgorithmName = "direct",
) -> Gradients:
    """The three gradients of `correlate`, for the residual dL/dy.

    Raises:
        ValueError: as `correlate` does, or the residual has not the shape of the output.
    """
    _sliding(images, kernels, stride, padding, dilation, groups)
    return Gradients(
        images_gradient(
            residual,
            kernels,
            images.shape[2:],
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            algorithm=algorithm,
        ),
        kernels_gradient(
            residual,
            images,
            kernels.shape[2:],
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            algorithm=algorithm,
        ),
        bias_gradient(residual),
    )


def convolve(
    images: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    algorithm: AlgorithmName = "direct",
) -> Tensor:
    """The true convolution: `correlate` with the kernel turned by 180 degrees.

    Shape: images (N, C, *spatial), kernels (O, C / groups, *kernel), bias (O,) -> (N, O, *out)

    Raises:
        ValueError: as `correlate` does.
    """
    return correlate(
        images,
        rotate(kernels),
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        algorithm=algorithm,
    )


def convolve_backward(
    residual: Tensor,
    images: Tensor,
    kernels: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    algorithm: AlgorithmName = "direct",
) -> Gradients:
    """The three gradients of `convolve`: the kernel's is turned back.

    Raises:
        ValueError: as `correlate_backward` does.
    """
    found = correlate_backward(
        residual,
        images,
        rotate(kernels),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        algorithm=algorithm,
    )
    return found._replace(kernels=rotate(found.kernels))


def _sliding(
    images: Tensor,
    kernels: Tensor,
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    groups: int,
) -> tuple[Axis, ...]:
    _require_alike(images=images, kernels=kernels)
    if images.ndim < 3 or images.ndim != kernels.ndim:
        raise ValueError(
            "images (N, C, *spatial) and kernels (O, C / groups, *kernel) must have the same number of axes, "
            f"three or more, got {tuple(images.shape)} and {tuple(kernels.shape)}"
        )
    channels, (outputs, inputs) = images.shape[1], kernels.shape[:2]
    _require_groups(groups, channels, outputs)
    if inputs * groups != channels:
        raise ValueError(
            f"kernels {tuple(kernels.shape)} read {inputs} channels in each of {groups} groups, but the "
            f"images have {channels} channels"
        )
    return axes(images.shape[2:], kernels.shape[2:], stride=stride, padding=padding, dilation=dilation)


def _require_groups(groups: int, inputs: int, outputs: int) -> None:
    if groups < 1 or inputs % groups or outputs % groups:
        raise ValueError(
            f"groups must divide the channels, got {groups} groups of {inputs} input and {outputs} output "
            "channels"
        )


def _require_alike(**tensors: Tensor) -> None:
    require_float(**tensors)
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            raise ValueError(f"{name} must not be empty, got shape {tuple(tensor.shape)}")
    kinds = {name: f"{t.dtype} on {t.device}" for name, t in tensors.items()}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise ValueError(f"tensors must be of one type on one device, got {found}")


def _named(algorithm: str) -> Algorithm:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    return ALGORITHMS[algorithm]


def _wide(tensor: Tensor) -> Tensor:
    """Half types in float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
