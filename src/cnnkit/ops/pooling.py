"""Pooling over sliding windows: maxima with their switches, averages, and the way back.

Maps are (N, C, *spatial) with any number of spatial axes. Windows may overlap (stride < kernel, AlexNet
section 3.4), be dilated, and read padding. In ceil mode a last window may hang over the end (Caffe); one that
would begin in the padding after the map is not taken. Where a window would hold no cell of the map at all
there is nothing to pool, and a `ValueError` says so.

The residual of the layer below is the transpose of what went forward: a maximum hands its residual to the
cell that won, an average hands an equal share to every cell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float, require_shape
from cnnkit.ops.shapes import Axis, Padding, axes, per_axis
from cnnkit.ops.windows import pad, windows


class Pooled(NamedTuple):
    """Maxima, and the switches: which cell of the unpadded map each was, counted row by row."""

    values: Tensor
    switches: Tensor


@dataclass(frozen=True, slots=True)
class _Slide:
    """The windows along one axis.

    Attributes:
        axis: as it was asked for.
        out: how many windows there are, by floor or by ceil.
    """

    axis: Axis
    out: int

    @property
    def read(self) -> Axis:
        """The axis with exactly as much after the map as the last window reads.

        Less than nothing where the stride leaves cells unread; more than the padding where one hangs over.
        """
        reach = (self.out - 1) * self.axis.stride + self.axis.extent
        return replace(self.axis, after=reach - self.axis.before - self.axis.size)

    def cells(self, window: int, *, padding: bool) -> int:
        """Taps of a window that fall on the map, or on the map and its padding."""
        first, last = (self.axis.before, self.axis.after) if padding else (0, 0)
        start = window * self.axis.stride - self.axis.before
        taps = range(start, start + self.axis.extent, self.axis.dilation)
        return sum(-first <= tap < self.axis.size + last for tap in taps)


def max_pool(
    maps: Tensor,
    kernel: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Pooled:
    """y_o = max of the cells in window o; of equal cells the first, row by row, wins; NaN beats all.

    Padding never wins, whatever the map holds. Without `stride` the windows stand side by side.

    Shape: (N, C, *spatial) -> values and switches (N, C, *out)

    Raises:
        ValueError: maps are not of floating point, sizes do not fit, or a window lies in the padding.
    """
    _require_maps(maps)
    slides = _slides(maps.shape[2:], kernel, stride, padding, dilation, ceil_mode)
    numbers = torch.arange(prod(maps.shape[2:]), device=maps.device).reshape(1, 1, *maps.shape[2:])
    cells, places = _windows(maps, slides), _windows(numbers, slides, fill=-1)
    values = maps.new_zeros(*maps.shape[:2], *(slide.out for slide in slides))
    switches = torch.full_like(values, -1, dtype=torch.long)
    for tap in _taps(slides):
        cell, here = cells[tap], places[tap]
        better = (here >= 0) & ((switches < 0) | (cell > values) | cell.isnan())
        values = torch.where(better, cell, values)
        switches = torch.where(better, here, switches)
    return Pooled(values, switches)


def max_pool_backward(residual: Tensor, switches: Tensor, size: Sequence[int]) -> Tensor:
    """dL/dx_i = sum of delta_o over the windows o that cell i won; all other cells get 0.

    Shape: residual and switches (N, C, *out) -> (N, C, *size)

    Raises:
        ValueError: shapes differ, or a switch points outside a map of this size.
    """
    require_shape("switches", switches, residual.shape)
    chosen = _chosen(residual, switches, size)
    below = residual.new_zeros(*residual.shape[:2], prod(size))
    below.scatter_add_(2, chosen, residual.flatten(2))
    return below.reshape(*residual.shape[:2], *size)


def unpool(values: Tensor, switches: Tensor, size: Sequence[int]) -> Tensor:
    """Each value where its switch says, zeros elsewhere. Zeiler & Fergus, ECCV 2014, arXiv:1311.2901.

    Switches of overlapping windows may point at one cell twice; then the last in row-major order is kept, as
    the released layers of DeconvNet and SegNet do by writing one after another.

    Shape: values and switches (N, C, *out) -> (N, C, *size)

    Raises:
        ValueError: shapes differ, or a switch points outside a map of this size.
    """
    require_shape("switches", switches, values.shape)
    chosen = _chosen(values, switches, size)
    writer = _writers(chosen, prod(size))
    written = values.flatten(2).gather(2, writer.clamp(min=0)).masked_fill(writer < 0, 0)
    return written.reshape(*values.shape[:2], *size)


def unpool_backward(residual: Tensor, switches: Tensor) -> Tensor:
    """dL/dv_o = delta at the cell that o wrote; 0 where another value was written over it.

    Shape: residual (N, C, *size), switches (N, C, *out) -> (N, C, *out)
    """
    chosen = _chosen(residual, switches, residual.shape[2:])
    order = torch.arange(chosen.shape[2], device=chosen.device)
    kept = _writers(chosen, prod(residual.shape[2:])).gather(2, chosen) == order
    return residual.flatten(2).gather(2, chosen).masked_fill(~kept, 0).reshape(switches.shape)


def average_pool(
    maps: Tensor,
    kernel: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Tensor:
    """y_o = (sum of the cells in window o) / n_o.

    Args:
        count_padding: whether the zeros of the padding count in n_o. What hangs over the padding in ceil mode
            never does: Caffe clips a window to the padded map.
        divisor: n_o for every window, instead of counting; 1 gives the sum.

    Shape: (N, C, *spatial) -> (N, C, *out)

    Raises:
        ValueError: maps are not of floating point, sizes do not fit, a window lies in the padding, or divisor
            is 0.
    """
    _require_maps(maps)
    slides = _slides(maps.shape[2:], kernel, stride, padding, dilation, ceil_mode)
    cells = _windows(maps, slides)
    total = maps.new_zeros(*maps.shape[:2], *(slide.out for slide in slides))
    for tap in _taps(slides):
        total += cells[tap]
    return total / _counts(maps, slides, count_padding, divisor)


def average_pool_backward(
    residual: Tensor,
    size: Sequence[int],
    kernel: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Tensor:
    """dL/dx_i = sum of delta_o / n_o over the windows o that hold cell i.

    Shape: (N, C, *out) -> (N, C, *size)
    """
    require_float(residual=residual)
    slides = _slides(size, kernel, stride, padding, dilation, ceil_mode)
    require_shape("residual", residual, (*residual.shape[:2], *(slide.out for slide in slides)))
    share = residual / _counts(residual, slides, count_padding, divisor)
    padded = residual.new_zeros(*residual.shape[:2], *(slide.read.padded for slide in slides))
    cells = windows(padded, [slide.read for slide in slides])
    for tap in _taps(slides):
        cells[tap].add_(share)  # one tap of all windows: no cell twice
    return pad(padded, [(-slide.read.before, -slide.read.after) for slide in slides])


def global_average_pool(maps: Tensor) -> Tensor:
    """The mean of each map. Lin, Chen & Yan, ICLR 2014, arXiv:1312.4400.

    Shape: (N, C, *spatial) -> (N, C, 1, ...)
    """
    _require_maps(maps)
    return maps.mean(tuple(range(2, maps.dim())), keepdim=True)


def global_average_pool_backward(residual: Tensor, size: Sequence[int]) -> Tensor:
    """delta / n to every one of the n cells. Shape: (N, C, 1, ...) -> (N, C, *size)"""
    require_float(residual=residual)
    require_shape("residual", residual, (*residual.shape[:2], *(1 for _ in size)))
    return (residual / prod(size)).expand(*residual.shape[:2], *size).clone()


def _require_maps(maps: Tensor) -> None:
    require_float(maps=maps)
    if maps.dim() < 3:
        raise ValueError(f"maps must be (N, C, *spatial), got shape {tuple(maps.shape)}")


def _slides(
    sizes: Sequence[int],
    kernel: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: Padding,
    dilation: int | Sequence[int],
    ceil_mode: bool,
) -> list[_Slide]:
    taps = per_axis(kernel, len(sizes), "kernel")
    asked = axes(sizes, taps, stride=taps if stride is None else stride, padding=padding, dilation=dilation)
    slides = [_Slide(axis, axis.out_ceil if ceil_mode else axis.out) for axis in asked]
    for slide in slides:
        for window in range(slide.out):
            if not slide.cells(window, padding=False):
                raise ValueError(
                    f"window {window} of {slide.out} holds no cell of the map: {slide.axis}; pad less"
                )
    return slides


def _windows(maps: Tensor, slides: Sequence[_Slide], fill: float = 0.0) -> Tensor:
    """(N, C, *spatial) -> every window, (N, C, *out, *kernel)"""
    read = [slide.read for slide in slides]
    return windows(pad(maps, [(axis.before, axis.after) for axis in read], fill), read)


def _taps(slides: Sequence[_Slide]) -> Iterator[tuple[Any, ...]]:
    """The index of each tap among `_windows`, in row-major order: `cells[tap]` is that tap of all windows."""
    for tap in product(*(range(slide.axis.kernel) for slide in slides)):
        yield (..., *tap)


def _counts(like: Tensor, slides: Sequence[_Slide], count_padding: bool, divisor: int | None) -> Tensor | int:
    """n_o of every window, (*out): the product of its counts along the axes."""
    if divisor is not None:
        if divisor == 0:
            raise ValueError("divisor must not be 0")
        return divisor
    counts = like.new_ones(())
    for slide in slides:
        along = [slide.cells(window, padding=count_padding) for window in range(slide.out)]
        counts = counts.unsqueeze(-1) * like.new_tensor(along)
    return counts


def _chosen(values: Tensor, switches: Tensor, size: Sequence[int]) -> Tensor:
    """The switches, one row a map, after a look at whether they fit."""
    require_float(values=values)
    if values.shape[:2] != switches.shape[:2]:
        raise ValueError(f"switches {tuple(switches.shape)} are not of the maps {tuple(values.shape)}")
    if switches.numel() and not 0 <= int(switches.min()) <= int(switches.max()) < prod(size):
        raise ValueError(
            f"switches must point into a map of {tuple(size)}, 0..{prod(size) - 1}, "
            f"got {int(switches.min())}..{int(switches.max())}"
        )
    return switches.flatten(2)


def _writers(chosen: Tensor, cells: int) -> Tensor:
    """The last of the switches that points at each cell, else -1. Shape: (N, C, S) -> (N, C, cells)"""
    order = torch.arange(chosen.shape[2], device=chosen.device).expand_as(chosen)
    nobody = chosen.new_full((*chosen.shape[:2], cells), -1)
    return nobody.scatter_reduce_(2, chosen, order, "amax")
