"""What a run's report shows: curves, confusion, mistakes, kernels, maps, settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w
from markupsafe import Markup
from torch import nn

from cnnkit.data import DataSet
from cnnkit.draw.charts import curves, tried
from cnnkit.draw.kernels import kernel_grid
from cnnkit.explain.maps import first_kernels
from cnnkit.parts import choose
from cnnkit.report import Panel, chart, page, pictures, table, text
from cnnkit.tasks.task import Scores, Task
from cnnkit.train.directory import Directory
from cnnkit.train.plan import Plan
from cnnkit.train.recipe import Recipe

#: Settings of a recipe that change labels.
LABELS = {"label_smoothing", "label_noise", "disturb_labels"}


def write_report(
    plan: Plan,
    task: Task,
    network: Any,
    scores: Mapping[str, Scores],
    history: Sequence[Mapping[str, float]],
    summary: Mapping[str, Any],
) -> None:
    """Write `report.html`, all or nothing.

    Args:
        network: the best, as `tasks.load` gives it.
    """
    directory, data = plan.directory, plan.data
    part = "test" if "test" in scores else "val"
    panels = [
        _curves(history, task.best),
        *task.panels(where(part), data.parts[part], scores[part], network),
        *_kernels(network.model),
        *_found(directory),
        _parts(plan.config["recipe"]),
        Panel(
            "Configuration",
            text(tomli_w.dumps(plan.config)),
            "As resolved; config.toml in the run directory.",
        ),
        Panel("Environment", text((directory.path / "environment.txt").read_text("utf-8")), folded=True),
    ]
    title = f"{summary['model']} on {data.name}"
    subtitle = (
        f"{data.layout}; seed {summary['seed']}; best of {summary['epochs']} epochs: {summary['best_epoch']}"
    )
    figures = _figures(data, task.best, scores, summary)
    directory.write("report.html", page(title, subtitle, figures, panels))


def where(part: str) -> str:
    """A part by name, with what must be said beside a score on it."""
    return f"the {part} part" + (" (it chose the checkpoint)" if part == "val" else "")


def _figures(
    data: DataSet, best: str, scores: Mapping[str, Scores], summary: Mapping[str, Any]
) -> dict[str, str]:
    remark = {"val": " (this part chose the checkpoint)"}
    found = {f"{part} {best}{remark.get(part, '')}": f"{summary[part][best]:.2%}" for part in sorted(scores)}
    counts = {part: len(data.parts[part]) for part in scores}
    images = ", ".join(f"{count:,} {part}" for part, count in counts.items())
    return found | {
        f"images held out: {images}": f"{sum(counts.values()):,}",
        "parameters": f"{summary['parameters']:,}",
        "seconds of training": f"{summary['training_seconds']:,.0f}",
    }


def _curves(history: Sequence[Mapping[str, float]], best: str) -> Panel:
    whats = ["loss", "accuracy"]
    charts = {
        what.capitalize(): {part: [row[f"{part}/{what}"] for row in history] for part in ("train", "val")}
        for what in whats
    }
    if best not in whats:
        charts[best] = {"val": [row[f"val/{best}"] for row in history]}
    charts["Learning rate"] = {"lr": [row["lr"] for row in history]}
    note = "Training figures are of the augmented images, while the weights were still changing."
    epochs, titles = [row["epoch"] for row in history], list(charts)
    rows = [titles] if len(titles) < 4 else [titles[:2], titles[2:]]
    drawn = [chart(curves({title: charts[title] for title in row}, epochs, "epoch")) for row in rows]
    return Panel("Curves", Markup("").join(drawn), note)


def _found(directory: Directory) -> list[Panel]:
    """What was tried before the run, where something was."""
    panels, found = [], directory.found
    if sweep := found.get("lr"):
        drawn = tried(
            "", sweep["rates"], sweep["losses"], sweep["chosen"], ("learning rate", "loss, smoothed")
        )
        note = "The range test: the chosen rate is a tenth of that with the lowest loss."
        panels.append(Panel("Learning rate", chart(drawn), note))
    if sizes := found.get("batch_size"):
        speeds = {int(size): speed for size, speed in sizes["images_per_second"].items()}
        drawn = tried(
            "", list(speeds), list(speeds.values()), sizes["chosen"], ("images a step", "images a second")
        )
        panels.append(Panel("Batch size", chart(drawn), "Beyond the chosen size, more bring little."))
    return panels


def _parts(recipe: Mapping[str, Any]) -> Panel:
    """What was chosen by name, with what it does, and what was done to the labels."""
    rows: list[dict[str, object]] = []
    for setting in dataclasses.fields(Recipe):
        value, choices = recipe.get(setting.name), setting.metadata.get("choices")
        for one in value if isinstance(value, list) else [value]:
            if choices and one:
                part = choose(choices, one, setting.name)
                rows.append({"setting": setting.name, "value": str(part), "what it does": part.meaning()})
            elif one and setting.name in LABELS:
                rows.append({"setting": setting.name, "value": one, "what it does": setting.metadata["help"]})
    return Panel("Recipe", table(rows))


def _kernels(model: nn.Module) -> list[Panel]:
    """Those of the first layer, where they can be drawn."""
    found = first_kernels(model)
    if not found:
        return []
    name, kernels = found
    note = f"{len(kernels)} kernels of {name}, each scaled to its own greatest weight."
    drawn = pictures([(kernel_grid(kernels), "")], 420)
    return [Panel("Learned kernels of the first layer", drawn, note)]
