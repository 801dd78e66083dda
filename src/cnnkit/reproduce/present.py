"""An outcome as a table, a plot and a file, with the paper's figures beside ours."""

import json
from itertools import cycle
from pathlib import Path
from statistics import mean
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Chart
from matplotlib.ticker import MaxNLocator

from cnnkit.draw.charts import COLOURS, INK, MUTED
from cnnkit.draw.charts import figure as chart
from cnnkit.reproduce.measures import history
from cnnkit.reproduce.run import Outcome
from cnnkit.weights.files import atomic


def rows(outcome: Outcome) -> tuple[list[str], list[list[str]]]:
    """Headings and one row an arm: by measure our figure and, where there is one, the paper's."""
    experiment = outcome.experiment
    printed = [name for name in experiment.measures if any(name in a.paper for a in experiment.arms.values())]
    headings = ["arm", "parameters"]
    if outcome.scale.tune:
        headings.append(next(iter(outcome.scale.tune)))
    for name, measure in experiment.measures.items():
        headings += [measure.title, "paper"] if name in printed else [measure.title]
    found = []
    for arm, trial in outcome.trials.items():
        row = [arm, f"{trial.runs[0].summary['parameters']:,}", *(f"{v:g}" for v in trial.chosen.values())]
        for name in experiment.measures:
            row.append(str(trial.figures[name]))
            if name in printed:
                row.append(str(experiment.arms[arm].paper.get(name, "")))
        found.append(row)
    return headings, found


def markdown(outcome: Outcome) -> str:
    """The whole result, readable as it is."""
    experiment, paper = outcome.experiment, outcome.experiment.paper
    headings, found = rows(outcome)
    lines = [
        f"# {experiment.title}",
        "",
        f"{paper.authors}, {paper.title}, {paper.venue}, {paper.where}.",
        f"Scale {outcome.size} on {Path(outcome.source).name}, {outcome.seeds} "
        f"seed{'s' * (outcome.seeds > 1)}; mean ± standard deviation.",
        "",
        _line(headings),
        _line(["---"] * len(headings)),
        *(_line(row) for row in found),
        "",
    ]
    for claim, judgement in outcome.judgements:
        lines += [f"- **{judgement.verdict}**: {claim.says} ({judgement.reason}.) The paper: {claim.paper}"]
    lines += ["", *(f"- {name}: {arm.about}" for name, arm in experiment.arms.items())]
    lines += ["", f"What was read: {paper.read}", "", "Different from the paper's protocol:", ""]
    lines += [f"- {difference}" for difference in outcome.differences]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def plot(outcome: Outcome) -> Chart:
    """The error of each arm over the epochs, all seeds and their mean, and beside it what was measured."""
    told = [
        line
        for claim, found in outcome.judgements
        for line in wrap(f"{found.verdict}: {claim.says} ({found.reason}.) The paper: {claim.paper}", 140)
    ]
    made, (left, right) = chart(10.4, 3.7 + 0.18 * len(told), 2)
    _curves(left, outcome)
    _points(right, outcome, outcome.experiment.claims[0].measure)
    made.supxlabel("\n".join(told), fontsize=9, color=INK, x=0.02, ha="left")
    return made


def _curves(axis: Axes, outcome: Outcome) -> None:
    part = outcome.experiment.curve
    for colour, (name, trial) in zip(cycle(COLOURS), outcome.trials.items(), strict=False):
        seeds = [[100 * (1 - row[f"{part}/accuracy"]) for row in history(run)] for run in trial.runs]
        epochs = range(1, min(map(len, seeds)) + 1)
        for errors in seeds:
            axis.plot(epochs, errors[: len(epochs)], color=colour, linewidth=0.8, alpha=0.4)
        middle = [mean(errors) for errors in zip(*seeds, strict=False)]
        axis.plot(
            epochs, middle, color=colour, linewidth=1.8, label=name, marker="o" if len(epochs) < 3 else None
        )
    words = {"train": "training error, %", "val": "validation error, %"}
    axis.set_title(words[part], fontsize=11, color=INK, loc="left")
    axis.set_xlabel("epoch", fontsize=9, color=INK)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=9)


def _points(axis: Axes, outcome: Outcome, measure: str) -> None:
    printed: list[Any] = []
    for place, (colour, (name, trial)) in enumerate(
        zip(cycle(COLOURS), outcome.trials.items(), strict=False)
    ):
        found = trial.figures[measure]
        axis.errorbar(place, found.mean, found.deviation or 0, color=colour, marker="o", capsize=4)
        told = f"≥ {found.mean:.1f}" if found.at_least else f"{found.mean:.1f}"
        axis.annotate(told, (place, found.mean), (8, 0), textcoords="offset points", fontsize=9, color=INK)
        theirs = outcome.experiment.arms[name].paper.get(measure)
        if isinstance(theirs, float | int):
            printed += axis.plot(place, theirs, color=MUTED, marker="D", fillstyle="none", linestyle="none")
    axis.set_xticks(range(len(outcome.trials)), list(outcome.trials), fontsize=9)
    axis.set_xlim(-0.5, len(outcome.trials) - 0.2)
    axis.set_ylim(bottom=0)
    axis.set_title(outcome.experiment.measures[measure].title, fontsize=11, color=INK, loc="left")
    if printed:
        axis.legend(  # above the axis, where it is no point of the plot
            printed[:1],
            ["the paper"],
            frameon=False,
            fontsize=9,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            borderaxespad=0,
        )


def write(outcome: Outcome, output: Path) -> None:
    """`result.json`, `table.md` and `plot.png` beside the runs, each whole or absent."""
    with atomic(output / "result.json") as scratch:
        scratch.write_text(json.dumps(outcome.to_json(), indent=1) + "\n", "utf-8")
    with atomic(output / "table.md") as scratch:
        scratch.write_text(markdown(outcome), "utf-8")
    with atomic(output / "plot.png") as scratch:
        plot(outcome).savefig(scratch, format="png", dpi=120)
