"""The dispatch mode that writes down what the operators of a running network do."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from cnnkit.inspect import counts, reads, shapes
from cnnkit.inspect.failure import TraceError
from cnnkit.inspect.graph import SMALL, Call, Node, Source, Value, values_in
from cnnkit.inspect.operators import FORGETS, OVERLAY, Operator, operator

META = torch.device("meta")
CPU = torch.device("cpu")
#: Parameters of lazy modules before their first call.
UNSHAPED: frozenset[type] = frozenset({nn.parameter.UninitializedParameter})
#: Composite operators that are kept whole: somebody here has a rule for them.
KNOWN = FORGETS | counts.RULES.keys() | reads.RULES.keys()
#: Types of arguments that hold no tensor.
PLAIN = frozenset({int, float, bool, type(None), str, torch.dtype, torch.device, torch.layout})


class Seen(weakref.ref[Tensor]):
    """A weak reference to a tensor, with the key that it is known by."""

    __slots__ = ("key",)

    key: int


def hollow(x: Any) -> Any:
    """A tensor's form without its numbers; anything else unchanged."""
    if not isinstance(x, Tensor):
        return x
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=META)


def place(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Where a tensor lies in its memory: shape, strides, offset."""
    return tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what the operators do while the network runs.

    Args:
        rules: the closed-form shapes.
        real: whether the tensors have numbers.
    """

    def __init__(self, rules: Mapping[Any, shapes.Rule], *, real: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rules, self.real = rules, real
        self.nodes: list[Node] = []
        self.parameters: list[Value] = []
        self.notes: list[str] = []
        self.call = Call("", nn.Identity())
        self.alive = self.peak = 0
        self.values: dict[int, Value] = {}
        self.operators: dict[int, Operator] = {}
        self.stand_ins: dict[int, tuple[Value, Tensor]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the wrapper that skips it would import the compiler: two seconds

    # -- what is known of a tensor ---------------------------------------------------------------------------

    def meet(self, path: str, module: nn.Module) -> None:
        """Learn a module's parameters by name, each once."""
        values = self.values
        for name, tensor in module._parameters.items():
            if tensor is not None and id(tensor) not in values:
                if type(tensor) in UNSHAPED:
                    kind = type(module).__name__
                    raise TraceError(f"layer {path!r} ({kind}) has no shape yet: run the network once before")
                full = f"{path}.{name}" if path else name
                value = Value(
                    tensor.shape, tensor.dtype, tensor.nbytes, "parameter", full, tensor.requires_grad
                )
                values[id(tensor)] = value
                self.parameters.append(value)

    def adopt(self, tensor: Tensor, source: Source, name: str = "") -> Value:
        """Take note of a tensor that no recorded operator made."""
        value = Value(tensor.shape, tensor.dtype, tensor.nbytes, source, name)
        if source == "input":
            self.allocate(value.nbytes)
        elif not tensor.is_meta and value.nbytes <= SMALL:
            value.constant = tensor
        self.enter(tensor, value)
        return value

    def enter(self, tensor: Tensor, value: Value) -> None:
        """Know a tensor until it dies."""
        ref = Seen(tensor, self._forget)
        ref.key = id(tensor)
        value.tensor = ref
        (value.base or value).users += 1
        self.values[ref.key] = value

    def _forget(self, ref: Seen) -> None:
        value = self.values.pop(ref.key, None)
        if value is None:  # the trace is over
            return
        value.tensor = None
        owner = value.base or value
        owner.users -= 1
        if not owner.users and owner.source in ("computed", "input"):
            self.alive -= owner.nbytes

    def release(self) -> None:
        """Let go of the tensors, so that nothing refers to itself."""
        for value in self.values.values():
            value.tensor = None
        self.values.clear()

    def allocate(self, nbytes: int) -> None:
        """Count new memory."""
        self.alive += nbytes
        if self.alive > self.peak:
            self.peak = self.alive

    def lift(self, arg: Any) -> Any:
        """An argument with values in place of tensors."""
        kind = type(arg)
        if kind in PLAIN:
            return arg
        if kind is list or kind is tuple:
            return tuple([self.lift(a) for a in arg])
        if isinstance(arg, Tensor):
            return self.values.get(id(arg)) or self.adopt(arg, "constant")
        return arg

    # -- operators -------------------------------------------------------------------------------------------

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
            first = args[0]
            known = self.values.get(id(first[0] if type(first) is list else first))
            if known is not None and known.constant is None:
                lifted = tuple([self.lift(a) for a in args])
                out = self.answer(op, args, kwargs, lifted, values_in(lifted))
                if out is not None:
                    return out
        if op.composite:
            with self:
                return func.decompose(*args, **kwargs)
        return self._ask(op, args, kwargs)

    def answer(
        self,
        op: Operator,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        lifted: tuple[Any, ...],
        inputs: tuple[Value, ...],
    ) -> Tensor | None:
        """The result of an operator whose shape there is a rule for; None where the rule does not know.

        Args:
            op: the operator.
            args: its arguments.
            kwargs: its keyword arguments, none of them a tensor.
            lifted: its arguments with values in place of tensors.
            inputs: those values.
        """
        shape = None if op.shape is None else op.shape(*args, **kwargs)
        if shape is None:
            return None
        first: Tensor = args[0][0] if type(args[0]) is list else args[0]
        if op.mutates:
            if shape != first.shape:
                return None
            self._write(op, lifted, kwargs, inputs, first)
            return first
        dtype = first.dtype
        out = torch.empty(shape, dtype=dtype, device=META)
        size = math.prod(shape) * dtype.itemsize
        self.alive += size
        if self.alive > self.peak:
            self.peak = self.alive
        value = Value(shape, dtype, size)
        self.enter(out, value)
        self._note(op, lifted, kwargs, inputs, (value,), size)
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
            value = Value(tensor.shape, tensor.dtype, tensor.nbytes)
            owner = self._owner(tensor, args) if op.aliases else None
            if owner is not None and owner.source in ("computed", "input"):
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
            self._write(op, lifted, lifted_kwargs, inputs, written)
        elif fresh:
            self._note(op, lifted, lifted_kwargs, inputs, tuple(fresh), size)
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
        self, op: Operator, args: Any, kwargs: dict[str, Any], inputs: tuple[Value, ...], tensor: Tensor
    ) -> None:
        """An operator that wrote to a tensor: it and all views of its memory get new values."""
        old = self.values[id(tensor)]
        new = self._renew(tensor, old)
        new.constant = old.constant
        self._note(op, args, kwargs, inputs, (new,), 0)
        owner = old.memory
        if owner.users > 1:
            for before in [v for v in self.values.values() if v.memory is owner and v is not new]:
                view = before.tensor()
                after = self._renew(view, before)
                args = (before, new, place(view), place(tensor))
                self._note(OVERLAY, args, {}, (before, new), (after,), 0)

    def _renew(self, tensor: Tensor, old: Value) -> Value:
        value = Value(old.shape, old.dtype, old.nbytes, base=old.memory, tensor=old.tensor)
        self.values[id(tensor)], old.tensor = value, None
        return value

    def _note(
        self,
        op: Operator,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: tuple[Value, ...],
        outs: tuple[Value, ...],
        size: int,
    ) -> None:
        call = self.call
        node = Node(op.name, op.func, op.pointwise, args, kwargs, inputs, outs, call.path, size)
        self.nodes.append(node)
        call.items.append(node)
