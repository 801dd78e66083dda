"""Convolutions made of two smaller ones: channels apart from positions, and one axis apart from the other.

    depthwise separable   each channel with kernels of its own, then 1 x 1 across channels: k^2 C + C O
                          multiplications a position instead of k^2 C O (Sifre 2014; Howard et al. 2017,
                          arXiv:1704.04861, section 3.1)
    asymmetric            n x 1, then 1 x n: 2 n instead of n^2 (Szegedy et al. 2016, arXiv:1512.00567,
                          section 3.2); exact where the kernel is of rank one

Nothing stands between the two here; a network with a normalisation or an activation there calls `correlate`
twice.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from torch import Tensor

from cnnkit.ops.convolution import AlgorithmName, correlate, correlate_backward
from cnnkit.ops.shapes import Padding, pairs_of, per_axis


class _Sliding(TypedDict):
    stride: tuple[int, int]
    padding: Padding
    dilation: tuple[int, int]


class FactorGradients(NamedTuple):
    """dL/dx, those of the first and the second kernels, and dL/db."""

    images: Tensor
    first: Tensor
    second: Tensor
    bias: Tensor


def depthwise_separable(
    images: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    algorithm: AlgorithmName = "direct",
) -> Tensor:
    """Filter each channel, then mix. `algorithm` filters; mixing is one matrix product as it stands.

    Shape: images (N, C, *spatial), depthwise (C * m, 1, *kernel), pointwise (O, C * m, 1, ...), bias (O,)
    -> (N, O, *out)

    Raises:
        ValueError: as `correlate` does.
    """
    maps = correlate(
        images,
        depthwise,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=images.shape[1],
        algorithm=algorithm,
    )
    return correlate(maps, pointwise, bias, algorithm="im2col")


def depthwise_separable_backward(
    residual: Tensor,
    images: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    algorithm: AlgorithmName = "direct",
) -> FactorGradients:
    """The chain rule: through the mixing, then through the filters.

    Raises:
        ValueError: as `correlate_backward` does.
    """
    groups = images.shape[1]
    maps = correlate(
        images,
        depthwise,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        algorithm=algorithm,
    )
    mixed = correlate_backward(residual, maps, pointwise, algorithm="im2col")
    filtered = correlate_backward(
        mixed.images,
        images,
        depthwise,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        algorithm=algorithm,
    )
    return FactorGradients(filtered.images, filtered.kernels, mixed.kernels, mixed.bias)


def asymmetric(
    images: Tensor,
    vertical: Tensor,
    horizontal: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    algorithm: AlgorithmName = "direct",
) -> Tensor:
    """Down the columns, then along the rows. Each takes its own axis of stride, padding and dilation.

    Shape: images (N, C, H, W), vertical (M, C, n, 1), horizontal (O, M, 1, n), bias (O,) -> (N, O, *out)

    Raises:
        ValueError: as `correlate` does, or a kernel is wider than 1 on the other's axis.
    """
    down, along = _by_axis(vertical, horizontal, stride, padding, dilation)
    maps = correlate(images, vertical, **down, algorithm=algorithm)
    return correlate(maps, horizontal, bias, **along, algorithm=algorithm)


def asymmetric_backward(
    residual: Tensor,
    images: Tensor,
    vertical: Tensor,
    horizontal: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    algorithm: AlgorithmName = "direct",
) -> FactorGradients:
    """The chain rule: back along the rows, then up the columns.

    Raises:
        ValueError: as `asymmetric` and `correlate_backward` do.
    """
    down, along = _by_axis(vertical, horizontal, stride, padding, dilation)
    maps = correlate(images, vertical, **down, algorithm=algorithm)
    second = correlate_backward(residual, maps, horizontal, **along, algorithm=algorithm)
    first = correlate_backward(second.images, images, vertical, **down, algorithm=algorithm)
    return FactorGradients(first.images, first.kernels, second.kernels, second.bias)


def _by_axis(
    vertical: Tensor,
    horizontal: Tensor,
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
) -> tuple[_Sliding, _Sliding]:
    """What belongs to the first axis and what to the second; the other axis is left as it is."""
    if vertical.ndim != 4 or vertical.shape[3] != 1 or horizontal.ndim != 4 or horizontal.shape[2] != 1:
        raise ValueError(
            f"kernels must be (M, C, n, 1) and (O, M, 1, n), got {tuple(vertical.shape)} and "
            f"{tuple(horizontal.shape)}"
        )
    strides, dilations = per_axis(stride, 2, "stride"), per_axis(dilation, 2, "dilation")
    down: Padding
    along: Padding
    if isinstance(padding, str):
        down = along = padding
    else:
        pairs = pairs_of(padding, 2)
        down, along = [pairs[0], (0, 0)], [(0, 0), pairs[1]]
    return (
        {"stride": (strides[0], 1), "padding": down, "dilation": (dilations[0], 1)},
        {"stride": (1, strides[1]), "padding": along, "dilation": (1, dilations[1])},
    )
