"""Parts of a recipe: small frozen dataclasses chosen by name, `{name = "sgd", lr = 0.4}` or just `"sgd"`.

A part states each of its settings once: type, default, bounds and meaning. Nothing here needs torch, and
pydantic only when a part is made, so that `--help` and `cnnkit recipes` answer at once.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, TypeVar

from cnnkit.errors import Misuse
from cnnkit.registry import unknown

T = TypeVar("T")

_HOLDS: dict[str, Any] = {
    "ge": lambda value, limit: value >= limit,
    "gt": lambda value, limit: value > limit,
    "le": lambda value, limit: value <= limit,
    "lt": lambda value, limit: value < limit,
}
_WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """A field with its meaning, its bounds (`ge`, `gt`, `le`, `lt`) and whatever else is known of it."""
    bounds = {word: metadata.pop(word) for word in tuple(metadata) if word in _HOLDS}
    return field(default=default, metadata={"help": help, "bounds": bounds, **metadata})


class Part:
    """What a recipe chooses by name. Subclasses are frozen dataclasses; their docstring says what they do."""

    name: ClassVar[str]

    def plain(self) -> dict[str, Any]:
        """Name and settings, as they are stored."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {"name": self.name, **{k: v for k, v in values.items() if v is not None}}

    @classmethod
    def meaning(cls) -> str:
        """The first sentence of the docstring."""
        return inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")

    def __str__(self) -> str:
        values = ", ".join(f"{k} {v}" for k, v in self.plain().items() if k != "name")
        return f"{self.name} ({values})" if values else self.name


P = TypeVar("P", bound=Part)


def named(*kinds: type[P]) -> dict[str, type[P]]:
    """Parts by name, in this order."""
    return {kind.name: kind for kind in kinds}


def make(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A dataclass with validated values.

    Args:
        kind: a dataclass whose fields were made by `setting`.
        values: by field name.
        where: what they belong to, for the error's sentence.

    Raises:
        Misuse: a name is not known, or a value is not allowed.
    """
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if not known:
            raise Misuse(f"{where} has no settings, got {name!r}")
        if name not in known:
            raise Misuse(f"{where}: {unknown(name, known, 'setting')}")
    from pydantic import TypeAdapter, ValidationError

    try:
        made = TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise Misuse(f"{where}: {first['loc'][0]} = {first['input']!r}: {first['msg']}") from None
    for name, setting_ in known.items():
        value = getattr(made, name)
        for one in value if isinstance(value, tuple) else (value,):
            for bound, limit in setting_.metadata["bounds"].items():
                if one is not None and not _HOLDS[bound](one, limit):
                    raise Misuse(f"{where}: {name} must be {_WORDS[bound]} {limit:g}, got {one!r}")
    return made


def choose(choices: Mapping[str, type[P]], given: Any, where: str) -> P:
    """The part that is named.

    Args:
        choices: by name.
        given: a name; a table with a `name` and settings; or a part.
        where: the setting's name, for the error's sentence.

    Raises:
        Misuse: there is no such part, or one of its settings is wrong.
    """
    if isinstance(given, Part) and type(given) is choices.get(given.name):
        return given
    table = {"name": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        raise Misuse(f'{where} needs a name, like {where} = "{next(iter(choices))}", got {given!r}')
    if table["name"] not in choices:
        raise Misuse(f"{where}: {unknown(table['name'], choices, where.rpartition(': ')[2])}")
    rest = {key: value for key, value in table.items() if key != "name"}
    return make(choices[table["name"]], rest, f"{where} {table['name']}")
