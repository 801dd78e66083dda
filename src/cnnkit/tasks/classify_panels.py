"""What the report shows of a part that a classifier was scored on: confusion, classes, mistakes, maps."""

import torch
from torch import nn

from cnnkit.data import Part
from cnnkit.data.pictures import fit, to_tensor
from cnnkit.draw.charts import confusion
from cnnkit.draw.encode import grey, thumbnail
from cnnkit.explain.maps import feature_maps
from cnnkit.report import Panel, chart, heading, pictures, table
from cnnkit.tasks.classify import Classifier, Scores

#: How many mistakes, and maps of one layer, are shown.
MISTAKES, MAPS = 24, 12


def panels(where: str, part: Part, scores: Scores, classifier: Classifier) -> list[Panel]:
    """Confusion, classes, mistakes, and one image's way through the network."""
    rows = scores.per_class()
    note = f"On {where}, {len(part):,} images."
    found = [
        Panel(
            "Confusion matrix", chart(confusion(scores.confusion, scores.classes)), note, wide=len(rows) > 20
        ),
        Panel("Classes", table(rows), note, wide=len(rows) > 20),
        _mistakes(where, part, scores),
    ]
    return [*found, _maps(classifier.model, classifier, part)] if len(part) else found


def _mistakes(where: str, part: Part, scores: Scores) -> Panel:
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
    note = f"{len(wrong):,} of {len(part):,} images of {where} were wrong; the surest come first."
    return Panel("Most confident mistakes", pictures(shown), note)


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
