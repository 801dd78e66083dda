"""Trained networks and the data they are scored on, split as their runs have split them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnkit import data as datasets
from cnnkit.data import DataSet
from cnnkit.errors import Failure, Misuse
from cnnkit.tasks import Classifier, Segmenter, load
from cnnkit.train.directory import Directory
from cnnkit.weights.sources import artefact_of


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a network comes from.

    Attributes:
        directory: its run, or None where only the artefact is there.
        own: whether it was trained on these data.
    """

    directory: Directory | None
    own: bool

    @classmethod
    def of(cls, run: str | Path, source: str | Path) -> "Origin":
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


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """Networks of one task, by where they are, and the data they are scored on.

    Attributes:
        part: the name of the part.
    """

    networks: Mapping[str, Classifier | Segmenter]
    origins: Mapping[str, Origin]
    data: DataSet
    part: str

    @property
    def segmenters(self) -> dict[str, Segmenter]:
        """Those that label pixels: all or none."""
        return {run: network for run, network in self.networks.items() if isinstance(network, Segmenter)}

    @property
    def classifiers(self) -> dict[str, Classifier]:
        """Those that classify images: all or none."""
        return {run: network for run, network in self.networks.items() if isinstance(network, Classifier)}

    def remarks(self) -> str:
        """What must be said beside the scores: once where it is the same of all networks."""
        said = {run: origin.remark(self.part) for run, origin in self.origins.items()}
        if len(set(said.values())) == 1:
            return next(iter(said.values()))
        return "; ".join(f"{run}: {remark}" for run, remark in said.items() if remark)


def opened(
    runs: Sequence[str | Path],
    source: str | Path,
    *,
    split: str | None = None,
    data_dir: str | Path | None = None,
    device: str = "cpu",
) -> Opened:
    """Networks and data by where they are; the arguments are those of `evaluate.evaluate`.

    Raises:
        Misuse: there is no such part or data, a network is named twice, or is not for these data.
        Failure: two runs have split the same data differently, or masks have other classes than the network.
    """
    if len(set(map(str, runs))) < len(runs):
        raise Misuse("a network is named twice; beside itself it says nothing new")
    networks = {str(run): load(run, device) for run in runs}
    origins = {run: Origin.of(run, source) for run in networks}
    data = _data(list(origins.values()), source, data_dir, next(iter(networks.values())))
    part = split or next(name for name in ("test", "all", "val", "train") if name in data.parts)
    if part not in data.parts:
        raise Misuse(f"{source} has no part {part!r}, only {', '.join(data.parts)}")
    for run, network in networks.items():
        if network.card.task != data.task:
            raise Misuse(f"{run} is a network to {network.card.task}, and {source} is {data.layout}")
        if isinstance(network, Segmenter) and list(data.classes) != list(network.classes):
            raise Failure(
                f"{data.source} has the classes {', '.join(data.classes)}, and {run} knows "
                f"{', '.join(network.classes)}; put a classes.txt beside the masks that names them alike"
            )
    return Opened(networks, origins, data, part)


def _data(
    origins: Sequence[Origin],
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
