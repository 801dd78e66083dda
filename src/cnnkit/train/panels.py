"""What a run's report shows: curves, confusion, mistakes, kernels, maps, settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w
import torch
from PIL import Image
from torch import nn

from cnnkit.data import DataSet, Part
from cnnkit.data.pictures import fit, to_tensor
from cnnkit.draw.charts import confusion, curves, tried
from cnnkit.draw.encode import enlarged, grey
from cnnkit.draw.kernels import kernel_grid
from cnnkit.explain.maps import feature_maps, first_kernels
from cnnkit.parts import choose
from cnnkit.report import Panel, chart, heading, page, pictures, table, text
from cnnkit.tasks.classify import Classifier, Scores
from cnnkit.train.directory import Directory
from cnnkit.train.recipe import Recipe

#: Settings of a recipe that change labels.
LABELS = {"label_smoothing", "label_noise", "disturb_labels"}

#: How many mistakes, and maps of one layer, are shown.
MISTAKES, MAPS = 24, 12


def write_report(
    directory: Directory,
    data: DataSet,
    classifier: Classifier,
    scores: Mapping[str, Scores],
    history: Sequence[Mapping[str, float]],
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
) -> None:
    """Write `report.html`, all or nothing."""
    part = "test" if "test" in scores else "val"
    panels = [
        _curves(history),
        *_scored(part, data.parts[part], scores[part]),
        *_inside(classifier, data.parts[part]),
        *_found(directory),
        _parts(config["recipe"]),
        Panel("Configuration", text(tomli_w.dumps(config)), "As resolved; config.toml in the run directory."),
        Panel("Environment", text((directory.path / "environment.txt").read_text("utf-8")), folded=True),
    ]
    title = f"{summary['model']} on {data.name}"
    subtitle = (
        f"{data.layout}; seed {summary['seed']}; best of {summary['epochs']} epochs: {summary['best_epoch']}"
    )
    directory.write("report.html", page(title, subtitle, _figures(scores, summary), panels))


def chose(part: str) -> str:
    """What must be said beside a score on a part."""
    return " (this part chose the checkpoint)" if part == "val" else ""


def _figures(scores: Mapping[str, Scores], summary: Mapping[str, Any]) -> dict[str, str]:
    found = {f"{part} accuracy{chose(part)}": f"{scores[part].accuracy:.2%}" for part in sorted(scores)}
    images = ", ".join(f"{int(s.confusion.sum()):,} {part}" for part, s in scores.items())
    return found | {
        f"images held out: {images}": f"{sum(int(s.confusion.sum()) for s in scores.values()):,}",
        "parameters": f"{summary['parameters']:,}",
        "seconds of training": f"{summary['training_seconds']:,.0f}",
    }


def _curves(history: Sequence[Mapping[str, float]]) -> Panel:
    charts = {
        what.capitalize(): {part: [row[f"{part}/{what}"] for row in history] for part in ("train", "val")}
        for what in ("loss", "accuracy")
    }
    charts["Learning rate"] = {"lr": [row["lr"] for row in history]}
    note = "Training figures are of the augmented images, while the weights were still changing."
    return Panel("Curves", chart(curves(charts, [row["epoch"] for row in history], "epoch")), note)


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


def _scored(name: str, part: Part, scores: Scores) -> list[Panel]:
    rows = scores.per_class()
    where = f"On the {name} part, {len(part):,} images{chose(name)}."
    return [
        Panel(
            "Confusion matrix", chart(confusion(scores.confusion, scores.classes)), where, wide=len(rows) > 20
        ),
        Panel("Classes", table(rows), where, wide=len(rows) > 20),
        _mistakes(name, part, scores),
    ]


def _mistakes(name: str, part: Part, scores: Scores) -> Panel:
    labels = torch.tensor(part.labels)
    wrong = (scores.predicted != labels).nonzero().flatten()
    order = wrong[scores.confidence[wrong].argsort(descending=True)][:MISTAKES].tolist()
    shown = [
        (
            thumbnail(part.picture(i)),
            f"{scores.classes[int(scores.predicted[i])]} {float(scores.confidence[i]):.0%}\n"
            f"is {scores.classes[part.labels[i]]}\n{part.keys[i]}",
        )
        for i in order
    ]
    note = f"{len(wrong):,} of {len(part):,} images of the {name} part were wrong; the surest come first."
    return Panel("Most confident mistakes", pictures(shown), note)


def thumbnail(picture: Image.Image, side: int = 160) -> Image.Image:
    """A picture small enough for a page, or enlarged in whole pixels where it is tiny."""
    picture = enlarged(picture, side // 2)
    picture.thumbnail((side, side))
    return picture


def _inside(classifier: Classifier, part: Part) -> list[Panel]:
    panels = []
    if found := first_kernels(classifier.model):
        name, kernels = found
        note = f"{len(kernels)} kernels of {name}, each scaled to its own greatest weight."
        drawn = pictures([(kernel_grid(kernels), "")], 420)
        panels.append(Panel("Learned kernels of the first layer", drawn, note))
    if len(part):
        panels.append(_maps(classifier.model, classifier, part))
    return panels


def _maps(model: nn.Module, classifier: Classifier, part: Part) -> Panel:
    to = classifier.card.preprocessing
    picture = fit(part.picture(0), to)
    image = to.normalise(to_tensor(picture, to)[None].to(classifier.device))[0]
    whose = f"{part.keys[0]}\n{classifier.classes[part.labels[0]]}"
    body = pictures([(thumbnail(picture, 120), whose)], 120)
    for name, maps in feature_maps(model, image).items():
        liveliest = maps.flatten(1).std(dim=1, correction=0).argsort(descending=True)[:MAPS]
        shown = [(thumbnail(grey(maps[i]), 120), f"map {i}") for i in liveliest.sort().values.tolist()]
        count, height, width = maps.shape
        body += heading(f"{name}: {count} maps of {height} x {width}") + pictures(shown, 78)
    note = f"What one image becomes: up to {MAPS} maps of some convolutions, those that vary most."
    return Panel("Feature maps", body, note)
