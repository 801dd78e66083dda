"""What measurements say of a claim, worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnkit.reproduce.measures import epochs_to
from cnnkit.reproduce.verdict import Figure, Value, figure, judge


def of(*numbers: float, at_least: bool = False) -> Figure:
    return figure([Value(number, at_least) for number in numbers])


def test_mean_and_deviation_are_those_of_a_sample() -> None:
    found = of(2.0, 4.0, 6.0)
    assert (found.mean, found.deviation) == (4.0, 2.0)
    assert str(found) == "4.00 ± 2.00"
    assert str(of(4.0, at_least=True)) == "≥ 4.00"


def test_a_difference_larger_than_its_deviation_decides() -> None:
    """Deviations 0.3 * sqrt(2) each, of the difference sqrt(0.18 + 0.18) = 0.6."""
    low, high = of(1.0, 1.6), of(2.0, 2.6)
    assert judge(low, high).verdict == "reproduced"
    assert judge(high, low).verdict == "not reproduced"
    assert judge(low, high).reason == "the difference is +1.00, 1.77 times, with a deviation of 0.60"


def test_a_difference_within_its_deviation_does_not_decide() -> None:
    assert judge(of(1.0, 1.6), of(1.5, 2.1)).verdict == "not decided"


def test_one_seed_does_not_decide() -> None:
    found = judge(of(1.0), of(9.0))
    assert found.verdict == "not decided"
    assert "one seed" in found.reason


def test_a_level_that_was_not_reached_speaks_for_one_side_alone() -> None:
    reached, never = of(3.0, 3.1), of(20.0, 20.0, at_least=True)
    assert judge(reached, never).verdict == "reproduced"
    assert judge(never, reached).verdict == "not reproduced"
    assert judge(never, never).verdict == "not decided"
    early = of(2.0, 2.0, at_least=True)  # a run that was given two epochs says nothing against one with three
    assert judge(reached, early).verdict == judge(early, reached).verdict == "not decided"


@given(
    st.lists(st.floats(0, 100), min_size=2, max_size=5), st.lists(st.floats(0, 100), min_size=2, max_size=5)
)
def test_the_contrary_claim_has_the_contrary_verdict(ours: list[float], others: list[float]) -> None:
    contrary = {"reproduced": "not reproduced", "not reproduced": "reproduced", "not decided": "not decided"}
    assert judge(of(*ours), of(*others)).verdict == contrary[judge(of(*others), of(*ours)).verdict]


def test_epochs_to_a_level_are_read_off_a_straight_line() -> None:
    assert epochs_to(0.75, [0.5, 0.7, 0.8]).number == pytest.approx(2.5)
    assert epochs_to(0.75, [0.9]).number == pytest.approx(0.75 / 0.9)
    assert epochs_to(0.7, [0.5, 0.7, 0.6]).number == pytest.approx(2.0)
    assert not epochs_to(0.7, [0.5, 0.7, 0.6]).at_least
    assert epochs_to(0.75, [0.5, 0.6, 0.7]) == Value(3.0, at_least=True)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_higher_level_takes_no_less_time(accuracies: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    first, second = epochs_to(low, accuracies), epochs_to(high, accuracies)
    assert first.number <= second.number + 1e-9 or math.isclose(first.number, second.number)
    assert second.at_least or not first.at_least
