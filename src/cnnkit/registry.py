"""Names to networks: one row a published variant. What is known of it is its canon entry."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Spec:
    """A network before it is built.

    Attributes:
        name: the registry name, which is also the name of the variant in the canon file.
        factory: the class or function that builds it.
        task: `classify`, `segment`, `detect`, `pose` or `vqa`.
        canon: the canon file that knows it, `area/family`.
        kwargs: what distinguishes this variant from its siblings.
    """

    name: str
    factory: Callable[..., nn.Module]
    task: str
    canon: str
    kwargs: Mapping[str, Any] = field(repr=False)

    def build(self, **overrides: Any) -> nn.Module:
        """Build the network; `overrides` win over the variant's own arguments."""
        return self.factory(**{**self.kwargs, **overrides})


_specs: dict[str, Spec] = {}

#: As many names are shown where none is near.
MOST = 6


def register(
    factory: Callable[..., nn.Module], *, task: str, canon: str, variants: Mapping[str, Mapping[str, Any]]
) -> None:
    """Enter a family into the registry. Called once, at the foot of the paper's file.

    Raises:
        ValueError: a name is taken already.
    """
    for name, kwargs in variants.items():
        if name in _specs:
            raise ValueError(f"{name!r} is already registered by {_specs[name].factory.__module__}")
        _specs[name] = Spec(name, factory, task, canon, kwargs)


def spec(name: str) -> Spec:
    """Look a network up.

    Raises:
        LookupError: there is none of that name; the message has the nearest ones.
    """
    if name in _specs:
        return _specs[name]
    raise LookupError(unknown(name, _specs))


def unknown(name: str, known: Mapping[str, object] | list[str], what: str = "model") -> str:
    """The sentence that says a name is not known, with the nearest that are."""
    near = difflib.get_close_matches(name, list(known), n=3)
    if near:
        return f"no {what} {name!r}; did you mean {', '.join(near)}?"
    names = sorted(known)
    more = f", and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"no {what} {name!r}; there are {', '.join(names[:MOST])}{more}"


def specs(pattern: str = "*", *, task: str | None = None) -> Iterator[Spec]:
    """All networks whose name matches the shell pattern, in alphabetical order."""
    for name in sorted(_specs):
        if fnmatch(name, pattern) and task in (None, _specs[name].task):
            yield _specs[name]


def create(name: str, **overrides: Any) -> nn.Module:
    """Build a network by name: `create("resnet50", num_classes=10)`."""
    return spec(name).build(**overrides)
