"""The table of a network: what is in it, what it costs, what each unit sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from torch import nn

from cnnkit.inspect.counts import FREE, cost
from cnnkit.inspect.graph import Call, Node, Trace, Value
from cnnkit.inspect.memory import Training, moved, training
from cnnkit.inspect.receptive import Fields, fields
from cnnkit.inspect.spans import Span, spans
from cnnkit.inspect.trace import uncollected
from cnnkit.inspect.walk import Field


@dataclass(slots=True)
class Row:
    """One line of the table: a module call, or an operator that a module dispatched beside its modules.

    Attributes:
        path: name of the module; of the module that dispatched it for an operator.
        kind: class of the module, or name of the operator.
        level: how deep in the tree, from 0 for the network.
        module: the module; None for an operator.
        nodes: its operators.
        outs: what it returned.
        params: parameters that no row above has used.
        trainable: those of them that require a gradient.
        macs: multiply-adds of convolutions, linear layers and matrix products.
        other: operations of everything else.
        activations: bytes of new memory.
        moved: bytes read and written.
        spans: receptive field of the first result, an axis each.
        local: the same without global context; empty where nothing differs.
        note: what is unusual, in a word or two.
    """

    path: str
    kind: str
    level: int
    module: nn.Module | None
    nodes: list[Node]
    outs: tuple[Value, ...]
    params: int = 0
    trainable: int = 0
    macs: int = 0
    other: int = 0
    activations: int = 0
    moved: int = 0
    spans: tuple[Span, ...] = ()
    local: tuple[Span, ...] = ()
    note: str = ""

    @property
    def flops(self) -> int:
        """Two for each multiply-add."""
        return 2 * self.macs

    @property
    def intensity(self) -> float:
        """Operations of all kinds for each byte moved."""
        return (2 * self.macs + self.other) / self.moved if self.moved else 0.0


@dataclass(frozen=True)
class Table:
    """A network in rows, with what concerns it as a whole.

    Attributes:
        name: of the network.
        trace: what it was made from.
        fields: receptive fields; None where there is no image to see.
        rows: in order of execution.
        uncounted: operators that no rule counts, with how often they occur.
        weighted: convolutions, linear layers and the like on the longest way through, as papers count layers.
        weighted_all: all of them.
    """

    name: str
    trace: Trace
    fields: Fields | None
    rows: list[Row]
    uncounted: dict[str, int]
    weighted: int
    weighted_all: int

    @cached_property
    def total(self) -> Row:
        """The sum of the rows."""
        root = self.trace.root
        sums = {name: sum(map(attrgetter(name), self.rows)) for name in ADDITIVE}
        return Row("", "total", 0, root.module, [], root.outs, **sums)

    @cached_property
    def training(self) -> Training:
        """Memory of activations in a training step."""
        return training(self.trace)


#: What adds up.
ADDITIVE = ("params", "trainable", "macs", "other", "activations", "moved")


def table(trace: Trace, *, depth: int | None = None, image: str | None = None, name: str = "") -> Table:
    """All figures of a trace.

    Args:
        trace: the trace.
        depth: modules below this level are summed up; None shows every module that does something.
        image: the input in which receptive fields are measured, if not the first that looks like an image.
        name: of the network; its class if empty.
    """
    with uncollected():
        found = fields(trace, image=image)
        local = fields(trace, image=image, context=False) if found is not None and found.has_context else None
        builder = Builder(trace, found, local)
        rows: list[Row] = []
        builder.fill(rows, trace.root, 0, depth)
        rows += builder.unused(trace, depth)
    longest = max([builder.ways.get(out, 0) for out in trace.root.outs], default=0)
    name = name or type(trace.root.module).__name__
    return Table(name, trace, found, rows, builder.uncounted, longest, builder.weighted)


class Builder:
    """Makes rows in order of execution, and remembers what has been counted.

    Attributes:
        uncounted: operators that no rule counts, with how often they occur.
        weighted: operators with weights that multiply.
        ways: for each value the number of those on the longest way to it from an input.
        learned: parameters that have been used, and what was computed from parameters alone.
    """

    def __init__(self, trace: Trace, found: Fields | None, local: Fields | None) -> None:
        self.fields, self.local = found, local
        self.of = {} if found is None else found.of
        self.seen: dict[tuple[int, int], tuple[tuple[Span, ...], tuple[Span, ...]]] = {}
        self.uncounted: dict[str, int] = {}
        self.weighted = 0
        self.ways = dict.fromkeys(trace.inputs, 0)
        self.learned: set[Value] = set()

    def fill(self, rows: list[Row], call: Call, level: int, depth: int | None) -> None:
        """Append the rows of a module call."""
        if level == depth or call.is_leaf:
            nodes: Any = call.items if call.is_leaf else list(call.nodes())
            rows.append(self.row(call.path, type(call.module).__name__, level, call.module, nodes, call.outs))
            return
        level += 1
        for item in call.items:
            if isinstance(item, Node):
                row = self.row(call.path, item.op, level, None, [item], item.outs)
                if row.params or row.macs or row.other or row.activations:
                    rows.append(row)
            else:
                self.fill(rows, item, level, depth)

    def row(
        self,
        path: str,
        kind: str,
        level: int,
        module: nn.Module | None,
        nodes: list[Node],
        outs: tuple[Value, ...],
    ) -> Row:
        """One row with all its figures."""
        macs = other = activations = traffic = params = trainable = 0
        note, ways, learned = "", self.ways, self.learned
        for node in nodes:
            found = cost(node)
            if found is None:
                found = FREE
                self.uncounted[node.op] = self.uncounted.get(node.op, 0) + 1
            macs += found.macs
            other += found.other
            activations += node.allocated
            traffic += moved(node)
            way, weighs = -1, False
            for value in node.inputs:
                if value in ways:
                    way = max(way, ways[value])
                elif value in learned:
                    weighs = True
                    note = "shared" if value.source == "parameter" else note
                elif value.source == "parameter":
                    weighs = True
                    learned.add(value)
                    params += value.numel
                    trainable += value.numel if value.trainable else 0
            if way >= 0:
                if weighs and found.macs:
                    way += 1
                    self.weighted += 1
                for out in node.outs:
                    ways[out] = way
            elif weighs:
                learned.update(node.outs)
        field = self.of.get(outs[0]) if outs else None
        full, local = ((), ()) if field is None else self.spans(outs[0], field)
        return Row(
            *(path, kind, level, module, nodes, outs, params, trainable),
            *(macs, other, activations, traffic, full, local, note),
        )

    def spans(self, value: Value, field: Field) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """The receptive field of a value, with global context and, where that differs, without."""
        bare = None if self.local is None else self.local.of.get(value)
        key = id(field), id(bare)
        if key not in self.seen:
            full, local = spans(self.fields, value), spans(self.local, value)
            self.seen[key] = full, local if local != full else ()
        return self.seen[key]

    def unused(self, trace: Trace, depth: int | None) -> list[Row]:
        """A row for each module with parameters that nothing used."""
        found: dict[str, Row] = {}
        for value in trace.parameters:
            if value not in self.learned:
                names = value.name.split(".")[:-1][:depth]
                path = ".".join(names)
                row = found.setdefault(path, Row(path, "parameters", len(names), None, [], ()))
                row.params += value.numel
                row.trainable += value.numel if value.trainable else 0
                row.note = "never used"
        return list(found.values())
