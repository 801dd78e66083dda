"""The dispatch mode that writes down what the operators of a running network do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _DisableTorchDispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from cnnkit.inspect import counts, reads, shapes
from cnnkit.inspect.failure import explain
from cnnkit.inspect.graph import DATA, SMALL, Call, Node, Value, data_in, values_in
from cnnkit.inspect.operators import FORGETS, OVERLAY, Operator, operator
from cnnkit.inspect.shortcuts import Shortcut
from cnnkit.inspect.tensors import Seen, Tensors

META = torch.device("meta")
CPU = torch.device("cpu")
#: Composite operators that are kept whole: somebody here has a rule for them. What repeats taken apart is an
#: index, which is known where its repetitions are.
KNOWN = FORGETS.union(counts.RULES, reads.RULES) - {"repeat_interleave"}
#: No keyword arguments.
NOTHING: dict[str, Any] = {}


def hollow(x: Any) -> Any:
    """A tensor's form without its numbers; anything else unchanged."""
    if not isinstance(x, Tensor):
        return x
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=META)


def place(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Where a tensor lies in its memory: shape, strides, offset."""
    return tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())


def is_numberless(op: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator depends on inputs or parameters, draws, or writes to what is the network's."""
    for key, arg in (*enumerate(args), *kwargs.items()):
        for value in arg if type(arg) is tuple else (arg,):
            if type(value) is Value and (
                value.constant is None or (value.source == "constant" and key in op.writes)
            ):
                return True
    return op.random


class Recorder(Tensors, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what the operators do while the network runs.

    Args:
        rules: the closed-form shapes.
        real: whether the tensors have numbers.
    """

    def __init__(self, rules: Mapping[Any, shapes.Rule], *, real: bool) -> None:
        super().__init__()
        self.rules, self.real = rules, real
        self.nodes: list[Node] = []
        self.calls: list[Call] = []
        self.notes: list[str] = []
        self.call = Call("", nn.Identity())
        self.operators: dict[int, Operator] = {}
        self.stand_ins: dict[int, tuple[Value, Tensor]] = {}
        self.forms: dict[tuple[tuple[int, ...], torch.dtype], Tensor] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the wrapper that skips it would import the compiler: two seconds

    def operator(self, func: Any) -> Operator:
        """What is known of an operator that was not met before."""
        found = self.operators[id(func)] = operator(func, self.rules.get(func), KNOWN)
        return found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        op = self.operators.get(id(func)) or self.operator(func)
        kwargs = kwargs or NOTHING
        if op.shape is not None:
            out = self._ruled(op, args, kwargs)
            if out is not None:
                return out
        if op.composite:
            with self:
                return func.decompose(*args, **kwargs)
        return self._ask(op, args, kwargs)

    def quick(self, path: str, module: nn.Module, short: Shortcut, x: Value) -> Value | None:
        """What a module that is one operator with a rule makes of a value, or None; `shown` is its tensor."""
        if x.constant is not None:
            return None
        try:
            found = short(module, x, self.of)
        except ValueError as error:
            raise explain(error, path, module, self.shown(x), real=False) from error
        if found is None:
            return None
        func, shape, args, inputs = found
        op = self.operators.get(id(func)) or self.operator(func)
        call = self.opened(path, module)
        if op.mutates:
            call.outs = (self._write(op, call, args, NOTHING, inputs, x),)
        else:
            node = self._made(op, path, x, shape, args, NOTHING, inputs)
            call.items, call.outs = [node], node.outs
        return call.outs[0]

    def opened(self, path: str, module: nn.Module) -> Call:
        """A call that begins inside of the present one."""
        call, outer = Call(path, module), self.call
        self.calls.append(call)
        outer.items.append(call)
        outer.is_leaf = False
        return call

    def _ruled(self, op: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The result of an operator whose shape there is a rule for; None where the rule does not know."""
        lifted = tuple([self.lift(arg) for arg in args])
        first = lifted[0][0] if type(lifted[0]) is tuple else lifted[0]
        if type(first) is not Value or first.constant is not None or op.shape is None:
            return None
        shape = op.shape(*lifted, **kwargs)
        if shape is None or (op.mutates and shape != first.shape):
            return None
        call, inputs = self.call, values_in(lifted)
        if op.mutates:
            return self.shown(self._write(op, call, lifted, kwargs, inputs, first))
        node = self._made(op, call.path, first, shape, lifted, kwargs, inputs)
        call.items.append(node)
        return self.shown(node.outs[0])

    def _made(
        self,
        op: Operator,
        path: str,
        first: Value,
        shape: tuple[int, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: tuple[Value, ...],
    ) -> Node:
        """An operator with a rule, whose one result is new and of its first argument's type."""
        dtype = first.dtype
        numel = first.numel if shape is first.shape else math.prod(shape)
        size = numel * dtype.itemsize
        self.alive = alive = self.alive + size
        if alive > self.peak:
            self.peak = alive
        outs = (Value(shape, dtype, numel, size, "computed", "", False, None, None, None, 1),)
        data = data_in(inputs)
        node = Node(op.name, op.func, op.pointwise, args, kwargs, inputs, data, outs, path, size)
        self.nodes.append(node)
        return node

    def shown(self, value: Value) -> Tensor:
        """The tensor of a value, which the network's own code has to see."""
        if value.tensor is not None:
            return value.tensor()
        form = value.shape, value.dtype
        with _DisableTorchDispatch():
            if form not in self.forms:
                self.forms[form] = torch.empty(value.shape, dtype=value.dtype, device=META)
            tensor = self.forms[form].clone()  # a third of the time of an empty one
        value.tensor = ref = Seen(tensor, self._forget)
        ref.key = key = id(tensor)
        self.values[key] = value
        return tensor

    def _ask(self, op: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operator as PyTorch gives it."""
        lifted, lifted_kwargs = self.lift(args), {k: self.lift(v) for k, v in kwargs.items()}
        numberless = self.real or is_numberless(op, lifted, lifted_kwargs)
        if not self.real:
            args, kwargs = self._placed(args, kwargs, numberless)
        out = op.func(*args, **kwargs)
        fresh, written, size = [], None, 0
        for tensor in out if isinstance(out, list | tuple) else (out,):
            if not isinstance(tensor, Tensor):
                continue
            if id(tensor) in self.values:
                written = self.values[id(tensor)] if op.mutates else None
                continue
            value = Value(tensor.shape, tensor.dtype, tensor.numel(), tensor.nbytes)
            owner = self._owner(tensor, args) if op.aliases else None
            if owner is not None and owner.source in DATA:
                value.base = owner
            elif owner is not None:  # a view of a parameter is no activation
                value.base, value.source = owner, "constant"
            else:
                self.allocate(value.nbytes)
                size += value.nbytes
            if not self.real and not tensor.is_meta and value.nbytes <= SMALL:
                value.constant = tensor.detach()  # another object: the tensor itself may die
            self.enter(tensor, value)
            fresh.append(value)
        inputs = values_in((*lifted, *lifted_kwargs.values()))
        if self.real and op.reads and any(v.constant is None for v in inputs):
            where = self.call.path or "the network itself"
            self.notes.append(f"numbers leave the graph in {where!r}; what is made of them is not followed")
        if written is not None:
            self._write(op, self.call, lifted, lifted_kwargs, inputs, written, known=not numberless)
        elif fresh:
            self._note(op, self.call, lifted, lifted_kwargs, inputs, tuple(fresh), size)
        return out

    def _placed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], numberless: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments on the meta device, or all on the CPU where their numbers are known."""

        def put(x: Any) -> Any:
            if isinstance(x, torch.device):
                return META if numberless else CPU
            if isinstance(x, Tensor) and numberless and not x.is_meta:
                return self._stand_in(self.values[id(x)], x)
            return x

        return tree_map(put, args), tree_map(put, kwargs)

    def _stand_in(self, value: Value, tensor: Tensor) -> Tensor:
        """A meta tensor for a real one, the same each time."""
        if id(value) not in self.stand_ins:
            with torch.inference_mode(False):  # a view of a parameter must be able to keep its version
                stand_in = hollow(tensor)
                if tensor.storage_offset():
                    elements = tensor.untyped_storage().nbytes() // tensor.itemsize
                    whole = torch.empty(elements, dtype=tensor.dtype, device=META)
                    stand_in = whole.as_strided(*place(tensor))
            self.stand_ins[id(value)] = value, stand_in
            self.values[id(stand_in)] = value
        return self.stand_ins[id(value)][1]

    def _owner(self, tensor: Tensor, args: Any) -> Value | None:
        """The value in whose memory the result lies, if it is an argument's."""
        pointer = tensor.untyped_storage()._cdata
        for x in tree_leaves(args):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata == pointer:
                return self.values[id(x)].memory
        return None

    def _write(
        self,
        op: Operator,
        call: Call,
        args: Any,
        kwargs: dict[str, Any],
        inputs: tuple[Value, ...],
        old: Value,
        *,
        known: bool = False,
    ) -> Value:
        """An operator that wrote to a tensor: it and all views of its memory get new values.

        Their numbers remain known where those that were written are `known`.
        """
        new, owner = self._renew(old, known=known), old.base or old
        self._note(op, call, args, kwargs, inputs, (new,), 0)
        if owner.users > 1 and new.tensor is not None:
            views = {v: None for v in self.values.values() if v.memory is owner and v.tensor is not None}
            for before in [v for v in views if v is not new]:
                after = self._renew(before, known=known)
                args = (before, new, place(after.tensor()), place(new.tensor()))
                self._note(OVERLAY, call, args, {}, (before, new), (after,), 0)
        return new

    def _renew(self, old: Value, *, known: bool) -> Value:
        memory, ref, constant = old.base or old, old.tensor, old.constant if known else None
        value = Value(
            old.shape, old.dtype, old.numel, old.nbytes, "computed", "", False, memory, constant, ref
        )
        if ref is not None:
            self.values[ref.key] = value
            old.tensor = None
        return value

    def _note(
        self,
        op: Operator,
        call: Call,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: tuple[Value, ...],
        outs: tuple[Value, ...],
        size: int,
    ) -> None:
        data = data_in(inputs)
        node = Node(op.name, op.func, op.pointwise, args, kwargs, inputs, data, outs, call.path, size)
        self.nodes.append(node)
        call.items.append(node)
