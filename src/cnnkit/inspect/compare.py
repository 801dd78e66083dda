"""Networks side by side, and what a network would cost were it made otherwise."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from cnnkit.errors import Misuse
from cnnkit.inspect.failure import TraceError
from cnnkit.inspect.geometry import geometry
from cnnkit.inspect.graph import Call, Node
from cnnkit.inspect.recorder import hollow
from cnnkit.inspect.render import axes, number, short, span
from cnnkit.inspect.spans import Span
from cnnkit.inspect.table import Table, table
from cnnkit.inspect.trace import trace, tree

if TYPE_CHECKING:
    from rich.table import Table as Grid


@dataclass(frozen=True, slots=True)
class Side:
    """One network of a comparison.

    Attributes:
        name: its name.
        inputs: shapes of what it was called with.
        params: parameters.
        macs: multiply-adds.
        other: other operations.
        peak: bytes of activations at the peak of inference.
        training: bytes of activations at the peak of training.
        weighted: layers with weights on the longest way.
        last: receptive field of the last layer whose units are evenly spaced; without global context.
    """

    name: str
    inputs: tuple[tuple[int, ...], ...]
    params: int
    macs: int
    other: int
    peak: int
    training: int
    weighted: int
    last: tuple[Span, ...]


def side(made: Table) -> Side:
    """What a comparison says of a network."""
    spans = [row.local or row.spans for row in made.rows]
    last = next((s for s in reversed(spans) if s and not any(a.jump is None for a in s)), ())
    total = made.total
    return Side(
        made.name,
        tuple(value.shape for value in made.trace.inputs),
        total.params,
        total.macs,
        total.other,
        made.trace.peak,
        made.training.peak,
        made.weighted,
        last,
    )


def sides_text(sides: Sequence[Side]) -> Grid:
    """Networks as columns; each figure with its ratio to the first network's."""
    from rich import box
    from rich.table import Table as Grid

    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False)
    grid.add_column("")
    for one in sides:
        grid.add_column(one.name, justify="right")
    grid.add_row("input", *(" ".join("x".join(map(str, shape)) for shape in one.inputs) for one in sides))
    figures = {
        "parameters": ("params", ""),
        "multiply-adds": ("macs", ""),
        "other operations": ("other", ""),
        "inference memory": ("peak", "B"),
        "training memory": ("training", "B"),
        "layers": ("weighted", ""),
    }
    for title, (what, unit) in figures.items():
        first = getattr(sides[0], what)
        cells = []
        for i, one in enumerate(sides):
            value = getattr(one, what)
            ratio = f"  {value / first:.2f}x" if i and first else ""
            cells.append((f"{value:,}" if what == "weighted" else short(value, unit)) + ratio)
        grid.add_row(title, *cells)
    grid.add_row("receptive field", *(axes(one.last) if one.last else "all" for one in sides))
    grid.add_row("its jump", *(axes([number(s.jump) for s in one.last]) if one.last else "" for one in sides))
    return grid


def side_record(one: Side) -> dict[str, Any]:
    """One network of a comparison, ready for JSON."""
    return {
        "name": one.name,
        "inputs": [list(shape) for shape in one.inputs],
        "parameters": one.params,
        "macs": one.macs,
        "other_operations": one.other,
        "peak_inference_bytes": one.peak,
        "peak_training_bytes": one.training,
        "weighted_layers": one.weighted,
        "receptive_field": [span(s) for s in one.last],
    }


# -- a convolution as something else ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wiring:
    """A way to connect the same input to the same output.

    Attributes:
        name: `convolution`, `locally connected` or `fully connected`.
        params: weights and biases.
        macs: multiply-adds for one image.
    """

    name: str
    params: int
    macs: int


@dataclass(frozen=True, slots=True)
class Dense:
    """A convolution beside what it saves.

    Attributes:
        layer: its path.
        input: shape of its input, without the batch.
        output: shape of its output, likewise.
        wirings: the convolution; the same windows with weights of their own at every place; every output
            connected to every input.
    """

    layer: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    wirings: tuple[Wiring, Wiring, Wiring]


def as_dense(made: Table, layer: str) -> Dense:
    """What a convolution would cost if it were locally or fully connected.

    Raises:
        Misuse: the layer is none of the network's, or no convolution.
    """
    rows = [row for row in made.rows if row.path == layer]
    nodes = [node for row in rows for node in row.nodes]
    found = [
        (node, shape) for node in nodes if (shape := geometry(node)) is not None and len(node.inputs) > 1
    ]
    if not found:
        names = [row.path for row in made.rows if any("conv" in node.op for node in row.nodes)]
        known = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        what = "is not a convolution" if rows else "is no layer of the network"
        raise Misuse(f"{layer!r} {what}; its convolutions are {known or 'none'}")
    node, window = found[0]
    x, weight, out = node.inputs[0], node.inputs[1], node.outs[0]
    rank = len(window.kernel)
    read, made_of = tuple(x.shape[-rank - 1 :]), tuple(out.shape[-rank - 1 :])
    places = math.prod((read if window.transposed else made_of)[1:])
    inputs, outputs = math.prod(read), math.prod(made_of)
    biased = len(node.inputs) > 2
    kernel = weight.numel
    wirings = (
        Wiring("convolution", kernel + biased * made_of[0], kernel * places),
        Wiring("locally connected", kernel * places + biased * outputs, kernel * places),
        Wiring("fully connected", inputs * outputs + biased * outputs, inputs * outputs),
    )
    return Dense(layer, read, made_of, wirings)


def dense_text(found: Dense) -> Grid:
    """The three ways of connecting, with their ratio to the convolution."""
    from rich import box
    from rich.table import Table as Grid

    shapes = " to ".join("x".join(map(str, shape)) for shape in (found.input, found.output))
    grid = Grid(title=f"{found.layer}, {shapes}", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    grid.add_column("")
    grid.add_column("parameters", justify="right")
    grid.add_column("", justify="right")
    grid.add_column("multiply-adds", justify="right")
    grid.add_column("", justify="right")
    own = found.wirings[0]
    for wiring in found.wirings:
        ratios = (wiring.params / own.params, wiring.macs / own.macs)
        times = [f"{ratio:,.0f}x" if wiring is not own else "" for ratio in ratios]
        grid.add_row(wiring.name, f"{wiring.params:,}", times[0], f"{wiring.macs:,}", times[1])
    return grid


# -- a network without its poolings ----------------------------------------------------------------

#: Poolings whose window is their own, as functions and as modules.
POOLS = ("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")


POOLINGS = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)
ADAPTIVE = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)


class Unpooled(TorchFunctionMode):
    """Functions that pool do nothing. Global and adaptive ones, which end a network, stay."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in POOLS:
            return args[0]
        return func(*args, **(kwargs or {}))


def is_idle(call: Call) -> bool:
    """Whether it pools maps to the size that they have, and would do more without the poolings before it."""
    node = call.items[0] if isinstance(call.module, ADAPTIVE) and call.items else None
    return isinstance(node, Node) and node.inputs[0].shape == call.outs[0].shape


def fitted(module: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
    """Give a linear layer weights for as many features as come in."""
    features = inputs[0].shape[-1]
    if features != module.in_features:
        module.in_features = features
        module.weight = nn.Parameter(torch.empty(module.out_features, features, device="meta"))


def without_pooling(module: nn.Module, *inputs: Any, name: str = "", **keywords: Any) -> Table:
    """The table of a network whose poolings are left out; linear layers behind them grow with the maps.

    Raises:
        TraceError: the network does not hang together without them, as where one stands beside a strided
            convolution.
    """
    memo: dict[int, Any] = {id(p): nn.Parameter(hollow(p), p.requires_grad) for p in module.parameters()}
    memo |= {id(b): hollow(b) for b in module.buffers()}
    bare = copy.deepcopy(module, memo).eval()  # on the meta device, whatever the size of the original
    idle = {call.path for call in trace(bare, *inputs, **keywords).root.calls() if is_idle(call)}
    for path, part in tree(bare):
        if path and (isinstance(part, POOLINGS) or path in idle):
            bare.set_submodule(path, nn.Identity())
    linears = [part for _, part in tree(bare) if isinstance(part, nn.Linear)]
    hooks = [part.register_forward_pre_hook(fitted) for part in linears]
    try:
        with Unpooled():
            bare(*tree_map(hollow, inputs), **tree_map(hollow, keywords))
            for hook in hooks:
                hook.remove()
            found = trace(bare, *inputs, **keywords)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise TraceError(f"the network does not hang together without its poolings: {reason}") from error
    return table(found, name=name or f"{type(module).__name__} without pooling")
