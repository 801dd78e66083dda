"""Scoring trained networks on a data set, honestly about what the data were used for before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnkit import data as datasets
from cnnkit.data import DataSet
from cnnkit.data.batches import batches
from cnnkit.data.sets import Part
from cnnkit.errors import Failure, Misuse
from cnnkit.tasks import load
from cnnkit.tasks.classify import Classifier, Classify, outputs
from cnnkit.tasks.segment import Segment, windows_of
from cnnkit.tasks.segmenter import Segmenter
from cnnkit.tasks.task import Scores, observed
from cnnkit.tasks.views import Viewer, fused
from cnnkit.train.directory import Directory
from cnnkit.weights.sources import artefact_of


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A score and what it was measured on.

    Attributes:
        part: `train`, `val`, `test` or `all`.
        images: how many.
        scores: the result.
        remark: what must be known beside it, or nothing.
        views: how each image was looked at, a name of `tasks.views.VIEWS`.
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
        together: the score of the mean of their probabilities.
    """

    alone: dict[str, Evaluation]
    together: Evaluation

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`: that of the fusion, and of each network what differs."""
        same = ("part", "images", "views", "classes")
        networks = [
            {"network": name} | {k: v for k, v in found.to_json().items() if k not in same}
            for name, found in self.alone.items()
        ]
        return self.together.to_json() | {"networks": networks}


def evaluate(
    run: str | Path,
    source: str | Path,
    *,
    split: str | None = None,
    views: str = "center",
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
        data_dir: where built-in sets are; by default where the run found them, else `data`.

    Raises:
        Misuse: there is no such part, data or views.
        Failure: the network's classes and the data's do not fit, or an image cannot be read.
    """
    return fuse(
        [run], source, split=split, views=views, data_dir=data_dir, device=device, workers=workers
    ).together


def fuse(
    runs: Sequence[str | Path],
    source: str | Path,
    *,
    split: str | None = None,
    views: str = "center",
    data_dir: str | Path | None = None,
    device: str = "cpu",
    workers: int = 0,
) -> Fusion:
    """Score several networks on the same images, each by itself and the mean of their probabilities.

    Each has its own preprocessing and image size; the classes must be the same, in any order.

    Args:
        runs: run directories or artefacts. The others are as for `evaluate`.

    Raises:
        Misuse: as `evaluate`, or the networks know other classes.
        Failure: as `evaluate`, or two runs have split the same data differently.
    """
    if len(set(map(str, runs))) < len(runs):
        raise Misuse("a network is named twice; fusing it with itself changes nothing")
    loaded = {str(run): load(run, device) for run in runs}
    networks = {run: network for run, network in loaded.items() if isinstance(network, Classifier)}
    origins = {run: _Origin.of(run, source) for run in loaded}
    data = _opened(list(origins.values()), source, data_dir, next(iter(loaded.values())))
    parts = data.parts
    name = split or next(part for part in ("test", "all", "val", "train") if part in parts)
    if name not in parts:
        raise Misuse(f"{source} has no part {name!r}, only {', '.join(parts)}")
    for run, network in loaded.items():
        if network.card.task != data.task:
            raise Misuse(f"{run} is a network to {network.card.task}, and {source} is {data.layout}")
        if isinstance(network, Segmenter):
            if len(loaded) > 1:
                raise Misuse(f"{run} labels pixels, and only classifiers can be fused; evaluate it alone")
            found = _of_pixels(network, data, name, origins[run], views, workers)
            return Fusion({run: found}, found)
    classes = _classes(networks)
    part = _relabelled(parts[name], list(data.classes), classes, str(source))
    task, labels = Classify(classes), torch.tensor(part.labels)
    alone, predicted = {}, []
    for run, network in networks.items():
        logits = _logits(network, part, views, workers)
        network.model.cpu()  # a device holds one at a time
        logits = logits[:, [network.classes.index(c) for c in classes]]
        predicted.append(logits.log_softmax(1))
        scores = task.score([(logits, labels)])
        alone[run] = Evaluation(name, len(part), scores, origins[run].remark(name), views)
    if len(alone) == 1:
        return Fusion(alone, next(iter(alone.values())))
    remarks = {found.remark for found in alone.values()}
    if len(remarks) > 1:
        remarks = {"; ".join(f"{run}: {found.remark}" for run, found in alone.items() if found.remark)}
    scores = task.score([(fused(predicted), labels)])
    return Fusion(alone, Evaluation(name, len(part), scores, remarks.pop(), views))


def _of_pixels(
    network: Segmenter, data: DataSet, name: str, origin: "_Origin", views: str, workers: int
) -> Evaluation:
    """The score of a network that labels pixels."""
    if list(data.classes) != list(network.classes):
        raise Failure(
            f"{data.source} has the classes {', '.join(data.classes)}, and the network knows "
            f"{', '.join(network.classes)}; put a classes.txt beside the masks that names them alike"
        )
    part, to = data.parts[name], network.card.preprocessing
    task = Segment(data.classes, windows=windows_of(views))
    feed = batches(part, to, 1, workers=workers)
    scores = task.score(observed(task, network.model, feed, to, network.device))
    return Evaluation(name, len(part), scores, origin.remark(name), views)


def _classes(networks: Mapping[str, Classifier]) -> list[str]:
    """The first network's classes, which the others must know too."""
    (first, network), *others = networks.items()
    for run, other in others:
        if strange := sorted(set(network.classes) ^ set(other.classes)):
            raise Misuse(f"{run} and {first} do not know the same classes: only one has {strange[0]!r}")
    return network.classes


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a network comes from.

    Attributes:
        directory: its run, or None where only the artefact is there.
        own: whether it was trained on these data.
    """

    directory: Directory | None
    own: bool

    @classmethod
    def of(cls, run: str | Path, source: str | Path) -> "_Origin":
        folder = artefact_of(Path(run)).parent
        directory = Directory(folder) if (folder / "config.toml").is_file() else None
        found = str(Path(source).resolve()) if Path(source).is_dir() else str(source)
        return cls(directory, directory is not None and directory.config["data"]["source"] == found)

    def remark(self, part: str) -> str:
        """What must be said beside a score on a part."""
        if part == "val" and self.own:
            return "this part chose the checkpoint, so the score flatters it"
        if part == "train" and self.own:
            return "the network was trained on these images"
        if self.directory is None:
            return "what these images were used for in training is not known without the run's folder"
        return ""


def _opened(
    origins: Sequence[_Origin],
    source: str | Path,
    data_dir: str | Path | None,
    network: Classifier | Segmenter,
) -> DataSet:
    """The data; split as the runs did that were trained on them, if any. Masks are read as in training."""
    masks: dict[str, Any] = {name: network.card.recipe.get(name) for name in ("classes", "ignore")}
    own = [o.directory for o in origins if o.own and o.directory is not None]
    if not own:
        return datasets.open(source, data_dir=Path(data_dir or "data"), **masks)
    where, split = own[0].config["data"], own[0].split
    for other in own[1:]:
        if (other.split, other.config["data"]["left_out"]) != (split, where["left_out"]):
            raise Failure(
                f"{own[0].path} and {other.path} have set other images of {source} aside, so one may have "
                f"learnt what the other is tested on; score them on data of their own"
            )
    return datasets.open(
        source,
        data_dir=Path(data_dir or where["data_dir"]),
        without=where["left_out"],
        share=own[0].config["recipe"].get("share"),
        **masks,
    ).split(split)


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
