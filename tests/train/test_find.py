"""Finding a learning rate and a batch size."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.data.batches import Batch
from cnnkit.errors import Failure
from cnnkit.train.find import batch_size, fewest, learning_rate
from cnnkit.train.fit import fit
from cnnkit.train.optimizers import Sgd
from cnnkit.train.recipe import Recipe, make

RECIPE = Recipe(
    device="cpu", precision="32", layout="channels_first", optimizer=Sgd(momentum=0.0, weight_decay=0.0)
)


class Bowl(nn.Module):
    """One weight a class, whose loss is a parabola: steps of more than 2 / curvature climb out of it."""

    def __init__(self, curvature: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 4))
        self.curvature = curvature

    def forward(self, images: Tensor) -> Tensor:
        return 0.5 * self.curvature * self.weight.square().sum() * torch.ones(len(images))


def lost(output: Tensor, batch: Batch) -> Tensor:
    return functional.cross_entropy(output, batch["labels"])


def mean(output: Tensor, batch: Batch) -> Tensor:
    return output.mean()


@pytest.mark.parametrize("curvature", [0.5, 5.0, 50.0])
def test_the_rate_lies_safely_below_that_at_which_a_parabola_diverges(curvature: float) -> None:
    batches = [(torch.zeros(2, 1, 4, 4), {"labels": torch.zeros(2, dtype=torch.int64)})]
    network = Bowl(curvature)
    sweep = learning_rate(network, batches, mean, RECIPE)
    assert 2 / curvature / 100 < sweep.chosen < 2 / curvature
    assert network.weight.tolist() == [[1.0] * 4], "the network was changed"
    assert list(sweep.rates) == sorted(sweep.rates)


def test_a_loss_that_is_never_finite_is_said_so() -> None:
    batches = [(torch.zeros(2, 1, 4, 4), {"labels": torch.zeros(2, dtype=torch.int64)})]
    with pytest.raises(Failure, match="not finite even at the lowest"):
        learning_rate(Bowl(float("inf")), batches, mean, RECIPE)


@pytest.mark.parametrize(
    ("speeds", "size"),
    [
        ({8: 100, 16: 190, 32: 300, 64: 305, 128: 302}, 32),
        ({8: 100, 16: 101, 32: 150}, 32),
        ({8: 100, 16: 60, 32: 40}, 8),
        ({8: 100}, 8),
    ],
)
def test_the_smallest_size_is_taken_from_which_no_larger_one_is_faster(
    speeds: dict[int, float], size: int
) -> None:
    assert fewest(speeds) == size


def test_no_batch_is_tried_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    images, batch = torch.randn(8, 1, 8, 8), {"labels": torch.zeros(8, dtype=torch.int64)}
    kept = 4 * 36 * 4 + 64 * 4  # the map after the rectifier and the image, in bytes, are among what is kept
    monkeypatch.setattr("cnnkit.train.find._free", lambda device: 40 * 2 * kept)
    _, speeds = batch_size(network, images, batch, lost, RECIPE)
    assert max(speeds) in {8, 16}


def test_each_weight_is_tried_at_its_share_of_the_rate() -> None:
    """A weight that learns at a hundredth of the rate lets it be a hundred times higher."""
    batches = [(torch.zeros(2, 1, 4, 4), {"labels": torch.zeros(2, dtype=torch.int64)})]
    network = Bowl(500.0)
    plain = learning_rate(network, batches, mean, RECIPE).chosen
    slow = learning_rate(network, batches, mean, RECIPE, {id(network.weight): 0.01}).chosen
    assert slow / plain == pytest.approx(100, rel=0.3)


def test_frozen_norms_are_tried_as_they_will_be_trained() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 2))
    network[0].requires_grad_(False)
    seen: list[bool] = []

    def look(output: Tensor, batch: Batch) -> Tensor:
        return output.square().sum()

    network[0].register_forward_hook(lambda norm, given, made: seen.append(norm.training))
    images, batch = torch.randn(2, 1, 4, 4), {"labels": torch.zeros(2, dtype=torch.int64)}
    learning_rate(network, [(images, batch)], look, RECIPE)
    assert seen
    assert not any(seen)


def test_an_epoch_keeps_some_steps_however_fast_large_batches_are(
    monkeypatch: pytest.MonkeyPatch, shrunk: str, tmp_path: Path, silent: Console
) -> None:
    monkeypatch.setattr("cnnkit.train.find.fewest", max)
    run = fit(
        "digits",
        model=shrunk,
        share=0.2,
        epochs=1,
        find=("batch_size",),
        output=tmp_path / "run",
        console=silent,
    )
    assert run.config["data"]["parts"]["train"] // 16 >= 10 > run.config["data"]["parts"]["train"] // 32
    assert run.config["recipe"]["batch_size"] == 16


def test_a_run_finds_both_first_and_stores_them(
    shrunk: str, tmp_path: Path, silent: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnkit.train import find

    sizes: list[int] = []
    step = find._step

    def spy(model: nn.Module, optimizer: Any, images: Tensor, *rest: Any) -> float:
        sizes.append(len(images))
        return step(model, optimizer, images, *rest)

    monkeypatch.setattr(find, "_step", spy)
    monkeypatch.setattr(find, "fewest", lambda speeds: 64)
    run = fit(
        "digits", model=shrunk, epochs=1, find=("lr", "batch_size"), output=tmp_path / "run", console=silent
    )
    assert sizes[-1] == 64 or sizes[-2] == 64, "the rate was found with other batches than those of the run"
    found = json.loads((run.path / "found.json").read_text())
    recipe = make(run.config["recipe"], "config")
    assert recipe.optimizer.lr == found["lr"]["chosen"]
    assert recipe.batch_size == found["batch_size"]["chosen"]
    assert recipe.find == ()
    assert "The range test" in run.report.read_text()
