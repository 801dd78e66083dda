"""How a network is trained: every setting, with its meaning, its default and its flag, in one place.

Reading this file needs neither torch nor pydantic, so that `cnnkit train --help` answers at once; pydantic
validates a recipe when one is made from a file or from flags.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cnnkit.errors import Misuse
from cnnkit.registry import unknown


def _setting(default: Any, help: str, **bounds: float) -> Any:
    """A field with the text of its flag and, for numbers, its bounds (`ge`, `gt`, `le`, `lt`)."""
    return field(default=default, metadata={"help": help, "bounds": bounds})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides how a run goes, apart from the data. None: chosen from the network and the data."""

    model: str | None = _setting(None, "Network, a name of `cnnkit models`.")
    weights: str | None = _setting(
        None, "Start from these: a file, a run's folder, torchvision, timm:TAG. [random ones]"
    )
    freeze: str | None = _setting(
        None, "What stays of --weights: features (all but the head), or a number of stages. [nothing]"
    )
    backbone_factor: float | None = _setting(
        None, "Share of the learning rate at which carried-over weights learn. [0.1]", gt=0, le=1
    )
    epochs: int = _setting(20, "Passes over the training part.", ge=1)
    batch_size: int | None = _setting(None, "Images a step. [from the data: 16 to 128]", ge=1)
    optimizer: Literal["adamw", "sgd"] = _setting("adamw", "Step rule; sgd has Nesterov momentum 0.9.")
    lr: float | None = _setting(None, "Highest learning rate. [0.003 for adamw, 0.1 for sgd]", gt=0)
    weight_decay: float | None = _setting(
        None, "Decay of weights; biases and norms are exempt. [0.05 for adamw, 0.0005 for sgd]", ge=0
    )
    schedule: Literal["one_cycle", "cosine", "constant"] = _setting(
        "one_cycle", "Learning rate over the run: up and down, down only, or level."
    )
    label_smoothing: float = _setting(0.0, "Share of the target spread over all classes.", ge=0, lt=1)
    loss: Literal["cross_entropy", "squared_error"] = _setting("cross_entropy", "What is minimised.")
    augment: tuple[Literal["shift", "flip", "crop"], ...] | None = _setting(
        None, "Random changes to training images. [shift for small grey images, and flip for colour; crop "
        "and flip for photos]"
    )  # fmt: skip
    image_size: int | None = _setting(
        None, "Side of the network's input in pixels. [from both]", ge=1, le=4096
    )
    fit: Literal["crop", "squash", "pad"] | None = _setting(
        None, "How an image of another shape gets there. [pad where it is a little smaller, else crop]"
    )
    seed: int = _setting(0, "Seed of weights, order and augmentation.", ge=0)
    precision: Literal["32", "bf16", "16"] = _setting(
        "32", "Arithmetic: float32, or mixed with a 16-bit type."
    )
    device: str = _setting("auto", "auto, cpu, cuda, cuda:1 or mps.")
    workers: int | None = _setting(None, "Processes that decode photos. [one a core, at most 8]", ge=0)
    threads: int | None = _setting(
        None, "Threads of arithmetic. [1 for the smallest networks, else as torch chooses]", ge=1
    )

    def to_dict(self) -> dict[str, Any]:
        """All settings that have a value."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


def make(values: Mapping[str, Any], where: str) -> Recipe:
    """A validated recipe.

    Args:
        values: settings by name.
        where: where they come from, for the error's sentence.

    Raises:
        Misuse: a name is not known, or a value is not allowed.
    """
    known = {f.name: f for f in dataclasses.fields(Recipe)}
    for name in values:
        if name not in known:
            raise Misuse(f"{where}: {unknown(name, known, 'setting')}")
    from pydantic import TypeAdapter, ValidationError

    try:
        recipe = TypeAdapter(Recipe).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise Misuse(f"{where}: {first['loc'][0]} = {first['input']!r}: {first['msg']}") from None
    for name, setting in known.items():
        value = getattr(recipe, name)
        for bound, limit in setting.metadata["bounds"].items():
            if value is not None and not _HOLDS[bound](value, limit):
                raise Misuse(f"{where}: {name} must be {_WORDS[bound]} {limit:g}, got {value!r}")
    return recipe


_HOLDS: dict[str, Any] = {
    "ge": lambda value, limit: value >= limit,
    "gt": lambda value, limit: value > limit,
    "le": lambda value, limit: value <= limit,
    "lt": lambda value, limit: value < limit,
}
_WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def read(path: Path) -> dict[str, Any]:
    """The settings of a TOML file, not validated yet.

    Raises:
        Misuse: there is no such file, or it is no TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError:
        raise Misuse(f"there is no recipe file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misuse(f"{path} is not valid TOML: {error}") from None
