"""A recipe's regularisers, mixtures, label noise and starts reach the network, and what is kept of it."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from cnnkit.data import open as open_data
from cnnkit.data.batches import fitted
from cnnkit.errors import Misuse
from cnnkit.surgery.stochastic_depth import Survival
from cnnkit.tasks import load
from cnnkit.train.directory import Directory
from cnnkit.train.fit import fit
from cnnkit.train.module import Training
from cnnkit.train.recipe import make
from cnnkit.train.regularisers import REGULARISERS
from cnnkit.weights.artefact import read_card

from ..conftest import MakeFolder

FOLDER = {"red": 10, "green": 10}
PLAIN = {"precision": "32", "layout": "channels_first", "threads": 1, "batch_size": 8, "image_size": 16}


def states(run: Directory) -> dict[str, Tensor]:
    return run.load_checkpoint()["state_dict"]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def history(run: Directory) -> list[dict[str, float]]:
    lines = (json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines())
    timed = {"seconds", "images_per_second", "waiting"}
    return [{k: v for k, v in row.items() if k not in timed} for row in lines]


EVERYTHING = {
    "regularise": [
        {"name": "stochastic_depth", "survival": 0.7},
        {"name": "dropblock", "drop": 0.3, "size": 2},
        {"name": "dropout", "p": 0.2},
        "spatial_dropout",
        {"name": "l1", "factor": 1e-4},
    ],
    "mix": ["mixup", {"name": "cutmix", "share": 0.5}],
    "disturb_labels": 0.1,
    "label_noise": 0.1,
    "init": ["he_fan_out", "zero_gamma"],
}


def test_with_everything_on_the_same_seed_gives_the_same_run_and_its_artefact_loads(
    make_folder: MakeFolder, tmp_path: Path, silent: Console
) -> None:
    root = make_folder(FOLDER, size=16)
    settings = {"model": "resnet20_cifar10", "schedule": "constant", **PLAIN, **EVERYTHING}
    whole = fit(root, epochs=2, output=tmp_path / "whole", console=silent, **settings)
    again = fit(root, epochs=2, output=tmp_path / "whole2", console=silent, **settings)
    assert same(states(whole), states(again))
    assert history(whole) == history(again)
    card = read_card(whole.best)
    assert card.surgery == [{"change": "stochastic_depth", "survival": 0.7}]
    assert sum(isinstance(m, Survival) for m in load(whole.best).model.modules()) == 9
    report = whole.report.read_text("utf-8")
    for told in ("dropblock (drop 0.3, size 2)", "Two images and their labels are averaged", "label_noise"):
        assert told in report
    assert card.recipe["mix"][1] == {"name": "cutmix", "alpha": 1.0, "share": 0.5}


def test_a_run_killed_between_epochs_goes_on_bit_for_bit(
    make_folder: MakeFolder, tmp_path: Path, silent: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(FOLDER, size=16)
    settings = {"model": "resnet20_cifar10", **PLAIN, **EVERYTHING, "ema": 0.5}
    whole = fit(root, epochs=3, output=tmp_path / "whole", console=silent, **settings)
    save = Directory.save_checkpoint

    def dies(self: Directory, checkpoint: dict[str, object]) -> None:
        save(self, checkpoint)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(Directory, "save_checkpoint", dies)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(root, epochs=3, output=tmp_path / "killed", console=silent, **settings)
    monkeypatch.setattr(Directory, "save_checkpoint", save)
    parts = fit(resume=True, output=tmp_path / "killed", console=silent)
    assert len(history(parts)) == 3
    assert history(whole) == history(parts)
    assert same(states(whole), states(parts))


def test_each_regulariser_changes_the_run_and_none_the_way_to_load_it(
    make_folder: MakeFolder, tmp_path: Path, silent: Console
) -> None:
    root = make_folder(FOLDER, size=16)
    settings = {"model": "resnet20_cifar10", "epochs": 1, "console": silent, **PLAIN}
    special = {"l1": {"factor": 0.01}, "l2": {"factor": 0.01}, "stochastic_depth": {"survival": 0.2}}
    losses = [history(fit(root, output=tmp_path / "without", **settings))[0]["train/loss"]]
    for part in sorted(set(REGULARISERS) - {"batch_norm", "response_norm", "no_response_norm"}):
        table = {"name": part, **special.get(part, {})}
        run = fit(root, regularise=[table], output=tmp_path / part, **settings)
        losses.append(history(run)[0]["train/loss"])
        assert len(load(run.best).predict(root / "red" / "0.png").classes) == 2
    assert len(losses) == 8
    assert len(set(losses)) == len(losses)


def test_networks_of_before_can_have_norms_and_alexnet_none(
    make_folder: MakeFolder, tmp_path: Path, silent: Console
) -> None:
    root = make_folder(FOLDER, size=28)
    settings = {**PLAIN, "image_size": 28, "epochs": 1, "model": "lenet5_relu", "console": silent}
    run = fit(root, regularise=["batch_norm", "response_norm"], output=tmp_path / "lenet", **settings)
    assert [change["change"] for change in read_card(run.best).surgery] == [
        "add_batch_norm",
        "add_response_norm",
    ]
    network = load(run.best).model
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 2
    with pytest.raises(Misuse, match="lenet5_relu: LeNet5ReLU has no response normalisation"):
        fit(root, regularise=["no_response_norm"], output=tmp_path / "no", **settings)
    assert not (tmp_path / "no").exists()
    grown = fit(
        make_folder(FOLDER, size=28, name="more"),
        weights=str(run.best),
        output=tmp_path / "grown",
        regularise=["dropout"],
        epochs=1,
        console=silent,
    )
    assert read_card(grown.best).surgery == read_card(run.best).surgery
    assert sum(isinstance(m, nn.BatchNorm2d) for m in load(grown.best).model.modules()) == 2
    resumed = fit(resume=True, epochs=2, output=grown.path, console=silent)
    assert len(history(resumed)) == 2


def test_noisy_labels_are_the_same_in_every_epoch(
    make_folder: MakeFolder, tmp_path: Path, silent: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[int, int]] = []
    step = Training.training_step

    def spy(self: Training, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if batch_idx == 0:
            seen.append({})
        seen[-1] |= dict(zip(batch["index"].tolist(), batch["labels"].tolist(), strict=True))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Training, "training_step", spy)
    root = make_folder({"red": 30, "green": 30}, size=16)
    settings = {**PLAIN, "image_size": 28, "model": "lenet5_relu", "epochs": 2, "console": silent}
    run = fit(root, label_noise=0.5, output=tmp_path / "run", **settings)
    data = open_data(root).split(run.split)
    truth = dict(enumerate(data.parts["train"].labels))
    assert seen[0] == seen[1]
    wrong = sum(seen[0][i] != truth[i] for i in truth)
    assert 0.1 * len(truth) < wrong < 0.4 * len(truth)
    assert read_card(run.best).recipe["label_noise"] == 0.5


def test_lsuv_starts_from_the_training_images(
    make_folder: MakeFolder, tmp_path: Path, silent: Console
) -> None:
    root = make_folder(FOLDER, size=28)
    settings = {**PLAIN, "image_size": 28, "model": "lenet5_relu", "epochs": 1, "lr": 1e-9, "console": silent}
    run = fit(root, init=["lsuv"], output=tmp_path / "run", **settings)
    found: list[float] = []
    network = load(run.best).model
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda m, x, y: found.append(float(y.detach().std())))
    load(run.best).model(torch.zeros(1, 3, 28, 28))
    part = open_data(root).split(run.split).parts["train"]
    to = read_card(run.best).preprocessing
    network(to.normalise(fitted(part, to, range(8))))
    assert found == pytest.approx([1.0] * len(found), abs=0.05)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"regularise": ["drop_block"]}, "x: regularise: no regularise 'drop_block'; did you mean dropblock"),
        ({"regularise": [{"name": "dropblock", "share": 0.1}]}, "regularise dropblock: no setting 'share'"),
        ({"regularise": [{"name": "dropout", "p": 1.0}]}, r"dropout: p must be below 1, got 1\.0"),
        ({"regularise": ["dropout", "dropout"]}, "x: regularise has dropout twice"),
        ({"mix": ["cutmix", "mix_up"]}, "mix: no mix 'mix_up'; did you mean mixup"),
        ({"init": ["xavier"]}, "did you mean xavier_"),
        ({"label_noise": 1.5}, "label_noise must be at most 1"),
        ({"cached_features": 1}, "cached_features are those of a frozen network"),
        ({"cached_features": 1, "freeze": "features", "mix": ["mixup"]}, "mix works on images"),
        (
            {"cached_features": 1, "freeze": "features", "augment": ["flip"]},
            "cached_features = 1 has no augm",
        ),
        ({"regularise": ["dropblock"], "compile": True}, "dropblock changes with each step"),
    ],
)
def test_what_makes_no_sense_is_named(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(Misuse, match=sentence):
        make(values, "x")
