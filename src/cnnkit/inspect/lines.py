"""Receptive fields along one axis of the image, as intervals.

A `Line` says for each index of a tensor which pixels it sees: all from `lo` to `hi`, the image's border
respected. Beside it stands the `Pattern`, the same without a border: intervals that repeat themselves,
shifted, as the recurrences of the literature have it (size, jump and centre; Araujo, Norris & Sim, Distill
2019). A pattern has a period of 1 until something is enlarged; a transposed convolution of stride s sees
differently in s phases.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Indices = npt.NDArray[np.signedinteger[Any]]
#: The interval of nothing runs from FAR to -FAR, which no union notices; its length, too, fits into 32 bits.
FAR = 1 << 30


class Pattern(NamedTuple):
    """Intervals without a border: index q * period + i sees [lo[i] + q * shift, hi[i] + q * shift].

    Attributes:
        lo: first pixel of each phase.
        hi: last pixel of each phase.
        shift: pixels between an index and the next of its phase.
    """

    lo: tuple[int, ...]
    hi: tuple[int, ...]
    shift: int

    @property
    def size(self) -> int | None:
        """Pixels seen, where all phases see equally many."""
        sizes = {hi - lo + 1 for lo, hi in zip(self.lo, self.hi, strict=True)}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def jump(self) -> Fraction:
        """Pixels between the fields of neighbours, on average."""
        return Fraction(self.shift, len(self.lo))

    @property
    def centre(self) -> Fraction:
        """Centre of index 0, by the mean of the phases."""
        period = len(self.lo)
        doubled = sum(map(sum, zip(self.lo, self.hi, strict=True))) - self.shift * (period - 1)
        return Fraction(doubled, 2 * period)

    def at(self, index: int) -> tuple[int, int]:
        """The interval of any index, negative ones too."""
        turns, phase = divmod(index, len(self.lo))
        return self.lo[phase] + turns * self.shift, self.hi[phase] + turns * self.shift

    def window(self, kernel: int, stride: int, padding: int, dilation: int) -> Pattern:
        """As a convolution or pooling sees it."""
        period = len(self.lo)
        if period == 1:
            lo, hi, jump = self.lo[0], self.hi[0], self.shift
            last = (dilation * (kernel - 1) - padding) * jump
            return Pattern((lo - padding * jump,), (hi + last,), jump * stride)
        phases = period // math.gcd(period, stride)
        reads = [[self.at(o * stride - padding + dilation * t) for t in range(kernel)] for o in range(phases)]
        return Pattern.of(reads, self.shift * stride * phases // period)

    def transposed(self, kernel: int, stride: int, padding: int, dilation: int) -> Pattern | None:
        """As a transposed convolution sees it; None where some index sees nothing."""
        period = len(self.lo) * stride
        reads = [
            [
                self.at((o + padding - dilation * t) // stride)
                for t in range(kernel)
                if (o + padding - dilation * t) % stride == 0
            ]
            for o in range(period)
        ]
        return Pattern.of(reads, self.shift) if all(reads) else None

    def repeated(self, times: int) -> Pattern:
        """Each index `times` over."""
        return Pattern(
            tuple(x for x in self.lo for _ in range(times)),
            tuple(x for x in self.hi for _ in range(times)),
            self.shift,
        )

    @staticmethod
    def of(reads: list[list[tuple[int, int]]], shift: int) -> Pattern:
        """The hull of what each phase reads."""
        lo = tuple(min(a for a, _ in phase) for phase in reads)
        hi = tuple(max(b for _, b in phase) for phase in reads)
        return Pattern(lo, hi, shift)

    def union(self, other: Pattern) -> Pattern | None:
        """What either sees; None where they drift apart."""
        if self.shift * len(other.lo) != other.shift * len(self.lo):
            return None
        period = math.lcm(len(self.lo), len(other.lo))
        if period == 1:
            return Pattern((min(self.lo[0], other.lo[0]),), (max(self.hi[0], other.hi[0]),), self.shift)
        reads = [[self.at(i), other.at(i)] for i in range(period)]
        return Pattern.of(reads, self.shift * period // len(self.lo))


class Taps(NamedTuple):
    """Which inputs each result of an operator reads, along one axis.

    Attributes:
        reads: (results, taps); the number of inputs stands for a tap outside.
        first: first input that each result reads.
        last: last input that each result reads.
        full: whether every result reads some input.
        ordered: whether the ends never turn back; at a border dilated taps may.
    """

    reads: Indices
    first: Indices
    last: Indices
    full: bool
    ordered: bool

    @staticmethod
    def of(reads: Indices, inputs: int) -> Taps:
        """From indices, of which those outside of 0 to `inputs` - 1 do not count."""
        outside = (reads < 0) | (reads >= inputs)
        reads = np.where(outside, inputs, reads)
        first, last = reads.min(1), np.where(outside, -1, reads).max(1)
        ordered = bool((np.diff(first) >= 0).all() and (np.diff(last) >= 0).all())
        return Taps(reads, first, last, bool((last >= 0).all()), ordered)


@lru_cache(4096)
def window_taps(inputs: int, results: int, kernel: int, stride: int, padding: int, dilation: int) -> Taps:
    """The taps of a convolution or pooling."""
    reads = np.arange(results)[:, None] * stride - padding + np.arange(kernel) * dilation
    return Taps.of(reads, inputs)


@lru_cache(1024)
def transposed_taps(inputs: int, results: int, kernel: int, stride: int, padding: int, dilation: int) -> Taps:
    """The taps of a transposed convolution."""
    reads = np.arange(results)[:, None] + padding - np.arange(kernel) * dilation
    return Taps.of(np.where(reads % stride == 0, reads // stride, -1), inputs)


@lru_cache(1024)
def adaptive_taps(inputs: int, results: int) -> Taps:
    """The taps of an adaptive pooling: bin i runs from floor(i n / m) to ceil((i + 1) n / m) - 1."""
    start = np.arange(results) * inputs // results
    stop = -((-np.arange(1, results + 1) * inputs) // results)
    reads = start[:, None] + np.arange((stop - start).max())
    return Taps.of(np.where(reads < stop[:, None], reads, -1), inputs)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Line:
    """What a tensor sees along one axis of the image.

    Attributes:
        lo: first pixel, for each index; the last axis of the array is the one that runs along the image.
        hi: last pixel, likewise.
        pattern: the same without a border, all other axes united; None where nothing repeats itself.
        monotone: whether neither end ever turns back, which makes windows cheap.
        memo: what was computed from it already.
    """

    lo: Ints
    hi: Ints
    pattern: Pattern | None
    monotone: bool
    memo: dict[Any, Any] = field(default_factory=dict)

    @staticmethod
    def image(size: int) -> Line:
        """The image itself: each pixel sees itself."""
        pixels = np.arange(size, dtype=np.int32)
        return Line(pixels, pixels, Pattern((0,), (0,), 1), True)

    @staticmethod
    def of(lo: Ints, hi: Ints, pattern: Pattern | None = None) -> Line:
        """From ends that need not be in order."""
        ordered = lo.ndim == 1 and bool((np.diff(lo) >= 0).all() and (np.diff(hi) >= 0).all())
        return Line(lo, hi, pattern, ordered and bool((lo < FAR).all()))

    @property
    def whole(self) -> Line:
        """The hull of all its intervals, for a result that reads everything."""
        if "whole" not in self.memo:
            self.memo["whole"] = Line(np.asarray(self.lo.min()), np.asarray(self.hi.max()), None, False)
        return self.memo["whole"]

    def sees_as(self, other: Line) -> bool:
        """Whether the intervals are equal."""
        return np.array_equal(self.lo, other.lo) and np.array_equal(self.hi, other.hi)

    def read(self, taps: Taps, pattern: Pattern | None) -> Line:
        """As an operator with these taps along the last axis sees it."""
        if self.monotone and taps.full:
            return Line(self.lo.take(taps.first), self.hi.take(taps.last), pattern, taps.ordered)
        lo, hi = (
            np.concatenate([ends, np.full_like(ends[..., :1], far)], -1)[..., taps.reads]
            for ends, far in ((self.lo, FAR), (self.hi, -FAR))
        )
        return Line.of(lo.min(-1), hi.max(-1), pattern)

    def window(self, results: int, kernel: int, stride: int, padding: int, dilation: int) -> Line:
        """As a convolution or pooling sees it."""
        key = (results, kernel, stride, padding, dilation)
        if key not in self.memo:
            pattern = self.pattern and self.pattern.window(kernel, stride, padding, dilation)
            self.memo[key] = self.read(window_taps(self.lo.shape[-1], *key), pattern)
        return self.memo[key]

    def part(self, start: int, results: int, step: int) -> Line:
        """Every `step`-th index from `start` on."""
        key = ("part", start, results, step)
        if key not in self.memo:
            pattern = self.pattern and self.pattern.window(1, step, -start, 1)
            lo, hi = (ends[..., start : start + results * step : step] for ends in (self.lo, self.hi))
            self.memo[key] = Line(lo, hi, pattern, self.monotone)
        return self.memo[key]

    def transposed(self, results: int, kernel: int, stride: int, padding: int, dilation: int) -> Line:
        """As a transposed convolution sees it."""
        key = ("transposed", results, kernel, stride, padding, dilation)
        if key not in self.memo:
            pattern = self.pattern and self.pattern.transposed(kernel, stride, padding, dilation)
            taps = transposed_taps(self.lo.shape[-1], results, kernel, stride, padding, dilation)
            self.memo[key] = self.read(taps, pattern)
        return self.memo[key]

    def adaptive(self, results: int) -> Line:
        """As an adaptive pooling sees it."""
        inputs = self.lo.shape[-1]
        if inputs % results == 0:
            return self.window(results, inputs // results, inputs // results, 0, 1)
        return self.read(adaptive_taps(inputs, results), None)

    def union(self, other: Line) -> Line:
        """What either sees; the arrays are of equal rank."""
        if self is other:
            return self
        known = self.memo.get(id(other))
        if known is None or known[0]() is not other:
            pattern = self.pattern and other.pattern and self.pattern.union(other.pattern)
            lo, hi = np.minimum(self.lo, other.lo), np.maximum(self.hi, other.hi)
            both = self.monotone and other.monotone
            line = Line(lo, hi, pattern, True) if both else Line.of(lo, hi, pattern)
            known = self.memo[id(other)] = weakref.ref(other), line  # which may know this one
        return known[1]

    def united(self, axis: int) -> Line:
        """With one axis of the array reduced to its hull."""
        if ("united", axis) not in self.memo:
            pattern = None if axis == self.lo.ndim - 1 else self.pattern
            self.memo["united", axis] = Line.of(self.lo.min(axis), self.hi.max(axis), pattern)
        return self.memo["united", axis]
