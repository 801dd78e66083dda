"""Carried-over weights begin to learn when they should, at the rates that they should."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from cnnkit.errors import Misuse
from cnnkit.models import create
from cnnkit.tasks import load
from cnnkit.train.directory import Directory
from cnnkit.train.fit import fit
from cnnkit.train.transfer import carry, levels, nearest_classes, shares
from cnnkit.train.unfreezing import Gradual, HeadFirst
from cnnkit.weights import load as load_weights
from cnnkit.weights.artefact import read_card

from ..conftest import MakeFolder

FOLDER = {"red": 12, "green": 12}
PLAIN = {"precision": "32", "layout": "channels_first", "threads": 1, "batch_size": 8, "workers": 0}


def entries(run: Directory) -> dict[str, Tensor]:
    return {k.removeprefix("model."): v for k, v in run.load_checkpoint()["state_dict"].items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The stages and the head that differ; norms' statistics too."""
    differ = {n for n in before if before[n].shape != after[n].shape or not torch.equal(before[n], after[n])}
    return {".".join(n.split(".")[: 2 if n.startswith("stages") else 1]) for n in differ}


def history(run: Directory) -> list[dict[str, float]]:
    lines = (json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines())
    timed = {"seconds", "images_per_second", "waiting"}
    return [{k: v for k, v in row.items() if k not in timed} for row in lines]


def test_how_many_levels_are_awake() -> None:
    assert [HeadFirst(epochs=2).awake(epoch, 5) for epoch in range(4)] == [1, 1, 5, 5]
    assert [Gradual(every=2).awake(epoch, 3) for epoch in range(7)] == [1, 1, 2, 2, 3, 3, 3]


def test_levels_hold_every_parameter_once_from_the_head_down() -> None:
    for name in ("resnet20_cifar10", "vgg11", "mobilenet_v2", "squeezenet1_1"):
        with torch.device("meta"):
            network = create(name)
        names = {id(p): n for n, p in network.named_parameters()}
        found = [[names[id(p)] for p in level] for level in levels(network)]
        assert sorted(n for level in found for n in level) == sorted(names.values())
        assert len(found[0]) == 2, "the layer that makes the logits has a weight and a bias"
        assert found[0][0].startswith("head")
        assert next(iter(names.values())) in found[-1]
    vgg = create("vgg11", width=0.0625)
    names = {id(p): n for n, p in vgg.named_parameters()}
    second = {names[id(p)] for p in levels(vgg)[1]}
    assert second == {"head.3.weight", "head.3.bias", "head.6.weight", "head.6.bias"}
    assert len(levels(vgg)) == 7


def test_each_level_learns_more_slowly_than_the_one_above_it(
    make_folder: MakeFolder, source: Path, tmp_path: Path, silent: Console
) -> None:
    run = fit(
        make_folder(FOLDER),
        weights=str(source),
        backbone_factor=0.5,
        stage_factor=0.1,
        epochs=1,
        lr=0.01,
        output=tmp_path / "run",
        console=silent,
        **PLAIN,
    )
    groups = run.load_checkpoint()["optimizer_states"][0]["param_groups"]
    assert sorted({g["initial_lr"] for g in groups}, reverse=True) == pytest.approx([0.01, 0.005, 5e-4, 5e-5])
    assert sum(len(g["params"]) for g in groups) == len(list(create("resnet20_cifar10").parameters()))
    network = create("resnet20_cifar10")
    found = shares(levels(network), 0.5, 0.1)
    assert found[id(network.head[2].weight)] == 1
    assert found[id(network.stem[0].weight)] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("unfreeze", "learning"),
    [
        (
            {"name": "head_first", "epochs": 2},
            [{"head"}, {"head"}, {"head", "stages.2", "stages.1", "stages.0", "stem"}],
        ),
        ("gradual", [{"head"}, {"head", "stages.2"}, {"head", "stages.2", "stages.1"}]),
    ],
)
def test_levels_wake_when_they_should_and_a_resumed_run_does_the_same(
    make_folder: MakeFolder,
    source: Path,
    tmp_path: Path,
    silent: Console,
    unfreeze: object,
    learning: list[set[str]],
) -> None:
    root = make_folder(FOLDER)
    settings = {"weights": str(source), "schedule": "constant", "unfreeze": unfreeze, **PLAIN}
    before: dict[str, Tensor] = {}
    for epochs, expected in enumerate(learning, start=1):
        begun = epochs > 1
        run = fit(
            None if begun else root,
            epochs=epochs,
            resume=begun,
            output=tmp_path / "parts",
            console=silent,
            **({} if begun else settings),
        )
        after = entries(run)
        if before:
            assert moved(before, after) == expected
        before = after
    whole = fit(root, epochs=len(learning), output=tmp_path / "whole", console=silent, **settings)
    assert moved(entries(whole), before) == set()
    assert history(whole) == history(Directory(tmp_path / "parts"))


def test_frozen_stages_stay_frozen_when_the_others_wake(
    make_folder: MakeFolder, source: Path, tmp_path: Path, silent: Console
) -> None:
    run = fit(
        make_folder(FOLDER),
        weights=str(source),
        freeze="2",
        unfreeze={"name": "head_first", "epochs": 1},
        epochs=2,
        output=tmp_path / "run",
        console=silent,
        **PLAIN,
    )
    assert moved(load(source).model.state_dict(), entries(run)) == {"head", "stages.2"}


def test_a_new_class_starts_as_the_old_one_that_answers_to_it_alone() -> None:
    """Old class 3 answers to everything; 1 to the first new class, 4 to the second."""
    first = torch.tensor([[0.0, 5, 0, 6, 2], [0, 4, 0, 6, 2], [0, 5, 1, 6, 2]])
    second = torch.tensor([[0.0, 0, 0, 6, 4], [1, 0, 0, 6, 5], [0, 0, 0, 6, 5]])
    outputs = [(first, torch.zeros(3, dtype=torch.long)), (second, torch.ones(3, dtype=torch.long))]
    assert nearest_classes(outputs, 2) == [1, 4]
    same = [(first, torch.zeros(3, dtype=torch.long)), (first, torch.ones(3, dtype=torch.long))]
    assert len(set(nearest_classes(same, 2))) == 2
    with pytest.raises(Misuse, match="needs an old class for each of the 6 new ones, and the weights have 5"):
        nearest_classes(outputs, 6)


def test_the_mapped_head_has_the_rows_of_the_old_one(source: Path) -> None:
    loaded = load_weights(source)
    old = loaded.model.head[2].weight.detach().clone()
    network, transfer = carry(loaded, "letters", ["x", "y"], [4, 1])
    assert torch.equal(network.head[2].weight, old[[4, 1]])
    assert transfer.alike == ["e", "b"]
    assert "head.2 is new (5 classes before, 2 now); it starts as the old e, b" in transfer.told(
        "m", None, 0.1
    )


def test_a_mapped_head_scores_before_it_learnt_and_is_resumed_from_what_is_stored(
    make_folder: MakeFolder, tmp_path: Path, silent: Console
) -> None:
    colours = {"red": 14, "green": 14, "blue": 14}
    first = fit(
        make_folder(colours),
        model="resnet20_cifar10",
        epochs=12,
        output=tmp_path / "c",
        console=silent,
        **PLAIN,
    )
    assert first.summary["val"]["accuracy"] == 1.0
    folder = make_folder(
        {"leaf": 9, "blood": 9}, name="things"
    )  # noisy pictures, red and green by their place
    settings = {
        "weights": str(first.best),
        "head": "mapped",
        "epochs": 1,
        "lr": 1e-9,
        "console": silent,
        **PLAIN,
    }
    run = fit(folder, output=tmp_path / "run", **settings)
    names = dict(zip(["blood", "leaf"], run.config["transfer"]["alike"], strict=True))
    assert names == {"blood": "green", "leaf": "red"}
    assert run.summary["val"]["accuracy"] == 1.0
    run.last.unlink()
    run.best.unlink()
    again = fit(resume=True, output=run.path, console=silent)
    assert torch.equal(entries(again)["head.2.weight"], load(again.best).model.head[2].weight)
    assert history(again)[-1]["val/accuracy"] == 1.0
    assert read_card(again.best).classes == ["blood", "leaf"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"unfreeze": "gradual"}, "--unfreeze is about weights that are carried over"),
        ({"stage_factor": 0.5}, "--stage-factor is about weights"),
        ({"head": "mapped"}, "--head is about weights"),
        ({"init": ["gaussian"], "weights": "SOURCE"}, "--init sets weights anew, and --weights carries them"),
        (
            {"unfreeze": "gradual", "freeze": "features", "weights": "SOURCE"},
            "--unfreeze has nothing to wake then; give --unfreeze alone",
        ),
        (
            {"cached_features": 1, "freeze": "features", "regularise": ["dropblock"], "weights": "SOURCE"},
            "dropblock is noise in what --cached-features runs only once",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    make_folder: MakeFolder,
    source: Path,
    tmp_path: Path,
    silent: Console,
    settings: dict[str, object],
    sentence: str,
) -> None:
    given = {k: str(source) if v == "SOURCE" else v for k, v in settings.items()}
    given |= {} if "weights" in given else {"model": "resnet20_cifar10"}
    with pytest.raises(Misuse, match=sentence):
        fit(make_folder(FOLDER), output=tmp_path / "run", console=silent, **given)
    assert not (tmp_path / "run").exists()
