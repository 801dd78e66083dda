"""The ways in which receptive fields combine; the rules of the operators are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnkit.inspect.axes import Axis, nothing
from cnnkit.inspect.graph import Node, Value
from cnnkit.inspect.lines import Line
from cnnkit.inspect.operators import FORGETS

#: One `Axis` for each axis of the image.
Field = tuple[Axis, ...]
#: What a rule returns: one field for all results, or one for each.
Found = Field | list[Field | None] | None
#: Shape, strides and offset of a view of memory.
Place = tuple[tuple[int, ...], tuple[int, ...], int]
#: What an operator reads, given the fields so far, the node and its arguments.
Rule = Callable[..., Found]


def along(field: Field, dim: int, read: Callable[..., Line], *settings: Any) -> Field:
    """With a reading of lines applied along one dimension."""
    return tuple([axis.over(dim, read, *settings) if dim in axis.dims else axis for axis in field])


class Walk:
    """The fields found so far.

    Args:
        rules: how each operator reads.
        sizes: extent of the image along its axes.
        context: whether to follow what looks at the image as a whole.
    """

    def __init__(self, rules: Mapping[str, Rule], sizes: tuple[int, ...], *, context: bool) -> None:
        self.rules, self.context = rules, context
        self.of: dict[Value, Field] = {}
        self.unknown: set[str] = set()
        self.located: dict[Value, Node] = {}  # of the places of maxima, the pooling that found them
        self.has_context = False
        zero = np.zeros((), np.int32)
        self.image = tuple(Axis((), Line(zero, zero + size - 1, None, False)) for size in sizes)

    def follow(self, nodes: Iterable[Node]) -> None:
        """Find the fields of what some nodes made, in order."""
        of, image, rules = self.of, self.image, self.rules
        for node in nodes:
            data = node.data
            if len(data) == 1:
                if data[0] not in of:
                    continue
                first = of[data[0]]
                alike = first is image
                if node.pointwise or (alike and len(node.outs) == 1 and node.op not in FORGETS):
                    of[node.outs[0]] = first
                    continue
            else:
                seen = [of[value] for value in data if value in of]
                if not seen:
                    continue
                alike = seen[0] is image and seen.count(image) == len(seen)
            found: Found
            if node.op in FORGETS or (not node.outs[0].numel and all(not out.numel for out in node.outs)):
                continue
            if alike:
                found = image  # whatever is made of what sees everything sees everything
            elif node.op in rules:
                found = rules[node.op](self, node, *node.args, **node.kwargs)
            elif node.pointwise:
                found = self.joined(node.outs[0], data)
            else:
                self.unknown.add(node.op)
                found = self.everything(data)
            if isinstance(found, list):
                of.update({v: f for v, f in zip(node.outs, found, strict=True) if f is not None})
            elif found is not None:
                for out in node.outs:
                    of[out] = found

    def union(self, a: Axis, b: Axis) -> Axis:
        """What either sees; the image as a whole is global context to whatever sees a part of it."""
        if bool(a.dims) != bool(b.dims):
            self.has_context = True
            part, whole = (a, b) if a.dims else (b, a)
            if not self.context:
                return part
            if whole in self.image:
                return whole
        return a.union(b)

    def joined(self, out: Value, values: Iterable[Value]) -> Field | None:
        """Element by element, after broadcasting."""
        found: Field | None = None
        rank = len(out.shape)
        for value in values:
            field = self.of.get(value)
            if field is None:
                continue
            if value.shape != out.shape and field is not self.image:
                field = tuple(self._broadcast(axis, value, out, rank) for axis in field)
            found = field if found is None or found is field else self.united(found, field)
        return found

    def united(self, a: Field, b: Field) -> Field:
        """What either sees, along all axes."""
        found = tuple(map(self.union, a, b))
        return next((known for known in (self.image, a, b) if all(map(is_, found, known))), found)

    def _broadcast(self, axis: Axis, value: Value, out: Value, rank: int) -> Axis:
        ahead = rank - len(value.shape)
        grown = [d for d in axis.dims if out.shape[d + ahead] != value.shape[d]]
        return axis.united(grown).shifted(ahead)

    def mixed(self, field: Field, dims: Iterable[int]) -> Field:
        """Summed over some dimensions, which stay; the hull of what lies along them."""
        dims = tuple(dims)
        found = tuple([self._mix(axis, whole, dims) for axis, whole in zip(field, self.image, strict=True)])
        return self.image if all(map(is_, found, self.image)) else found

    def _mix(self, axis: Axis, whole: Axis, dims: tuple[int, ...]) -> Axis:
        if not self.context and axis.dims and axis.line.pattern is not None and axis.dims[-1] in dims:
            return whole  # summed along the image
        found = axis.united(dims)
        if not self.context and axis.dims and not found.dims:
            return whole
        if not found.dims and (found.line.lo, found.line.hi) == (whole.line.lo, whole.line.hi):
            return whole
        return found

    def reduced(self, field: Field, dims: Iterable[int], *, keep: bool) -> Field:
        """Summed over some dimensions, which vanish unless kept."""
        gone = frozenset(dims)
        found = self.mixed(field, gone)
        if keep or found is self.image:
            return found
        return tuple(axis.renumbered(lambda d: d - sum(g < d for g in gone)) for axis in found)

    def everything(self, values: Iterable[Value]) -> Field | None:
        """Each result reads all of the inputs."""
        found: Field | None = None
        for value in values:
            if value in self.of:
                field = tuple(Axis((), axis.line.whole) for axis in self.of[value])
                found = field if found is None else tuple(map(Axis.union, found, field))
        return found

    def moved(self, node: Node, field: Field | None = None) -> Found:
        """Numbers only change places: the operator is applied to the intervals themselves.

        Args:
            node: the operator.
            field: what its first argument sees, if not what was found for it.
        """
        of = self.of if field is None else {**self.of, node.args[0]: field}
        values = [v for v in node.inputs if v in of]
        found: list[list[Axis]] = [[] for _ in node.outs]
        for i in range(len(self.image)):
            sources = [of[v][i] for v in values]
            if len(sources) == 1 and not sources[0].dims:
                lines = [sources[0]] * len(node.outs)
            else:
                lows, highs = (self._apply(node, of, i, end) for end in (0, 1))
                lines = [Axis.compact(lo, hi, sources) for lo, hi in zip(lows, highs, strict=True)]
            for axes, line in zip(found, lines, strict=True):
                axes.append(line)
        return [tuple(axes) for axes in found]

    def _apply(self, node: Node, of: Mapping[Value, Field], axis: int, end: int) -> list[Tensor]:
        def ends(arg: Any) -> Any:
            if type(arg) is tuple:
                return [ends(a) for a in arg]
            if type(arg) is not Value:
                return arg
            if arg in of:
                return of[arg][axis].full(arg.shape)[end]
            if arg.dtype is torch.int64:  # an index; where it is not known, its dimension is constant
                return torch.zeros(arg.shape, dtype=arg.dtype) if arg.constant is None else arg.constant
            return nothing(arg.shape)[end]

        keywords = {
            k: ends(v) for k, v in node.kwargs.items() if k not in ("dtype", "device", "memory_format")
        }
        func = torch.ops.aten.reshape.default if node.op in ("view", "_unsafe_view") else node.func
        out = func(*map(ends, node.args), **keywords)
        return list(out) if isinstance(out, list | tuple) else [out]
