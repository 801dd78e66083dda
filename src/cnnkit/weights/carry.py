"""Entries of somebody's state dict, recognised and carried over to one of our networks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cnnkit.errors import Failure
from cnnkit.models import create
from cnnkit.weights.definitions import Definition, Entries, definitions
from cnnkit.weights.entries import is_counter

#: How many misfits an error's sentence names.
NAMED = 3


class Carried(NamedTuple):
    """One of our networks with somebody's weights.

    Attributes:
        model: in evaluation mode on the CPU.
        name: its registry name.
        arguments: what it was built with besides.
        definition: the other library's, where the entries are of one.
        origin: how they were recognised.
    """

    model: nn.Module
    name: str
    arguments: dict[str, Any]
    definition: Definition | None
    origin: str


def carry(path: Path, name: str, definition: Definition, entries: Entries) -> Carried:
    """Our network with entries of another library's definition, which come from that file.

    Raises:
        Failure: they do not fit; the sentence names what does not.
    """
    theirs = _theirs(definition, entries)
    if problems := _problems(name, definition, theirs):
        raise Failure(f"{path} does not fit {name}: {_told(problems)}")
    return _carried(name, definition, theirs)


def recognise(path: Path, entries: Entries, model: str | None) -> Carried:
    """The network that entries of a file belong to: one that a library has, or else the named one.

    Raises:
        Failure: they are of none, or fit it not wholly, or may be of several.
    """
    misfits: list[tuple[int, str, list[str]]] = []  # names in common, network, what does not fit
    for name, definition in definitions(model):
        try:
            theirs = _theirs(definition, entries)
        except ModuleNotFoundError:
            continue  # a library that is not there recognises nothing
        problems = _problems(name, definition, theirs)
        if not problems:
            if definition.twin:
                raise Failure(
                    f"the entries of {path} are those of timm's {definition.name} and of "
                    f"{definition.twin}; name the weights, as in timm:{definition.name}.TAG"
                )
            return _carried(name, definition, theirs)
        common = sum(theirs.values.get(key) is not None for key in theirs.order)
        misfits.append((common, name, problems))
    if model is not None and (ours := _ours(path, model, entries)) is not None:
        return ours
    common, name, problems = max(misfits, key=lambda row: (row[0], -len(row[2])), default=(0, "", []))
    if not common:
        first = ", ".join(list(entries)[:NAMED])
        named = f"fit {model} neither by name nor by order" if model else "are those of no known network"
        raise Failure(f"the entries of {path} ({first}, ...) {named}" + ("" if model else "; try --model"))
    raise Failure(f"{path} does not fit {name}: {_told(problems)}")


def _told(problems: list[str]) -> str:
    more = f" (and {len(problems) - NAMED} more)" if len(problems) > NAMED else ""
    return "; ".join(problems[:NAMED]) + more


@dataclass(frozen=True, slots=True)
class _Theirs:
    """Entries held against another library's definition.

    Attributes:
        order: names that the definition has, in its order.
        values: entries in the order and shapes of ours, as far as they are there.
        strange: names that the definition does not have.
    """

    order: list[str]
    values: Entries
    strange: list[str]


def _theirs(definition: Definition, entries: Entries) -> _Theirs:
    with torch.device("meta"):
        order = [name for name in definition.build().state_dict() if not is_counter(name)]
    known = set(order)
    strange = [n for n in entries if n not in known and not n.startswith(definition.auxiliary or ("\0",))]
    there = {name: entries[name] for name in order if name in entries}
    return _Theirs(order, definition.reorder(there), strange)


def _problems(model: str, definition: Definition, theirs: _Theirs) -> list[str]:
    """What keeps the entries from being those of one of our networks, entry by entry."""
    problems = [f"{name} is missing" for name in theirs.order if name not in theirs.values]
    problems += [f"{name} is not part of it" for name in theirs.strange]
    if problems:
        return problems
    expected = _shapes(model, _arguments(theirs.values))
    problems = [
        f"{name} is {tuple(entry.shape)} instead of {shape}"
        for (name, entry), shape in zip(theirs.values.items(), expected.values(), strict=True)
        if tuple(entry.shape) != shape
    ]
    scale = definition.not_negative
    if scale and (count := int((theirs.values[scale] < 0).sum())):
        problems.append(f"{scale} is negative in {count} places, where {definition.name} computes another")
    return problems


def _carried(name: str, definition: Definition, theirs: _Theirs) -> Carried:
    arguments = _arguments(theirs.values)
    origin = f"{definition.library} {definition.name}"
    return Carried(_filled(name, arguments, theirs.values), name, arguments, definition, origin)


def _arguments(values: Entries) -> dict[str, Any]:
    """How many classes and channels the entries are for: what the last and the first of them say."""
    first, *_, last = values.values()
    return {
        "num_classes": last.shape[0] if last.ndim else 1,
        "in_channels": first.shape[1] if first.ndim > 1 else 1,
    }


def _shapes(model: str, arguments: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of our network's entries, without memory."""
    with torch.device("meta"):
        entries = create(model, **arguments).state_dict()
    return {name: tuple(entry.shape) for name, entry in entries.items() if not is_counter(name)}


def _filled(model: str, arguments: dict[str, Any], values: Entries) -> nn.Module:
    """Our network with entries that were found to fit, in our order."""
    network = create(model, **arguments)
    entries = network.state_dict()
    names = [name for name in entries if not is_counter(name)]
    network.load_state_dict(entries | dict(zip(names, values.values(), strict=True)))
    return network.eval()


def _ours(path: Path, model: str, entries: Entries) -> Carried | None:
    """Entries under our own names, or under unknown ones in our order, where every shape fits."""
    if not entries:
        return None
    named = _named_as_ours(model, entries)
    if named is None and path.suffix == ".safetensors":  # it keeps no order
        return None
    values = named or entries
    try:
        arguments = _arguments(values)
        expected = list(_shapes(model, arguments).values())
    except (ValueError, RuntimeError):  # nothing is built with such numbers
        return None
    if [tuple(entry.shape) for entry in values.values()] != expected:
        return None
    origin = "cnnkit" if named else "unknown; its entries are in the order of ours"
    return Carried(_filled(model, arguments, values), model, arguments, None, origin)


def _named_as_ours(model: str, entries: Entries) -> Entries | None:
    with torch.device("meta"):
        names = [name for name in create(model).state_dict() if not is_counter(name)]
    return {name: entries[name] for name in names} if set(names) == set(entries) else None
