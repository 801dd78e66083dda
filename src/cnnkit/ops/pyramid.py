"""Pooling into a given number of bins, whatever the size of the map.

He, Zhang, Ren & Sun, "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition", ECCV
2014, arXiv:1406.4729. Along an axis of a cells, bin i of n holds the cells

    floor(i a / n) .. ceil((i + 1) a / n) - 1,     i = 0 .. n - 1,

so neighbours may share a cell, none is empty, and any map gives a vector of one length. PyTorch's adaptive
poolings use the same bins.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float
from cnnkit.ops.pooling import Pooled
from cnnkit.ops.shapes import per_axis


def bins(size: int, count: int) -> list[tuple[int, int]]:
    """First cell and the one after the last of each bin."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def adaptive_max_pool(maps: Tensor, counts: int | Sequence[int]) -> Pooled:
    """The largest cell of each bin, the first row by row of equal ones, and its switch.

    The residual goes back by `max_pool_backward`.

    Shape: (N, C, *spatial) -> values and switches (N, C, *counts)

    Raises:
        ValueError: maps are not of floating point or without cells, or a count is not positive.
    """
    counts = _counts(maps, counts)
    numbers = torch.arange(prod(maps.shape[2:]), device=maps.device).reshape(maps.shape[2:])
    pooled = [first_maximum(maps[bin_], numbers[bin_[1:]]) for bin_ in _bins(maps.shape[2:], counts)]
    values, switches = (torch.stack(parts, dim=2) for parts in zip(*pooled, strict=True))
    shape = (*maps.shape[:2], *counts)
    return Pooled(values.reshape(shape), switches.reshape(shape))


def adaptive_average_pool(maps: Tensor, counts: int | Sequence[int]) -> Tensor:
    """The mean of each bin; one bin is global average pooling. Shape: (N, C, *spatial) -> (N, C, *counts)

    Raises:
        ValueError: maps are not of floating point or without cells, or a count is not positive.
    """
    counts = _counts(maps, counts)
    means = [maps[bin_].flatten(2).mean(2) for bin_ in _bins(maps.shape[2:], counts)]
    return torch.stack(means, dim=2).reshape(*maps.shape[:2], *counts)


def adaptive_average_pool_backward(residual: Tensor, size: Sequence[int]) -> Tensor:
    """dL/dx_i = sum of delta_b / n_b over the bins b that hold cell i.

    Shape: (N, C, *counts) -> (N, C, *size)
    """
    require_float(residual=residual)
    below = residual.new_zeros(*residual.shape[:2], *size)
    shares = residual.flatten(2).unbind(2)
    for share, bin_ in zip(shares, _bins(size, residual.shape[2:]), strict=True):
        cells = below[bin_]
        cells += share.reshape(*share.shape, *(1 for _ in size)) / prod(cells.shape[2:])
    return below


def pyramid_pool(maps: Tensor, levels: Sequence[int] = (6, 3, 2, 1)) -> Pooled:
    """Spatial pyramid pooling: max over n x n bins for each level n, the levels one after another.

    The levels are those of the paper's detector: 50 bins. `values.flatten(1)` is the vector that a linear
    layer takes; the residual goes back by `max_pool_backward`.

    Shape: (N, C, *spatial) -> values and switches (N, C, sum of n^2)

    Raises:
        ValueError: maps are not of floating point or without cells, or a level is not positive.
    """
    pooled = [adaptive_max_pool(maps, level) for level in levels]
    return Pooled(
        torch.cat([level.values.flatten(2) for level in pooled], dim=2),
        torch.cat([level.switches.flatten(2) for level in pooled], dim=2),
    )


def first_maximum(cells: Tensor, numbers: Tensor) -> Pooled:
    """The largest of the cells of each map and its number, the smallest where several are as large.

    NaN counts as the largest.

    Shape: cells (N, C, *any), numbers (*any) -> values and switches (N, C)
    """
    cells, numbers = cells.flatten(2), numbers.flatten()
    values = cells.amax(2)
    largest = (cells == values.unsqueeze(2)) | cells.isnan()
    return Pooled(values, numbers.where(largest, torch.iinfo(numbers.dtype).max).amin(2))


def _bins(size: Sequence[int], counts: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """The index of each bin's cells in (N, C, *size), row by row."""
    along = [[slice(*ends) for ends in bins(*axis)] for axis in zip(size, counts, strict=True)]
    for spans in product(*along):
        yield (..., *spans)


def _counts(maps: Tensor, counts: int | Sequence[int]) -> tuple[int, ...]:
    require_float(maps=maps)
    if maps.dim() < 3 or min(maps.shape[2:]) < 1:
        raise ValueError(f"maps must be (N, C, *spatial) and not empty, got shape {tuple(maps.shape)}")
    counts = per_axis(counts, maps.dim() - 2, "bins")
    if min(counts) < 1:
        raise ValueError(f"there must be at least 1 bin along every axis, got {counts}")
    return counts
