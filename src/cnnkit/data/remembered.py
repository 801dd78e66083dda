"""What a look at files found, kept under the user's cache folder by path, size and time of change."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from cnnkit.weights.files import atomic


def remembered(
    root: Path,
    keys: Sequence[str],
    look: Callable[[Path], list[Any]],
    kind: str,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[str, list[Any]]]:
    """Every key with what a look at its file found; only files that changed since are looked at again.

    Args:
        root: where the paths begin.
        keys: paths below it.
        look: what is done to a file; gives plain values, as JSON has them.
        kind: what is looked for; each kind is kept apart.
        tick: called with the number of files seen and their total.
    """
    store = _store(root, kind)
    known = _recall(store)
    stamps = {key: _stamp(root / key) for key in keys}
    fresh = {key: known[key][1] for key in keys if key in known and known[key][0] == stamps[key]}
    todo = [key for key in keys if key not in fresh]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (key, found) in enumerate(
            zip(todo, pool.map(lambda key: look(root / key), todo), strict=True)
        ):
            fresh[key] = found
            tick(len(keys) - len(todo) + done + 1, len(keys))
    if todo:
        _remember(store, known | {key: (stamps[key], fresh[key]) for key in keys})
    yield from ((key, fresh[key]) for key in keys)


def cache_folder() -> Path:
    """Where results are kept: `$XDG_CACHE_HOME/cnnkit`, by default `~/.cache/cnnkit`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnnkit"


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:  # a link that leads nowhere, or a file that is gone: the look says it
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def _store(root: Path, kind: str) -> Path:
    name = hashlib.blake2b(str(root.resolve()).encode(), digest_size=8).hexdigest()
    return cache_folder() / kind / f"{name}.json"


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
