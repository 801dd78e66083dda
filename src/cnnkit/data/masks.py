"""Masks: files that give each pixel of a picture a class, by a number or by a colour."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cnnkit.data.pictures import opened
from cnnkit.data.remembered import remembered
from cnnkit.errors import Failure

#: The label of a pixel that counts nowhere.
IGNORED = 255

#: The most classes that a mask can hold beside it.
MOST_CLASSES = 255

#: More different values than this are no classes; files that lose detail, such as JPEG, have them.
MOST_VALUES = 1000

#: What stands for a colour that is no number, and for a number that has no colour.
NONE = -1


@dataclass(frozen=True, slots=True)
class Coding:
    """Which class each value in mask files stands for.

    Attributes:
        classes: names, in the order of the class indices.
        values: a number, or a colour as 0xRRGGBB, to its class index; IGNORED where it counts nowhere.
        colours: whether the values are colours. A palette's numbers count as they are, unless they are.
    """

    classes: tuple[str, ...]
    values: Mapping[int, int]
    colours: bool = False

    def decode(self, path: Path) -> Tensor:
        """The class of every pixel of a file. Shape: (H, W) uint8

        Raises:
            Failure: the file cannot be read, or holds a value that has no class.
        """
        with opened(path) as image:
            image.load()
            raw = packed(image) if self.colours else plain(image)
        if raw.dtype == np.uint8:
            labels = np.array([self.values.get(value, NONE) for value in range(256)], dtype=np.int16)[raw]
        else:
            known = np.array(sorted(self.values))
            place = np.searchsorted(known, raw).clip(max=len(known) - 1)
            targets = np.array([self.values[value] for value in known.tolist()], dtype=np.int16)
            labels = np.where(known[place] == raw, targets[place], NONE)
        if (labels == NONE).any():
            raise Failure(self.refusal(path, int(raw[labels == NONE][0])))
        return torch.from_numpy(labels.astype(np.uint8))

    def refusal(self, path: Path, value: int) -> str:
        """What is said of a file's value that has no class."""
        if value == NONE:
            return (
                f"{path} holds colours and the classes are numbers; name the classes' colours in a class map"
            )
        shown = self.shown(value)
        return f"{path} holds {shown}, which is no class; name it in the class map, or ignore it"

    def shown(self, value: int) -> str:
        """A value as people write it."""
        return f"#{value:06x}" if self.colours else str(value)

    def counts(self, tally: "Tally") -> tuple[list[int], list[int]]:
        """Pixels of each class in a file, and the values that have none."""
        pixels, unknown = [0] * len(self.classes), []
        for number, colour, count in tally.values:
            label = self.values.get(colour if self.colours else number)
            if label is None:
                unknown.append(colour if self.colours else number)
            elif label != IGNORED:
                pixels[label] += count
        return pixels, unknown


@dataclass(frozen=True, slots=True)
class Tally:
    """What one look at a mask's file found.

    Attributes:
        width: of the mask.
        height: of the mask.
        values: number, colour and pixels of each value; NONE where it has no number, or no colour.
        problem: why the file cannot be used, where it cannot.
    """

    width: int = 0
    height: int = 0
    values: tuple[tuple[int, int, int], ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """The masks of a part's images, in the images' order.

    Attributes:
        keys: their files' paths below the root.
        root: where the paths begin.
        coding: what their values stand for.
    """

    keys: Sequence[str]
    root: Path
    coding: Coding

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, index: int) -> Path:
        """Where a mask's file is."""
        return self.root / self.keys[index]

    def read(self, index: int) -> Tensor:
        """The class of every pixel. Shape: (H, W) uint8"""
        return self.coding.decode(self.path(index))

    def misfit(self, index: int, picture: tuple[int, int], mask: tuple[int, int]) -> str:
        """What is said of a mask whose width and height are not its picture's."""
        return (
            f"{self.path(index)} has {mask[0]} x {mask[1]} pixels and its picture {picture[0]} x "
            f"{picture[1]} when it is upright; make them alike"
        )

    def select(self, indices: Sequence[int]) -> "Masks":
        """Some of the masks."""
        return Masks([self.keys[i] for i in indices], self.root, self.coding)


def plain(image: Image.Image) -> NDArray[Any]:
    """The numbers in a mask; NONE for a colour that is no grey. Shape: (H, W), uint8 or int64

    Raises:
        ValueError: the picture's kind is no mask's, or a number is negative.
    """
    if image.mode in {"L", "P", "1"}:
        return np.asarray(image).astype(np.uint8, copy=False)
    if image.mode in {"LA", "PA"}:
        return np.asarray(image)[..., 0]
    if image.mode.startswith("I"):
        numbers = np.asarray(image).astype(np.int64)
        if (numbers < 0).any():
            raise ValueError(f"it holds {numbers.min()}, and numbers of classes are 0 or more")
        return numbers
    colours = packed(image)
    return np.where(colours % 0x010101 == 0, colours // 0x010101, NONE)


def packed(image: Image.Image) -> NDArray[np.int64]:
    """The colours in a mask as 0xRRGGBB. Shape: (H, W)

    Raises:
        ValueError: its pixels are deeper than colours.
    """
    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(f"its pixels are of the kind {image.mode!r} and must be bytes")
    wide: NDArray[np.int64] = np.asarray(image.convert("RGB")).astype(np.int64)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def tally(path: Path) -> Tally:
    """A look at one file."""
    try:
        with opened(path) as image:
            image.load()
            if image.format == "JPEG":
                return Tally(
                    problem=f"{path} is a JPEG, which blurs the numbers of classes; save masks as PNG"
                )
            rows = _rows(image)
            width, height = image.size
    except Failure as failure:
        return Tally(problem=str(failure))
    if len(rows) > MOST_VALUES:
        return Tally(
            problem=f"{path} holds {len(rows):,} different values, which are no classes; save masks without "
            f"loss, as PNG"
        )
    return Tally(width, height, rows)


def _rows(image: Image.Image) -> tuple[tuple[int, int, int], ...]:
    """Number, colour and pixels of each value."""
    raw = plain(image)
    if raw.dtype != np.uint8:
        values = raw if image.mode.startswith("I") else packed(image)
        found, counts = (list(map(int, column)) for column in np.unique(values, return_counts=True))
        if image.mode.startswith("I"):
            return tuple((value, NONE, count) for value, count in zip(found, counts, strict=True))
        grey = [value // 0x010101 if value % 0x010101 == 0 else NONE for value in found]
        return tuple(zip(grey, found, counts, strict=True))
    pixels = np.bincount(raw.ravel(), minlength=256)
    shades = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    if image.mode in {"P", "PA"} and image.palette is not None:
        shades = shades.convert("P")
        shades.putpalette(image.getpalette("RGB") or [])
    elif image.mode == "1":
        shades = shades.point(lambda value: 255 * value)
    colours = packed(shades)[0]
    return tuple(
        (value, int(colours[value]), int(pixels[value])) for value in np.flatnonzero(pixels).tolist()
    )


def tallies(
    root: Path, keys: Sequence[str], tick: Callable[[int, int], None] = lambda done, total: None
) -> list[Tally]:
    """A look at each of the files; what was found is remembered until a file changes."""

    def look(path: Path) -> list[Any]:
        seen = tally(path)
        return [seen.width, seen.height, seen.values, seen.problem]

    return [
        Tally(width, height, tuple((a, b, c) for a, b, c in values), problem)
        for _, (width, height, values, problem) in remembered(root, keys, look, "masks", tick)
    ]
