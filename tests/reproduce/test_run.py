"""An experiment from its settings to its table: runs are kept, gone on with and not repeated."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from cnnkit.errors import Misuse
from cnnkit.reproduce import run as running
from cnnkit.reproduce.experiment import Arm, Claim, Experiment, Measure, Paper, Scale, experiments
from cnnkit.reproduce.measures import history, measured
from cnnkit.reproduce.present import markdown, rows, write
from cnnkit.reproduce.run import Outcome, reproduce
from cnnkit.reproduce.verdict import figure, judge
from cnnkit.train.directory import Directory
from cnnkit.train.fit import fit

from ..conftest import MakeFolder
from ..data.masked import write as write_masks

PLAIN = {
    "model": "lenet5_relu",
    "layout": "channels_first",
    "threads": 1,
    "batch_size": 8,
    "image_size": 28,
    "epochs": 2,
    "augment": [],
    "optimizer": {"name": "sgd", "lr": 0.01},
    "schedule": {"name": "multi_step", "milestones": [0.5]},  # a list in files, a tuple in a recipe
}

SMALL = Experiment(
    name="small",
    title="Is tanh slower?",
    paper=Paper(title="T", authors="A", venue="V", where="Figure 1", read="All."),
    curve="train",
    settings=PLAIN,
    measures={
        "train": Measure(kind="train_error", title="training error, %"),
        "error": Measure(kind="error", title="test error, %"),
        "epochs": Measure(kind="epochs_to", title="epochs", level_of="relu"),
    },
    arms={
        "relu": Arm(about="ReLU", paper={"error": 8.75}),
        "tanh": Arm(about="tanh", settings={"activation": "tanh"}),
    },
    claims=(Claim(says="So it is.", measure="train", less="relu", more="tanh", paper="six times."),),
    scales={"tiny": Scale(seeds=2, time="no time", differences=("all of it",))},
)


@pytest.fixture
def photos(make_folder: MakeFolder) -> Path:
    return make_folder({"red": 20, "green": 20}, size=28)


def outcome(
    photos: Path, output: Path, silent: Console, of: Experiment = SMALL, seeds: int | None = None
) -> Outcome:
    return reproduce(of, "tiny", output, console=silent, source=str(photos), seeds=seeds)


def test_an_experiment_leaves_runs_a_table_a_plot_and_a_result(
    photos: Path, tmp_path: Path, silent: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = outcome(photos, tmp_path / "out", silent)
    write(found, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [f"{arm}-seed{seed}" for arm in ("relu", "tanh") for seed in (0, 1)]
        + ["plot.png", "result.json", "table.md"]
    )
    with Image.open(tmp_path / "out" / "plot.png") as picture:
        assert len(picture.convert("L").getcolors() or []) > 20  # drawn, not blank
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    last = [json.loads((run.path / "summary.json").read_text()) for run in found.trials["tanh"].runs]
    ours = result["arms"]["tanh"]["ours"]["error"]
    assert ours["values"] == pytest.approx([100 * (1 - s["test"]["accuracy"]) for s in last])
    assert ours["mean"] == pytest.approx(sum(ours["values"]) / 2)
    assert result["arms"]["relu"]["paper"] == {"error": 8.75}
    assert result["claims"][0]["verdict"] in {"reproduced", "not reproduced", "not decided"}
    headings, lines = rows(found)
    assert headings == ["arm", "parameters", "training error, %", "test error, %", "paper", "epochs"]
    assert [line[4] for line in lines] == ["8.75", ""]
    text = markdown(found)
    for told in ("Figure 1", "all of it", "six times", found.judgements[0][1].verdict, lines[0][2]):
        assert told in text
    monkeypatch.setattr(running, "fit", None)  # finished runs are not run again
    assert outcome(photos, tmp_path / "out", silent).to_json() == found.to_json()


def test_an_interrupted_run_is_gone_on_with_and_gives_the_same(
    photos: Path, tmp_path: Path, silent: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = outcome(photos, tmp_path / "whole", silent, seeds=1)
    save, calls = Directory.save_checkpoint, []

    def dies(self: Directory, checkpoint: dict[str, object]) -> None:
        save(self, checkpoint)
        calls.append(self.path.name)
        if calls == ["relu-seed0"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Directory, "save_checkpoint", dies)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        outcome(photos, tmp_path / "parts", silent, seeds=1)
    parts = outcome(photos, tmp_path / "parts", silent, seeds=1)
    assert calls == ["relu-seed0"] * 2 + ["tanh-seed0"] * 2
    assert parts.trials["relu"].figures == whole.trials["relu"].figures


def test_runs_of_other_settings_or_data_are_refused_by_name(
    photos: Path, make_folder: MakeFolder, tmp_path: Path, silent: Console
) -> None:
    outcome(photos, tmp_path / "out", silent, seeds=1)
    other = replace(SMALL, settings={**PLAIN, "batch_size": 4})
    with pytest.raises(Misuse, match="batch_size = 8, not 4"):
        outcome(photos, tmp_path / "out", silent, other, seeds=1)
    others = make_folder({"red": 20, "blue": 20}, size=28, name="others")
    with pytest.raises(Misuse, match="was run on"):
        outcome(others, tmp_path / "out", silent, seeds=1)


def test_each_arm_gets_the_learning_rate_that_measures_least(
    photos: Path, tmp_path: Path, silent: Console
) -> None:
    scale = replace(SMALL.scales["tiny"], tune={"optimizer.lr": (1e-6, 0.02)}, seeds=1)
    found = outcome(photos, tmp_path / "out", silent, replace(SMALL, scales={"tiny": scale}))
    for name, trial in found.trials.items():
        numbers = {rate: value.number for rate, value in trial.tried.items()}
        assert (
            trial.chosen
            == {"optimizer.lr": min(numbers, key=lambda rate: numbers[rate])}
            == {"optimizer.lr": 0.02}
        )
        assert [run.path.name for run in trial.runs] == [f"{name}-0.02-seed0"]
    assert rows(found)[0][2] == "optimizer.lr"


def test_data_of_ones_own_are_told_among_the_differences(
    make_folder: MakeFolder, tmp_path: Path, silent: Console
) -> None:
    own = make_folder({"train/red": 9, "train/green": 9, "val/red": 3, "val/green": 3}, size=28)
    usual = replace(SMALL, settings={**PLAIN, "epochs": 1, "data": "digits"})
    told = outcome(own, tmp_path / "out", silent, usual, seeds=1).differences
    assert told[0] == "all of it"
    assert "in the place of digits" in told[1]
    assert "no test part" in told[2]


def test_an_experiment_without_data_asks_for_some(tmp_path: Path, silent: Console) -> None:
    with pytest.raises(Misuse, match="--data PATH"):
        reproduce(SMALL, "tiny", tmp_path / "out", console=silent)


def test_a_level_is_the_best_accuracy_of_the_same_seed(photos: Path, tmp_path: Path, silent: Console) -> None:
    settings: dict[str, Any] = {**PLAIN, "precision": "32", "epochs": 3, "console": silent}
    run = fit(photos, output=tmp_path / "one", **settings)
    measure = Measure(kind="epochs_to", title="epochs", level_of="itself", part="train")
    best = [row["train/accuracy"] for row in history(run)]
    assert measured(measure, run, run).number == pytest.approx(best.index(max(best)) + 1)


def test_a_score_is_a_figure_of_the_test_part_in_percent_and_the_more_the_better(tmp_path: Path) -> None:
    measure = Measure(kind="score", figure="boundary_f1", title="F1 of borders, %")
    values = {"coarse": (0.40, 0.42), "fine": (0.50, 0.51)}
    figures = {}
    for arm, numbers in values.items():
        runs = [Directory(tmp_path / f"{arm}-{seed}") for seed in range(len(numbers))]
        for run, number in zip(runs, numbers, strict=True):
            run.path.mkdir()
            (run.path / "metrics.jsonl").write_text('{"val/accuracy": 0.1}\n')
            scores = {"val": {"boundary_f1": 0.9}, "test": {"boundary_f1": number, "accuracy": 0.7}}
            (run.path / "summary.json").write_text(json.dumps(scores))
        figures[arm] = figure([measured(measure, run, None) for run in runs])
    assert figures["coarse"].values == pytest.approx((40.0, 42.0))
    assert judge(figures["coarse"], figures["fine"]).verdict == "reproduced"  # less: coarse, more: fine


@pytest.mark.slow
@pytest.mark.parametrize("name", list(experiments()))
def test_every_packaged_experiment_runs_at_the_tiny_scale(name: str, tmp_path: Path, silent: Console) -> None:
    source = None
    if "data" not in experiments()[name].recipe("tiny", next(iter(experiments()[name].arms))):
        write_masks(tmp_path / "data/images", tmp_path / "data/masks", [(40, 48)] * 12)
        source = str(tmp_path / "data")
    found = reproduce(experiments()[name], "tiny", tmp_path / "out", console=silent, seeds=1, source=source)
    write(found, tmp_path / "out")
    assert all(judgement.verdict == "not decided" for _, judgement in found.judgements)  # one seed
    assert all(
        0 <= figure.mean <= 100 for trial in found.trials.values() for figure in trial.figures.values()
    )
