"""How a network is trained: every setting, with its meaning, its default and its flag, in one place.

Reading this file needs neither torch nor pydantic, so that `cnnkit train --help` answers at once; pydantic
validates a recipe when one is made from a file or from flags.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from cnnkit import parts
from cnnkit.errors import Misuse
from cnnkit.parts import setting
from cnnkit.registry import unknown
from cnnkit.train.optimizers import OPTIMIZERS, Adamw, StepRule
from cnnkit.train.schedules import SCHEDULES, OneCycle, Schedule

Precision = Literal["auto", "32", "bf16", "16"]
Layout = Literal["auto", "channels_first", "channels_last"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides how a run goes. None: chosen from the network and the data.

    A field with `choices` is a part, chosen by name; with `many`, a list of them.
    """

    data: str | None = setting(None, "What to train on, where it is not named on the command line.")
    model: str | None = setting(None, "Network, a name of `cnnkit models`.")
    weights: str | None = setting(
        None, "Start from these: a file, a run's folder, torchvision, timm:TAG. [random ones]"
    )
    freeze: str | None = setting(
        None, "What stays of --weights: features (all but the head), or a number of stages. [nothing]"
    )
    backbone_factor: float | None = setting(
        None, "Share of the learning rate at which carried-over weights learn. [0.1]", gt=0, le=1
    )
    epochs: int = setting(20, "Passes over the training part.", ge=1)
    batch_size: int | None = setting(None, "Images a step. [from the data: 16 to 128]", ge=1)
    accumulate: int = setting(1, "Batches whose gradients are added up before a step.", ge=1)
    optimizer: StepRule = setting(Adamw(), "Step rule.", choices=OPTIMIZERS)
    schedule: Schedule = setting(OneCycle(), "Learning rate over the run.", choices=SCHEDULES)
    clip: float | None = setting(None, "Longest gradient; longer ones are shortened to it. [any]", gt=0)
    ema: float | None = setting(
        None, "Average the weights over about this share of the run, and use the average. [not]", gt=0, lt=1
    )
    early_stop: int | None = setting(
        None, "Stop after so many epochs without a better network. [never]", ge=1
    )
    loss: Literal["cross_entropy", "squared_error"] = setting("cross_entropy", "What is minimised.")
    label_smoothing: float = setting(0.0, "Share of the target spread over all classes.", ge=0, lt=1)
    augment: tuple[Literal["shift", "flip", "crop"], ...] | None = setting(
        None, "Random changes to training images. [shift for small grey images, and flip for colour; crop "
        "and flip for photos]"
    )  # fmt: skip
    image_size: int | None = setting(
        None, "Side of the network's input in pixels. [from both]", ge=1, le=4096
    )
    fit: Literal["crop", "squash", "pad"] | None = setting(
        None, "How an image of another shape gets there. [pad where it is a little smaller, else crop]"
    )
    seed: int = setting(0, "Seed of weights, order and augmentation.", ge=0)
    precision: Precision = setting("auto", "Arithmetic: float32, or mixed with a 16-bit type; auto measures.")
    layout: Layout = setting("auto", "Order of the pixels in memory; auto measures.")
    threads: int | None = setting(None, "Threads of arithmetic. [measured]", ge=1)
    compile: bool = setting(False, "Compile the network first; pays after some hundred steps.")
    device: str = setting("auto", "auto, cpu, cuda, cuda:1 or mps.")
    workers: int | None = setting(None, "Processes that decode photos. [one a core, at most 8]", ge=0)

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
    if recipe.loss == "squared_error" and recipe.label_smoothing:
        raise Misuse(f"{where}: label_smoothing is for the cross_entropy loss, not for squared_error")


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes laid over them; later ones win.

    A part that is named anew starts from its defaults; `part.setting` changes one value of the part there is.
    """
    found: dict[str, Any] = {}
    for name, value in [*_parts_first(settings), *_parts_first(changes)]:
        outer, _, inner = SHORT.get(name, name).partition(".")
        before = found.get(outer)
        if not inner:
            same = _name_of(value) is not None and _name_of(value) == _name_of(before)
            found[outer] = before if same and isinstance(value, str) else value
        elif isinstance(before, list | tuple):
            found[outer] = [_changed(one, inner, value) for one in before]
        else:
            found[outer] = {**_table(before), inner: value}
    return found


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


#: What a recipe file says of itself; it does not change a run.
ABOUT = ("title", "source", "reaches")


@dataclass(frozen=True, slots=True)
class Entry:
    """A recipe of the package.

    Attributes:
        name: what `--recipe` takes.
        title: what it trains, in a line.
        source: whose recipe it is: paper and section, or ours.
        reaches: what was measured with it, with the command.
        settings: of the recipe, not validated.
    """

    name: str
    title: str
    source: str
    reaches: str
    settings: Mapping[str, Any]


def entries() -> list[Entry]:
    """All recipes of the package, by name."""
    folder = files("cnnkit.train") / "recipes"
    found = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    return [_entry(file.name[:-5], tomllib.loads(file.read_text("utf-8"))) for file in sorted(found, key=str)]


def _entry(name: str, content: dict[str, Any]) -> Entry:
    about = {key: content.pop(key, "") for key in ABOUT}
    return Entry(name, **about, settings=content)


def source_of(name: str) -> str:
    """A recipe of the package as it is written.

    Raises:
        Misuse: there is none.
    """
    find(name)
    return (files("cnnkit.train") / "recipes" / f"{name}.toml").read_text("utf-8")


def find(name: str) -> dict[str, Any]:
    """The settings of a recipe of the package, or of a file where `name` is a path.

    Raises:
        Misuse: there is none.
    """
    known = {entry.name: entry for entry in entries()}
    if name in known:
        return dict(known[name].settings)
    if name.endswith(".toml") or "/" in name:
        content = read(Path(name))
        return {key: value for key, value in content.items() if key not in ABOUT}
    raise Misuse(f"{unknown(name, list(known), 'recipe')} `cnnkit recipes` lists them; a file ends in .toml")


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
