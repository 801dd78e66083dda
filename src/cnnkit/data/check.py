"""Looking at every image, and its mask, before training: what cannot be read, what is in two parts, which
classes are lopsided.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any, Literal

from cnnkit.data.balance import Balance, balance
from cnnkit.data.pictures import read
from cnnkit.data.remembered import remembered
from cnnkit.data.sets import DataSet, Part
from cnnkit.errors import Failure

Kind = Literal["unreadable", "ignored", "twice", "classes", "balance"]

#: How many times as many pixels of one class as of another are lopsided; of images it is 20 times.
LOPSIDED = 1000

#: More values than this in masks, with gaps between them, are hardly classes.
MANY = 40


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that would spoil a run.

    Attributes:
        kind: `unreadable` image or mask, a mask of which all is `ignored`, the same image `twice`, `classes`
            or parts that are lacking, or lopsided `balance`.
        message: one sentence.
        keys: the images concerned.
    """

    kind: Kind
    message: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at an image found."""

    width: int = 0
    height: int = 0
    mode: str = ""
    digest: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    """The result of a check.

    Attributes:
        findings: what would spoil a run, the gravest first.
        grey: whether all readable images are grey.
        side: the median of the images' short sides, in pixels.
        one_size: whether all images have the same size.
        counts: images a part and class; with masks, images that show the class.
        pixels: with masks, pixels a part and class.
    """

    findings: tuple[Finding, ...]
    grey: bool
    side: int
    one_size: bool
    counts: dict[str, dict[str, int]]
    pixels: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Keys of the images that cannot be used."""
        return tuple(key for f in self.findings if f.kind == "unreadable" for key in f.keys)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        plain = asdict(self)
        return plain if self.pixels else {key: value for key, value in plain.items() if key != "pixels"}


def examine(data: DataSet, tick: Callable[[int, int], None] = lambda done, total: None) -> Examination:
    """Decode every image and mask of every part once and report what would spoil a run.

    Results of files are kept under the user's cache folder by path, size and time of change, so that
    only files that changed are read again.

    Args:
        data: before or after its split.
        tick: called with the number of images seen and their total.
    """
    seen = {key: look for part in data.parts.values() for key, look in _look_at(part, tick)}
    masks = {
        name: balance(part, data.classes, tick) for name, part in data.parts.items() if part.masks is not None
    }
    counts = {name: found.images for name, found in masks.items()} or {
        name: {label: list(part.labels).count(i) for i, label in enumerate(data.classes)}
        for name, part in data.parts.items()
    }
    findings = (
        *(Finding("unreadable", look.problem, (key,)) for key, look in seen.items() if look.problem),
        *_masks(data, masks, seen),
        *_parts(data),
        *_classes(data, counts),
        *_twice(data, seen),
        *(_lopsided(masks) if masks else _balance(counts)),
    )
    good = [look for look in seen.values() if not look.problem]
    sides = [min(look.width, look.height) for look in good]
    return Examination(
        findings,
        grey=bool(good) and all(look.mode == "L" for look in good),
        side=median_low(sides) if sides else 0,
        one_size=len({(look.width, look.height) for look in good}) == 1,
        counts=counts,
        pixels={name: found.pixels for name, found in masks.items()},
    )


def _masks(data: DataSet, masks: Mapping[str, Balance], seen: Mapping[str, Seen]) -> Iterator[Finding]:
    """Masks that cannot be used, those that are not of their image's size among them; then empty ones."""
    for name, found in masks.items():
        empty, part = [], data.parts[name]
        for index, key in enumerate(part.keys):
            look, size, problem = seen[key], found.sizes[index], found.problems[index]
            if look.problem or part.masks is None:
                continue
            if not problem and size != (look.width, look.height):
                problem = part.masks.misfit(index, (look.width, look.height), size)
            if problem:
                yield Finding("unreadable", problem, (key,))
            elif found.empty[index]:
                empty.append(key)
        if empty:
            yield Finding(
                "ignored",
                f"{name} has {len(empty):,} masks of which all pixels are ignored, the first that of "
                f"{empty[0]}; nothing is learnt of them",
                tuple(empty),
            )


def _lopsided(masks: Mapping[str, Balance]) -> Iterator[Finding]:
    for name, found in masks.items():
        present = {label: count for label, count in found.pixels.items() if count}
        if name in {"train", "all"} and present and max(present.values()) > LOPSIDED * min(present.values()):
            few, many = min(present, key=present.__getitem__), max(present, key=present.__getitem__)
            yield Finding(
                "balance",
                f"{name} has {present[few]:,} pixels of {few} and {present[many]:,} of {many}; a loss that "
                f"balances classes may help",
            )


def _parts(data: DataSet) -> Iterator[Finding]:
    """Nothing to train on, or too little to set some aside."""
    if not {"all", "train"} & set(data.parts):
        yield Finding("classes", f"there is no part to train on, only {' and '.join(data.parts)}")
    try:
        data.chosen()
    except Failure as failure:
        yield Finding("classes", str(failure))


def _classes(data: DataSet, counts: dict[str, dict[str, int]]) -> Iterator[Finding]:
    if len(data.classes) == 1:
        yield Finding("classes", f"there is only one class, {data.classes[0]!r}; a network needs two")
    numbers = sum(label.isdecimal() for label in data.classes)
    if data.task == "segment" and numbers == len(data.classes) > MANY and int(data.classes[-1]) >= numbers:
        yield Finding(
            "classes",
            f"the masks hold {numbers} values with gaps between them, as smoothed edges have; save masks "
            f"without smoothing, or name the values of the classes in classes.txt",
        )
    what = "image" if data.task == "classify" else "pixel"
    for name, by_class in counts.items():
        absent = [label for label, count in by_class.items() if count == 0]
        if absent and len(absent) < len(by_class):
            yield Finding("classes", f"{name} has no {what} of {', '.join(absent)}")


def _twice(data: DataSet, seen: dict[str, Seen]) -> Iterator[Finding]:
    """The same image in two parts or classes, or twice in a part that will be split."""
    places: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for name, part in data.parts.items():
        for key, label in zip(part.keys, part.labels, strict=True):
            if part.root is not None and not seen[key].problem:
                places[seen[key].digest].append((name, label, key))
    whole = {"all"} if "val" in data.parts else {"all", "train"}
    for found in places.values():
        names, labels, keys = zip(*found, strict=True)
        where = " and ".join(keys)
        if len(set(names)) > 1:
            yield Finding("twice", f"the same image is in two parts: {where}", keys)
        elif len(set(labels)) > 1:
            yield Finding("twice", f"the same image is in two classes: {where}", keys)
        elif len(keys) > 1 and names[0] in whole:
            yield Finding("twice", f"the same image may be learnt and tested on: {where}", keys)


def _balance(counts: dict[str, dict[str, int]]) -> Iterator[Finding]:
    for name, by_class in counts.items():
        present = [count for count in by_class.values() if count]
        if name in {"train", "all"} and present and max(present) > 20 * min(present):
            few, label = min((count, label) for label, count in by_class.items() if count)
            message = f"{name} has {few} images of {label} and {max(present)} of another class"
            yield Finding("balance", message)


def _look_at(part: Part, tick: Callable[[int, int], None]) -> Iterator[tuple[str, Seen]]:
    if part.pixels is not None:
        _, channels, height, width = part.pixels.shape
        look = Seen(width, height, "L" if channels == 1 else "RGB")
        yield from ((key, look) for key in part.keys)
        return
    if part.root is None:
        raise ValueError("a part has either files or pixels")
    for key, values in remembered(part.root, part.keys, _look, "check", tick):
        yield key, Seen(*values)


def _look(path: Path) -> list[Any]:
    try:
        image = read(path)
    except Failure as failure:
        return [0, 0, "", "", str(failure)]
    digest = hashlib.blake2b(image.tobytes() + repr(image.size).encode(), digest_size=16).hexdigest()
    return [image.width, image.height, image.mode, digest, ""]
