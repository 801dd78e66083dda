"""Measurements of two arms and their seeds, and what they say of a claim."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Literal

Verdict = Literal["reproduced", "not reproduced", "not decided"]


@dataclass(frozen=True, slots=True)
class Value:
    """What one run measured.

    Attributes:
        number: the figure.
        at_least: whether it is only known not to be less, as where a level was not reached in the epochs.
    """

    number: float
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """What all seeds of an arm measured.

    Attributes:
        mean: of the seeds.
        deviation: the sample's standard deviation, or None of one seed.
        at_least: whether one of them is only known not to be less.
        values: one a seed.
    """

    mean: float
    deviation: float | None
    at_least: bool
    values: tuple[float, ...]

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{'≥ ' if self.at_least else ''}{self.mean:.2f}{spread}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "mean": self.mean,
            "deviation": self.deviation,
            "at_least": self.at_least,
            "values": list(self.values),
        }


def figure(values: Sequence[Value]) -> Figure:
    """Mean and deviation of the seeds."""
    numbers = tuple(value.number for value in values)
    return Figure(
        mean(numbers),
        stdev(numbers) if len(numbers) > 1 else None,
        any(value.at_least for value in values),
        numbers,
    )


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a claim, and why."""

    verdict: Verdict
    reason: str


def judge(less: Figure, more: Figure) -> Judgement:
    """Whether the one figure is less than the other by more than the seeds differ.

    The deviation of the difference is sqrt(a^2 + b^2) of the two deviations. A figure that is only known not
    to be less can speak for one side alone: as the smaller one never for the claim, as the larger one never
    against it.
    """
    gap = more.mean - less.mean
    if less.deviation is None or more.deviation is None:
        return Judgement("not decided", f"the difference is {gap:+.2f}, and one seed has no deviation")
    if less.at_least and more.at_least:
        return Judgement("not decided", "neither got there in the epochs there were")
    deviation = math.hypot(less.deviation, more.deviation)
    times = f", {more.mean / less.mean:.2f} times," if less.mean > 0 else ""
    told = f"the difference is {gap:+.2f}{times} with a deviation of {deviation:.2f}"
    if less.at_least or more.at_least:
        told += f", the {'first' if less.at_least else 'second'} being at least what is stated"
    if gap > deviation and not less.at_least:
        return Judgement("reproduced", told)
    if gap < -deviation and not more.at_least:
        return Judgement("not reproduced", told)
    if abs(gap) > deviation:
        return Judgement("not decided", told)
    return Judgement("not decided", f"{told}: within it")
