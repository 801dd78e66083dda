"""What each unit of a network sees of the image: receptive fields over any graph.

For every tensor and every axis of the image there is an interval for each index (`lines`), which follows the
operators: windows widen it, branches unite, concatenations keep theirs apart, whatever sums over the image
sees all of it. Operators that only move numbers are applied to the intervals themselves. What no rule knows
is taken to read everything, and said.

Global context (squeeze-and-excitation, norms over the image, attention) makes every field the whole image;
`context=False` leaves such side branches out and gives the field of the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnnkit.inspect.axes import Axis
from cnnkit.inspect.graph import Trace, Value
from cnnkit.inspect.lines import Line
from cnnkit.inspect.reads import RULES
from cnnkit.inspect.walk import Field, Walk


@dataclass(frozen=True, slots=True)
class Fields:
    """Receptive fields of the values of a trace.

    Attributes:
        image: the input that they are fields in.
        axes: its dimensions that count.
        sizes: its extent along them.
        of: the field of each value; those that do not depend on the image have none.
        unknown: operators that no rule knew, and which were taken to read everything.
        has_context: whether somewhere the image as a whole joins what sees a part of it.
    """

    image: Value
    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    of: dict[Value, Field]
    unknown: set[str]
    has_context: bool


def fields(trace: Trace, *, image: str | None = None, context: bool = True) -> Fields | None:
    """Receptive fields of everything in a trace, or None where no input has an axis to see along.

    Args:
        trace: the network's trace.
        image: name of the input that is meant; without it the first that looks like an image, else like a
            text.
        context: whether to follow side branches that look at the image as a whole.

    Raises:
        LookupError: there is no input of that name.
    """
    found = choose(trace.inputs, image)
    if found is None:
        return None
    value, axes = found
    sizes = tuple(value.shape[a] for a in axes)
    walk = Walk(RULES, sizes, context=context)
    lines = {size: Line.image(size) for size in sizes}  # axes of one size share a line, and all that follows
    walk.of[value] = tuple(Axis((a,), lines[n]) for a, n in zip(axes, sizes, strict=True))
    walk.follow(trace.nodes)
    return Fields(value, axes, sizes, walk.of, walk.unknown, walk.has_context)


def choose(inputs: Sequence[Value], name: str | None) -> tuple[Value, tuple[int, ...]] | None:
    """The input to see, and its axes: what comes after batch and channels."""
    if name is not None:
        named = [v for v in inputs if v.name == name]
        if not named:
            known = ", ".join(repr(v.name) for v in inputs)
            raise LookupError(f"no input is named {name!r}; there are {known}")
        inputs = named
    for value in inputs:
        if value.dtype.is_floating_point and len(value.shape) > 2:
            listed = "[" in value.name and len(value.shape) == 3  # an image of a list has no batch axis
            return value, tuple(range(1 if listed else 2, len(value.shape)))
    for value in inputs:
        if not value.dtype.is_floating_point and len(value.shape) > 1:
            return value, tuple(range(1, len(value.shape)))
    return None
