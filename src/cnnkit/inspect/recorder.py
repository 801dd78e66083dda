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
from cnnkit.inspect.graph import DATA, SMALL, Call, Node, Value, data_in, values_in
from cnnkit.inspect.operators import FORGETS, OVERLAY, Operator, operator
from cnnkit.inspect.shortcuts import Shortcut
from cnnkit.inspect.tensors import Seen, Tensors

META = torch.device("meta")
CPU = torch.device("cpu")
#: Composite operators that are kept whole: somebody here has a rule for them.
KNOWN = FORGETS | counts.RULES.keys() | reads.RULES.keys()
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

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the wrapper that skips it would import the compiler: two seconds

    def operator(self, func: Any) -> Operator:
        """What is known of an operator that was not met before."""
        found = self.operators[id(func)] = operator(func, self.rules, KNOWN)
        return found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        op = self.operators.get(id(func)) or self.operator(func)
        kwargs = kwargs or {}
        if op.shape is not None:
            out = self._ruled(op, args, kwargs)
            if out is not None:
                return out
        if op.composite:
            with self:
                return func.decompose(*args, **kwargs)
        return self._ask(op, args, kwargs)

    def quick(self, call: Call, x: Any, short: Shortcut) -> Tensor | None:
        """The result of a module that is one operator with a rule, or None."""
        seen = self.values.get(id(x))
        if seen is None or seen.constant is not None:
            return None
        found = short(call.module, x, seen, self.of)
        if found is None:
            return None
        func, shape, args, inputs = found
        op = self.operators.get(id(func)) or self.operator(func)
        return self._made(op, call, x, seen.dtype, shape, args, NOTHING, inputs)

    def _ruled(self, op: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The result of an operator whose shape there is a rule for; None where the rule does not know."""
        first = args[0][0] if type(args[0]) is list else args[0]
        seen = self.values.get(id(first))
        if seen is None or seen.constant is not None or op.shape is None:
            return None
        lifted = tuple([self.lift(arg) for arg in args])
        shape = op.shape(*args, **kwargs)
        if shape is None or (op.mutates and shape != first.shape):
            return None
        return self._made(op, self.call, first, seen.dtype, shape, lifted, kwargs, values_in(lifted))

    def _made(
        self,
        op: Operator,
        call: Call,
        first: Tensor,
        dtype: torch.dtype,
        shape: tuple[int, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: tuple[Value, ...],
    ) -> Tensor:
        """A new tensor for the result of an operator, or its first argument where it writes to that."""
        if op.mutates:
            self._write(op, call, args, kwargs, inputs, first)
            call.outs = (self.values[id(first)],)
            return first
        with _DisableTorchDispatch():
            out = torch.empty(shape, dtype=dtype, device=META)
        numel = math.prod(shape)
        size = numel * dtype.itemsize
        self.alive += size
        if self.alive > self.peak:
            self.peak = self.alive
        ref = Seen(out, self._forget)
        ref.key = key = id(out)
        self.values[key] = value = Value(shape, dtype, numel, size, "computed", "", False, None, None, ref, 1)
        call.outs = outs = (value,)
        data = data_in(inputs)
        node = Node(op.name, op.func, op.pointwise, args, kwargs, inputs, data, outs, call.path, size)
        self.nodes.append(node)
        call.items.append(node)
        return out

    def _ask(self, op: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operator as PyTorch gives it."""
        lifted, lifted_kwargs = self.lift(args), {k: self.lift(v) for k, v in kwargs.items()}
        if not self.real:
            args, kwargs = self._placed(op, args, kwargs)
        out = op.func(*args, **kwargs)
        fresh, written, size = [], None, 0
        for tensor in out if isinstance(out, list | tuple) else (out,):
            if not isinstance(tensor, Tensor):
                continue
            if id(tensor) in self.values:
                written = tensor if op.mutates else None
                continue
            value = Value(tensor.shape, tensor.dtype, tensor.numel(), tensor.nbytes)
            owner = self._owner(tensor, args) if op.aliases else None
            if owner is not None and owner.source in DATA:
                value.base = owner
            elif owner is not None:  # a view of a parameter is no activation
                value.source = "constant"
            else:
                self.allocate(value.nbytes)
                size += value.nbytes
            if not self.real and not tensor.is_meta and value.nbytes <= SMALL:
                value.constant = tensor
            self.enter(tensor, value)
            fresh.append(value)
        inputs = values_in((*lifted, *lifted_kwargs.values()))
        if self.real and op.reads and any(v.constant is None for v in inputs):
            where = self.call.path or "the network itself"
            self.notes.append(f"numbers leave the graph in {where!r}; what is made of them is not followed")
        if written is not None:
            self._write(op, self.call, lifted, lifted_kwargs, inputs, written)
        elif fresh:
            self._note(op, self.call, lifted, lifted_kwargs, inputs, tuple(fresh), size)
        return out

    def _placed(
        self, op: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments on the meta device; or all on the CPU, where none depends on inputs or parameters."""
        tensors = [self.values[id(x)] for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        numberless = op.random or any(
            v.constant is None or (op.mutates and v.source == "constant") for v in tensors
        )

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
        tensor: Tensor,
    ) -> None:
        """An operator that wrote to a tensor: it and all views of its memory get new values."""
        old = self.values[id(tensor)]
        new = self._renew(tensor, old)
        self._note(op, call, args, kwargs, inputs, (new,), 0)
        owner = old.base or old
        if owner.users > 1:
            for before in [v for v in self.values.values() if v.memory is owner and v is not new]:
                view = before.tensor()
                after = self._renew(view, before)
                args = (before, new, place(view), place(tensor))
                self._note(OVERLAY, call, args, {}, (before, new), (after,), 0)

    def _renew(self, tensor: Tensor, old: Value) -> Value:
        memory, ref = old.base or old, old.tensor
        self.values[id(tensor)] = value = Value(
            old.shape, old.dtype, old.numel, old.nbytes, "computed", "", False, memory, old.constant, ref
        )
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
