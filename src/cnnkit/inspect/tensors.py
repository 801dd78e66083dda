"""What is known of the tensors of a running network: their values, by identity, and how long they live."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.inspect.failure import TraceError
from cnnkit.inspect.graph import DATA, SMALL, Source, Value

#: Parameters of lazy modules before their first call.
UNSHAPED: frozenset[type] = frozenset({nn.parameter.UninitializedParameter})
#: Types of arguments that hold no tensor.
PLAIN = frozenset({int, float, bool, type(None), str, torch.dtype, torch.device, torch.layout})


class Seen(weakref.ref[Tensor]):
    """A weak reference to a tensor, with the key that it is known by."""

    __slots__ = ("key",)

    key: int


class Tensors:
    """The tensors that are alive.

    Attributes:
        values: what is known of each, by its id.
        parameters: the network's, each once.
        alive: bytes of inputs and activations.
        peak: the most that there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[int, Value] = {}
        self.parameters: list[Value] = []
        self.alive = self.peak = 0

    def meet(self, path: str, module: nn.Module, held: Mapping[str, nn.Parameter | None]) -> None:
        """Learn a module's parameters by name, each once."""
        values, before = self.values, path and path + "."
        for name, tensor in held.items():
            if tensor is None or id(tensor) in values:
                continue
            if type(tensor) in UNSHAPED:
                kind = type(module).__name__
                raise TraceError(f"layer {path!r} ({kind}) has no shape yet: run the network once before")
            shape, dtype, numel = tensor.shape, tensor.dtype, tensor.numel()
            values[id(tensor)] = value = Value(
                shape, dtype, numel, tensor.nbytes, "parameter", before + name, tensor.requires_grad
            )
            self.parameters.append(value)

    def adopt(self, tensor: Tensor, source: Source, name: str = "") -> Value:
        """Take note of a tensor that no recorded operator made."""
        value = Value(tensor.shape, tensor.dtype, tensor.numel(), tensor.nbytes, source, name)
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
        self.drop(value.base or value)

    def drop(self, owner: Value) -> None:
        """One less that some memory is kept for."""
        owner.users -= 1
        if not owner.users and owner.source in DATA:
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

    def of(self, tensor: Tensor | None) -> Value | None:
        """The value of a tensor."""
        if tensor is None:
            return None
        return self.values.get(id(tensor)) or self.adopt(tensor, "constant")
