"""Why a network could not be traced: one sentence that names the layer."""

import linecache
import os
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnkit.errors import Misuse

#: Code that is not the network's own: where it fails says nothing to its author.
MACHINERY = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}")
#: What a tensor without numbers says when they are asked of it.
NUMBERLESS = (
    *("meta tensor", "meta device", "Meta tensors", "on meta", "but got 1D meta"),
    *("data-dependent", "data-independent", "unallocated storage"),
)
#: What PyTorch says of operators that do not tell the shape of their result.
SHAPELESS = ("fake impl", "'Meta' backend")
#: What it says of things that no trace follows, and what these are.
STRANGE = {
    "does not require grad": "asks for gradients in its forward",
    "sparse tensors": "computes with sparse tensors",
}


class TraceError(Misuse):
    """The network cannot be traced with these inputs; the message is one sentence."""


def explain(error: Exception, path: str, module: nn.Module, inputs: object, *, real: bool) -> TraceError:
    """The error that names the module in which another one arose."""
    kind = type(module).__name__
    layer = f"layer {path!r} ({kind})" if path else f"the network itself ({kind})"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    asks = isinstance(error, NotImplementedError | RuntimeError | TypeError)
    if not real and asks and any(word in str(error) for word in NUMBERLESS):
        return TraceError(
            f"{layer} decides by the numbers of a tensor, which a trace does not have{line_of(error)}; "
            "trace one real forward instead: run=True, or --run"
        )
    if not real and any(words in str(error) for words in SHAPELESS):
        return TraceError(
            f"{layer} has an operator whose result's shape is known only once it has run{line_of(error)}; "
            "trace one real forward instead: run=True, or --run"
        )
    for words, what in STRANGE.items():
        if words in str(error):
            return TraceError(f"{layer} {what}, which a trace does not follow{line_of(error)}")
    shapes = ", ".join(str(tuple(x.shape)) for x in tree_leaves(inputs) if isinstance(x, Tensor))
    if isinstance(error, TypeError) and "argument" in reason:
        return TraceError(f"{layer} cannot be called with these inputs: {reason}{line_of(error)}")
    return TraceError(f"{layer} fails on an input of shape {shapes or 'unknown'}: {reason}{line_of(error)}")


def line_of(error: Exception) -> str:
    """The innermost line of the network's own code, in brackets, or nothing where there is none."""
    found = ""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith((*MACHINERY, "<")):
            text = linecache.getline(name, trace.tb_lineno).strip()
            found = f" ({Path(name).name}:{trace.tb_lineno}: `{text}`)"
        trace = trace.tb_next
    return found
