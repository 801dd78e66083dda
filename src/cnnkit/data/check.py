"""Looking at every image before training: what cannot be read, what is in two parts, which classes are
lopsided.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low
from typing import Any, Literal

from cnnkit.data.pictures import read
from cnnkit.data.sets import DataSet, Part
from cnnkit.errors import Failure
from cnnkit.weights.files import atomic

Kind = Literal["unreadable", "twice", "classes", "balance"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that would spoil a run.

    Attributes:
        kind: `unreadable` image, the same image `twice`, `classes` that a part lacks, or lopsided `balance`.
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
        counts: images a part and class.
    """

    findings: tuple[Finding, ...]
    grey: bool
    side: int
    one_size: bool
    counts: dict[str, dict[str, int]]

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Keys of the images that cannot be used."""
        return tuple(key for f in self.findings if f.kind == "unreadable" for key in f.keys)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


def examine(data: DataSet, tick: Callable[[int, int], None] = lambda done, total: None) -> Examination:
    """Decode every image of every part once and report what would spoil a run.

    Results of image files are kept under the user's cache folder by path, size and time of change, so that
    only files that changed are read again.

    Args:
        data: before or after its split.
        tick: called with the number of images seen and their total.
    """
    seen = {key: look for part in data.parts.values() for key, look in _look_at(part, tick)}
    counts = {
        name: {label: list(part.labels).count(i) for i, label in enumerate(data.classes)}
        for name, part in data.parts.items()
    }
    findings = (
        *(Finding("unreadable", look.problem, (key,)) for key, look in seen.items() if look.problem),
        *_classes(data, counts),
        *_twice(data, seen),
        *_balance(counts),
    )
    good = [look for look in seen.values() if not look.problem]
    sides = [min(look.width, look.height) for look in good]
    return Examination(
        findings,
        grey=bool(good) and all(look.mode == "L" for look in good),
        side=median_low(sides) if sides else 0,
        one_size=len({(look.width, look.height) for look in good}) == 1,
        counts=counts,
    )


def _classes(data: DataSet, counts: dict[str, dict[str, int]]) -> Iterator[Finding]:
    if len(data.classes) == 1:
        yield Finding("classes", f"there is only one class, {data.classes[0]!r}; a classifier needs two")
    for name, by_class in counts.items():
        absent = [label for label, count in by_class.items() if count == 0]
        if absent and len(absent) < len(by_class):
            yield Finding("classes", f"{name} has no image of {', '.join(absent)}")


def _twice(data: DataSet, seen: dict[str, Seen]) -> Iterator[Finding]:
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, part in data.parts.items():
        for key in part.keys:
            if part.root is not None and not seen[key].problem:
                places[seen[key].digest].append((name, key))
    for found in places.values():
        if len({name for name, _ in found}) > 1:
            where = " and ".join(key for _, key in found)
            yield Finding("twice", f"the same image is in two parts: {where}", tuple(key for _, key in found))


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
    store = _store(part.root)
    known = _recall(store)
    stamps = {key: _stamp(part.root / key) for key in part.keys}
    fresh = {k: Seen(*known[k][1]) for k in part.keys if k in known and known[k][0] == stamps[k]}
    todo = [key for key in part.keys if key not in fresh]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (key, look) in enumerate(
            zip(todo, pool.map(lambda k: _look(part.root, k), todo), strict=True)
        ):
            fresh[key] = look
            tick(len(part) - len(todo) + done + 1, len(part))
    if todo:
        _remember(store, known | {key: (stamps[key], _values(fresh[key])) for key in part.keys})
    yield from ((key, fresh[key]) for key in part.keys)


def _look(root: Path | None, key: str) -> Seen:
    path = (root or Path()) / key
    try:
        image = read(path)
    except Failure as failure:
        return Seen(problem=str(failure))
    digest = hashlib.blake2b(image.tobytes() + repr(image.size).encode(), digest_size=16).hexdigest()
    return Seen(image.width, image.height, image.mode, digest)


def _values(look: Seen) -> list[Any]:
    return [look.width, look.height, look.mode, look.digest, look.problem]


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def cache_folder() -> Path:
    """Where results are kept: `$XDG_CACHE_HOME/cnnkit`, by default `~/.cache/cnnkit`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnnkit"


def _store(root: Path) -> Path:
    name = hashlib.blake2b(str(root.resolve()).encode(), digest_size=8).hexdigest()
    return cache_folder() / "check" / f"{name}.json"


def _recall(store: Path) -> dict[str, Any]:
    try:
        found = json.loads(store.read_text("utf-8"))
    except (OSError, ValueError):  # none yet, or damaged: everything is looked at again
        return {}
    return found if isinstance(found, dict) else {}


def _remember(store: Path, known: dict[str, Any]) -> None:
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        store.parent.mkdir(parents=True, exist_ok=True)
        with atomic(store) as scratch:
            scratch.write_text(json.dumps(known), "utf-8")
