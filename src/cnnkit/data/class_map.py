"""Which value of a mask means which class: said by the user, by a file beside the masks, or found in them.

A line of a class map is a name (its value is the line's number, from 0), `name=7`, or `name=#804080`. A name
that comes again has several values.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from cnnkit.data.masks import IGNORED, MOST_CLASSES, NONE, Coding, Tally
from cnnkit.errors import Failure, Misuse

#: Files that hold a class map, and what reads them.
TEXT, TABLE, LABELS = "classes.txt", "class_dict.csv", "labelmap.txt"

#: The most classes that are listed where they were found.
MOST_SHOWN = 12

#: Names and values of classes that count nowhere.
Ignored = Sequence[str | int]


def given(lines: Iterable[str], ignore: Ignored, where: str) -> Coding:
    """The coding that a class map's lines say.

    Args:
        lines: the class map.
        ignore: names and values that count nowhere.
        where: what said it, for the error's sentence.

    Raises:
        Misuse: a line makes no sense, or two contradict each other.
    """
    named: list[tuple[str, int]] = []
    kinds = set()
    for number, line in enumerate(lines):
        name, equals, written = (word.strip() for word in line.partition("="))
        if not name:
            raise Misuse(f"{where} names no class in {line!r}; write name, name=7 or name=#804080")
        kinds.add("colours" if written.startswith("#") else "values" if equals else "names")
        named.append((name, _value(written, where) if equals else number))
    if len(kinds) > 1:
        raise Misuse(f"{where} mixes {' and '.join(sorted(kinds))}; give each class in the same way")
    values: dict[int, str] = {}
    for name, value in named:
        if values.setdefault(value, name) != name:
            raise Misuse(f"{where} gives one value to both {values[value]} and {name}")
    colours = kinds == {"colours"}
    usual = not colours and IGNORED not in values
    return _coding(values, ignore, colours=colours, usual=usual, where=where)


def stored(root: Path) -> tuple[list[str], str] | None:
    """The lines of the class map in a folder, and its file's name; None where there is none.

    Raises:
        Failure: it cannot be read.
    """
    readers = {TEXT: _text, TABLE: _table, LABELS: _labels}
    for name, reader in readers.items():
        if (root / name).is_file():
            try:
                return reader((root / name).read_text("utf-8-sig")), name
            except ValueError as error:
                raise Failure(f"{root / name} is no class map: {error}") from None
    return None


def found(tallies: Sequence[Tally], ignore: Ignored, where: str) -> tuple[Coding, str]:
    """A class for each value in masks, named after it, and what is said of that.

    The number 255 is ignored, save where all others are 0: then there are two classes.

    Raises:
        Failure: there is no value, or there are too many.
    """
    rows = {row[:2] for tally in tallies for row in tally.values}
    colours = any(number == NONE for number, _ in rows)
    seen = sorted({colour if colours else number for number, colour in rows})
    if not seen:
        why = next((tally.problem for tally in tallies if tally.problem), "there is none")
        raise Failure(f"{where} has no mask that can be read: {why}")
    if len(seen) > MOST_CLASSES + 1:
        raise Failure(
            f"the masks of {where} hold {len(seen):,} different values; name those of the classes in {TEXT}"
        )
    shown = {value: f"#{value:06x}" if colours else str(value) for value in seen}
    usual = not colours and not set(seen) <= {0, IGNORED}
    coding = _coding(shown, ignore, colours=colours, usual=usual, where=where)
    words = f"{counted(len(coding.classes))} named by the {'colours' if colours else 'values'} in the masks"
    if len(coding.classes) <= MOST_SHOWN:
        words += f", {', '.join(coding.classes)}"
    return coding, words


def counted(classes: int) -> str:
    """A number of classes, in words."""
    return f"{classes:,} {'class' if classes == 1 else 'classes'}"


def _coding(values: dict[int, str], ignore: Ignored, *, colours: bool, usual: bool, where: str) -> Coding:
    """The coding of named values less those to ignore, 255 among them where that is `usual`."""
    gone = {value for item in ignore for value in _ignored(item, values, colours, where)}
    gone |= {IGNORED} if usual else set()
    kept = {value: name for value, name in values.items() if value not in gone}
    classes = tuple(dict.fromkeys(kept.values()))
    if not 0 < len(classes) <= MOST_CLASSES:
        raise Misuse(f"{where} leaves {counted(len(classes))}; there may be 1 to {MOST_CLASSES}")
    labels = {value: classes.index(name) for value, name in kept.items()}
    return Coding(classes, labels | dict.fromkeys(gone, IGNORED), colours)


def _ignored(item: str | int, values: dict[int, str], colours: bool, where: str) -> list[int]:
    """The values that a name or a value to ignore stands for."""
    if item in values.values():
        return [value for value, name in values.items() if name == item]
    text = str(item)
    if text.startswith("#") != colours or not (colours or text.isdecimal()):
        kind = "a colour like #804080" if colours else "a value like 11"
        raise Misuse(f"there is no class {text!r} to ignore in {where}; give a class's name or {kind}")
    return [_value(text, where)]


def _value(text: str, where: str) -> int:
    """`7` or `#804080` as a number."""
    try:
        if text.startswith("#"):
            if len(text) != 7:
                raise ValueError
            return int(text[1:], 16)
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value <= IGNORED:
        raise Misuse(f"{where} gives the value {text!r}; it must be 0 to {IGNORED}, or a colour like #804080")
    return value


def _text(text: str) -> list[str]:
    """A line a class."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _table(text: str) -> list[str]:
    """A header `name,r,g,b`, and a row a class."""
    rows = csv.DictReader(text.splitlines(), skipinitialspace=True)
    names = {name.strip().lower(): name for name in rows.fieldnames or ()}
    missing = [name for name in ("name", "r", "g", "b") if name not in names]
    if missing:
        raise ValueError(f"its header has no {missing[0]!r}; it must be name,r,g,b")
    return [_coloured(row[names["name"]], [row[names[c]] for c in "rgb"]) for row in rows]


def _labels(text: str) -> list[str]:
    """`name:r,g,b:parts:actions`, and comments."""
    lines = [line.strip() for line in text.splitlines()]
    rows = [line.split(":") for line in lines if line and not line.startswith("#")]
    if short := next((row for row in rows if len(row) < 2), None):
        raise ValueError(f"{short[0]!r} has no colour; a line is name:r,g,b:parts:actions")
    return [_coloured(row[0], row[1].split(",")) for row in rows]


def _coloured(name: str, channels: Sequence[str | None]) -> str:
    """A line of a class map; a row that ends early has None."""
    written = [(channel or "").strip() for channel in channels]
    if len(written) != 3 or not all(one.isdecimal() and int(one) <= 255 for one in written):
        raise ValueError(f"{name} has the colour {','.join(written)}, which is none")
    red, green, blue = map(int, written)
    return f"{name}=#{red:02x}{green:02x}{blue:02x}"
