"""The plan of a network, for a drawing: its operators as boxes, its boxes in blocks, its blocks in columns.

A box is an operator that shapes the network (a convolution, a pooling, a sum of branches) with what follows
it element by element. A block is what lies between two places that everything passes through, such as a
residual block or an Inception module; blocks in a row that are made alike are drawn once. A column holds the
blocks of one resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cnnkit.inspect.counts import cost
from cnnkit.inspect.geometry import Geometry, geometry
from cnnkit.inspect.graph import Call, Node, Trace, Value
from cnnkit.inspect.operators import FORGETS, MOVES, names

Kind = Literal["input", "conv", "depthwise", "up", "pool", "global", "linear", "attention", "join", "other"]

JOINS = {"add": "+", "sub": "−", "mul": "×", "div": "÷", "cat": "cat", "concat": "cat", "stack": "cat"}
#: Operators that follow another and have no shape of their own.
FOLLOW = names(
    """
    batch_norm layer_norm group_norm instance_norm softmax log_softmax dropout relu gelu silu sigmoid tanh
    hardswish hardsigmoid hardtanh leaky_relu elu overlay clamp rms_norm
    """
)


@dataclass(slots=True, eq=False)
class Box:
    """One shape of the drawing.

    Attributes:
        kind: what it is.
        label: what is written in it.
        channels: of its result; None where that means nothing.
        size: of its result along the image; empty for vectors.
        inputs: the boxes that it reads.
        path: the module that it belongs to.
        then: operators that follow it, element by element.
    """

    kind: Kind
    label: str
    channels: int | None
    size: tuple[int, ...]
    inputs: list[Box]
    path: str
    then: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Block:
    """What lies between two places that everything passes through.

    Attributes:
        boxes: in order; the last is the place at its end.
        entry: the box before it.
        times: how often it comes in a row.
    """

    boxes: list[Box]
    entry: Box
    times: int = 1

    @property
    def exit(self) -> Box:
        """The box that everything leaves by."""
        return self.boxes[-1]

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for blocks that are made alike."""
        place: dict[int, int] = {id(box): i for i, box in enumerate(self.boxes)}
        return tuple(
            (b.kind, b.label, b.size, tuple(b.then), tuple(place.get(id(i), -1) for i in b.inputs))
            for b in self.boxes
        )


def plan(trace: Trace) -> list[list[Block]]:
    """The columns of a network's drawing, each a list of blocks from top to bottom."""
    columns: list[list[Block]] = []
    for block in folded(blocks(boxes(trace))):
        size = block.exit.size
        if not columns or size != columns[-1][-1].exit.size:
            columns.append([])
        columns[-1].append(block)
    return columns


def boxes(trace: Trace) -> list[Box]:
    """All boxes in order, the inputs first."""
    made: dict[Value, Box] = {}
    found: list[Box] = []
    for value in trace.inputs:
        made[value] = Box("input", value.name or "input", *shape_of(value), [], "")
        found.append(made[value])
    quiet = {id(node): call for call in trace.root.calls() if follows(call) for node in call.nodes()}
    leaves = {id(node): call for call in trace.root.calls() if call.is_leaf for node in call.items}
    for node in trace.nodes:
        sources = list(dict.fromkeys(made[v] for v in node.inputs if v in made))
        if not sources or node.op in FORGETS:
            continue
        box = None if id(node) in quiet else box_of(node, sources)
        if box is None:
            box = sources[0]
            word = type(quiet[id(node)].module).__name__ if id(node) in quiet else node.op
            if node.op not in MOVES and node.op not in ("dropout", "overlay") and box.then[-1:] != [word]:
                box.then.append(word)
        else:
            if box.kind == "other" and id(node) in leaves and leaves[id(node)].path:
                box.label = type(leaves[id(node)].module).__name__
            found.append(box)
        for out in node.outs:
            made[out] = box
    used = reachable([made[out] for out in trace.root.outs if out in made])
    return [box for box in found if id(box) in used]


def follows(call: Call) -> bool:
    """Whether a module call only changes numbers in their places, as norms and activations do."""
    nodes = list(call.nodes())
    inputs = {v for node in nodes for v in node.inputs} - {v for node in nodes for v in node.outs}
    data = [v for v in inputs if v.source in ("computed", "input")]
    multiplies = any((found := cost(node)) is not None and found.macs for node in nodes)
    same = len(data) == 1 and len(call.outs) == 1 and data[0].shape == call.outs[0].shape
    return bool(nodes) and same and not multiplies and call.is_leaf and all(map(is_quiet, nodes))


def is_quiet(node: Node) -> bool:
    """Whether an operator is no window that a reader would look for."""
    return geometry(node) is None or node.op == "avg_pool3d"  # which is how channels are averaged


def reachable(ends: Sequence[Box]) -> set[int]:
    """Everything that some end is made from."""
    found: set[int] = set()
    waiting = list(ends)
    while waiting:
        box = waiting.pop()
        if id(box) not in found:
            found.add(id(box))
            waiting += box.inputs
    return found


def shape_of(value: Value, *, channels_last: bool = False) -> tuple[int | None, tuple[int, ...]]:
    """Channels and size: (N, C, *size) or (N, *size, C), (N, features), or (N, tokens, features)."""
    shape = value.shape
    if len(shape) > 3 and not channels_last:
        return shape[1], tuple(shape[2:]) if math.prod(shape[2:]) > 1 else ()
    return (shape[-1] if shape else None), tuple(shape[1:-1])


def box_of(node: Node, sources: list[Box]) -> Box | None:
    """A box for an operator, or None for one that belongs to the box before it."""
    out, x = node.outs[0], node.inputs[0]
    like = out.shape[-1], out.shape[1:-1]  # as what it is made from, whatever the order of the dimensions
    last = node.op == "linear" or any((box.channels, box.size) == like for box in sources)
    channels, size = shape_of(out, channels_last=last)
    window = geometry(node)
    word = "max" if "max" in node.op else "mean"
    kind: Kind
    if window is not None and len(node.inputs) > 1:
        kind, label = convolution(window, x.shape[-len(window.kernel) - 1], channels or 0)
    elif window is not None:
        kind, label = "pool", f"{word} {written(window)}"
    elif node.op in ("linear", "addmm"):
        kind, label = "linear", f"linear {out.shape[-1]}"
    elif node.op.startswith("scaled_dot_product"):
        kind, label = "attention", "attention"
    elif node.op.startswith("adaptive") or node.op in ("mean", "amax"):
        whole = math.prod(size) == 1
        kind, label = (
            ("global", f"global {word}") if whole else ("pool", f"{word} to {'×'.join(map(str, size))}")
        )
    elif node.op.startswith("upsample"):
        kind, label = "up", f"enlarge to {'×'.join(map(str, size))}"
    elif len(sources) > 1:
        kind, label = "join", JOINS.get(node.op, node.op)
    elif node.op in FOLLOW or node.op in MOVES or node.pointwise:
        return None
    else:
        kind, label = "other", node.op.strip("_").replace("_", " ")
    return Box(kind, label, channels, size, sources, node.path)


def convolution(window: Geometry, inputs: int, outputs: int) -> tuple[Kind, str]:
    """The kind and the words of a convolution."""
    shape = written(window)
    if window.transposed:
        return "up", f"{shape} up, {outputs}"
    if window.groups == inputs > 1:
        return "depthwise", f"{shape} depthwise"
    groups = f", {window.groups} groups" if window.groups > 1 else ""
    return "conv", f"{shape}, {outputs}{groups}"


def written(window: Geometry) -> str:
    """Kernel, stride and dilation, where they are worth a word."""
    text = "×".join(map(str, window.kernel))
    if any(s > 1 for s in window.stride):
        text += " /" + "×".join(map(str, window.stride if len(set(window.stride)) > 1 else window.stride[:1]))
    if any(d > 1 for d in window.dilation):
        text += f" d{max(window.dilation)}"
    return text


def blocks(found: Sequence[Box]) -> list[Block]:
    """Cut where everything passes through one box."""
    last = {id(box): i for i, box in enumerate(found)}
    for i, box in enumerate(found):
        for source in box.inputs:
            last[id(source)] = max(last[id(source)], i)
    made: list[Block] = []
    start = far = 0
    for i, box in enumerate(found):
        if far <= i:
            made.append(Block(list(found[start : i + 1]), made[-1].exit if made else found[0]))
            start = i + 1
        far = max(far, last[id(box)])
    return made


def folded(found: Sequence[Block]) -> list[Block]:
    """Blocks in a row that are made alike as one."""
    made: list[Block] = []
    for block in found:
        if made and made[-1].signature == block.signature and block.boxes[0].kind != "input":
            made[-1].times += 1
        else:
            made.append(block)
    return made
