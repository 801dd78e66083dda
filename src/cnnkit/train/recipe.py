"""How a network is trained: every setting, with its meaning, its default and its flag, in one place.

Reading this file needs neither torch nor pydantic, so that `cnnkit train --help` answers at once; pydantic
validates a recipe when one is made from a file or from flags.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cnnkit import parts
from cnnkit.data.augment import AUGMENTATIONS, Augmentation
from cnnkit.errors import Misuse
from cnnkit.parts import setting
from cnnkit.registry import unknown
from cnnkit.tasks.losses import LOSSES, CrossEntropy, Loss
from cnnkit.train.mixes import MIXES, Mix
from cnnkit.train.optimizers import OPTIMIZERS, Adamw, StepRule
from cnnkit.train.regularisers import REGULARISERS, Regulariser
from cnnkit.train.schedules import SCHEDULES, OneCycle, Schedule
from cnnkit.train.starts import STARTS, Start
from cnnkit.train.unfreezing import UNFREEZINGS, Unfreezing
from cnnkit.weights.preprocessing import Fit, Normalisation

Precision = Literal["auto", "32", "bf16", "16"]
Layout = Literal["auto", "channels_first", "channels_last"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides how a run goes. None: chosen from the network and the data.

    A field with `choices` is a part, chosen by name; with `many`, a list of them.
    """

    data: str | None = setting(None, "What to train on, where it is not named on the command line.")
    model: str | None = setting(None, "Network, a name of `cnnkit models`.")
    arguments: dict[str, Any] | None = setting(
        None, "What else the network is built with, like `--set arguments.width=0.5`."
    )
    weights: str | None = setting(
        None, "Start from these: a file, a run's folder, torchvision, timm:TAG. [random ones]"
    )
    backbone_weights: str | None = setting(
        None, "Start the first layers of a segmentation network from those of a classifier: as --weights."
    )
    freeze: str | None = setting(
        None, "What stays of --weights: features (all but the head), or a number of stages. [nothing]"
    )
    backbone_factor: float | None = setting(
        None, "Share of the learning rate at which carried-over weights learn. [0.1]", gt=0, le=1
    )
    stage_factor: float | None = setting(
        None, "Share of it that each stage has of the one behind it (ULMFiT: 1 / 2.6). [1]", gt=0, le=1
    )
    unfreeze: Unfreezing | None = setting(
        None, "When carried-over weights begin to learn. [at once]", choices=UNFREEZINGS
    )
    head: Literal["new", "mapped"] = setting(
        "new", "How a new head on --weights starts: at random, or as the old classes that respond alike."
    )
    cached_features: int | None = setting(
        None, "Views of each image that go through the frozen part, once; 1 is without augmentation. [not]",
        ge=1,
    )  # fmt: skip
    init: tuple[Start, ...] = setting(
        (), "Where random weights start. [as the paper]", choices=STARTS, many=True
    )
    activation: Literal["relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "silu"] | None = setting(
        None, "Non-linearity in the place of all the network has. [its own]"
    )
    epochs: int = setting(20, "Passes over the training part.", ge=1)
    batch_size: int | None = setting(None, "Images a step. [from the data: 16 to 128]", ge=1)
    find: tuple[Literal["lr", "batch_size"], ...] = setting(
        (), "What is found by trying before the run: lr, batch_size."
    )
    accumulate: int = setting(1, "Batches that a step takes, one after the other, as if they were one.", ge=1)
    optimizer: StepRule = setting(Adamw(), "Step rule.", choices=OPTIMIZERS)
    schedule: Schedule = setting(OneCycle(), "Learning rate over the run.", choices=SCHEDULES)
    clip: float | None = setting(None, "Longest gradient; longer ones are shortened to it. [any]", gt=0)
    ema: float | None = setting(
        None, "Average the weights over about this share of the run, and use the average. [not]", gt=0, lt=1
    )
    early_stop: int | None = setting(
        None, "Stop after so many epochs without a better network. [never]", ge=1
    )
    loss: tuple[Loss, ...] = setting(
        (CrossEntropy(),), "What is minimised; several are added up.", choices=LOSSES, many=True
    )
    label_smoothing: float = setting(0.0, "Share of the target spread over all classes.", ge=0, lt=1)
    label_noise: float = setting(0.0, "Share of the training labels replaced once, at random.", ge=0, le=1)
    disturb_labels: float = setting(
        0.0, "Share of the labels replaced in each batch (1605.00055).", ge=0, le=1
    )
    regularise: tuple[Regulariser, ...] = setting(
        (), "What keeps the network from learning by heart.", choices=REGULARISERS, many=True
    )
    mix: tuple[Mix, ...] = setting(
        (), "Images mixed with each other; of several ways each batch has one.", choices=MIXES, many=True
    )
    augment: tuple[Augmentation, ...] | None = setting(
        None, "Random changes to training images. [shift for small grey images, and flip for colour; crop "
        "and flip for photos]", choices=AUGMENTATIONS, many=True
    )  # fmt: skip
    share: float | None = setting(
        None, "Share of the training images that is used, the same ones in every run. [all]", gt=0, le=1
    )
    mask_share: float | None = setting(
        None, "Share of the training masks whose pixels are learnt; of the other images only which classes "
        "they show, for networks that name these. [all]", gt=0, lt=1
    )  # fmt: skip
    image_size: int | None = setting(
        None, "Side of the network's input in pixels. [from both]", ge=1, le=4096
    )
    fit: Fit | None = setting(
        None, "How an image of another shape gets there. [pad where it is a little smaller, else crop; with "
        "masks window]"
    )  # fmt: skip
    normalise: Normalisation = setting(
        "dataset", "How values are scaled: by the data's mean and deviation, each image by its own, by each "
        "place's surroundings, or whitened."
    )  # fmt: skip
    classes: tuple[str, ...] | None = setting(
        None, "Classes of masks: names by index, or name=value, or name=#rrggbb. [a file beside them, or the "
        "values there are]"
    )  # fmt: skip
    ignore: tuple[str, ...] | None = setting(
        None, "Classes or values of masks that count nowhere. [255 where it is no class]"
    )
    seed: int = setting(0, "Seed of weights, order and augmentation.", ge=0)
    precision: Precision = setting("auto", "Arithmetic: float32, or mixed with a 16-bit type; auto measures.")
    layout: Layout = setting("auto", "Order of the pixels in memory; auto measures.")
    threads: int | None = setting(None, "Threads of arithmetic. [measured]", ge=1)
    compile: bool = setting(False, "Compile the network first; pays after some hundred steps.")
    device: str = setting("auto", "auto, cpu, cuda, cuda:1 or mps.")
    workers: int | None = setting(None, "Processes that decode photos. [one a core, at most 8]", ge=0)
    distribute: Literal["auto", "ddp", "fsdp"] = setting(
        "auto", "Under torchrun, what a process holds: the network (ddp), or a part of it (fsdp)."
    )
    sync_batch_norm: bool = setting(
        False, "Under torchrun, batch norm over the whole batch and not over a process's part of it."
    )
    cache: str | None = setting(None, "Folder to keep decoded photos in, for later epochs and runs. [none]")

    def to_dict(self) -> dict[str, Any]:
        """All settings that have a value, in plain types."""
        found = {}
        for name in (f.name for f in dataclasses.fields(self)):
            if (value := getattr(self, name)) is not None:
                found[name] = _plain(value)
        return found


#: Settings of parts that have a flag of their own.
SHORT = {"lr": "optimizer.lr", "weight_decay": "optimizer.weight_decay"}


def _plain(value: Any) -> Any:
    if isinstance(value, parts.Part):
        return value.plain()
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def make(values: Mapping[str, Any], where: str) -> Recipe:
    """A validated recipe.

    Args:
        values: settings by name; parts as names, tables or parts; single settings of a part by a dotted name,
            like `optimizer.lr`, or by their short one.
        where: where they come from, for the error's sentence.

    Raises:
        Misuse: a name is not known, a value is not allowed, or two contradict each other.
    """
    known = {f.name: f.metadata for f in dataclasses.fields(Recipe)}
    whole: dict[str, Any] = {}
    for name, value in merged({}, values).items():
        if name not in known:
            raise Misuse(f"{where}: {unknown(name, [*known, *SHORT], 'setting')}")
        choices = known[name].get("choices")
        if choices is None:
            whole[name] = value
        elif known[name].get("many"):
            whole[name] = tuple(parts.choose(choices, one, f"{where}: {name}") for one in _listed(value))
        else:
            table = value
            if isinstance(value, Mapping) and "name" not in value:  # settings of the part there is by default
                default = next(f.default for f in dataclasses.fields(Recipe) if f.name == name)
                if default is None:
                    raise Misuse(f"{where}: {name} needs a name besides {', '.join(value)}")
                table = {"name": default.name, **value}
            whole[name] = parts.choose(choices, table, f"{where}: {name}")
    recipe = parts.make(Recipe, whole, where)
    _agree(recipe, where)
    return recipe


def _agree(recipe: Recipe, where: str) -> None:
    """Refuse settings that contradict each other."""
    if recipe.label_smoothing and all(loss.name != "cross_entropy" for loss in recipe.loss):
        given = ", ".join(loss.name for loss in recipe.loss)
        raise Misuse(f"{where}: label_smoothing is for the cross_entropy loss, not for {given}")
    if not recipe.loss:
        raise Misuse(f"{where}: loss names nothing to minimise; give cross_entropy")
    for field in ("loss", "regularise", "mix", "init"):
        names = [part.name for part in getattr(recipe, field)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise Misuse(f"{where}: {field} has {twice[0]} twice")
    if recipe.mix and any(loss.name == "focal" for loss in recipe.loss):
        raise Misuse(f"{where}: focal takes classes, and mix makes shares of them; leave one of them")
    if recipe.cached_features is not None:
        _agree_on_features(recipe, where)
    if recipe.compile and any(part.name == "dropblock" for part in recipe.regularise):
        raise Misuse(f"{where}: dropblock changes with each step and cannot be compiled; leave one of them")


def _agree_on_features(recipe: Recipe, where: str) -> None:
    """Refuse what has no sense where features are stored and the images are gone."""
    if recipe.freeze is None:
        raise Misuse(f'{where}: cached_features are those of a frozen network; add freeze = "features"')
    if recipe.unfreeze is not None:
        raise Misuse(f"{where}: unfreeze wakes what cached_features ran once; leave one of them")
    if recipe.mix:
        raise Misuse(f"{where}: mix works on images, and cached_features keeps none; leave one of them")
    if recipe.cached_features == 1 and recipe.augment:
        raise Misuse(f"{where}: cached_features = 1 has no augmentation; raise it or leave out augment")


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes laid over them; later ones win.

    A part that is named anew starts from its defaults; `part.setting` changes one value of the part there is.
    """
    found: dict[str, Any] = {}
    for name, value in [*_parts_first(settings), *_parts_first(changes)]:
        outer, _, inner = SHORT.get(name, name).partition(".")
        before = found.get(outer, _listed_by_default(outer))
        if not inner:
            same = _name_of(value) is not None and _name_of(value) == _name_of(before)
            found[outer] = before if same and isinstance(value, str) else value
        elif isinstance(before, list | tuple):
            found[outer] = [_changed(one, inner, value) for one in before]
        else:
            found[outer] = {**_table(before), inner: value}
    return found


def _listed_by_default(name: str) -> tuple[parts.Part, ...] | None:
    """The parts that a list has unasked, if any."""
    default = getattr(Recipe, name, None)
    return default if isinstance(default, tuple) and default else None


def _parts_first(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(settings.items(), key=lambda item: "." in SHORT.get(item[0], item[0]))


def _changed(item: Any, inner: str, value: Any) -> Any:
    """An item of a list of parts with one setting changed, where `inner` is `itsname.setting`."""
    which, _, setting_name = inner.partition(".")
    return {**_table(item), setting_name: value} if which == _name_of(item) else item


def _name_of(value: Any) -> str | None:
    if isinstance(value, parts.Part):
        return value.name
    return value.get("name") if isinstance(value, Mapping) else value if isinstance(value, str) else None


def _table(value: Any) -> dict[str, Any]:
    if isinstance(value, parts.Part):
        return value.plain()
    return {"name": value} if isinstance(value, str) else dict(value or {})


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else [value]


def known_parts() -> dict[str, Mapping[str, type[parts.Part]]]:
    """By setting, the parts that it takes, by name."""
    fields = dataclasses.fields(Recipe)
    return {f.name: f.metadata["choices"] for f in fields if "choices" in f.metadata}


def read(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        Misuse: there is no such file, or it is no TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError:
        raise Misuse(f"there is no recipe file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misuse(f"{path} is not valid TOML: {error}") from None
