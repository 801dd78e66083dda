"""Photos in files, decoded when they are wanted and no larger than they are wanted."""

from collections.abc import Sequence
from math import ceil
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cnnkit.data.augment import Augmentation, Boxed, apply
from cnnkit.data.order import derive
from cnnkit.data.pictures import fit, scaled_size, to_bytes, to_tensor
from cnnkit.data.sets import Part
from cnnkit.weights.preprocessing import Preprocessing

Batch = dict[str, Tensor]
Box = tuple[int, int, int, int]


class Source(Protocol):
    """Where photos come from: their files, or a cache of them."""

    def sizes(self, indices: Sequence[int]) -> Tensor:
        """Heights and widths. Shape: (N, 2)"""

    def fitted(self, indices: Sequence[int]) -> Tensor:
        """Whole photos at the network's size. Shape: (N, C, H, W) uint8"""

    def cut(self, index: int, box: Box) -> Tensor:
        """A box (top, left, height, width) of one photo at the network's size. Shape: (C, H, W) uint8"""


class Files:
    """Photos of one part, decoded from their files.

    Args:
        part: the photos.
        to: the network's input.
        draft: whether a JPEG may be decoded at a fraction of its size, where that suffices.
    """

    def __init__(self, part: Part, to: Preprocessing, *, draft: bool) -> None:
        self.part, self.to, self.draft = part, to, draft
        self._sizes: dict[int, tuple[int, int]] = {}

    def sizes(self, indices: Sequence[int]) -> Tensor:
        """Heights and widths. Shape: (N, 2)"""
        return torch.tensor([self.size(index)[::-1] for index in indices])

    def size(self, index: int) -> tuple[int, int]:
        """Width and height, kept: every epoch asks."""
        if index not in self._sizes:
            self._sizes[index] = self.part.size(index)
        return self._sizes[index]

    def whole(self, index: int) -> Tensor:
        """One photo at the network's size. Shape: (C, H, W) uint8"""
        enough = scaled_size(self.size(index), self.to) if self.draft else None
        return to_tensor(fit(self.part.picture(index, enough), self.to), self.to)

    def fitted(self, indices: Sequence[int]) -> Tensor:
        """Whole photos at the network's size. Shape: (N, C, H, W) uint8"""
        return torch.stack([self.whole(index) for index in indices])

    def cut(self, index: int, box: Box) -> Tensor:
        """A box of one photo at the network's size. Shape: (C, H, W) uint8"""
        top, left, height, width = box
        full_width, full_height = self.size(index)
        enough = None
        if self.draft:
            share = max(self.to.size[0] / height, self.to.size[1] / width)
            enough = (ceil(full_width * share), ceil(full_height * share))
        image = self.part.picture(index, enough).convert("L" if self.to.channels == "L" else "RGB")
        down, across = image.height / full_height, image.width / full_width
        scaled = (round(top * down), round(left * across), round(height * down), round(width * across))
        return resized(to_bytes(image), scaled, self.to)


def resized(pixels: Tensor, box: Box, to: Preprocessing) -> Tensor:
    """A box of a photo at the network's size, antialiased. Shape: (C, h, w) -> (C, H, W) uint8"""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    top, left, height, width = box
    return functional.resized_crop(
        pixels, top, left, max(1, height), max(1, width), list(to.size), InterpolationMode(to.interpolation)
    )


class Photos(Dataset[Batch]):
    """Photos of one part as batches; asked for by lists of (epoch, index), one list a batch.

    What augmentation draws depends on the seed, the epoch and the batch's first image.

    Args:
        source: their pixels, colours in the order RGB.
        labels: their class indices.
        to: the network's input.
        seed: where what augmentation draws comes from.
        augmentation: random changes; one that chooses a box comes first.
    """

    def __init__(
        self,
        source: Source,
        labels: Sequence[int],
        to: Preprocessing,
        seed: int,
        augmentation: Sequence[Augmentation] = (),
    ) -> None:
        self.source, self.labels, self.to, self.seed = source, torch.tensor(labels), to, seed
        self.boxed = next((a for a in augmentation if isinstance(a, Boxed)), None)
        self.augmentation = tuple(a for a in augmentation if a is not self.boxed)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: tuple[int, int]) -> Batch:
        """A batch of one."""
        return self.__getitems__([which])

    def __getitems__(self, which: list[tuple[int, int]]) -> Batch:
        """One batch, as the DataLoader asks for it."""
        epoch, indices = which[0][0], [index for _, index in which]
        generator = torch.Generator().manual_seed(derive(self.seed, epoch, 2, indices[0]))
        if self.boxed is None:
            images = self.source.fitted(indices)
        else:
            boxes = self.boxed.boxes(self.source.sizes(indices), self.to.size, generator)
            images = self._cut(indices, boxes.tolist())
        images = apply(self.augmentation, images, generator)
        index = torch.tensor(indices)
        return {"images": in_order(images, self.to), "labels": self.labels[index], "index": index}

    def _cut(self, indices: list[int], boxes: list[Box]) -> Tensor:
        """A box of each photo. Shape: (N, C, H, W) uint8"""
        images = torch.empty(len(indices), len(self.to.mean), *self.to.size, dtype=torch.uint8)
        for place, (index, box) in enumerate(zip(indices, boxes, strict=True)):
            images[place] = self.source.cut(index, box)
        return images


def in_order(images: Tensor, to: Preprocessing) -> Tensor:
    """Channels in the network's order, from RGB. Shape: (N, C, H, W), kept"""
    return images.flip(1) if to.channels == "BGR" else images


def as_made(made: Any) -> Any:
    """What a worker gives to the DataLoader: a batch needs no collating."""
    return made
