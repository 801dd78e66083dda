"""What an experiment is: a claim, the arms that are compared, what is measured, at which scales."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar, Literal

from cnnkit.errors import Misuse
from cnnkit.registry import unknown
from cnnkit.train.recipe import merged
from cnnkit.train.recipes import find

Size = Literal["tiny", "small", "full"]

#: Laid under every experiment: arms that are compared do their arithmetic alike.
ALIKE: dict[str, Any] = {"precision": "32"}

#: A key that is not known is refused.
STRICT: dict[str, str] = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Whose claim it is.

    Attributes:
        where: section, table or figure.
        read: what of it was read, and what is not known.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    title: str
    authors: str
    venue: str
    where: str
    read: str


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of a run; the smaller the better, but for `score`.

    Attributes:
        kind: `train_error` of the last epoch; `error` of the best network on the test part, or where there is
            none on the part that chose it; `score` of the same network there, in percent; `epochs_to` a level
            of accuracy.
        title: what tables call it.
        figure: for `score`, which of a summary's figures.
        level: for `epochs_to`, the accuracy to be reached.
        level_of: instead of `level`, the arm whose best accuracy is to be reached, seed by seed.
        part: for `epochs_to`, whose accuracy.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    kind: Literal["train_error", "error", "score", "epochs_to"]
    title: str
    figure: str | None = None
    level: float | None = None
    level_of: str | None = None
    part: Literal["train", "val"] = "train"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side of a comparison.

    Attributes:
        about: what it is, in a line.
        settings: of its recipe, beside those that all arms share.
        paper: by measure, the paper's figure of this arm, as it is printed there.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    about: str
    settings: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """By one measure, one arm has less than another.

    Attributes:
        says: the claim in words.
        paper: what the paper reports of it, as far as that was read.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    says: str
    measure: str
    less: str
    more: str
    paper: str


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of the experiment is run.

    Attributes:
        recipe: of the package, to start from.
        settings: beside the experiment's own.
        arms: settings of single arms.
        tune: of one setting, the values of which each arm takes its best; the first seed decides.
        seeds: runs of each arm, unless told.
        time: about how long it takes, and where.
        differences: from the paper's protocol.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    recipe: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    tune: dict[str, tuple[float, ...]] = field(default_factory=dict)
    seeds: int
    time: str
    differences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A claim and how it is tried.

    Attributes:
        curve: of the metrics, the error that is drawn over the epochs.
        settings: of the recipe, for all arms at all scales.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    name: str
    title: str
    paper: Paper
    curve: Literal["train", "val"]
    settings: dict[str, Any] = field(default_factory=dict)
    measures: dict[str, Measure]
    arms: dict[str, Arm]
    claims: tuple[Claim, ...]
    scales: dict[Size, Scale]

    def recipe(self, size: Size, arm: str) -> dict[str, Any]:
        """The settings of one arm at a scale, without a seed."""
        scale = self.scales[size]
        recipe = find(scale.recipe) if scale.recipe else {}
        settings = dict(ALIKE)
        for more in (self.settings, recipe, scale.settings, self.arms[arm].settings, scale.arms.get(arm, {})):
            settings = merged(settings, more)
        return settings


@cache
def experiments() -> dict[str, Experiment]:
    """All of them by name."""
    from pydantic import TypeAdapter

    reader = TypeAdapter(Experiment)
    folder = files(__package__) / "experiments"
    found = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda f: f.name)
    return {
        name: reader.validate_python({"name": name, **tomllib.loads(file.read_text("utf-8"))})
        for file in found
        for name in [file.name.removesuffix(".toml")]
    }


def experiment(name: str) -> Experiment:
    """One by name.

    Raises:
        Misuse: there is none of that name; the sentence has the nearest ones.
    """
    known = experiments()
    if name not in known:
        raise Misuse(unknown(name, known, "experiment"))
    return known[name]
