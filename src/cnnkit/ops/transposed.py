"""Transposed correlation: the residual's way down through a correlation, walked with images.

    y[o, j] = b[o] + sum_c sum_(s i + d u - p = j) x[c, i] w[c, o, u]

Zeros between the positions, padding, and a correlation with the turned kernel: Dumoulin & Visin 2016,
arXiv:1603.07285, section 4. It is the gradient of a correlation and so its own gradient is that correlation.
It is not its inverse. Several sizes are mapped to one by a stride; `output_padding` says which is meant.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float, require_shape
from cnnkit.ops.convolution import (
    AlgorithmName,
    Gradients,
    bias_gradient,
    correlate,
    images_gradient,
    kernels_gradient,
)
from cnnkit.ops.shapes import Axis, Padding, transposed_axes


@torch.no_grad()
def correlate_transposed(
    images: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    algorithm: AlgorithmName = "direct",
) -> Tensor:
    """The sum of the kernels, each placed where its position is and weighted by its value.

    Shape: images (N, C, *spatial), kernels (C, O / groups, *kernel), bias (O,)
    -> (N, O, s (n - 1) + e - p - q + output_padding)

    Raises:
        ValueError: as `correlate` does, `output_padding` is not smaller than the stride, or nothing is left.
    """
    axes = _axes(images, kernels, stride, padding, output_padding, dilation)
    maps = images_gradient(
        images,
        kernels,
        [a.size for a in axes],
        stride=stride,
        padding=[(a.before, a.after) for a in axes],
        dilation=dilation,
        groups=groups,
        algorithm=algorithm,
    )
    if bias is not None:
        require_float(bias=bias)
        require_shape("bias", bias, maps.shape[1:2])
        maps += bias.view(-1, *[1] * len(axes))
    return maps


def correlate_transposed_backward(
    residual: Tensor,
    images: Tensor,
    kernels: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    algorithm: AlgorithmName = "direct",
) -> Gradients:
    """The three gradients of `correlate_transposed`: images and residual change places.

    Shape: residual (N, O, *out), images (N, C, *spatial), kernels (C, O / groups, *kernel) -> theirs

    Raises:
        ValueError: as `correlate_transposed` does, or the residual has not the shape of the output.
    """
    axes = _axes(images, kernels, stride, padding, output_padding, dilation)
    outputs = kernels.shape[1] * groups
    require_shape("residual", residual, (len(images), outputs, *(a.size for a in axes)))
    pairs = [(a.before, a.after) for a in axes]
    return Gradients(
        correlate(
            residual,
            kernels,
            stride=stride,
            padding=pairs,
            dilation=dilation,
            groups=groups,
            algorithm=algorithm,
        ),
        kernels_gradient(
            images,
            residual,
            kernels.shape[2:],
            stride=stride,
            padding=pairs,
            dilation=dilation,
            groups=groups,
            algorithm=algorithm,
        ),
        bias_gradient(residual),
    )


def _axes(
    images: Tensor,
    kernels: Tensor,
    stride: int | Sequence[int],
    padding: Padding,
    output_padding: int | Sequence[int],
    dilation: int | Sequence[int],
) -> tuple[Axis, ...]:
    require_float(images=images, kernels=kernels)
    if images.ndim < 3 or images.ndim != kernels.ndim or images.shape[1] != kernels.shape[0]:
        raise ValueError(
            f"kernels (C, O / groups, *kernel) must begin with the channels of images (N, C, *spatial), got "
            f"{tuple(kernels.shape)} and {tuple(images.shape)}"
        )
    return transposed_axes(
        images.shape[2:],
        kernels.shape[2:],
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
    )
