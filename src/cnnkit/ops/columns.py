"""Correlation as one matrix product: every window unrolled into a column.

    Chellapilla, Puri & Simard, "High Performance Convolutional Neural Networks for Document Processing",
    2006; Jia, "Learning Semantic Image Representations at a Large Scale", 2014 (Caffe).

With X the matrix whose column i is window i (C k rows) and W the kernels as rows, Y = W X. Its gradients are
those of a product, dX = W^T R and dW = R X^T, and dX is added back to where it was read (`col2im`).

X would hold the image k times over, so it is made and used up in pieces. Narrow images are taken several at
once with the example as the innermost axis: what is copied in one run, and what one product multiplies, is
then as long as on a wide image.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from cnnkit.ops.algorithm import Algorithm
from cnnkit.ops.checks import require_float, require_shape
from cnnkit.ops.pieces import by_examples, positions, taps
from cnnkit.ops.shapes import Axis, Padding, axes
from cnnkit.ops.windows import examples_innermost, pad, windows


def im2col(
    images: Tensor,
    kernel: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """The whole matrix X of each image, one column a window.

    Shape: (N, C, *spatial) -> (N, C * taps, positions)

    Raises:
        ValueError: images are not of floating point or sizes do not fit.
    """
    require_float(images=images)
    sliding = axes(images.shape[2:], kernel, stride=stride, padding=padding, dilation=dilation)
    view = windows(pad(images, [(a.before, a.after) for a in sliding]), sliding)
    rank = len(sliding)
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    return view.permute(order).reshape(len(images), -1, positions(sliding))


def col2im(
    columns: Tensor,
    size: Sequence[int],
    kernel: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """The transpose of `im2col`: each entry is added to the position of the image that it was read from.

    Shape: (N, C * taps, positions) -> (N, C, *size)

    Raises:
        ValueError: columns are not of floating point or sizes do not fit.
    """
    require_float(columns=columns)
    sliding = axes(size, kernel, stride=stride, padding=padding, dilation=dilation)
    count, rows = columns.shape[:2]
    if rows % taps(sliding):
        raise ValueError(f"columns of {rows} entries do not divide into kernels of {tuple(kernel)}")
    channels = rows // taps(sliding)
    require_shape("columns", columns, (count, rows, positions(sliding)))
    padded = columns.new_zeros(count, channels, *(a.padded for a in sliding))
    entries = columns.view(count, channels, taps(sliding), *(a.out for a in sliding))
    _add_back(entries, windows(padded, sliding))
    return pad(padded, [(-a.before, -a.after) for a in sliding])


class Im2col(Algorithm):
    """Y = W X, and the gradients of that product."""

    def correlate(self, images: Tensor, kernels: Tensor, axes: Sequence[Axis], groups: int) -> Tensor:
        weights = kernels.reshape(groups, len(kernels) // groups, -1)
        maps = images.new_empty(len(images), len(kernels), *(a.out for a in axes))
        for examples, span, columns in _columns(images, axes, groups):
            part = maps[examples, :, span]
            if len(part) == 1:  # the product may be written where it belongs
                torch.bmm(weights, columns, out=part.view(groups, weights.shape[1], -1))
            else:
                y = torch.bmm(weights, columns)
                part.copy_(y.view(*part.shape[1:], len(part)).movedim(-1, 0))
        return maps

    def images_gradient(self, residual: Tensor, kernels: Tensor, axes: Sequence[Axis], groups: int) -> Tensor:
        weights = kernels.reshape(groups, len(kernels) // groups, -1).transpose(1, 2)
        channels = groups * kernels.shape[1]
        gradient = residual.new_empty(len(residual), channels, *(a.size for a in axes))
        for examples, spans in _cut(len(residual), channels, axes):
            count = examples.stop - examples.start
            padded = residual.new_zeros(channels, *(a.padded for a in axes), count).movedim(-1, 0)
            view = windows(padded, axes)
            for _, span in spans:
                part = residual[examples, :, span]
                columns = torch.bmm(weights, _rows(part, groups))
                entries = columns.view(channels, taps(axes), *part.shape[2:], count).movedim(-1, 0)
                _add_back(entries, view[:, :, span])
            gradient[examples] = pad(padded, [(-a.before, -a.after) for a in axes])
        return gradient

    def kernels_gradient(self, residual: Tensor, images: Tensor, axes: Sequence[Axis], groups: int) -> Tensor:
        outputs, inputs = residual.shape[1] // groups, images.shape[1] // groups
        total = images.new_zeros(groups, outputs, inputs * taps(axes))
        for examples, span, columns in _columns(images, axes, groups):
            total.baddbmm_(_rows(residual[examples, :, span], groups), columns.transpose(1, 2))
        return total.view(groups * outputs, inputs, *(a.kernel for a in axes))


def _columns(images: Tensor, axes: Sequence[Axis], groups: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """X in pieces: examples, rows of output, and the columns (G, C / groups * taps, positions of them)."""
    rank, buffer = len(axes), None
    order = (1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank), 0)
    for examples, spans in _cut(len(images), images.shape[1], axes):
        padded = pad(images[examples], [(a.before, a.after) for a in axes])
        view = windows(examples_innermost(padded), axes)
        for _, span in spans:
            part = view[:, :, span].permute(order)
            if not _pointwise(axes):
                if buffer is None or buffer.numel() < part.numel():
                    buffer = images.new_empty(part.numel())
                part = buffer[: part.numel()].view(part.shape).copy_(part)
            yield examples, span, part.reshape(groups, -1, part.shape[1 + rank :].numel())


def _rows(part: Tensor, groups: int) -> Tensor:
    """(N, O, *positions) -> (G, O / groups, positions of all), in the order of the columns"""
    return part.movedim(0, -1).reshape(groups, part.shape[1] // groups, -1)


def _add_back(entries: Tensor, view: Tensor) -> None:
    """Add (N, C, taps, *out) to the windows (N, C, *out, *kernel) of an image, tap by tap."""
    kernel = view.shape[entries.ndim - 1 :]
    for t, tap in enumerate(product(*(range(k) for k in kernel))):
        values = view
        for i in tap:
            values = values.select(entries.ndim - 1, i)
        values.add_(entries[:, :, t])


def _cut(
    count: int, channels: int, axes: Sequence[Axis]
) -> Iterator[tuple[slice, Iterator[tuple[slice, slice]]]]:
    run = positions(axes) if _pointwise(axes) else axes[-1].out
    return by_examples(count, axes, channels * taps(axes) * positions(axes[1:]), run=run)


def _pointwise(axes: Sequence[Axis]) -> bool:
    """Whether the columns are the image as it lies in memory, so that nothing need be copied."""
    return all(a.kernel == a.stride == 1 and a.padded == a.size for a in axes)
