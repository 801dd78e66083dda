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
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from cnnkit.inspect import shapes
from cnnkit.inspect.failure import TraceError, explain
from cnnkit.inspect.graph import Trace, Value
from cnnkit.inspect.recorder import Recorder, hollow
from cnnkit.inspect.survey import Known, surveyed

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
    with (
        LOCK,
        uncollected(),
        unfused(),
        uncompiled(),
        given_back(module) if run else nullcontext(),
        surveyed(recorder, module) as (known, kinds),
        undone(kinds, known),
        exchanged(kinds, "__call__", watching(recorder, known)),
        torch.inference_mode(),
        recorder,
    ):
        module(*inputs, **keywords)
    recorder.release()
    return Trace(
        root=recorder.calls[0],
        nodes=recorder.nodes,
        calls=recorder.calls,
        inputs=given,
        parameters=recorder.parameters,
        peak=recorder.peak,
        notes=list(dict.fromkeys(recorder.notes)),
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


def uncompiled() -> AbstractContextManager[None]:
    """Functions that `torch.compile` wraps are called as they were written."""
    used = "torch._dynamo" in sys.modules  # its import takes seconds
    return torch.compiler.set_stance("force_eager") if used else nullcontext()


@contextmanager
def given_back(module: nn.Module) -> Iterator[None]:
    """What a forward that is computed writes into its buffers is undone."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, was in before:
                buffer.copy_(was)


def greet(recorder: Recorder, module: nn.Module, inputs: Any, keywords: Mapping[str, Any]) -> list[Value]:
    """Learn the inputs by the names of the arguments that they are given for."""
    try:
        named = inspect.signature(module.forward).bind(*inputs, **keywords).arguments
    except ValueError:  # a network that was traced by torch.jit has lost the names
        named = {**{f"input{i}": given for i, given in enumerate(inputs)}, **keywords}
    except TypeError as error:
        raise explain(error.with_traceback(None), "", module, (), real=recorder.real) from error
    found = []
    for name, given in named.items():
        tensors = [x for x in tree_leaves(given) if isinstance(x, Tensor)]
        for i, tensor in enumerate(tensors):
            found.append(
                recorder.adopt(tensor, "input", name if isinstance(given, Tensor) else f"{name}[{i}]")
            )
    return found


@contextmanager
def exchanged(kinds: Iterable[type[nn.Module]], name: str, new: Callable[..., Any]) -> Iterator[None]:
    """Another method of that name in classes of modules.

    What a class has of its own is kept: it calls nn.Module's, which is exchanged instead. That takes long, as
    Python then tells hundreds of classes.
    """
    old = getattr(nn.Module, name)
    owners = {kind if getattr(kind, name) is old else nn.Module for kind in kinds}
    for owner in owners:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for owner in owners - {nn.Module}:
            delattr(owner, name)
        if nn.Module in owners:
            setattr(nn.Module, name, old)


def watching(recorder: Recorder, known: Mapping[int, Known]) -> Callable[..., Any]:
    """A `__call__` that opens a `Call` for every module of the network; others pass through."""
    call_of, values = nn.Module.__call__, recorder.values

    def called(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        entry = known.get(id(self))
        if entry is None:
            return call_of(self, *args, **kwargs)
        path, short, instead = entry
        if short is not None and len(args) == 1 and not kwargs:
            value = values.get(id(args[0]))
            made = value and recorder.quick(path, self, short, value)
            if made is not None:
                return recorder.shown(made)
        outer = recorder.call
        recorder.call = call = recorder.opened(path, self)
        try:
            out = self.forward(*args, **kwargs) if instead is None else instead(self, *args, **kwargs)
        except TraceError:
            raise
        except Exception as error:
            raise explain(error, path, self, (args, kwargs), real=recorder.real) from error
        finally:
            recorder.call = outer
        if type(out) is Tensor:
            call.outs = (values.get(id(out)) or recorder.lift(out),)
        else:
            call.outs = tuple([recorder.lift(x) for x in tree_leaves(out) if isinstance(x, Tensor)])
        return out

    return called


@contextmanager
def undone(kinds: Iterable[type[nn.Module]], known: Mapping[int, Known]) -> Iterator[None]:
    """What the modules write into themselves meanwhile (caches, mostly) is undone."""
    written: list[tuple[nn.Module, str, Any]] = []
    write_to = nn.Module.__setattr__

    def wrote(self: nn.Module, name: str, value: Any) -> None:
        if id(self) in known:
            written.append((self, name, getattr(self, name, written)))
        write_to(self, name, value)

    try:
        with exchanged(kinds, "__setattr__", wrote):
            yield
    finally:
        for part, name, value in reversed(written):
            if value is written:
                delattr(part, name)
            else:
                setattr(part, name, value)
