"""Correlation by its definition: the products of a window with the kernel, added up. Nothing is unrolled.

The sum may be taken in either order. Where taps are fewer than positions (the usual case), the loop is over
taps: each adds its share to all positions at once. Where positions are fewer (the gradient of the kernels,
whose own kernel is a whole residual), the loop is over positions: each sums its window.
"""

from collections.abc import Sequence
from itertools import product

from torch import Tensor

from cnnkit.ops.algorithm import Algorithm
from cnnkit.ops.pieces import by_examples, pieces, positions, taps
from cnnkit.ops.shapes import Axis
from cnnkit.ops.windows import examples_innermost, pad, windows


class Direct(Algorithm):
    """y[o, i] = sum_c sum_u w[o, c, u] x[c, s i + d u - p], as it stands."""

    def correlate(self, images: Tensor, kernels: Tensor, axes: Sequence[Axis], groups: int) -> Tensor:
        weights = kernels.reshape(groups, len(kernels) // groups, *kernels.shape[1:])
        by_tap = taps(axes) <= positions(axes)
        return (_over_taps if by_tap else _over_positions)(images, weights, axes)


def _over_taps(images: Tensor, weights: Tensor, axes: Sequence[Axis]) -> Tensor:
    groups, outputs, inputs = weights.shape[:3]
    maps = images.new_empty(len(images), groups * outputs, *(a.out for a in axes))
    row = groups * max(outputs, inputs) * positions(axes[1:])
    for examples, spans in by_examples(len(images), axes, row, run=axes[-1].out):
        padded = pad(images[examples], [(a.before, a.after) for a in axes])
        view = windows(examples_innermost(padded), axes)
        for _, span in spans:
            part, values = maps[examples, :, span], view[:, :, span]
            total = maps.new_zeros(groups, outputs, part[:, 0].numel())
            for tap in product(*(range(k) for k in weights.shape[3:])):
                _add(total, _at(weights, tap, 3), _at(values, tap, values.ndim - len(tap)))
            part.copy_(total.view(*part.shape[1:], len(part)).movedim(-1, 0))
    return maps


def _add(total: Tensor, weight: Tensor, values: Tensor) -> None:
    """(G, O, positions of all) += (G, O, C) times (N, G * C, *out)"""
    flat = values.movedim(0, -1).reshape(len(weight), weight.shape[2], -1)
    if weight.shape[2] == 1:  # a product of matrices one wide would only be slower
        total.addcmul_(weight, flat)
    else:
        total.baddbmm_(weight, flat)


def _over_positions(images: Tensor, weights: Tensor, axes: Sequence[Axis]) -> Tensor:
    groups, outputs, inputs = weights.shape[:3]
    maps = images.new_empty(len(images), groups, outputs, *(a.out for a in axes))
    unrolled = weights.flatten(2).transpose(1, 2)
    for examples, _ in pieces(len(images), 1, groups * inputs * taps(axes)):
        padded = pad(images[examples], [(a.before, a.after) for a in axes])
        view = windows(padded, axes)
        for position in product(*(range(a.out) for a in axes)):
            window = _at(view, position, 2).reshape(len(padded), groups, -1).transpose(0, 1)
            _at(maps[examples], position, 3).copy_(window.bmm(unrolled).transpose(0, 1))
    return maps.flatten(1, 2)


def _at(maps: Tensor, index: Sequence[int], axis: int) -> Tensor:
    """The view at one index of the axes from `axis` on."""
    for i in index:
        maps = maps.select(axis, i)
    return maps
