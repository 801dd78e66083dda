"""Receptive fields as people read them: size, jump and centre along each axis."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from cnnkit.inspect.axes import Axis, hull_of
from cnnkit.inspect.graph import Value
from cnnkit.inspect.lines import Pattern
from cnnkit.inspect.receptive import Fields


@dataclass(frozen=True, slots=True)
class Span:
    """What the units of a layer see along one axis of the image.

    Attributes:
        least: fewest pixels that a unit away from the border sees; may exceed the image.
        most: most pixels, where units see unequally.
        whole: whether every unit sees the whole axis for certain, as after a global pooling.
        pattern: how the fields repeat themselves; None where they do not.
    """

    least: int
    most: int
    whole: bool = False
    pattern: Pattern | None = None

    @property
    def jump(self) -> Fraction | None:
        """Pixels between neighbours, on average, where that is constant."""
        return None if self.pattern is None else self.pattern.jump

    @property
    def centre(self) -> Fraction | None:
        """Centre of the first unit, in pixels whose centres are whole numbers; likewise."""
        return None if self.pattern is None else self.pattern.centre

    def __str__(self) -> str:
        if self.whole:
            return "all"
        return str(self.most) if self.least == self.most else f"{self.least}-{self.most}"


def span(axis: Axis, size: int) -> Span:
    """The figures of one axis of a field; without a pattern, those of the units in the image."""
    line = axis.line
    found: Span | None = line.memo.get("span")
    if found is None:
        found = line.memo["span"] = _span(axis, size)
    return found


def _span(axis: Axis, size: int) -> Span:
    pattern = axis.line.pattern
    if pattern is not None:
        sizes = [hi - lo + 1 for lo, hi in zip(pattern.lo, pattern.hi, strict=True)]
        return Span(min(sizes), max(sizes), False, pattern)
    line = hull_of([axis]) if axis.dims else axis.line
    if line is None:
        line = axis.line
    lengths = (line.hi - line.lo + 1).clip(0)
    least, most = int(lengths.min()), int(lengths.max())
    return Span(least, most, least == size)


def spans(found: Fields | None, value: Value) -> tuple[Span, ...]:
    """The figures of a value along each axis of the image; none where it does not depend on it."""
    field = found.of.get(value) if found is not None else None
    if found is None or field is None:
        return ()
    return tuple(map(span, field, found.sizes))
