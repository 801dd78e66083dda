"""What a data set is: named classes, and parts that hold keyed images with a label or a mask each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from PIL import Image
from torch import Tensor

from cnnkit.data.masks import Masks
from cnnkit.data.pictures import read, size, to_picture
from cnnkit.data.splits import TEST, VAL, hold_out
from cnnkit.errors import Failure


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The images of one part, in a fixed order.

    Attributes:
        keys: what names an image for good: its path below the root, or its index in the original.
        labels: class indices; all 0 where masks label the pixels, so that a split takes all images alike.
        root: where the paths begin, for images in files.
        pixels: (N, C, H, W) uint8, for images in memory.
        masks: what gives each pixel its class, where images have no class of their own.
    """

    keys: Sequence[str]
    labels: Sequence[int]
    root: Path | None = None
    pixels: Tensor | None = field(default=None, repr=False)
    masks: Masks | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    def picture(self, index: int, draft: tuple[int, int] | None = None) -> Image.Image:
        """One image as a person would see it."""
        if self.pixels is not None:
            return to_picture(self.pixels[index])
        return read(self.path(index), draft)

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of one image, without decoding it."""
        if self.pixels is not None:
            return self.pixels.shape[3], self.pixels.shape[2]
        return size(self.path(index))

    def mask(self, index: int) -> Tensor:
        """The class index of each pixel of one image, IGNORED where nothing counts. Shape: (H, W) uint8

        Raises:
            Failure: the mask cannot be read, holds a value without a class, or is not of the image's size.
        """
        if self.masks is None:
            raise ValueError("these images have no masks")
        made = self.masks.read(index)
        width, height = self.size(index)
        if made.shape != (height, width):
            raise Failure(self.masks.misfit(index, (width, height), (made.shape[1], made.shape[0])))
        return made

    def path(self, index: int) -> Path:
        """Where an image's file is."""
        if self.root is None:
            raise ValueError("these images are in memory and have no files")
        return self.root / self.keys[index]

    def select(self, indices: Sequence[int]) -> "Part":
        """Some of the images."""
        return Part(
            [self.keys[i] for i in indices],
            [self.labels[i] for i in indices],
            self.root,
            None if self.pixels is None else self.pixels[list(indices)],
            None if self.masks is None else self.masks.select(indices),
        )

    def without(self, keys: Collection[str]) -> "Part":
        """All images but those of the given keys."""
        gone = set(keys)
        return self.select([i for i, key in enumerate(self.keys) if key not in gone])


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """Labelled images in parts.

    Attributes:
        name: a short name for folders and titles.
        source: what was asked for: a path or a built-in name.
        layout: what was found there, in words.
        classes: class names in the order of the labels.
        parts: `train`, `val`, `test`; or `all` before a split.
        set_aside: keys that were taken out of `train` for `val` or `test`, because the data came without.
        task: what the labels are for: a class an image, or a class a pixel.
    """

    name: str
    source: str
    layout: str
    classes: Sequence[str]
    parts: Mapping[str, Part]
    set_aside: Mapping[str, Sequence[str]] = field(default_factory=dict)
    task: Literal["classify", "segment"] = "classify"

    def without(self, keys: Collection[str]) -> "DataSet":
        """The same data less the images of the given keys."""
        return replace(self, parts={name: part.without(keys) for name, part in self.parts.items()})

    def share(self, share: float) -> "DataSet":
        """The same data with a share of the images of each class, always the same ones; tests stay whole.

        Raises:
            Failure: so few are left that none can be set aside.
        """
        made = replace(
            self,
            parts={
                name: part if name == "test" else part.select(hold_out(part.labels, share))
                for name, part in self.parts.items()
            },
        )
        if short := [name for name, keys in made._aside().items() if not keys]:
            raise Failure(
                f"with so few images the {short[0]} part of {self.source} has no image; raise --share"
            )
        return made

    def _aside(self) -> dict[str, Sequence[str]]:
        """The keys that a split sets aside, where the data have no parts for that."""
        aside: dict[str, Sequence[str]] = {}
        whole = self.parts.get("all", self.parts.get("train"))
        if whole is not None and "all" in self.parts:
            aside["test"] = _choose(whole, TEST)
        if whole is not None and "val" not in self.parts:
            aside["val"] = _choose(whole.without(aside.get("test", ())), VAL)
        return aside

    def chosen(self) -> dict[str, Sequence[str]]:
        """The keys that a split sets aside.

        Raises:
            Failure: there are too few images.
        """
        aside = self._aside()
        if short := [name for name, keys in aside.items() if not keys]:
            what = "of one class" if self.task == "classify" else "in all"
            raise Failure(
                f"{self.source} has too few images to set some aside for {' and '.join(short)}: there must "
                f"be {1 + len(aside)} or more {what}; add some, or make folders train/, val/ and test/"
            )
        return aside

    def split(self, stored: Mapping[str, Sequence[str]] | None = None) -> "DataSet":
        """The same data with a `train`, a `val` and, where it came in one piece, a `test` part.

        Args:
            stored: keys set aside by an earlier call, to be used again.

        Raises:
            Failure: there are too few images to set some aside, or a stored key is gone.
        """
        parts, aside = dict(self.parts), self.chosen() if stored is None else dict(stored)
        if "all" in parts:
            parts["train"] = parts.pop("all")
        whole = parts.get("train")
        for name, keys in aside.items():
            if whole is None:
                raise Failure(f"{self.source} has no training part, but the run set images of one aside")
            where = {key: i for i, key in enumerate(whole.keys)}
            if gone := [key for key in keys if key not in where]:
                raise Failure(
                    f"{self.source} has changed since the run: {len(gone)} of its {name} images are gone, "
                    f"the first is {gone[0]}"
                )
            parts[name] = whole.select([where[key] for key in keys])
            parts["train"] = parts["train"].without(keys)
        return replace(self, parts=parts, set_aside=aside)


def _choose(part: Part, share: float) -> list[str]:
    return [part.keys[i] for i in hold_out(part.labels, share)]
