"""What operators that only move numbers read: views, parts, borders, concatenations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from cnnkit.inspect.axes import Axis
from cnnkit.inspect.geometry import each
from cnnkit.inspect.graph import Node, Value
from cnnkit.inspect.lines import FAR, Line, Taps
from cnnkit.inspect.operators import MOVES, names
from cnnkit.inspect.overlay import overlay
from cnnkit.inspect.walk import Field, Found, Rule, Walk, along


def moved(walk: Walk, node: Node, *_: Any, **__: Any) -> Found:
    """Whatever has no rule of its own: the operator is applied to the intervals."""
    return walk.moved(node)


def same(walk: Walk, node: Node, x: Value, *_: Any, **__: Any) -> Found:
    """Each result is its own element."""
    return walk.of.get(x)


def repeated(walk: Walk, node: Node, x: Value, *_: Any, **__: Any) -> Found:
    """Broadcast to a shape."""
    return walk.joined(node.outs[0], (x,))


def copied(walk: Walk, node: Node, target: Value, source: Value, *_: Any) -> Found:
    """What was there is overwritten."""
    return walk.joined(node.outs[0], (source,))


def sliced(
    walk: Walk, node: Node, x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Found:
    """A part of a dimension; along the image a stride, or a border cut off."""
    field = walk.of[x]
    dim %= len(x.shape)
    size = node.outs[0].shape[dim]
    if size == x.shape[dim] or not any(dim in axis.dims for axis in field):
        return field
    if all(dim not in axis.dims[:-1] for axis in field):
        first = 0 if start is None else start
        first = max(0, first + x.shape[dim] if first < 0 else first)
        if dim in {axis.dims[-1] for axis in field if axis.dims}:
            return along(field, dim, Line.part, first, size, step)
    return tuple(axis.taken(dim, slice(start, end, step)) for axis in field)


def parted(walk: Walk, node: Node, x: Value, sizes: Any, dim: int = 0) -> Found:
    """Parts of a dimension."""
    dim %= len(x.shape)
    found: list[Field | None] = []
    start = 0
    for out in node.outs:
        part = slice(start, start := start + out.shape[dim])
        found.append(tuple(axis.taken(dim, part) for axis in walk.of[x]))
    return found


def selected(walk: Walk, node: Node, x: Value, dim: int, index: int) -> Found:
    """One slice of a dimension."""
    dim %= len(x.shape)
    return tuple(axis.taken(dim, index % x.shape[dim]) for axis in walk.of[x])


def unbound(walk: Walk, node: Node, x: Value, dim: int = 0) -> Found:
    """All slices of a dimension."""
    dim %= len(x.shape)
    return [tuple(axis.taken(dim, i) for axis in walk.of[x]) for i in range(x.shape[dim])]


def reshaped(walk: Walk, node: Node, x: Value, *_: Any, **__: Any) -> Found:
    """The same elements in order."""
    return tuple(axis.regrouped(x.shape, node.outs[0].shape) for axis in walk.of[x])


def permuted(walk: Walk, node: Node, x: Value, *dims: Any) -> Found:
    """Dimensions in another order."""
    rank = len(x.shape)
    if node.op == "permute":
        order = [d % rank for d in dims[0]]
    else:
        order = list(range(rank))
        a, b = (0, 1) if node.op == "t" else (d % rank for d in dims)
        if rank > 1:
            order[a], order[b] = order[b], order[a]
    return tuple(axis.renumbered(order.index) for axis in walk.of[x])


def joined_up(walk: Walk, node: Node, tensors: tuple[Value, ...], dim: int = 0) -> Found:
    """Tensors one after another."""
    tensors = tuple(t for t in tensors if t.shape != (0,))  # an old custom for starting a list
    dim %= len(node.outs[0].shape)
    return chained([walk.of.get(t) for t in tensors], [t.shape[dim] for t in tensors], dim)


def stacked(walk: Walk, node: Node, tensors: tuple[Value, ...], dim: int = 0) -> Found:
    """Tensors one after another along a new dimension."""
    dim %= len(node.outs[0].shape)
    parts = [
        None if field is None else tuple(axis.renumbered(lambda d: d + (d >= dim)) for axis in field)
        for field in map(walk.of.get, tensors)
    ]
    return chained(parts, [1] * len(parts), dim)


#: Of more results than this along a dimension beside the image, those that see nothing are not told apart.
MANY = 1 << 16


def chained(parts: Sequence[Field | None], sizes: Sequence[int], dim: int) -> Field:
    """What tensors one after another see; all alike they remain so."""
    seeing = [part for part in parts if part is not None]
    first = seeing[0]
    alike = all(part == first for part in parts) and not any(dim in axis.dims for axis in first)
    bounds = sum(sizes) > MANY and not any(axis.dims for part in seeing for axis in part)
    if alike or (bounds and all(part == first for part in seeing)):
        return first
    made: dict[Any, Axis] = {}
    chain = []
    for i in range(len(seeing[0])):
        axes = [None if part is None else part[i] for part in parts]
        last = {part[i].dims[-1:] for part in seeing}
        key = tuple((part[i].dims[:-1], id(part[i].line)) for part in seeing)
        shared = len(last) == 1 and last.isdisjoint({(), (dim,)})  # as the axes of a square image do
        if not (shared and key in made):
            found = Axis.chained(axes, sizes, dim)
            if shared:
                made[key] = found
        else:
            found = Axis((*made[key].dims[:-1], *last.pop()), made[key].line)
        chain.append(found)
    return tuple(chain)


@lru_cache(256)
def border_taps(inputs: int, results: int, before: int, mode: str) -> Taps:
    """The taps of a border: outside, mirrored, repeated or from the other side."""
    reads = np.arange(results) - before
    if mode == "reflect":
        reads = inputs - 1 - np.abs(inputs - 1 - np.abs(reads))
    elif mode == "replicate":
        reads = reads.clip(0, inputs - 1)
    elif mode == "circular":
        reads = reads % inputs
    return Taps.of(reads[:, None], inputs)


def padded(walk: Walk, node: Node, x: Value, pad: Sequence[int], *rest: Any, **keywords: Any) -> Found:
    """A border added, or cut off where it is negative."""
    mode = (rest or [keywords.get("mode", "constant")])[0] if node.op == "pad" else PADS[node.op[:4]]
    field = walk.of[x]
    for i in range(len(pad) // 2):
        dim, before = len(x.shape) - 1 - i, pad[2 * i]
        results, inputs = node.outs[0].shape[dim], x.shape[dim]
        if before or results != inputs:
            taps = border_taps(inputs, results, before, mode)
            field = along(field, dim, shifted, taps, before)
    return field


#: The mode that is part of an operator's name.
PADS = {"cons": "constant", "refl": "reflect", "repl": "replicate"}


def shifted(line: Line, taps: Taps, before: int) -> Line:
    """A line behind a border."""
    return line.read(taps, line.pattern and line.pattern.window(1, 1, before, 1))


def indexed(walk: Walk, node: Node, x: Value, *args: Any, **_: Any) -> Found:
    """Chosen places; where they are not known, any of the dimension."""
    if x not in walk.of or any(v in walk.of for v in node.inputs if v is not x):
        return walk.everything(node.inputs)
    if node.op == "index":
        indices = {d: i for d, i in enumerate(args[0]) if i is not None}
    else:  # (x, dim, index), or (x, index, dim)
        dim, index = args if type(args[0]) is int else reversed(args)
        indices = {dim % len(x.shape): index}
    if any(i.dtype is not torch.int64 for i in indices.values()):
        return walk.everything(node.inputs)
    unknown = [dim for dim, index in indices.items() if index.constant is None]
    return walk.moved(node, walk.mixed(walk.of[x], unknown))


def columns(
    walk: Walk, node: Node, x: Value, kernel: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Found:
    """Windows as columns: a border that sees nothing, then the operator on the intervals."""
    border = [p for p in reversed(each(padding, 2)) for _ in range(2)]

    def unfolded(ends: torch.Tensor, far: float) -> torch.Tensor:
        wide = torch.nn.functional.pad(ends, border, value=far)
        return torch.nn.functional.unfold(wide, kernel, dilation, 0, stride)

    found = []
    for axis in walk.of[x]:
        lo, hi = axis.full(x.shape)
        found.append(Axis.compact(unfolded(lo, FAR), unfolded(hi, -FAR), [axis]))
    return tuple(found)


#: The rule of each operator that moves numbers.
MOVED: Mapping[str, Rule] = {
    **dict.fromkeys(MOVES, moved),
    **dict.fromkeys(names("alias clone contiguous detach lift lift_fresh to _to_copy type_as"), same),
    **dict.fromkeys(names("expand expand_as broadcast_to"), repeated),
    **dict.fromkeys(names("view reshape flatten unflatten _unsafe_view ravel view_as reshape_as"), reshaped),
    **dict.fromkeys(names("squeeze unsqueeze"), reshaped),
    **dict.fromkeys(names("permute transpose t swapaxes swapdims"), permuted),
    **dict.fromkeys(names("chunk split split_with_sizes unsafe_chunk unsafe_split"), parted),
    **dict.fromkeys(names("cat concat concatenate"), joined_up),
    **dict.fromkeys(names("pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d"), padded),
    **dict.fromkeys(names("replication_pad1d replication_pad2d replication_pad3d"), padded),
    **dict.fromkeys(names("index index_select gather take_along_dim"), indexed),
    "stack": stacked,
    "unsafe_split_with_sizes": parted,
    "copy": copied,
    "slice": sliced,
    "select": selected,
    "unbind": unbound,
    "im2col": columns,
    "overlay": overlay,
}
