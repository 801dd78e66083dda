"""The table of a network: what is in it, what it costs, what each unit sees."""

from __future__ import annotations

from collections.abc import Iterable
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
from cnnkit.inspect.trace import trace, uncollected


@dataclass(slots=True)
class Row:
    """One line of the table: a module call, or an operator that a module dispatched beside its modules.

    Attributes:
        source: the call or the operator.
        level: how deep in the tree, from 0 for the network.
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

    source: Call | Node
    level: int
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
    def path(self) -> str:
        """Name of the module; of the module that dispatched it for an operator."""
        return self.source.path

    @property
    def module(self) -> nn.Module | None:
        """The module; None for an operator."""
        return self.source.module if isinstance(self.source, Call) else None

    @property
    def kind(self) -> str:
        """Class of the module, or name of the operator."""
        source = self.source
        return type(source.module).__name__ if isinstance(source, Call) else source.op

    @property
    def nodes(self) -> list[Node]:
        """Its operators."""
        return list(self.source.nodes()) if isinstance(self.source, Call) else [self.source]

    @property
    def outs(self) -> tuple[Value, ...]:
        """What it returned."""
        return self.source.outs

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
        sums = {name: sum(map(attrgetter(name), self.rows)) for name in ADDITIVE}
        return Row(self.trace.root, 0, **sums)

    @cached_property
    def training(self) -> Training:
        """Memory of activations in a training step."""
        return training(self.trace)


#: What adds up.
ADDITIVE = ("params", "trainable", "macs", "other", "activations", "moved")


def table(traced: Trace, *, depth: int | None = None, image: str | None = None, name: str = "") -> Table:
    """All figures of a trace.

    Args:
        traced: the trace.
        depth: modules below this level are summed up; None shows every module that does something.
        image: the input in which receptive fields are measured, if not the first that looks like an image.
        name: of the network; its class if empty.
    """
    with uncollected():
        found = fields(traced, image=image)
        local = (
            fields(traced, image=image, context=False) if found is not None and found.has_context else None
        )
        builder = Builder(traced, found, local)
        rows: list[Row] = []
        builder.fill(rows, traced.root, 0, depth)
        rows += builder.unused(traced, depth)
    longest = max([builder.ways.get(out, 0) for out in traced.root.outs], default=0)
    name = name or type(traced.root.module).__name__
    return Table(name, traced, found, rows, builder.uncounted, longest, builder.weighted)


def macs(module: nn.Module, /, *inputs: Any, **keywords: Any) -> int:
    """Multiply-adds of convolutions, linear layers and matrix products in one forward pass; biases are none.

    Raises:
        TraceError: the network cannot be traced with these inputs.
    """
    found = [cost(node) for node in trace(module, *inputs, **keywords).nodes]
    return sum(each.macs for each in found if each is not None)


def is_recurrent(node: Node) -> bool:
    """Whether a layer's weights lead from one moment to the next, which makes it no deeper."""
    return any(value.name.rpartition(".")[2].startswith("weight_hh") for value in node.inputs)


class Builder:
    """Makes rows in order of execution, and remembers what has been counted.

    Attributes:
        uncounted: operators that no rule counts, with how often they occur.
        weighted: operators with weights that multiply.
        ways: for each value the number of those on the longest way to it from an input.
        learned: parameters that have been used, and what was computed from parameters alone, with the row
            that came to it first.
    """

    def __init__(self, traced: Trace, found: Fields | None, local: Fields | None) -> None:
        self.fields, self.local = found, local
        self.of = {} if found is None else found.of
        self.bare = {} if local is None else local.of
        self.seen: dict[tuple[int, int], tuple[tuple[Span, ...], tuple[Span, ...]]] = {}
        self.uncounted: dict[str, int] = {}
        self.weighted = 0
        self.ways = dict.fromkeys(traced.inputs, 0)
        self.learned: dict[Value, Call | Node] = {}

    def fill(self, rows: list[Row], call: Call, level: int, depth: int | None) -> None:
        """Append the rows of a module call."""
        if call.is_leaf or level == depth:
            rows.append(self.row(call, level, call.items if call.is_leaf else call.nodes()))
            return
        level += 1
        for item in call.items:
            if type(item) is Call:
                if item.is_leaf:
                    rows.append(self.row(item, level, item.items))
                else:
                    self.fill(rows, item, level, depth)
            else:
                row = self.row(item, level, (item,))
                if row.params or row.macs or row.other or row.activations:
                    rows.append(row)

    def row(self, source: Call | Node, level: int, nodes: Iterable[Any]) -> Row:
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
                    if ways[value] > way:
                        way = ways[value]
                elif value in learned:
                    weighs = True
                    if value.source == "parameter" and learned[value] is not source:
                        note = "shared"
                elif value.source == "parameter":
                    weighs = True
                    learned[value] = source
                    numel = value.numel
                    params += numel
                    if value.trainable:
                        trainable += numel
            if way >= 0:
                if weighs and found.macs and not (node.op == "linear" and is_recurrent(node)):
                    way += 1
                    self.weighted += 1
                for out in node.outs:
                    ways[out] = way
            elif weighs:
                learned.update(dict.fromkeys(node.outs, source))
        full, local = self.spans(source.outs[0]) if source.outs else ((), ())
        return Row(source, level, params, trainable, macs, other, activations, traffic, full, local, note)

    def spans(self, value: Value) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """The receptive field of a value, with global context and, where that differs, without."""
        key = id(self.of.get(value)), id(self.bare.get(value))
        found = self.seen.get(key)
        if found is None:
            full, local = spans(self.fields, value), spans(self.local, value)
            self.seen[key] = found = full, local if local != full else ()
        return found

    def unused(self, traced: Trace, depth: int | None) -> list[Row]:
        """A row for each module with parameters that nothing used."""
        found: dict[str, Row] = {}
        for value in traced.parameters:
            if value not in self.learned:
                names = value.name.split(".")[:-1][:depth]
                path = ".".join(names)
                module = traced.root.module.get_submodule(path)
                row = found.setdefault(path, Row(Call(path, module), len(names)))
                row.params += value.numel
                row.trainable += value.numel if value.trainable else 0
                row.note = "never used"
        return list(found.values())
