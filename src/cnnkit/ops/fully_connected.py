"""The fully connected layer, and how it and the convolution are each other.

    y = W x + b        dL/dx = W^T delta        dL/dW = delta x^T        dL/db = delta

A linear layer over flattened maps (C, H, W) is a correlation with one H x W kernel an output and map; over a
vector it is a 1 x 1 correlation. A correlation is a linear layer whose matrix is mostly zeros and has the
same kernel in every row, moved on: `unrolled` writes it out.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float, require_shape
from cnnkit.ops.shapes import Padding, axes
from cnnkit.ops.windows import pad, windows


class LinearGradients(NamedTuple):
    """dL/dx, dL/dW and dL/db."""

    x: Tensor
    weight: Tensor
    bias: Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b. Shape: x (..., in), weight (out, in), bias (out,) -> (..., out)

    Raises:
        ValueError: shapes do not fit or a tensor is not of floating point.
    """
    _require_fitting(x, weight)
    require_float(bias=bias)
    product = torch.matmul(x, weight.T)
    if bias is None:
        return product
    require_shape("bias", bias, weight.shape[:1])
    return product + bias


def linear_backward(residual: Tensor, x: Tensor, weight: Tensor) -> LinearGradients:
    """W^T delta for the layer below; delta x^T and delta, summed over the examples, for the parameters."""
    _require_fitting(x, weight)
    require_float(residual=residual)
    require_shape("residual", residual, (*x.shape[:-1], weight.shape[0]))
    rows = residual.reshape(-1, weight.shape[0])
    return LinearGradients(
        torch.matmul(residual, weight), rows.T @ x.reshape(-1, weight.shape[1]), rows.sum(0)
    )


def as_kernels(weight: Tensor, maps: Sequence[int]) -> Tensor:
    """The kernels of the correlation that equals a linear layer over flattened maps of shape (C, *spatial).

    Shape: (out, C * spatial) -> (out, C, *spatial); for a vector of C numbers `maps` is (C, 1, 1)

    Raises:
        ValueError: the layer does not read that many inputs.
    """
    if weight.shape[1] != prod(maps):
        raise ValueError(
            f"a layer of {weight.shape[1]} inputs does not read maps of {tuple(maps)} = {prod(maps)}"
        )
    return weight.reshape(weight.shape[0], *maps)


def unrolled(
    kernels: Tensor,
    size: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """The sparse M with vec(correlation of x) = M vec(x); vec lays out channels, then rows, then columns.

    M transposed maps the residual to that of the layer below. A row holds at most C / groups * taps numbers.

    Shape: kernels (O, C / groups, *kernel), `size` the image's -> sparse (O * out, C * size)

    Raises:
        ValueError: sizes do not fit, or the output channels do not divide into the groups.
    """
    require_float(kernels=kernels)
    out_channels, in_group = kernels.shape[:2]
    if groups < 1 or out_channels % groups:
        raise ValueError(f"{out_channels} output channels do not divide into {groups} groups")
    sliding = axes(size, kernels.shape[2:], stride=stride, padding=padding, dilation=dilation)
    inputs, positions = groups * in_group * prod(size), prod(axis.out for axis in sliding)
    cells = torch.arange(inputs, device=kernels.device).reshape(1, groups * in_group, *size)
    read = windows(pad(cells, [(a.before, a.after) for a in sliding], fill=-1), sliding)
    read = read.reshape(groups, 1, in_group, positions, -1)  # the cell that each tap at each position reads
    shape = (groups, out_channels // groups, in_group, positions, read.shape[-1])
    columns = read.expand(shape).flatten()
    outputs = torch.arange(out_channels * positions, device=kernels.device)
    rows = outputs.reshape(groups, -1, 1, positions, 1).expand(shape).flatten()
    values = kernels.reshape(groups, -1, in_group, 1, read.shape[-1]).expand(shape).flatten()
    on_image = columns >= 0
    indices = torch.stack([rows, columns])[:, on_image]
    whole = (out_channels * positions, inputs)
    return torch.sparse_coo_tensor(indices, values[on_image], whole, check_invariants=True).coalesce()


def _require_fitting(x: Tensor, weight: Tensor) -> None:
    require_float(x=x, weight=weight)
    if weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"weight {tuple(weight.shape)} does not fit inputs of {tuple(x.shape)}")
