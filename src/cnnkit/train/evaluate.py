"""Scoring trained networks on a data set, honestly about what the data were used for before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnkit.data.batches import batches
from cnnkit.data.sets import Part
from cnnkit.errors import Failure, Misuse
from cnnkit.tasks.borders import MOST, Look, looked, looks, spread
from cnnkit.tasks.classify import Classifier, Classify, outputs
from cnnkit.tasks.segment import Segment, way, windows_of
from cnnkit.tasks.task import Scores, observed
from cnnkit.tasks.views import Viewer, fused
from cnnkit.train.opened import Opened, opened

#: What is the same of networks that are fused.
SHARED = ("part", "images", "views", "classes")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A score and what it was measured on.

    Attributes:
        part: `train`, `val`, `test` or `all`.
        images: how many.
        scores: the result.
        remark: what must be known beside it, or nothing.
        views: how each image was looked at, a name of `tasks.views.VIEWS` or `tasks.borders.WAYS`.
    """

    part: str
    images: int
    scores: Scores
    remark: str
    views: str = "center"

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "part": self.part,
            "images": self.images,
            "views": self.views,
            **self.scores.to_json(),
            "remark": self.remark,
            "classes": self.scores.per_class(),
        }


@dataclass(frozen=True, slots=True)
class Fusion:
    """Several networks on the same images.

    Attributes:
        alone: each network's own score, by where it is.
        together: the score of the mean of their probabilities; None of several that label pixels.
    """

    alone: dict[str, Evaluation]
    together: Evaluation | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`: that of the fusion, and of each network what differs."""
        first = next(iter(self.alone.values()))
        same = {"part": first.part, "images": first.images, "views": first.views}
        whole = same if self.together is None else self.together.to_json()
        networks = [
            {"network": name}
            | {k: v for k, v in found.to_json().items() if k not in whole or k not in SHARED}
            for name, found in self.alone.items()
        ]
        return whole | {"networks": networks}


@dataclass(frozen=True, slots=True)
class Borders:
    """Networks that label pixels, each looking at the same images in all ways.

    Attributes:
        part: `train`, `val`, `test` or `all`.
        images: how many were looked at.
        of: how many the part has.
        looks: by where a network is, a row for each way.
        remark: what must be known beside it, or nothing.
    """

    part: str
    images: int
    of: int
    looks: dict[str, list[Look]]
    remark: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        networks = [
            {"network": run, "ways": [one.to_json() for one in found]} for run, found in self.looks.items()
        ]
        told = {"part": self.part, "images": self.images, "of": self.of, "remark": self.remark}
        return told | {"networks": networks}


def evaluate(
    run: str | Path,
    source: str | Path,
    *,
    split: str | None = None,
    views: str = "center",
    crf: bool = False,
    data_dir: str | Path | None = None,
    device: str = "cpu",
    workers: int = 0,
) -> Evaluation:
    """Score a run's best network, or an artefact, on one part of a data set.

    On the data that it was trained on, the parts are the run's own; other data of one level are scored whole.

    Args:
        run: a run directory or an artefact.
        source: a folder of images or a built-in name.
        split: `train`, `val`, `test` or `all`; by default the first there is of test, all, val, train.
        views: how each image is looked at, a name of `tasks.views.VIEWS`.
        crf: whether labels of pixels are made to follow the picture's colours.
        data_dir: where built-in sets are; by default where the run found them, else `data`.

    Raises:
        Misuse: there is no such part, data or views.
        Failure: the network's classes and the data's do not fit, or an image cannot be read.
    """
    how: dict[str, Any] = {"views": views, "crf": crf, "workers": workers}
    found = fuse([run], source, split=split, data_dir=data_dir, device=device, **how)
    return next(iter(found.alone.values()))


def fuse(
    runs: Sequence[str | Path],
    source: str | Path,
    *,
    split: str | None = None,
    views: str = "center",
    crf: bool = False,
    data_dir: str | Path | None = None,
    device: str = "cpu",
    workers: int = 0,
) -> Fusion:
    """Score several networks on the same images: each by itself, and classifiers by their mean too.

    Each has its own preprocessing and image size; the classes must be the same, of classifiers in any order.

    Args:
        runs: run directories or artefacts. The others are as for `evaluate`.

    Raises:
        Misuse: as `evaluate`, or the networks know other classes.
        Failure: as `evaluate`, or two runs have split the same data differently.
    """
    found = opened(runs, source, split=split, data_dir=data_dir, device=device)
    if found.segmenters:
        scored = _of_pixels(found, views, crf, workers)
        return Fusion(scored, next(iter(scored.values())) if len(scored) == 1 else None)
    if crf:
        raise Misuse(f"--crf is of masks, and {runs[0]} classifies images")
    return _of_images(found, views, workers)


def borders(
    runs: Sequence[str | Path],
    source: str | Path,
    *,
    split: str | None = None,
    most: int = MOST,
    data_dir: str | Path | None = None,
    device: str = "cpu",
) -> Borders:
    """Let networks that label pixels look at the same images in all of `tasks.borders.WAYS`.

    Args:
        most: of a part with more images than this, so many that are evenly spread. The others are as for
            `evaluate`.

    Raises:
        Misuse: as `fuse`, or a network classifies whole images.
        Failure: as `fuse`.
    """
    found = opened(runs, source, split=split, data_dir=data_dir, device=device)
    if not found.segmenters:
        raise Misuse(f"--borders is of masks, and {runs[0]} classifies images")
    part = found.data.parts[found.part]
    chosen = spread(len(part), most)
    rows = {}
    for run, network in found.segmenters.items():
        rows[run] = looks(network.classes, looked(network, part, chosen))
        network.model.cpu()  # a device holds one at a time
    return Borders(found.part, len(chosen), len(part), rows, found.remarks())


def _of_pixels(found: Opened, views: str, crf: bool, workers: int) -> dict[str, Evaluation]:
    """The scores of networks that label pixels."""
    part, scored = found.data.parts[found.part], {}
    for run, network in found.segmenters.items():
        to = network.card.preprocessing
        task = Segment(found.data.classes, windows=windows_of(views, crf))
        feed = batches(part, to, 1, workers=workers)
        scores = task.score(observed(task, network.model, feed, to, network.device))
        network.model.cpu()
        remark = found.origins[run].remark(found.part)
        scored[run] = Evaluation(found.part, len(part), scores, remark, way(views, crf))
    return scored


def _of_images(found: Opened, views: str, workers: int) -> Fusion:
    """The scores of classifiers and of the mean of their probabilities."""
    networks, name = found.classifiers, found.part
    classes = _classes(networks)
    part = _relabelled(found.data.parts[name], list(found.data.classes), classes, found.data.source)
    task, labels = Classify(classes), torch.tensor(part.labels)
    alone, predicted = {}, []
    for run, network in networks.items():
        logits = _logits(network, part, views, workers)
        network.model.cpu()
        logits = logits[:, [network.classes.index(c) for c in classes]]
        predicted.append(logits.log_softmax(1))
        scores = task.score([(logits, labels)])
        alone[run] = Evaluation(name, len(part), scores, found.origins[run].remark(name), views)
    if len(alone) == 1:
        return Fusion(alone, next(iter(alone.values())))
    scores = task.score([(fused(predicted), labels)])
    return Fusion(alone, Evaluation(name, len(part), scores, found.remarks(), views))


def _classes(networks: Mapping[str, Classifier]) -> list[str]:
    """The first network's classes, which the others must know too."""
    (first, network), *others = networks.items()
    for run, other in others:
        if strange := sorted(set(network.classes) ^ set(other.classes)):
            raise Misuse(f"{run} and {first} do not know the same classes: only one has {strange[0]!r}")
    return network.classes


def _logits(classifier: Classifier, part: Part, views: str, workers: int) -> Tensor:
    """Of every image of the part, in order; log-probabilities where several views are averaged."""
    if views != "center":
        return torch.cat([found.cpu() for found, _ in Viewer(classifier, views).outputs(part, workers)])
    to = classifier.card.preprocessing
    feed = batches(part, to, 32 if workers else 256, workers=workers)
    found = outputs(classifier.model, feed, to, classifier.device)
    return torch.cat([logits.float().cpu() for logits, _ in found])


def _relabelled(part: Part, theirs: list[str], ours: list[str], source: str) -> Part:
    """The part with labels that mean the network's classes; the folder may lack some, and order differs."""
    strange = sorted({theirs[label] for label in part.labels} - set(ours))
    if strange:
        raise Failure(
            f"{source} has images of {strange[0]!r}, which the network does not know: {', '.join(ours)}"
        )
    return Part(part.keys, [ours.index(theirs[label]) for label in part.labels], part.root, part.pixels)
