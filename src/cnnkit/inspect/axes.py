"""Receptive fields of tensors: one line for each axis of the image, and the dimensions that it runs along."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnkit.inspect.lines import FAR, Ints, Line, Pattern


class Axis(NamedTuple):
    """What a tensor sees along one axis of the image.

    Attributes:
        dims: the dimensions of the tensor that the line's array runs along, that of the image last; along the
            others it is constant.
        line: the intervals.
    """

    dims: tuple[int, ...]
    line: Line

    def over(self, dim: int, read: Callable[..., Line], *settings: Any) -> Axis:
        """With a reading of lines applied along one of its dimensions."""
        if dim == self.dims[-1]:
            return Axis(self.dims, read(self.line, *settings))
        at = self.dims.index(dim)
        found = read(Line.of(np.moveaxis(self.line.lo, at, -1), np.moveaxis(self.line.hi, at, -1)), *settings)
        back = Line.of(np.moveaxis(found.lo, -1, at), np.moveaxis(found.hi, -1, at), self.line.pattern)
        return Axis(self.dims, back)

    def united(self, dims: Iterable[int]) -> Axis:
        """With the hull taken along some dimensions of the tensor, which stay, constant."""
        axis = self
        for dim in dims:
            if dim in axis.dims:
                at = axis.dims.index(dim)
                line = axis.line.whole if len(axis.dims) == 1 else axis.line.united(at)
                axis = Axis(axis.dims[:at] + axis.dims[at + 1 :], line)
        return axis

    def renumbered(self, new: Callable[[int], int]) -> Axis:
        """For a tensor whose dimensions have other numbers."""
        return Axis(tuple(map(new, self.dims)), self.line)

    def shifted(self, by: int) -> Axis:
        """For a tensor with more dimensions in front, or fewer."""
        return self if by == 0 else Axis(tuple(d + by for d in self.dims), self.line)

    def spread(self, dims: Sequence[int]) -> Line:
        """The line with its array's axes along these dimensions, of size 1 where it is constant."""
        if tuple(dims) == self.dims:
            return self.line
        order = [self.dims.index(d) for d in dims if d in self.dims]
        shape = [self.line.lo.shape[self.dims.index(d)] if d in self.dims else 1 for d in dims]
        lo, hi = (ends.transpose(order).reshape(shape) for ends in (self.line.lo, self.line.hi))
        return Line.of(lo, hi, self.line.pattern)

    def union(self, other: Axis) -> Axis:
        """What either sees."""
        if self.dims == other.dims:
            return Axis(self.dims, self.line.union(other.line))
        last = (self.dims or other.dims)[-1]
        dims = (*sorted({*self.dims, *other.dims} - {last}), last)
        return Axis(dims, self.spread(dims).union(other.spread(dims)))

    def regrouped(self, old: Sequence[int], new: Sequence[int]) -> Axis:
        """For a tensor whose elements, in order, were given another shape."""
        narrow = [d for d in self.dims if old[d] == 1]
        if narrow:
            return self.taken_first(narrow).regrouped(old, new)
        dims, pattern = list(self.dims), self.line.pattern
        arrays = [self.line.lo, self.line.hi]
        for theirs, ours in groups_of(old, new):
            varying = [d for d in theirs if d in dims]
            if not varying:
                continue
            if len(theirs) == len(ours) == 1:
                dims[dims.index(theirs[0])] = -1 - ours[0]  # negative numbers are new ones
                continue
            if self.dims[-1] in theirs:
                pattern = None
            rest = [d for d in dims if d not in varying]
            arrays = [a.transpose([dims.index(d) for d in (*varying, *rest)]) for a in arrays]
            tail = arrays[0].shape[len(varying) :]
            wide = (*(old[d] if d in varying else 1 for d in theirs), *tail)
            full, found = (*(old[d] for d in theirs), *tail), (*(new[d] for d in ours), *tail)
            arrays = [np.broadcast_to(a.reshape(wide), full).reshape(found) for a in arrays]
            dims = [*(-1 - d for d in ours), *rest]
        return Axis.tidy(tuple(-1 - d for d in dims), arrays[0], arrays[1], pattern, self)

    def taken_first(self, dims: Sequence[int]) -> Axis:
        """Constant along dimensions of size 1."""
        cut = tuple(0 if d in dims else slice(None) for d in self.dims)
        pattern = None if self.dims[-1] in dims else self.line.pattern
        line = Line.of(np.asarray(self.line.lo[cut]), np.asarray(self.line.hi[cut]), pattern)
        return Axis(tuple(d for d in self.dims if d not in dims), line)

    def taken(self, dim: int, part: slice | int) -> Axis:
        """For a part of the tensor along one dimension, or one of its slices."""
        gone = isinstance(part, int)
        if dim not in self.dims:
            return self.renumbered(lambda d: d - 1 if gone and d > dim else d)
        at = self.dims.index(dim)
        cut = (*[slice(None)] * at, part)
        dims = tuple(d for d in self.dims if not (gone and d == dim))
        found = Axis.tidy(dims, self.line.lo[cut], self.line.hi[cut], self.line.pattern, self)
        return found.renumbered(lambda d: d - 1 if gone and d > dim else d)

    @staticmethod
    def chained(axes: Sequence[Axis | None], sizes: Sequence[int], dim: int) -> Axis:
        """For tensors of these sizes along one dimension, one after another; None sees nothing."""
        seeing = [axis for axis in axes if axis is not None]
        last = next((axis.dims[-1] for axis in seeing if axis.dims), dim)
        dims = (*sorted({dim, *(d for axis in seeing for d in axis.dims)} - {last}), last)
        at, shape = dims.index(dim), [1] * len(dims)
        lines = [None if axis is None else axis.spread(dims) for axis in axes]
        for line in lines:
            if line is not None:
                shape = [max(n, m) for n, m in zip(shape, line.lo.shape, strict=True)]
        parts: list[list[Ints]] = [[], []]
        for line, size in zip(lines, sizes, strict=True):
            shape[at] = size
            for part, far, end in zip(parts, (FAR, -FAR), (0, 1), strict=True):
                ends = np.int32(far) if line is None else (line.lo, line.hi)[end]
                part.append(np.broadcast_to(ends, shape))
        pattern = None if dim == last else united(axis.line.pattern for axis in seeing)
        return Axis.tidy(dims, np.concatenate(parts[0], at), np.concatenate(parts[1], at), pattern, None)

    @staticmethod
    def tidy(dims: tuple[int, ...], lo: Ints, hi: Ints, pattern: Pattern | None, source: Axis | None) -> Axis:
        """Without dimensions along which nothing changes; the pattern stays if the whole sees the same."""
        keep = []
        for at in range(len(dims)):
            first = (slice(None),) * at + (slice(0, 1),)
            if at < len(dims) - 1 and (lo == lo[first]).all() and (hi == hi[first]).all():
                lo, hi = lo[first], hi[first]
            else:
                keep.append(at)
        lo, hi = (e.reshape([e.shape[at] for at in keep]) for e in (lo, hi))
        line = Line.of(lo, hi, pattern)
        if pattern is not None and source is not None:
            mine, before = hull_of([Axis((0,) * lo.ndim, line)]), hull_of([source])
            if mine is None or before is None or not mine.sees_as(before):
                line = Line.of(lo, hi)
            elif lo.ndim == 1 == source.line.lo.ndim:
                line = source.line
        return Axis(tuple(dims[at] for at in keep), line)

    def full(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Both ends for every element of the tensor, as views that repeat what is constant."""
        line = self.spread(sorted(self.dims))
        sizes = [shape[d] if d in self.dims else 1 for d in range(len(shape))]
        lo, hi = (torch.from_numpy(np.array(e, np.float64)).reshape(sizes) for e in (line.lo, line.hi))
        return lo.expand(tuple(shape)), hi.expand(tuple(shape))

    @staticmethod
    def compact(lo: Tensor, hi: Tensor, sources: Sequence[Axis]) -> Axis:
        """From both ends of every element; the sources' pattern holds where their intervals are left."""
        ends = [lo, hi]
        for dim in range(lo.ndim):
            if all(e.stride(dim) == 0 or bool((e == e.narrow(dim, 0, 1)).all()) for e in ends):
                ends = [e.narrow(dim, 0, 1) for e in ends]
        dims = tuple(d for d in range(lo.ndim) if ends[0].shape[d] > 1)
        arrays = [e.reshape([e.shape[d] for d in dims]).numpy().astype(np.int32) for e in ends]
        before = hull_of(sources)
        if before is None:
            return Axis(dims, Line.of(arrays[0], arrays[1]))
        for at, dim in enumerate(dims):
            turned = [np.ascontiguousarray(np.moveaxis(a, at, -1)) for a in arrays]
            line = Line.of(turned[0], turned[1], before.pattern)
            mine = hull_of([Axis((0,) * len(dims), line)])
            if mine is not None and mine.sees_as(before):
                return Axis((*(d for d in dims if d != dim), dim), before if len(dims) == 1 else line)
        return Axis(dims, Line.of(arrays[0], arrays[1]))


def hull_of(axes: Sequence[Axis]) -> Line | None:
    """What all of them see together along the dimension of the image, if that is one for all."""
    found: Line | None = None
    for axis in axes:
        if not axis.dims:
            return None
        line = axis.line
        for _ in axis.dims[:-1]:
            line = line.united(0)
        if found is not None and found.lo.shape != line.lo.shape:
            return None
        found = line if found is None else found.union(line)
    return found


def united(patterns: Iterable[Pattern | None]) -> Pattern | None:
    """What any of them sees, if they keep step."""
    found: Pattern | None = None
    for pattern in patterns:
        if pattern is None:
            return None
        found = pattern if found is None else found.union(pattern)
        if found is None:
            return None
    return found


def groups_of(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Which dimensions become which, in the smallest groups; those of size 1 are left out."""
    left = [d for d, n in enumerate(old) if n != 1]
    right = [d for d, n in enumerate(new) if n != 1]
    found = []
    while left and right:
        theirs, ours = [left.pop(0)], [right.pop(0)]
        while (n := math.prod(old[d] for d in theirs)) != (m := math.prod(new[d] for d in ours)):
            if n < m:
                theirs.append(left.pop(0))
            else:
                ours.append(right.pop(0))
        found.append((theirs, ours))
    return found


def nothing(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Both ends of a tensor that sees nothing."""
    far = torch.tensor(float(FAR), dtype=torch.float64)
    return far.expand(tuple(shape)), (-far).expand(tuple(shape))


def grouped(line: Line, at: int, groups: int, results: int) -> tuple[Ints, Ints]:
    """Along one axis of the array, each of `results` sees the hull of its group."""
    found = []
    for ends, hull in ((line.lo, np.min), (line.hi, np.max)):
        shape = list(ends.shape)
        shape[at : at + 1] = [groups, shape[at] // groups]
        found.append(hull(ends.reshape(shape), axis=at + 1).repeat(results // groups, axis=at))
    return found[0], found[1]
