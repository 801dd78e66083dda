"""The recipes that come with the package: a TOML file each, beside this one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cnnkit.errors import Misuse
from cnnkit.registry import unknown
from cnnkit.train.recipe import read

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
    folder = files("cnnkit.train.recipes")
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
    return (files("cnnkit.train.recipes") / f"{name}.toml").read_text("utf-8")


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
