"""Photos decoded and scaled once, in one memory-mapped file that later epochs and runs read.

A cache is a folder of two files: `index.npy`, a row (bytes, time of change, height, width) an image, and
`pixels-DIGEST`, the images one after the other, named after the index that describes them. Both appear whole
or not at all, and the index last, so that another run never sees half a cache; a lock keeps two runs from
making the same one at the same time. Where a photo's file changes, its row no longer fits, and it is decoded
again.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import ceil
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from cnnkit.data.photos import Box, Files, resized
from cnnkit.data.pictures import scaled
from cnnkit.errors import Failure
from cnnkit.weights.files import atomic
from cnnkit.weights.preprocessing import Preprocessing

Shapes = NDArray[np.int64]

#: The largest share of the disk's free bytes that a cache takes.
SHARE = 0.9

#: Photos that are decoded before their bytes are written.
CHUNK = 256

Tick = Callable[[int, int], None]


class Cache:
    """Photos of one part out of a cache's file.

    Args:
        path: the file of the pixels.
        shapes: heights and widths, (N, 2).
        to: the network's input.
    """

    def __init__(self, path: Path, shapes: Shapes, to: Preprocessing) -> None:
        self.path, self.shapes, self.to = path, shapes, to
        self.starts = np.concatenate([[0], (shapes.prod(axis=1) * len(to.mean)).cumsum()])
        self._bytes: Tensor | None = None

    def __getstate__(self) -> dict[str, object]:
        """A worker process maps the file itself."""
        return self.__dict__ | {"_bytes": None}

    @property
    def bytes(self) -> Tensor:
        """The whole file, mapped."""
        if self._bytes is None:
            size = int(self.starts[-1])
            self._bytes = torch.from_file(str(self.path), shared=False, size=size, dtype=torch.uint8)
        return self._bytes

    def stored(self, index: int) -> Tensor:
        """The bytes of one photo."""
        return self.bytes[int(self.starts[index]) : int(self.starts[index + 1])]

    def sizes(self, indices: Sequence[int]) -> Tensor:
        """Heights and widths. Shape: (N, 2)"""
        return torch.from_numpy(self.shapes[indices])

    def fitted(self, indices: Sequence[int]) -> Tensor:
        """Photos of a cache that keeps them at the network's size. Shape: (N, C, H, W) uint8"""
        return self.all().index_select(0, torch.tensor(indices))

    def all(self) -> Tensor:
        """All photos of such a cache. Shape: (N, C, H, W) uint8"""
        return self.bytes.view(-1, len(self.to.mean), *self.to.size)

    def cut(self, index: int, box: Box) -> Tensor:
        """A box of a photo of a cache that keeps them with room around. Shape: (C, H, W) uint8"""
        height, width = self.shapes[index].tolist()
        photo = self.stored(index).view(height, width, len(self.to.mean))
        return resized(photo.permute(2, 0, 1), box, self.to)


def cached(files: Files, folder: Path, *, room: float | None, tick: Tick = lambda done, total: None) -> Cache:
    """The cache of a part in a folder of caches, made or brought up to date where that is needed.

    Args:
        files: the photos.
        folder: where caches are.
        room: the short side at which photos are kept for random boxes, in sides of the network's input; None
            keeps them as `files.fitted` gives them.
        tick: called with the number of photos that are done and their total.

    Raises:
        Failure: the disk has no room, the folder cannot be written, or a photo cannot be read.
    """
    part, to = files.part, files.to
    how = (to.size, to.interpolation, to.channels, files.draft, room or (to.fit, to.keep))
    what = repr((how, str((part.root or Path()).resolve()), list(part.keys)))
    place = folder / hashlib.blake2b(what.encode(), digest_size=12).hexdigest()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / "lock"):  # other runs that make the same cache are waited for
            stamps = np.array([_stamp(part.path(i)) for i in range(len(part))], dtype=np.int64)
            old = _recall(place, to)
            if old is None or not np.array_equal(old[0], stamps):
                _make(place, files, stamps, old, room, tick)
                old = _recall(place, to)
    except OSError as error:
        raise Failure(
            f"the cache {folder} cannot be used ({error.strerror}); name another folder or leave it out"
        ) from None
    if old is None:
        raise Failure(f"the cache {place} was removed while it was being made; start again")
    return old[1]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        raise Failure(f"there is no file {path}") from None
    return status.st_size, status.st_mtime_ns


def _pixels(place: Path, index: bytes) -> Path:
    """Where the pixels are that an index describes."""
    return place / f"pixels-{hashlib.blake2b(index, digest_size=12).hexdigest()}"


def _recall(place: Path, to: Preprocessing) -> tuple[Shapes, Cache] | None:
    """The stamps of a cache and the cache itself; None where there is none, or not all of it."""
    try:
        rows = np.load(place / "index.npy", allow_pickle=False)
        cache = Cache(_pixels(place, rows.tobytes()), rows[:, 2:], to)
        whole = cache.path.stat().st_size == cache.starts[-1]
    except (OSError, ValueError, EOFError, IndexError):  # none yet, or damaged: it is made again
        return None
    return (rows[:, :2], cache) if whole else None


def _make(
    place: Path,
    files: Files,
    stamps: Shapes,
    old: tuple[Shapes, Cache] | None,
    room: float | None,
    tick: Tick,
) -> None:
    """Write a cache; photos whose files did not change since the old one are copied from it."""
    same = np.zeros(len(stamps), dtype=bool) if old is None else (old[0] == stamps).all(axis=1)
    kept = old[1] if old is not None else None
    shapes = [
        kept.shapes[i].tolist() if kept is not None and same[i] else _shape(files, i, room)
        for i in range(len(stamps))
    ]
    rows = np.concatenate([stamps, np.array(shapes, dtype=np.int64)], axis=1)
    _require_disk(place, int(rows[:, 2:].prod(axis=1).sum()) * len(files.to.mean), len(rows))

    def photo(index: int) -> bytes:
        if kept is not None and same[index]:
            return kept.stored(index).numpy().tobytes()
        return (
            _photo(files, index, shapes[index]) if room is not None else files.whole(index).numpy().tobytes()
        )

    target = _pixels(place, rows.tobytes())
    with atomic(target) as scratch, scratch.open("wb") as out, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(rows), CHUNK):
            chunk = range(start, min(start + CHUNK, len(rows)))
            for index, made in zip(chunk, pool.map(photo, chunk), strict=True):
                out.write(made)
                tick(index + 1, len(rows))
    with atomic(place / "index.npy") as scratch, scratch.open("wb") as out:
        np.save(out, rows)
    for file in place.iterdir():  # of an older state, or of a run that was killed
        if file.name not in {"lock", "index.npy", target.name}:
            with suppress(OSError):  # Windows keeps files that another run has mapped
                file.unlink()


def _shape(files: Files, index: int, room: float | None) -> tuple[int, int]:
    """Height and width at which a photo is kept: never larger than it is."""
    if room is None:
        return files.to.size
    height, width = files.sizes([index])[0].tolist()
    short = ceil(room * max(files.to.size))
    share = min(1.0, short / min(height, width))
    return max(1, round(height * share)), max(1, round(width * share))


def _photo(files: Files, index: int, shape: tuple[int, int]) -> bytes:
    """The bytes of a photo, scaled to a shape. Shape: (h, w, C)"""
    height, width = shape
    image = files.part.picture(index, (width, height) if files.draft else None)
    return scaled(image, (width, height), files.to).tobytes()


def _require_disk(place: Path, size: int, count: int) -> None:
    free = shutil.disk_usage(place).free
    if size > SHARE * free:
        raise Failure(
            f"the cache of {count:,} images takes {size / 1e9:.1f} GB and {place.parent} has "
            f"{free / 1e9:.1f} GB free; name a folder on a larger disk, or train without a cache"
        )
