"""Memory of activations in training, and the traffic that an operator causes.

The peak of inference is measured while the trace runs (`Trace.peak`). Training is followed backwards from
the trace: what each operator keeps for its gradient, freed when that is computed, beside the gradients that
are on their way. Weights, their gradients and an optimiser's state are not activations and come on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import attrgetter

from torch import nn

from cnnkit.inspect.graph import Node, Trace, Value
from cnnkit.inspect.operators import FORGETS, MOVES, names


def moved(node: Node) -> int:
    """Bytes that an operator reads and writes at least, each input and result once; views move nothing."""
    if node.op in MOVES or node.op == "overlay":
        return 2 * node.allocated
    made = sum(map(NBYTES, node.outs))
    if node.op == "embedding":
        return 2 * made + node.args[1].nbytes
    return made + sum(map(NBYTES, node.inputs))


NBYTES = attrgetter("nbytes")


#: Operators whose gradient needs their result, or nothing at all. Others need the data that they read.
KEEPS_RESULT = names("relu sigmoid tanh softmax log_softmax exp sqrt rsqrt")
KEEPS_NOTHING = names("add sub neg sum mean rsub overlay where masked_fill dropout") | MOVES | FORGETS
#: Activations that need their result only when they overwrite what they read.
KEEPS_RESULT_IN_PLACE = names("leaky_relu elu celu selu threshold")


@dataclass(slots=True)
class Kept:
    """What an operator keeps for its gradient.

    Attributes:
        values: values whose memory is kept.
        extra: bytes that are kept besides: indices, statistics, copies.
    """

    values: list[Value]
    extra: int = 0


def kept(node: Node) -> Kept:
    """What a node keeps."""
    out, op = node.outs[0], node.op
    data = [v for v in node.inputs if v.source in ("computed", "input")]
    written = node.allocated == 0 and bool(data) and out.memory is data[0].memory
    if op in KEEPS_RESULT or (written and op in KEEPS_RESULT_IN_PLACE):
        return Kept([out])
    if op in KEEPS_NOTHING or is_linear(node):
        return Kept([])
    if written:  # the gradient needs what was overwritten, so a copy is made
        return Kept([], data[0].nbytes)
    if op.startswith("scaled_dot_product") or op in ("amax", "amin"):
        data.append(out)
    return Kept(data, beside(node))


def is_linear(node: Node) -> bool:
    """Whether a gradient passes by shapes alone, though the operator is none that never needs more."""
    if node.op in ("mul", "div"):
        return len(node.inputs) == 1  # by a number
    if node.op.startswith("adaptive_avg_pool"):
        return math.prod(node.outs[0].shape[2:]) == 1  # then it is a mean
    return node.op.startswith("upsample")


def beside(node: Node) -> int:
    """Bytes that are neither inputs nor results: where maxima were, statistics."""
    out = node.outs[0]
    if node.op in ("max_pool1d", "max_pool2d", "max_pool3d"):
        return 8 * out.numel
    rows = 0
    if node.op == "layer_norm":
        rows = 2 * math.prod(out.shape[: -len(node.args[1])])
    elif node.op == "group_norm":
        rows = 2 * out.shape[0] * node.args[1]
    elif node.op.startswith("scaled_dot_product"):
        rows = math.prod(out.shape[:-1])
    return rows * out.dtype.itemsize


@dataclass(slots=True)
class Gradient:
    """A gradient on its way, which several values may share."""

    nbytes: int
    holders: int = 1


@dataclass(frozen=True, slots=True)
class Training:
    """Memory of activations in a training step.

    Attributes:
        kept: bytes kept for the backward pass, at the end of the forward pass.
        peak: bytes at the worst moment of the backward pass, gradients of activations included.
    """

    kept: int
    peak: int


def training(trace: Trace) -> Training:
    """Follow the backward pass of a trace."""
    learned = {p for p in trace.parameters if p.trainable}
    steps: list[tuple[Node, Kept]] = []
    for node in trace.nodes:
        if not learned.isdisjoint(node.inputs) and node.op not in FORGETS:
            learned.update(out for out in node.outs if out.dtype.is_floating_point)
            steps.append((node, kept(node)))
    alive: dict[Value, int] = {}  # owners of memory, with the number of operators that keep them
    extra = dropped(trace)
    for _, keep in steps:
        extra += keep.extra
        for owner in {v.memory for v in keep.values}:
            alive[owner] = alive.get(owner, 0) + 1
    total = extra + sum(owner.nbytes for owner in alive)
    backward = Backward(total)
    for out in trace.root.outs:
        if out in learned:
            backward.receive(out, Gradient(out.nbytes, 0))
    for node, keep in reversed(steps):
        backward.step(node, [v for v in node.inputs if v in learned and v.source == "computed"])
        backward.held -= keep.extra
        for owner in {v.memory for v in keep.values}:
            alive[owner] -= 1
            backward.held -= 0 if alive[owner] else owner.nbytes
    return Training(total, backward.peak)


def dropped(trace: Trace) -> int:
    """Bytes of the masks of dropouts, which do nothing in a trace."""
    calls = [call for call in trace.root.calls() if isinstance(call.module, nn.modules.dropout._DropoutNd)]
    return sum(out.nbytes for call in calls for out in call.outs if call.module.p)


class Backward:
    """The gradients of activations that are alive.

    Args:
        held: bytes that the forward pass kept.
    """

    def __init__(self, held: int) -> None:
        self.held, self.flowing, self.peak = held, 0, held
        self.of: dict[Value, Gradient] = {}

    def receive(self, value: Value, gradient: Gradient) -> None:
        """A gradient arrives at a value, new or shared; one that is there already is added to."""
        if value in self.of:
            return
        if not gradient.holders:
            self.flowing += gradient.nbytes
        gradient.holders += 1
        self.of[value] = gradient
        self.peak = max(self.peak, self.held + self.flowing)

    def step(self, node: Node, inputs: list[Value]) -> None:
        """The gradient passes through an operator."""
        arrived = [self.of.pop(out) for out in node.outs if out in self.of]
        if not arrived:
            return
        through = node.op in ("add", "sub", "dropout") or (node.op in MOVES and not node.allocated)
        for value in inputs:
            same = (through and value.shape == node.outs[0].shape) or (through and node.op in MOVES)
            self.receive(value, arrived[0] if same and len(arrived) == 1 else Gradient(value.nbytes, 0))
        for gradient in arrived:
            gradient.holders -= 1
            if not gradient.holders:
                self.flowing -= gradient.nbytes
