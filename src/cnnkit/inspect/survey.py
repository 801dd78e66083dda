"""What to know of the modules of a network before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from cnnkit.inspect.graph import Value
from cnnkit.inspect.recorder import Recorder
from cnnkit.inspect.shortcuts import SHORTCUTS, Shortcut

#: Of a module: its path, how to answer for it, and what to call for it, if not just its forward.
Known = tuple[str, Shortcut | None, Callable[..., Any] | None]
UNKNOWN: Known = "", None, None
Surveyed = tuple[dict[int, Known], set[type[nn.Module]]]


@contextmanager
def surveyed(recorder: Recorder, module: nn.Module) -> Iterator[Surveyed]:
    """What to know of each module by its id, and their classes; meanwhile all are in evaluation mode."""
    training: list[dict[str, Any]] = []
    known: dict[int, Known] = {}
    try:
        yield known, survey(recorder, module, known, training)
    finally:
        known.clear()  # it has functions that have it, and with it all of the trace
        for own in training:
            own["training"] = True


def survey(
    recorder: Recorder, module: nn.Module, known: dict[int, Known], training: list[dict[str, Any]]
) -> set[type[nn.Module]]:
    """The classes of all modules. Where somebody listens to functions or modules, all of them are run.

    Args:
        recorder: learns the parameters.
        module: the network.
        known: gets what to know of each module.
        training: gets the attributes of the modules that were in training mode.
    """
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    listened: bool = _has_any_global_hook()  # type: ignore[no-untyped-call]
    heard = listened or any(not isinstance(mode, DeviceContext) for mode in modes)
    shortcuts = SHORTCUTS if recorder.rules and not heard else {}
    chained = Chain(recorder, known) if shortcuts else None
    found: list[tuple[str, nn.Module]] = [("", module)]
    chains: dict[type[nn.Module], bool] = {}
    for path, part in found:  # grows meanwhile, a parent before its children
        key = id(part)
        if key in known:
            continue
        own, kind = part.__dict__, type(part)
        if "_modules" not in own:  # torch.jit.trace keeps all that it has in another module
            own = part._actual_script_module.__dict__
        if kind not in chains:
            chains[kind] = is_chain(kind)
        parts = own["_modules"]
        if listened or own["_forward_hooks"] or own["_forward_pre_hooks"]:
            known[key] = path, None, nn.Module.__call__
        elif kind in shortcuts and "forward" not in own:
            known[key] = path, shortcuts[kind], None
        elif "_orig_mod" in parts:  # compiled, which a trace has to see through
            known[key] = path, None, uncompiled
        elif chains[kind] and "forward" not in own:
            known[key] = path, None, chained
        else:
            known[key] = path, None, None
        if own.get("training"):
            training.append(own)
            own["training"] = False
        if own["_parameters"]:
            recorder.meet(path, part, own["_parameters"])
        if parts:
            before = path and path + "."
            found += [(before + name, child) for name, child in parts.items() if child is not None]
    return set(chains)


def is_chain(kind: type[nn.Module]) -> bool:
    """Whether modules of a class do what nn.Sequential does."""
    return all(getattr(kind, name, None) is getattr(nn.Sequential, name) for name in ("forward", "__iter__"))


def uncompiled(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What torch.compile wraps."""
    return self.get_submodule("_orig_mod")(*args, **kwargs)


class Chain:
    """The forward of nn.Sequential, those in it included, less the tensors that nobody else would see.

    Args:
        recorder: of the trace.
        known: what to know of each module.
    """

    def __init__(self, recorder: Recorder, known: Mapping[int, Known]) -> None:
        self.recorder, self.known = recorder, known

    def __call__(self, module: nn.Module, input: Any) -> Any:
        """What comes out of a Sequential."""
        x, value = self.follow(module, input, self.recorder.values.get(id(input)))
        return self.recorder.shown(value) if x is None and value is not None else x

    def follow(self, module: nn.Module, x: Any, value: Value | None) -> tuple[Any, Value | None]:
        """From what goes in to what comes out, each with its value; a tensor that nobody has seen is None."""
        recorder, known = self.recorder, self.known
        held = value.memory if x is None and value is not None else None  # by whoever called
        if held is not None:
            held.users += 1
        parts: Iterable[Any] = module._modules.values()  # each as often as it occurs
        for part in parts:
            path, short, instead = known.get(id(part), UNKNOWN)
            out, made = None, None
            if value is not None and short is not None:
                made = recorder.quick(path, part, short, value)
                if made is not None and made.tensor is not None:
                    out = x  # written in place
            elif value is not None and isinstance(instead, Chain):
                outer, recorder.call = recorder.call, recorder.opened(path, part)
                out, made = instead.follow(part, x, value)
                if made is not None:
                    recorder.call.outs = (made,)
                recorder.call = outer
            if made is None or value is None:
                x = part(recorder.shown(value) if x is None and value is not None else x)
                value = recorder.values.get(id(x))
                continue
            memory = value.memory
            if x is None and value.tensor is None and memory.users and made.memory is not memory is not held:
                recorder.drop(memory)
            x, value = out, made
        if held is not None:
            recorder.drop(held)
        return x, value
