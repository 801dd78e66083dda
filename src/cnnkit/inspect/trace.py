"""One forward pass without its numbers.

The network's own `forward` runs on tensors of the meta device, which have a shape and no numbers. Each
operator is recorded as PyTorch dispatches it, so nothing depends on which module made it: functional calls,
shared and repeated modules, attention and operators written as formulas are all seen. In inference mode
composite operators arrive whole; those that nobody here knows are taken apart by PyTorch's own decomposition.
Operators with a rule in `shapes` are answered from it, which is what makes a trace fast; the rest run on the
meta device. Parameters never move: where PyTorch needs one, an empty meta tensor of its shape stands in.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from cnnkit.inspect import shapes
from cnnkit.inspect.failure import TraceError, explain
from cnnkit.inspect.graph import Call, Trace, Value
from cnnkit.inspect.recorder import Recorder, hollow
from cnnkit.inspect.shortcuts import SHORTCUTS, Shortcut

#: `nn.Module` is changed while a trace runs, so there is one at a time.
LOCK = RLock()


def trace(
    module: nn.Module,
    /,
    *inputs: Any,
    run: bool = False,
    rules: Mapping[Any, shapes.Rule] = shapes.RULES,
    **keywords: Any,
) -> Trace:
    """Follow one forward pass of a network in evaluation mode, without computing it.

    Args:
        module: any module, on any device, the meta device included. It is left as it was.
        inputs: what the network is called with; of tensors only shape and type matter.
        run: compute the forward for real, for networks whose course depends on numbers.
        rules: the closed-form shapes; `{}` asks PyTorch about every operator.
        keywords: keyword arguments of the network.

    Raises:
        TraceError: the network fails on these inputs, or its course depends on numbers; a ValueError whose
            one sentence names the layer.
    """
    recorder = Recorder({} if run else rules, real=run)
    if run:
        tensors = [*tree_leaves((inputs, keywords)), *module.parameters(), *module.buffers()]
        if any(isinstance(t, Tensor) and t.is_meta for t in tensors):
            raise TraceError(
                "run=True computes the forward: inputs and weights must not be on the meta device"
            )
    else:
        inputs, keywords = tree_map(hollow, (inputs, keywords))
    given = greet(recorder, module, inputs, keywords)
    with LOCK, uncollected(), unfused(), watching(recorder, module), torch.inference_mode(), recorder:
        module(*inputs, **keywords)
    recorder.release()
    (root,) = (item for item in recorder.call.items if isinstance(item, Call))
    return Trace(
        root, recorder.nodes, given, recorder.parameters, recorder.peak, list(dict.fromkeys(recorder.notes))
    )


def tree(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """All modules with their paths, each once, a parent before its children; nn.Module has a slower one."""
    met, found = {id(module)}, [("", module)]
    for path, part in found:  # grows meanwhile
        if part._modules:
            dot = f"{path}." if path else ""
            for name, child in part._modules.items():
                if child is not None and id(child) not in met:
                    met.add(id(child))
                    found.append((dot + name, child))
    return found


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for garbage meanwhile: thousands of small objects are made, none of them garbage."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


#: Switches of kernels that do a whole recurrent or attention layer at once: how to read and how to set them.
FUSED: tuple[tuple[Callable[[], bool], Callable[[Any], Any]], ...] = (
    (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
    (torch._C._get_cudnn_enabled, torch._C._set_cudnn_enabled),
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
)


@contextmanager
def unfused() -> Iterator[None]:
    """None of those kernels meanwhile: their parts are what is counted."""
    was = [get() for get, _ in FUSED]
    try:
        for _, put in FUSED:
            put(False)
        yield
    finally:
        for (_, put), on in zip(FUSED, was, strict=True):
            put(on)


def greet(recorder: Recorder, module: nn.Module, inputs: Any, keywords: Mapping[str, Any]) -> list[Value]:
    """Learn the inputs by the names of the arguments that they are given for."""
    try:
        named = inspect.signature(module.forward).bind(*inputs, **keywords).arguments
    except TypeError as error:
        raise explain(error, "", module, (), real=recorder.real) from error
    found = []
    for name, given in named.items():
        tensors = [x for x in tree_leaves(given) if isinstance(x, Tensor)]
        for i, tensor in enumerate(tensors):
            found.append(recorder.adopt(tensor, "input", name if len(tensors) == 1 else f"{name}[{i}]"))
    return found


@contextmanager
def watching(recorder: Recorder, module: nn.Module) -> Iterator[None]:
    """Every call of a module of the network opens a `Call`, in evaluation mode.

    `nn.Module.__call__` is exchanged meanwhile, as torch.fx does; modules of other networks pass through.
    What a module writes into itself while it runs (caches, mostly) is undone.
    """
    known: dict[int, tuple[str, Shortcut | None]] = {}
    training = []
    for path, part in tree(module):
        state = part.__dict__
        short = SHORTCUTS.get(type(part)) if recorder.rules and "forward" not in state else None
        hooked = state["_forward_hooks"] or state["_forward_pre_hooks"]
        known[id(part)] = path, None if hooked else short
        if state["_parameters"]:
            recorder.meet(path, part)
        if state["training"]:
            training.append(part)
            state["training"] = False
    written: list[tuple[nn.Module, str, Any]] = []
    call_of, write_to = nn.Module.__call__, nn.Module.__setattr__

    def called(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        entry = known.get(id(self))
        if entry is None:
            return call_of(self, *args, **kwargs)
        path, short = entry
        call, outer = Call(path, self), recorder.call
        outer.items.append(call)
        outer.is_leaf = False
        recorder.call = call
        try:
            out = None
            if short is not None and len(args) == 1 and not kwargs:
                out = single(recorder, self, args[0], short)
            if out is None:
                out = call_of(self, *args, **kwargs)
        except TraceError:
            raise
        except Exception as error:
            raise explain(error, path, self, (args, kwargs), real=recorder.real) from error
        finally:
            recorder.call = outer
        if type(out) is Tensor:
            call.outs = (recorder.values.get(id(out)) or recorder.lift(out),)
        else:
            call.outs = tuple([recorder.lift(x) for x in tree_leaves(out) if isinstance(x, Tensor)])
        return out

    def wrote(self: nn.Module, name: str, value: Any) -> None:
        if id(self) in known:
            written.append((self, name, getattr(self, name, written)))
        write_to(self, name, value)

    nn.Module.__call__, nn.Module.__setattr__ = called, wrote  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__, nn.Module.__setattr__ = call_of, write_to  # type: ignore[method-assign]
        for part in training:
            part.__dict__["training"] = True
        for part, name, value in reversed(written):
            if value is written:
                delattr(part, name)
            else:
                setattr(part, name, value)


def single(recorder: Recorder, module: nn.Module, x: Any, short: Shortcut) -> Tensor | None:
    """The result of a module that is one operator with a rule, or None."""
    values, lift = recorder.values, recorder.lift
    known = values.get(id(x))
    found = short(module, x) if known is not None and known.constant is None else None
    if known is None or found is None:
        return None
    func, tensors, settings = found
    op = recorder.operators.get(id(func)) or recorder.operator(func)
    beside = [None if t is None else values.get(id(t)) or lift(t) for t in tensors]
    inputs = (known, *filter(None, beside))
    with torch._C._DisableTorchDispatch():
        return recorder.answer(op, (x, *tensors, *settings), {}, (known, *beside, *settings), inputs)
