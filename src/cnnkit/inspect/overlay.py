"""What a view of memory sees after a part of that memory was written through another view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from cnnkit.inspect.axes import Axis, hull_of, nothing
from cnnkit.inspect.graph import Node, Value
from cnnkit.inspect.lines import FAR
from cnnkit.inspect.walk import Field, Place, Walk

#: Where a part lies in a view: for each of the part's dimensions the view's, and all of its slices.
Part = tuple[Mapping[int, int], tuple[slice, ...]]


def overlay(walk: Walk, node: Node, before: Value, new: Value, view: Place, written: Place) -> Field:
    """A write through another view."""
    old, put = walk.of.get(before), walk.of.get(new)
    part = part_of(view, written)
    found = []
    for i in range(len(walk.image)):
        axes = None if old is None else old[i], None if put is None else put[i]
        found.append(by_memory(*axes, view, written) if part is None else by_index(*axes, view[0], part))
    return tuple(found)


def part_of(view: Place, written: Place) -> Part | None:
    """Where what was written lies in a view, if it is made of slices of it in steps of one."""
    (shape, strides, start), (sizes, steps, at) = view, written
    order = sorted((d for d, n in enumerate(shape) if n > 1), key=lambda d: -strides[d])
    theirs = {step: e for e, (n, step) in enumerate(zip(sizes, steps, strict=True)) if n > 1}
    left, extent, where = at - start, 1, [slice(0, 1)] * len(shape)
    if left < 0 or len(theirs) < sum(n > 1 for n in sizes):
        return None
    dims: dict[int, int] = {}
    for d in order:
        first, left = divmod(left, strides[d]) if strides[d] else (0, left)
        part = theirs.pop(strides[d], None)
        size = 1 if part is None else sizes[part]
        if first + size > shape[d]:
            return None
        where[d] = slice(first, first + size)
        if part is not None:
            dims[part] = d
    for d in reversed(order):  # two places of the view must not be one place of the memory
        if strides[d] < extent:
            return None
        extent += (shape[d] - 1) * strides[d]
    return None if theirs or left else (dims, tuple(where))


def by_index(before: Axis | None, new: Axis | None, shape: Sequence[int], part: Part) -> Axis:
    """What was written stands in its slices; along dimensions where nothing differs nothing is done."""
    into, where = part
    if new is not None:
        single = [d for d in new.dims if d not in into]
        new = (new.taken_first(single) if single else new).renumbered(into.__getitem__)
    seeing = [axis for axis in (before, new) if axis is not None]
    differing = {d for d, n in enumerate(shape) if where[d] != slice(0, n)}
    differing.update(*(axis.dims for axis in seeing))
    last = next((axis.dims[-1] for axis in seeing if axis.dims), max(differing, default=-1))
    dims = (*sorted(differing - {last}), *differing & {last})
    lines = [None if axis is None else axis.spread(dims) for axis in (before, new)]
    sizes, slices = [shape[d] for d in dims], tuple(where[d] for d in dims)
    pairs = []
    for end, far in (("lo", FAR), ("hi", -FAR)):
        old, put = (np.asarray(far, np.int32) if line is None else getattr(line, end) for line in lines)
        pairs.append((np.broadcast_to(old, sizes), put))
    if before is not None and all((old[slices] == put).all() for old, put in pairs):
        return before
    ends = [old.copy() for old, _ in pairs]
    for full, (_, put) in zip(ends, pairs, strict=True):
        full[slices] = put
    whole = hull_of(seeing)
    source = None if whole is None else Axis((0,), whole)
    return Axis.tidy(dims, ends[0], ends[1], None if whole is None else whole.pattern, source)


def by_memory(before: Axis | None, new: Axis | None, view: Place, written: Place) -> Axis:
    """Where the two lie in each other in some other way, the memory itself is followed."""
    need = max(
        1 + at + sum((n - 1) * s for n, s in zip(*sizes, strict=True)) for *sizes, at in (view, written)
    )
    ends, places = [], torch.arange(need)
    for end, far in enumerate((FAR, -FAR)):
        memory = torch.full((need,), far, dtype=torch.float64)
        for axis, where in ((before, view), (new, written)):
            full = nothing(where[0]) if axis is None else axis.full(where[0])
            memory[places.as_strided(*where)] = full[end]  # a view may have one place several times
        ends.append(memory.as_strided(*view).clone())
    return Axis.compact(ends[0], ends[1], [axis for axis in (before, new) if axis is not None])
