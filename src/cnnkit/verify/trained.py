"""Rungs 4 and 5: trained weights from elsewhere on real pictures, and what training here has reached.

The first runs where its weights and pictures are; the second is a record (`trained.toml`), since a training
takes too long to be a check, and names the command that repeats it.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cnnkit.data.pictures import fit, to_tensor
from cnnkit.registry import Spec
from cnnkit.verify.finding import Finding
from cnnkit.weights.deep_compression import load_deep_compression

#: Trained weights under the folder that CNNKIT_REALDATA names, by the network that they belong to.
WEIGHTS = {"squeezenet1_0": "squeezenet_deep_compression/compressed_SqueezeNet.net"}
#: scikit-image's pictures and their ImageNet classes.
PICTURES = {"chelsea": (285, "Egyptian cat"), "coffee": (967, "espresso")}


def real_pictures(spec: Spec) -> Finding:
    """Published trained weights against pictures with known names, each among the first two answers."""

    def not_run(why: str) -> Finding:
        return Finding(spec.name, 4, "real pictures", "not run", "ours", why)

    if spec.name not in WEIGHTS:
        return not_run("no trained weights of it are at hand")
    folder = os.environ.get("CNNKIT_REALDATA")
    if not folder or not (path := Path(folder) / WEIGHTS[spec.name]).is_file():
        return not_run(f"CNNKIT_REALDATA names no folder with {WEIGHTS[spec.name]}")
    try:
        pictures = import_module("skimage.data")
    except ModuleNotFoundError as missing:
        return not_run(f"scikit-image is not installed ({missing.name})")
    stored = load_deep_compression(path)
    network = spec.build(**stored.arguments).eval()
    network.load_state_dict(stored.weights)
    told, missed = [], 0
    for picture, (label, name) in PICTURES.items():
        image = Image.fromarray(getattr(pictures, picture)())
        pixels = to_tensor(fit(image, stored.preprocessing), stored.preprocessing)[None]
        with torch.no_grad():
            probabilities = network(stored.preprocessing.normalise(pixels)).softmax(1)[0]
        place = int((probabilities > probabilities[label]).sum()) + 1
        missed += place > 2
        told.append(f"{picture}.png is {name} at place {place} ({float(probabilities[label]):.0%})")
    told += [f"built with {name}={value}" for name, value in stored.arguments.items()]
    by = f"the weights of songhan/SqueezeNet-Deep-Compression, scikit-image {version('scikit-image')}"
    return Finding(spec.name, 4, "real pictures", "failed" if missed else "passed", by, "; ".join(told))


@dataclass(frozen=True, slots=True)
class Trained:
    """An accuracy that was reached here.

    Attributes:
        network: registry name.
        data: the set whose test part the accuracy is of.
        accuracy: mean over the seeds, as a share.
        deviation: standard deviation over the seeds.
        seeds: the seeds.
        command: what reaches it.
        hardware: what it ran on, in words.
    """

    network: str
    data: str
    accuracy: float
    deviation: float
    seeds: tuple[int, ...]
    command: str
    hardware: str

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Trained":
        """A row of `trained.toml`.

        Raises:
            ValueError: it lacks a field, or has a field that is not known, or a figure is out of range.
        """
        if set(row) != set(cls.__slots__):
            fields = ", ".join(cls.__slots__)
            raise ValueError(f"a row of trained.toml has {fields}; got {', '.join(row)}")
        record = cls(**{**row, "seeds": tuple(row["seeds"])})
        if not (0 <= record.accuracy <= 1 and record.deviation >= 0 and record.seeds):
            raise ValueError(
                f"trained.toml: {record.network} needs an accuracy from 0 to 1, a deviation from 0 on and "
                f"seeds, got {record.accuracy}, {record.deviation} and {list(record.seeds)}"
            )
        return record

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy:.2%} ± {self.deviation:.2%} on {self.data}, mean and deviation of "
            f"{len(self.seeds)} seeds, recorded on {self.hardware}: {self.command}"
        )


@cache
def records() -> list[Trained]:
    """All that has been reached here."""
    rows = tomllib.loads(files(__package__).joinpath("trained.toml").read_text("utf-8"))
    return [Trained.from_dict(row) for row in rows.get("trained", [])]


def trained_here(spec: Spec) -> Finding:
    """The accuracies that are on record."""
    found = [record for record in records() if record.network == spec.name]
    if not found:
        return Finding(spec.name, 5, "trained here", "not run", "ours", "no training of it is on record")
    by = f"the test part of {', '.join(record.data for record in found)}"
    return Finding(spec.name, 5, "trained here", "passed", by, "; ".join(map(str, found)))
