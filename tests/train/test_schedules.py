"""Schedules against what their papers print."""

import math

import pytest

from cnnkit.errors import Misuse
from cnnkit.parts import choose
from cnnkit.train.schedules import (
    SCHEDULES,
    Cosine,
    Exponential,
    MultiStep,
    OneCycle,
    Polynomial,
    Step,
    Triangle,
)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_a_schedule_stays_between_zero_and_its_peak(name: str, warmup: float) -> None:
    factor = SCHEDULES[name](warmup=warmup).over(500, 10)
    factors = [factor(step) for step in range(520)]
    assert all(0 <= f <= 1 for f in factors)
    assert max(factors) == pytest.approx(1.0)
    if warmup:
        assert factors[:50] == pytest.approx([(i + 1) / 50 for i in range(50)])
    assert factors[500:] == [factors[500]] * 20, "a schedule that is over goes on moving"


def test_the_learning_rate_of_cifar_resnets_drops_at_a_half_and_three_quarters() -> None:
    factor = MultiStep().over(64_000, 164)
    assert [factor(t) for t in (0, 31_999, 32_000, 47_999, 48_000, 63_999)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_a_step_every_third_drops_twice() -> None:
    factor = Step().over(90, 90)
    assert [factor(t) for t in (0, 29, 30, 59, 60, 89)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_one_cycle_peaks_at_its_rise_and_ends_at_zero() -> None:
    factor = OneCycle().over(50, 1)
    factors = [factor(step) for step in range(51)]
    assert factors[0] == pytest.approx(0.04)
    assert factors.index(max(factors)) == 15
    assert factors[50] == pytest.approx(0.0)
    assert factors[15 + 35 // 2] == pytest.approx(0.5, abs=0.05)


def test_a_cosine_is_half_way_in_the_middle() -> None:
    assert Cosine().over(10, 1)(5) == pytest.approx(0.5)
    assert Cosine(final=0.2).over(10, 1)(10) == pytest.approx(0.2)


def test_a_polynomial_of_power_one_is_a_line() -> None:
    assert [Polynomial().over(4, 1)(t) for t in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert Polynomial(power=0.9).over(4, 1)(2) == pytest.approx(0.5**0.9)


def test_a_triangle_has_straight_sides() -> None:
    factor = Triangle(start=0.2, rise=0.25, final=0.07).over(100, 1)
    assert [factor(t) for t in (0, 25, 100)] == pytest.approx([0.2, 1.0, 0.07])
    assert math.isclose(factor(10) - factor(5), factor(20) - factor(15))


def test_an_exponential_counts_epochs_of_the_run() -> None:
    factor = Exponential().over(1000, 100)  # ten steps an epoch
    assert [factor(t) for t in (0, 23, 24, 48)] == pytest.approx([1, 1, 0.97, 0.97**2])


def test_a_milestone_beyond_the_run_is_refused() -> None:
    with pytest.raises(Misuse, match=r"milestones must be below 1, got 32\.0"):
        choose(SCHEDULES, {"name": "multi_step", "milestones": [0.5, 32]}, "schedule")
