"""Memory of activations in training, and the traffic that an operator causes.

The peak of inference is measured while the trace runs (`Trace.peak`). Training is followed backwards from
the trace: what each operator keeps for its gradient, freed when that is computed, beside the gradients that
are on their way. Weights, their gradients and an optimiser's state are not activations and come on top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from cnnkit.inspect.graph import Node, Trace, Value
from cnnkit.inspect.operators import FORGETS, MOVES, names


def moved(node: Node) -> int:
    """Bytes that an operator reads and writes at least, each input and result once; views move nothing."""
    if node.op in SPARING:
        if node.op == "embedding":
            return 2 * node.outs[0].nbytes + node.args[1].nbytes
        return 2 * node.allocated
    total = 0
    for value in node.inputs:
        total += value.nbytes
    for value in node.outs:
        total += value.nbytes
    return total


#: Operators that leave most of what they are given unread.
SPARING = MOVES | {"overlay", "embedding"}

ATTENTION = names(
    """
    scaled_dot_product_attention _scaled_dot_product_attention_math _scaled_dot_product_flash_attention
    _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention
    _scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable
    """
)
#: Operators whose gradient needs their result, or nothing at all. Others need the data that they read.
KEEPS_RESULT = names("relu sigmoid tanh softmax log_softmax exp sqrt rsqrt")
KEEPS_NOTHING = (
    names("add sub neg sum mean rsub overlay where masked_fill dropout")
    | names("upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d")
    | names("upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d")
    | names("_upsample_bilinear2d_aa _upsample_bicubic2d_aa")
    | MOVES
    | FORGETS
)
#: Activations that need their result only when they overwrite what they read.
KEEPS_RESULT_IN_PLACE = names("leaky_relu elu celu selu threshold")
#: Operators that need their result besides.
KEEPS_BOTH = names("amax amin") | ATTENTION


def by_a_number(node: Node) -> bool:
    """Whether there is but one tensor among the factors."""
    return len(node.inputs) == 1


def to_one(node: Node) -> bool:
    """Whether the image becomes one pixel, as by a mean."""
    return math.prod(node.outs[0].shape[2:]) == 1


#: Operators that need nothing in some cases.
MAY_KEEP_NOTHING: Mapping[str, Callable[[Node], bool]] = {
    **dict.fromkeys(names("mul div"), by_a_number),
    **dict.fromkeys(names("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"), to_one),
    "_adaptive_avg_pool2d": to_one,
}
#: Numbers that are kept besides, in so many bytes: where the maxima were; statistics of norms and of softmax.
BESIDES: Mapping[str, Callable[[Node, Value], int]] = {
    **dict.fromkeys(names("max_pool1d max_pool2d max_pool3d"), lambda _, out: 8 * out.numel),
    **dict.fromkeys(ATTENTION, lambda _, out: math.prod(out.shape[:-1]) * out.dtype.itemsize),
    "layer_norm": lambda node, out: 2 * math.prod(out.shape[: -len(node.args[1])]) * out.dtype.itemsize,
    "group_norm": lambda node, out: 2 * out.shape[0] * node.args[1] * out.dtype.itemsize,
}


def kept(node: Node) -> tuple[Sequence[Value], int]:
    """Values whose memory an operator keeps for its gradient, and bytes that it keeps besides."""
    op, data = node.op, node.data
    if op in KEEPS_RESULT:
        return node.outs[:1], 0
    if op in KEEPS_NOTHING or (op in MAY_KEEP_NOTHING and MAY_KEEP_NOTHING[op](node)):
        return (), 0
    if not node.allocated and data and node.outs[0].memory is data[0].memory:
        if op in KEEPS_RESULT_IN_PLACE:
            return node.outs[:1], 0
        return (), data[0].nbytes  # the gradient needs what was overwritten, so a copy is made
    extra = BESIDES[op](node, node.outs[0]) if op in BESIDES else 0
    return (*data, node.outs[0]) if op in KEEPS_BOTH else data, extra


#: Operators whose gradient goes on as it came, to inputs of the same shape.
PASSES = names("add sub dropout")


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
    steps: list[tuple[Node, Sequence[Value], int]] = []
    alive: dict[Value, int] = {}  # owners of memory, with how often they are kept
    total = dropped(trace)
    for node in trace.nodes:
        if learned.isdisjoint(node.inputs) or node.op in FORGETS:
            continue
        for out in node.outs:
            if out.dtype.is_floating_point:
                learned.add(out)
        values, extra = kept(node)
        steps.append((node, values, extra))
        total += extra
        for value in values:
            owner = value.base or value
            times = alive[owner] = alive.get(owner, 0) + 1
            if times == 1:
                total += owner.nbytes
    backward = Backward(total)
    backward.begin([out for out in trace.root.outs if out in learned])
    for node, values, extra in reversed(steps):
        backward.step(node, learned)
        backward.held -= extra
        for value in values:
            owner = value.base or value
            alive[owner] -= 1
            if not alive[owner]:
                backward.held -= owner.nbytes
    return Training(total, backward.peak)


def dropped(trace: Trace) -> int:
    """Bytes of the masks of dropouts, which do nothing in a trace."""
    kind = nn.modules.dropout._DropoutNd
    calls = [call for call in trace.calls if not call.items and isinstance(call.module, kind)]
    return sum(out.nbytes for call in calls for out in call.outs if call.module.p)


class Backward:
    """The gradients of activations that are alive.

    Args:
        held: bytes that the forward pass kept.

    Attributes:
        flowing: bytes of gradients of activations.
        peak: the most that there were of both.
        of: for each value with a gradient the one that it was made for, which differs where it is shared.
        holders: how many values have a gradient that is shared, by the one that it was made for.
    """

    def __init__(self, held: int) -> None:
        self.held, self.flowing, self.peak = held, 0, held
        self.of: dict[Value, Value] = {}
        self.holders: dict[Value, int] = {}

    def begin(self, ends: Sequence[Value]) -> None:
        """The gradients of what the network returned."""
        self.of = {out: out for out in ends}
        self.flowing = sum(out.nbytes for out in self.of)
        self.peak = max(self.peak, self.held + self.flowing)

    def step(self, node: Node, learned: Container[Value]) -> None:
        """The gradient passes through an operator, to those of its inputs that have one.

        It may be the same one, shared; one that is there already is added to.
        """
        of, outs = self.of, node.outs
        others: list[Value] = []
        arrived = of.pop(outs[0], None)
        if len(outs) > 1:
            others = [of.pop(out) for out in outs[1:] if out in of]
            if arrived is None and others:
                arrived = others.pop()
        if arrived is None:
            return
        flowing, op = self.flowing, node.op
        moves = op in MOVES and not node.allocated
        through = (moves or op in PASSES) and not others
        for value in node.data:
            if value in of or value not in learned:
                continue
            if through and (moves or value.shape == outs[0].shape):
                of[value] = arrived
                self.holders[arrived] = self.holders.get(arrived, 1) + 1
            else:
                of[value] = value
                flowing += value.nbytes
        if self.held + flowing > self.peak:
            self.peak = self.held + flowing
        for made in (arrived, *others):
            if self.holders.get(made, 1) == 1:
                flowing -= made.nbytes
            else:
                self.holders[made] -= 1
        self.flowing = flowing
