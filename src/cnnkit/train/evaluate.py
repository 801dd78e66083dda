"""Scoring a trained network on a data set, honestly about what the data were used for before."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnkit import data as datasets
from cnnkit.data.batches import batches
from cnnkit.data.sets import Part
from cnnkit.errors import Failure, Misuse
from cnnkit.tasks.classify import Classify, Scores, load, outputs
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
    """

    part: str
    images: int
    scores: Scores
    remark: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "part": self.part,
            "images": self.images,
            **self.scores.to_json(),
            "remark": self.remark,
            "classes": self.scores.per_class(),
        }


def evaluate(
    run: str | Path,
    source: str | Path,
    *,
    split: str | None = None,
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
        data_dir: where built-in sets are; by default where the run found them, else `data`.

    Raises:
        Misuse: there is no such part or data.
        Failure: the network's classes and the data's do not fit, or an image cannot be read.
    """
    classifier = load(run, device)
    path = artefact_of(Path(run))
    directory = Directory(path.parent)
    config = directory.config if (path.parent / "config.toml").is_file() else None
    found = str(Path(source).resolve()) if Path(source).is_dir() else str(source)
    own = config is not None and config["data"]["source"] == found
    folder = Path(data_dir or (config["data"]["data_dir"] if own and config else "data"))
    left_out = config["data"]["left_out"] if own and config else ()
    data = datasets.open(source, data_dir=folder, without=left_out)
    if own:
        data = data.split(directory.split)
    parts = data.parts
    name = split or next(part for part in ("test", "all", "val", "train") if part in parts)
    if name not in parts:
        raise Misuse(f"{source} has no part {name!r}, only {', '.join(parts)}")
    part = _relabelled(parts[name], list(data.classes), classifier.classes, str(source))
    to = classifier.card.preprocessing
    feed = batches(part, to, 32 if workers else 256, workers=workers)
    scores = Classify(classifier.classes).score(outputs(classifier.model, feed, to, device))
    return Evaluation(name, len(part), scores, _remark(name, own, config is not None))


def _relabelled(part: Part, theirs: list[str], ours: list[str], source: str) -> Part:
    """The part with labels that mean the network's classes; the folder may lack some, and order differs."""
    strange = sorted({theirs[label] for label in part.labels} - set(ours))
    if strange:
        raise Failure(
            f"{source} has images of {strange[0]!r}, which the network does not know: {', '.join(ours)}"
        )
    return Part(part.keys, [ours.index(theirs[label]) for label in part.labels], part.root, part.pixels)


def _remark(part: str, own: bool, known: bool) -> str:
    if part == "val" and own:
        return "this part chose the checkpoint, so the score flatters it"
    if part == "train" and own:
        return "the network was trained on these images"
    if not known and not own:
        return "what these images were used for in training is not known here: the run's folder was not given"
    return ""
