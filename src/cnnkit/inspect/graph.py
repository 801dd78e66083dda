"""What a trace is made of: values, the operators that made them, and the module calls they were made in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

Source = Literal["input", "parameter", "constant", "computed"]
DATA = frozenset({"input", "computed"})


@dataclass(slots=True, eq=False)
class Value:
    """A tensor as the trace knows it: everything but its numbers.

    Attributes:
        shape: its shape.
        dtype: its type of number.
        numel: number of elements.
        nbytes: bytes of its elements, whoever else lies in the same memory.
        source: where it came from.
        name: the argument or parameter that it is; empty for the others.
        trainable: whether it is a parameter that requires a gradient.
        base: the value whose memory it lies in; None where that is its own.
        constant: its numbers, for the small tensors that depend on neither inputs nor parameters.
        tensor: weak reference to the tensor, while the trace runs.
        users: number of living tensors in its memory, while the trace runs.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    numel: int
    nbytes: int
    source: Source = "computed"
    name: str = ""
    trainable: bool = False
    base: Value | None = None
    constant: Tensor | None = None
    tensor: Any = None
    users: int = 0

    @property
    def memory(self) -> Value:
        """The value that owns the memory that it lies in."""
        return self if self.base is None else self.base


@dataclass(slots=True, eq=False)
class Node:
    """One operator as it was dispatched.

    Attributes:
        op: its name without namespace, overload and in-place underscore: `conv2d`, `add`. `overlay` is the
            change that a write to one view makes to another.
        func: the operator itself; None for `overlay`.
        pointwise: whether each result reads the elements at its own place.
        args: its positional arguments, values in place of tensors.
        kwargs: its keyword arguments, likewise.
        inputs: the values among them, those in lists included, small constants such as statistics left out.
        data: those of the inputs that are no parameters and no constants.
        outs: the values that it made.
        path: name of the module that it was dispatched in.
        allocated: bytes of new memory.
    """

    op: str
    func: Any
    pointwise: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[Value, ...]
    data: tuple[Value, ...]
    outs: tuple[Value, ...]
    path: str
    allocated: int


#: Constants of more bytes than this are weights in disguise: they are not read, and count as traffic.
SMALL = 1 << 18


def values_in(args: Iterable[Any]) -> tuple[Value, ...]:
    """The values among arguments, those in lists included, small constants left out."""
    found: list[Value] = []
    for arg in args:
        if type(arg) is Value:
            found.append(arg)
        elif type(arg) is tuple:
            found += [a for a in arg if type(a) is Value]
    return tuple([v for v in found if v.source != "constant" or v.nbytes > SMALL])


def data_in(inputs: tuple[Value, ...]) -> tuple[Value, ...]:
    """The values that are no parameters and no constants."""
    if inputs and inputs[0].source in DATA:
        for value in inputs[1:]:
            if value.source != "parameter":
                break
        else:
            return inputs[:1]
    return tuple([v for v in inputs if v.source in DATA])


@dataclass(slots=True, eq=False)
class Call:
    """One call of one module.

    Attributes:
        path: the module's name in the tree, empty for the whole network.
        module: the module.
        items: operators dispatched and modules called in it, in order.
        outs: the tensors that it returned.
        is_leaf: whether it called no other module.
    """

    path: str
    module: nn.Module
    items: list[Node | Call] = field(default_factory=list)
    outs: tuple[Value, ...] = ()
    is_leaf: bool = True

    def calls(self) -> Iterator[Call]:
        """Itself and all calls below, in order."""
        waiting = [self]
        while waiting:
            call = waiting.pop()
            yield call
            if not call.is_leaf:
                waiting += [item for item in reversed(call.items) if isinstance(item, Call)]

    def nodes(self) -> Iterator[Node]:
        """All operators of it and of all calls below, in order."""
        for item in self.items:
            if isinstance(item, Call):
                yield from item.nodes()
            else:
                yield item


@dataclass(frozen=True, slots=True)
class Trace:
    """One forward pass, operator by operator, without its numbers.

    Attributes:
        root: the call of the whole network.
        nodes: all operators in order.
        calls: all calls of modules in order of beginning.
        inputs: the tensors that it was given.
        parameters: every parameter once, whatever the number of modules that share it.
        peak: bytes of inputs and activations alive at the worst moment of inference, as the network's own
            code keeps and drops them; an operator's own working memory is not seen.
        notes: what the reader should know, in sentences.
    """

    root: Call
    nodes: list[Node]
    calls: list[Call]
    inputs: list[Value]
    parameters: list[Value]
    peak: int
    notes: list[str]
