"""Arithmetic chosen by timing: which ways are tried, and which is taken."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.train import measure
from cnnkit.train.measure import Trial, Way, choose
from cnnkit.train.recipe import Recipe

IMAGES = torch.randn(8, 3, 16, 16)
LABELS = torch.arange(8) % 4
PLAIN = Way("32", "channels_first", 1)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 4))


def loss(output: Tensor) -> Tensor:
    return functional.cross_entropy(output, LABELS[: len(output)])


def pretend(
    monkeypatch: pytest.MonkeyPatch, trials: dict[tuple[str, str, int], Trial], cores: int
) -> list[Way]:
    """Let each way take what is said, in the order asked; returns the ways that are tried."""
    asked: list[Way] = []

    def time(self: object, way: Way, count: int) -> Trial:
        asked.append(way)
        return trials[way.precision, way.layout, way.threads]

    monkeypatch.setattr(measure._Runner, "time", time)
    monkeypatch.setattr(measure, "SMALL_STEP", 0)
    monkeypatch.setattr(measure, "_thread_counts", lambda device: [2**i for i in range(cores.bit_length())])
    return asked


def pick(recipe: Recipe) -> Way:
    found, _ = choose(recipe, network(), IMAGES, loss, 100)
    return Way(found.precision, found.layout, found.threads or 0)


FASTEST = {
    ("32", "channels_first", 1): Trial(1.0, 1.4),
    ("32", "channels_last", 1): Trial(0.9, 1.4),
    ("bf16", "channels_last", 1): Trial(0.5, 1.41),
    ("bf16", "channels_last", 2): Trial(0.3, 1.41),
    ("bf16", "channels_last", 4): Trial(0.6, 1.41),
}


def test_the_fastest_arithmetic_is_taken_then_threads_until_they_get_slower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = pretend(monkeypatch, FASTEST, 8)
    assert pick(Recipe(device="cpu", batch_size=8)) == Way("bf16", "channels_last", 2)
    assert Way("32", "channels_first", 2) not in asked, "threads are tried with the fastest arithmetic only"
    assert Way("bf16", "channels_last", 8) not in asked, "four threads were slower than two already"


@pytest.mark.parametrize("strayed", [float("nan"), float("inf"), 1.9])
def test_a_type_whose_loss_strays_is_not_taken(monkeypatch: pytest.MonkeyPatch, strayed: float) -> None:
    trials = FASTEST | {("bf16", "channels_last", 1): Trial(0.1, strayed)}
    trials |= {("32", "channels_last", n): Trial(2.0, 1.4) for n in (2, 4)}
    pretend(monkeypatch, trials, 4)
    assert pick(Recipe(device="cpu", batch_size=8)) == Way("32", "channels_last", 1)


def test_what_is_hardly_faster_is_not_worth_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = {key: Trial(0.99, 1.4) for key in FASTEST} | {("32", "channels_first", 1): Trial(1.0, 1.4)}
    trials |= {("32", "channels_first", n): Trial(0.99, 1.4) for n in (2, 4)}
    pretend(monkeypatch, trials, 4)
    assert pick(Recipe(device="cpu", batch_size=8)) == PLAIN


def test_what_the_recipe_says_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, FASTEST, 4)
    recipe = Recipe(device="cpu", batch_size=8, precision="bf16", layout="channels_last")
    assert pick(recipe) == Way("bf16", "channels_last", 2)
    assert {way.precision for way in asked} == {"bf16"}
    asked.clear()
    settled = Recipe(device="cpu", batch_size=8, precision="32", layout="channels_last", threads=3)
    assert pick(settled) == Way("32", "channels_last", 3)
    assert asked == []


def test_small_steps_get_one_thread_and_float32_without_a_trial() -> None:
    found, told = choose(Recipe(device="cpu", batch_size=8), network(), IMAGES, loss, 100)
    assert (found.precision, found.layout, found.threads, told) == ("32", "channels_first", 1, "")


def test_measuring_leaves_the_network_the_threads_and_the_random_state_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "SMALL_STEP", 0)
    model = network()
    before, threads, state = copy.deepcopy(model.state_dict()), torch.get_num_threads(), torch.get_rng_state()
    found, told = choose(Recipe(device="cpu", batch_size=8), model, IMAGES, loss, 100)
    assert "chosen by timing" in told
    assert found.precision in {"32", "bf16"}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
