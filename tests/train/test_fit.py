"""A run leaves what it promises, and what cannot work is refused before anything is written."""

import csv
import io
import json
import resource
import tomllib
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from cnnkit.errors import Failure, Misuse
from cnnkit.tasks import load
from cnnkit.train.directory import Directory
from cnnkit.train.evaluate import evaluate
from cnnkit.train.fit import fit
from cnnkit.train.module import parameter_groups
from cnnkit.weights.artefact import read_card

from ..conftest import MakeFolder

FOLDER = {"red": 12, "green": 12, "blue": 12}


def weights(run: Directory) -> dict[str, Tensor]:
    return load(run.best).model.state_dict()


def test_a_run_leaves_every_file_and_a_network_that_works(
    make_folder: MakeFolder, shrunk: str, tmp_path: Path, silent: Console
) -> None:
    root = make_folder(FOLDER)
    run = fit(root, model=shrunk, epochs=40, lr=0.05, output=tmp_path / "run", console=silent)
    names = {p.name for p in run.path.iterdir()}
    assert names == {
        *("config.toml", "split.json", "environment.txt", "metrics.csv", "metrics.jsonl", "summary.json"),
        *(".lock", "best.safetensors", "last.ckpt", "report.html", "tensorboard"),
    }
    assert run.summary["test"]["accuracy"] == 1.0
    rows = list(csv.DictReader((run.path / "metrics.csv").read_text().splitlines()))
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len(lines) == 40
    assert [float(r["val/loss"]) for r in rows] == [line["val/loss"] for line in lines]
    config = tomllib.loads((run.path / "config.toml").read_text())
    assert config["recipe"]["seed"] == 0
    assert [change["name"] for change in config["recipe"]["augment"]] == ["shift", "flip"]
    assert None not in config["recipe"].values()
    assert list((run.path / "tensorboard").glob("events.*"))
    card = read_card(run.best)
    assert card.classes == ["blue", "green", "red"]
    assert card.provenance["seed"] == 0
    assert load(run.path).predict(root / "green" / "3.png", top=1).classes == ("green",)


def test_the_artefact_holds_the_best_epoch(shrunk: str, tmp_path: Path, silent: Console) -> None:
    run = fit("digits", model=shrunk, epochs=4, lr=0.05, output=tmp_path / "run", console=silent)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda row: (row["val/accuracy"], -row["val/loss"]))
    assert run.summary["best_epoch"] == best["epoch"]
    assert run.summary["val"]["accuracy"] == pytest.approx(best["val/accuracy"])
    assert read_card(run.best).metrics["val/accuracy"] == best["val/accuracy"]


def test_the_same_seed_gives_the_same_weights_and_another_others(
    shrunk: str, tmp_path: Path, silent: Console
) -> None:
    def run(name: str, seed: int) -> dict[str, Tensor]:
        torch.rand(7)  # the state that the process is in must not matter
        return weights(
            fit("digits", model=shrunk, epochs=1, seed=seed, output=tmp_path / name, console=silent)
        )

    first, again, other = run("a", 3), run("b", 3), run("c", 4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_resuming_photos_equals_the_uninterrupted_run(
    make_folder: MakeFolder, shrunk: str, tmp_path: Path, silent: Console
) -> None:
    root = make_folder(FOLDER, size=100)
    settings = {"model": shrunk, "image_size": 96, "schedule": "constant", "optimizer": "sgd", "lr": 0.01}
    whole = fit(root, epochs=4, workers=0, output=tmp_path / "whole", console=silent, **settings)
    fit(root, epochs=2, workers=2, output=tmp_path / "parts", console=silent, **settings)
    parts = fit(resume=True, epochs=4, output=tmp_path / "parts", console=silent)
    assert history(whole) == history(parts)
    assert len(history(parts)) == 4
    assert all(
        torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(parts).values(), strict=True)
    )


def history(run: Directory) -> list[dict[str, float]]:
    """The metrics without what the clock says."""
    lines = (json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in row.items() if k not in {"seconds", "images_per_second", "waiting"}}
        for row in lines
    ]


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(
    shrunk: str, tmp_path: Path, silent: Console
) -> None:
    run = fit("digits", model=shrunk, epochs=2, output=tmp_path / "run", console=silent)
    before, rows = run.best.read_bytes(), history(run)
    again = fit("digits", model=shrunk, resume=True, output=tmp_path / "run", console=silent)
    assert (again.best.read_bytes(), history(again)) == (before, rows)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lr": 0.5}, "was started with lr = 0.003; 0.5 needs a new run"),
        ({"epochs": 1}, "was started for 2 epochs; --epochs can only be raised"),
        ({"model": "lenet5"}, "was started with model = tiny"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    shrunk: str, tmp_path: Path, silent: Console, settings: dict[str, object], sentence: str
) -> None:
    fit("digits", model=shrunk, epochs=2, output=tmp_path / "run", console=silent)
    with pytest.raises(Misuse, match=sentence):
        fit(resume=True, output=tmp_path / "run", console=silent, **settings)


def test_an_existing_run_is_neither_overwritten_nor_renumbered(
    shrunk: str, tmp_path: Path, silent: Console
) -> None:
    run = fit("digits", model=shrunk, epochs=1, output=tmp_path / "run", console=silent)
    before = run.best.read_bytes()
    with pytest.raises(Misuse, match="exists; continue it with --resume, replace it with --overwrite"):
        fit("digits", model=shrunk, epochs=1, seed=1, output=tmp_path / "run", console=silent)
    assert run.best.read_bytes() == before
    fit("digits", model=shrunk, epochs=1, seed=1, output=tmp_path / "run", overwrite=True, console=silent)
    assert run.best.read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_overwrite_never_removes_what_is_no_run(shrunk: str, tmp_path: Path, silent: Console) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(Misuse, match="is no run of cnnkit and is not overwritten"):
        fit("digits", model=shrunk, output=tmp_path / "thesis", overwrite=True, console=silent)
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"


def test_there_must_be_a_run_to_resume(tmp_path: Path, silent: Console) -> None:
    with pytest.raises(Misuse, match="holds no run to resume"):
        fit(resume=True, output=tmp_path / "none", console=silent)


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        ({"only": 9}, "has only one class, 'only'; a network needs two"),
        ({"train/a": 3, "train/b": 3, "val/a": 2, "val/c": 2}, "has no training image of 'c'"),
        ({"val/a": 3, "val/b": 3}, "has no training part, only val"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused_before_anything_is_written(
    make_folder: MakeFolder,
    shrunk: str,
    tmp_path: Path,
    silent: Console,
    folders: dict[str, int],
    sentence: str,
) -> None:
    with pytest.raises(Failure, match=sentence):
        fit(make_folder(folders), model=shrunk, output=tmp_path / "run", console=silent)
    assert not (tmp_path / "run").exists()


def test_bad_images_stop_a_run_before_it_starts_or_are_left_out_and_listed(
    make_folder: MakeFolder, shrunk: str, tmp_path: Path
) -> None:
    root = make_folder(FOLDER)
    (root / "red" / "broken.png").write_bytes(b"x")
    with pytest.raises(Failure, match=r"1 of the images cannot be used, the first: .*broken\.png"):
        fit(root, model=shrunk, epochs=1, output=tmp_path / "run", console=Console(quiet=True))
    assert not (tmp_path / "run").exists()
    console = Console(file=(tmp_path / "words").open("w"), width=200)
    run = fit(root, model=shrunk, epochs=1, skip_bad=True, output=tmp_path / "run", console=console)
    console.file.close()
    assert "left out: " in (tmp_path / "words").read_text()
    assert run.config["data"]["left_out"] == ["red/broken.png"]
    fit(resume=True, epochs=2, output=tmp_path / "run", console=Console(quiet=True))


def test_a_network_that_does_not_take_the_size_says_which_it_takes(tmp_path: Path, silent: Console) -> None:
    with pytest.raises(
        Misuse, match=r"lenet5 does not take 20 x 20 images .*its paper's size is --image-size 32"
    ):
        fit("digits", model="lenet5", image_size=20, output=tmp_path / "run", console=silent)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_try(
    shrunk: str, tmp_path: Path, silent: Console
) -> None:
    with pytest.raises(
        Failure, match=r"no longer finite at batch \d+ \(epoch 1, learning rate .*; try --lr 1e\+3"
    ):
        fit(
            "digits",
            model="lenet5_relu",
            epochs=2,
            lr=1e38,
            optimizer="sgd",
            output=tmp_path / "run",
            console=silent,
        )
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_running_out_of_memory_is_one_sentence(shrunk: str, tmp_path: Path, silent: Console) -> None:
    with pytest.raises(Failure, match="out of memory with 32 images of 28 x 28; try --batch-size 16"):
        fit("digits", model="greedy", epochs=1, image_size=28, output=tmp_path / "run", console=silent)


def test_a_disk_that_fills_up_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.save_checkpoint({"state_dict": {}, "history": [1]})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(Failure, match="could not be written"):
            directory.save_checkpoint({"state_dict": {"w": torch.zeros(2**20)}, "history": [1, 2]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert directory.load_checkpoint()["history"] == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path("exploded").touch, ())


def test_a_checkpoint_that_carries_code_runs_nothing(
    shrunk: str, tmp_path: Path, silent: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = fit("digits", model=shrunk, epochs=1, output="run", console=silent)
    torch.save({"state_dict": Evil(), "history": []}, run.last)
    with pytest.raises(Failure, match=r"last\.ckpt is damaged or not safe to load"):
        fit(resume=True, epochs=2, output="run", console=silent)
    assert not Path("exploded").exists()


def test_the_checkpoint_holds_plain_values_only(shrunk: str, tmp_path: Path, silent: Console) -> None:
    run = fit("digits", model=shrunk, epochs=1, output=tmp_path / "run", console=silent)
    assert len(run.load_checkpoint()["history"]) == 1


def test_evaluation_uses_the_run_s_own_split(
    make_folder: MakeFolder, shrunk: str, tmp_path: Path, silent: Console
) -> None:
    root = make_folder(FOLDER)
    run = fit(root, model=shrunk, epochs=2, output=tmp_path / "run", console=silent)
    found = evaluate(run.path, root)
    assert (found.part, found.images, found.remark) == ("test", len(run.split["test"]), "")
    assert found.scores.accuracy == run.summary["test"]["accuracy"]
    assert "chose the checkpoint" in evaluate(run.path, root, split="val").remark
    assert "was trained on" in evaluate(run.best, root, split="train").remark


def test_other_data_are_scored_whole_and_by_class_name(
    make_folder: MakeFolder, shrunk: str, tmp_path: Path, silent: Console
) -> None:
    run = fit(make_folder(FOLDER), model=shrunk, epochs=40, lr=0.05, output=tmp_path / "run", console=silent)
    other = evaluate(run.path, make_folder({"red": 5, "green": 4}, name="other"))
    assert (other.part, other.images, other.scores.accuracy) == ("all", 9, 1.0)
    with pytest.raises(Failure, match="has images of 'pink', which the network does not know"):
        evaluate(run.path, make_folder({"pink": 2, "red": 2}, name="more"))


def test_a_terminal_gets_a_bar_and_a_line_an_epoch(shrunk: str, tmp_path: Path) -> None:
    words = io.StringIO()
    console = Console(file=words, force_terminal=True, width=120)
    fit("digits", model=shrunk, epochs=2, output=tmp_path / "run", console=console)
    assert "epoch 2/2  loss " in words.getvalue()
    assert "\x1b[2K" in words.getvalue(), "the bar was never drawn over"


def test_biases_and_norms_are_not_decayed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    decayed, exempt = parameter_groups(model, 0.1)
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert [p.ndim for p in exempt["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)


def test_a_network_for_another_task_is_refused_by_what_it_is_for(tmp_path: Path, silent: Console) -> None:
    with pytest.raises(Misuse, match="unet is a network to segment"):
        fit("digits", model="unet", output=tmp_path / "run", console=silent)
