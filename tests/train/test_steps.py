"""What a recipe says of the steps is what happens: averages, accumulation, clipping, stopping, layout."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cnnkit.errors import Failure, Misuse
from cnnkit.tasks import load
from cnnkit.train.callbacks import gave_up
from cnnkit.train.directory import Directory
from cnnkit.train.fit import fit
from cnnkit.train.module import decay, parameter_groups

from ..conftest import MakeFolder


def trained(path: Path, silent: Console, shrunk: str, **settings: Any) -> Directory:
    return fit("digits", model=shrunk, output=path, console=silent, **{"epochs": 2, **settings})


def entries(run: Directory) -> dict[str, torch.Tensor]:
    return load_file(run.best)


def test_the_average_is_what_is_scored_and_kept(shrunk: str, tmp_path: Path, silent: Console) -> None:
    run = trained(tmp_path / "run", silent, shrunk, ema=0.1)
    state = run.load_checkpoint()["state_dict"]
    last = run.summary["best_epoch"] == 2
    assert last, "the second epoch is the better one here, so that the checkpoint is the artefact's"
    kept = entries(run)
    assert all(torch.equal(state[f"averaged.module.{name}"], value) for name, value in kept.items())
    assert not torch.equal(state["model.0.weight"], kept["0.weight"])


def test_the_average_is_the_exponential_one() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay(0.5, 8)))  # type: ignore[no-untyped-call]
    expected = None
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
        expected = value if expected is None else 0.75 * expected + 0.25 * value
    assert average.module.weight.item() == pytest.approx(expected)


@pytest.mark.parametrize(("share", "steps", "kept"), [(0.1, 1000, 0.99), (0.01, 100, 0.0), (0.01, 10, 0.0)])
def test_the_average_remembers_a_share_of_the_run(share: float, steps: int, kept: float) -> None:
    assert decay(share, steps) == pytest.approx(kept)


@pytest.mark.parametrize(
    "settings",
    [
        {"ema": 0.2},
        {"normalise": "zca"},
        {"precision": "bf16", "layout": "channels_last"},
        {"schedule": "one_cycle", "optimizer": "sgd", "ema": 0.1, "clip": 1.0, "accumulate": 3},
        {"early_stop": 1, "lr": 1e-9, "epochs": 9},
        {"optimizer": "rmsprop", "schedule": {"name": "exponential", "warmup": 0.2}, "accumulate": 2},
    ],
    ids=str,
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    shrunk: str, tmp_path: Path, silent: Console, settings: dict[str, Any]
) -> None:
    settings = {"epochs": 3, **settings}
    whole = trained(tmp_path / "whole", silent, shrunk, **settings)

    class Cut(Exception): ...

    def stop(*_: object) -> None:
        raise Cut

    from cnnkit.train import callbacks

    show = callbacks.Live.show
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            callbacks.Live, "show", lambda self, row: stop() if row["epoch"] == 2 else show(self, row)
        )
        with pytest.raises(Cut):
            trained(tmp_path / "cut", silent, shrunk, **settings)
    resumed = fit(resume=True, output=tmp_path / "cut", console=silent)
    assert resumed.best.read_bytes() == whole.best.read_bytes()
    ours, theirs = resumed.load_checkpoint()["state_dict"], whole.load_checkpoint()["state_dict"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.summary["epochs"] == whole.summary["epochs"]


def test_gradients_are_added_up_over_batches(shrunk: str, tmp_path: Path, silent: Console) -> None:
    run = trained(tmp_path / "run", silent, shrunk, epochs=1, accumulate=4, batch_size=32)
    batches = math.ceil(run.config["data"]["parts"]["train"] / 32)
    assert run.load_checkpoint()["global_step"] == math.ceil(batches / 4)


def test_long_gradients_are_shortened(shrunk: str, tmp_path: Path, silent: Console) -> None:
    sgd = {"name": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    moved = []
    for clip in (1e-6, None):
        run = trained(
            tmp_path / f"{clip}", silent, shrunk, epochs=1, clip=clip, optimizer=sgd, schedule="constant"
        )
        steps = run.load_checkpoint()["global_step"]
        start = trained(tmp_path / f"{clip}-0", silent, shrunk, epochs=1, optimizer={**sgd, "lr": 1e-12})
        ours, theirs = entries(run), entries(start)
        moved.append(
            float(sum((ours[n] - theirs[n]).square().sum() for n in ours if n.endswith("weight"))) ** 0.5
        )
    assert moved[0] <= 1e-6 * steps * 1.1
    assert moved[1] > 1e-2


def test_gradients_are_shortened_in_bfloat16_too(shrunk: str, tmp_path: Path, silent: Console) -> None:
    for name in ("sgd", "adamw"):
        run = trained(tmp_path / name, silent, shrunk, epochs=1, clip=0.5, precision="bf16", optimizer=name)
        assert run.summary["best_epoch"] == 1


@pytest.mark.parametrize(
    ("accuracies", "patience", "over"),
    [
        ([0.5, 0.6, 0.6], 2, False),
        ([0.5, 0.6, 0.6, 0.55], 2, True),
        ([0.5], 1, False),
        ([0.9, 0.1], None, False),
    ],
)
def test_patience_ends_with_the_epochs_since_the_best(
    accuracies: list[float], patience: int | None, over: bool
) -> None:
    history = [
        {"epoch": i + 1, "val/accuracy": accuracy, "val/loss": float(i)}
        for i, accuracy in enumerate(accuracies)
    ]
    assert gave_up(history, "accuracy", patience) is over


def test_a_run_stops_as_soon_as_its_patience_is_over_and_stays_stopped(
    shrunk: str, tmp_path: Path, silent: Console
) -> None:
    run = trained(tmp_path / "run", silent, shrunk, epochs=30, early_stop=2, lr=1e-9)
    assert run.summary["epochs"] == run.summary["best_epoch"] + 2
    again = fit(resume=True, output=run.path, console=silent)
    assert again.summary["epochs"] == run.summary["epochs"]


def test_a_step_of_several_batches_is_that_of_one_large_batch(tmp_path: Path, silent: Console) -> None:
    """Also where the epoch ends with fewer of them, the last of them smaller: 11 batches, of 12 and of 10."""
    settings = {
        **{"model": "lenet5_relu", "share": 0.1, "optimizer": "sgd", "schedule": "constant", "lr": 0.05},
        **{"precision": "32", "layout": "channels_first", "threads": 1, "augment": (), "epochs": 2},
    }
    one = fit("digits", batch_size=48, output=tmp_path / "one", console=silent, **settings)
    several = fit("digits", batch_size=12, accumulate=4, output=tmp_path / "4", console=silent, **settings)
    images = one.config["data"]["parts"]["train"]
    assert math.ceil(images / 12) % 4, "the last step has as many batches as the others"
    assert images % 12 > 1, "the last batch is as large as the others"
    for name, value in entries(one).items():
        torch.testing.assert_close(entries(several)[name], value, rtol=1e-4, atol=1e-6)


def test_the_learning_rate_of_an_epoch_is_that_of_its_last_step(
    shrunk: str, tmp_path: Path, silent: Console
) -> None:
    schedule = {"name": "multi_step", "milestones": [0.5]}
    run = trained(tmp_path / "run", silent, shrunk, lr=0.01, schedule=schedule, share=0.1)
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["lr"] for row in rows] == pytest.approx([0.01, 0.001])


def test_float16_is_refused_where_it_would_be_another_type(
    shrunk: str, tmp_path: Path, silent: Console
) -> None:
    with pytest.raises(Misuse, match="--precision 16 is for GPUs"):
        trained(tmp_path / "run", silent, shrunk, precision="16", device="cpu")
    assert not (tmp_path / "run").exists()


def test_norms_that_are_not_there_cannot_be_synchronised(tmp_path: Path, silent: Console) -> None:
    with pytest.raises(Misuse, match="lenet5_relu has no batch norm for --sync-batch-norm"):
        trained(tmp_path / "run", silent, "lenet5_relu", sync_batch_norm=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        ({"val/a": 1, "val/b": 1}, "the val part of .* has no image; leave --share out"),
        ({"val/c": 4, "train/c": 1}, "no training image of 'c'; leave --share out"),
    ],
)
def test_a_share_that_leaves_nothing_is_said_so(
    make_folder: MakeFolder,
    shrunk: str,
    tmp_path: Path,
    silent: Console,
    folders: dict[str, int],
    sentence: str,
) -> None:
    root = make_folder({"train/a": 6, "train/b": 6, **folders})
    with pytest.raises(Failure, match=sentence):
        fit(root, model=shrunk, share=0.5, output=tmp_path / "run", console=silent)
    assert not (tmp_path / "run").exists()


def test_the_papers_decay_everything_and_later_ones_spare_vectors() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert [len(g["params"]) for g in parameter_groups(copy.deepcopy(model), 0.1)] == [1, 3]
    (whole,) = parameter_groups(model, 0.1, decay_all=True)
    assert (len(whole["params"]), whole["weight_decay"]) == (4, 0.1)


def test_a_network_is_built_with_what_the_recipe_says(tmp_path: Path, silent: Console) -> None:
    run = fit(
        "digits", model="resnet20_cifar10", arguments={"width": 0.25}, epochs=1, output=tmp_path / "run",
        console=silent,
    )  # fmt: skip
    assert entries(run)["stem.0.weight"].shape[0] == 4
    assert load(run.path).model.feature_channels[-1] == 16


def test_what_a_network_cannot_be_built_with_is_said(tmp_path: Path, silent: Console) -> None:
    with pytest.raises(Misuse, match="lenet5 cannot be built with breadth = 2"):
        fit("digits", model="lenet5", arguments={"breadth": 2}, output=tmp_path / "run", console=silent)


def test_rare_classes_count_more_by_the_share_of_their_images(
    make_folder: MakeFolder, shrunk: str, tmp_path: Path, silent: Console
) -> None:
    """Of 4 and 12 training images: shares 1/4 and 3/4, their median 1/2 over each."""
    root = make_folder({"train/a": 4, "train/b": 12, "val/a": 2, "val/b": 2})
    loss = [{"name": "cross_entropy", "balance": "median_frequency"}]
    run = fit(root, model=shrunk, epochs=1, loss=loss, output=tmp_path / "run", console=silent)
    assert run.config["recipe"]["loss"][0]["weights"] == pytest.approx([2, 2 / 3])
