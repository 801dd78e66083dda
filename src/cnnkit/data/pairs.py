"""Pictures with their masks as batches: both are cut, scaled and augmented alike.

A batch holds `images` (N, C, H, W) uint8, `labels` (N, H, W) uint8, `index` (N,) int64, `weights` (N, H, W)
float32 where a loss weighs pixels, and `present` (N, K) bool where of some pictures only the classes are
known.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cnnkit.data.augment import Augmentation, Boxed, apply_pair, in_rgb
from cnnkit.data.augment.crop import Window
from cnnkit.data.masks import IGNORED
from cnnkit.data.order import derive
from cnnkit.data.photos import Batch, Box, Files, in_order
from cnnkit.data.pictures import scaled, to_bytes
from cnnkit.data.sets import Part
from cnnkit.weights.preprocessing import Preprocessing

#: Pictures and masks that take no more than this are decoded once and kept.
MEMORY_BYTES = 2**30

#: What a loss makes of labels (N, H, W): how much each pixel counts.
Weigh = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Frame:
    """The plane that windows are drawn in: a picture, what is mirrored around it, and what counts nowhere.

    Attributes:
        size: height and width of the picture.
        margin: pixels mirrored on every side whose labels count.
        least: height and width that the plane has at least.
    """

    size: tuple[int, int]
    margin: int
    least: tuple[int, int]

    @property
    def plane(self) -> tuple[int, int]:
        """Height and width of the plane."""
        return self._along(0)[0], self._along(1)[0]

    def _along(self, axis: int) -> tuple[int, int]:
        """The plane's side, and where the picture begins on it."""
        side = max(self.size[axis] + 2 * self.margin, self.least[axis])
        return side, (side - self.size[axis]) // 2

    def inside(self, box: Box) -> Box | None:
        """The box in the picture's own pixels, where it lies in the picture."""
        top, left, height, width = box
        top, left = top - self._along(0)[1], left - self._along(1)[1]
        fits = top >= 0 and left >= 0 and top + height <= self.size[0] and left + width <= self.size[1]
        return (top, left, height, width) if fits else None

    def places(self, axis: int, start: int, length: int) -> tuple[Tensor, Tensor]:
        """Rows or columns of the picture that a stretch of the plane shows, and which of them count."""
        side = self.size[axis]
        where = torch.arange(start, start + length) - self._along(axis)[1]
        counts = (where >= -self.margin) & (where < side + self.margin)
        period = max(1, 2 * side - 2)
        where = where % period
        return torch.minimum(where, period - where).clamp(max=side - 1), counts


class Pairs(Dataset[Batch]):
    """Pictures of one part with their masks; asked for by lists of (epoch, index), one list a batch.

    In training every picture is seen once, scaled or through a window, and what is drawn depends on the seed,
    the epoch and the batch's first image. Otherwise nothing is drawn: a picture is whole at its own size, or
    scaled to the network's where `to.fit` is `squash`, and its mask always whole at its own.

    Args:
        part: the pictures.
        to: the network's input.
        seed: where what is drawn comes from; None draws nothing.
        augmentation: random changes; one that chooses a box comes first.
        margin: pixels that the network's output lacks on every side. The picture is mirrored as far.
        weigh: gives each pixel a weight.
        weak: pictures of which only the classes that they show are known: all their pixels are IGNORED.
        draft: whether a JPEG may be decoded at a fraction of its size, where that suffices.
        keep: whether what was decoded is kept in memory.
    """

    def __init__(
        self,
        part: Part,
        to: Preprocessing,
        seed: int | None,
        augmentation: Sequence[Augmentation] = (),
        *,
        margin: int = 0,
        weigh: Weigh | None = None,
        weak: Collection[int] = (),
        draft: bool = False,
        keep: bool = False,
    ) -> None:
        self.part, self.to, self.seed, self.margin, self.weigh = part, to, seed, margin, weigh
        boxed = next((a for a in augmentation if isinstance(a, Boxed)), None)
        self.augmentation = tuple(a for a in augmentation if a is not boxed)
        self.weak = frozenset(weak)
        self.boxed = boxed or (Window(scale=(1.0, 1.0)) if to.fit == "window" else None)
        self.files = Files(part, in_rgb(to), draft=draft)
        self._images: dict[int, Tensor] | None = {} if keep else None
        self._masks: dict[int, Tensor] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, which: tuple[int, int]) -> Batch:
        """A batch of one."""
        return self.__getitems__([which])

    def __getitems__(self, which: list[tuple[int, int]]) -> Batch:
        """One batch, as the DataLoader asks for it."""
        epoch, indices = which[0][0], [index for _, index in which]
        if self.seed is None:
            images = torch.stack([self._image(index) for index in indices])
            labels = torch.stack([self._mask(index) for index in indices])
        else:
            generator = torch.Generator().manual_seed(derive(self.seed, epoch, 2, indices[0]))
            images, labels = self._drawn(indices, generator)
        batch = {"images": in_order(images, self.to), "labels": labels, "index": torch.tensor(indices)}
        if self.weak:
            batch |= self._weakened(labels, indices)
        return batch if self.weigh is None else batch | {"weights": self.weigh(batch["labels"])}

    def _weakened(self, labels: Tensor, indices: list[int]) -> Batch:
        """Labels without those of weak pictures, and which classes are there, in these in the whole."""
        weak = [index in self.weak for index in indices]
        seen = [
            self._mask(index) if gone else found
            for index, gone, found in zip(indices, weak, labels, strict=True)
        ]
        count = len(self.part.masks.coding.classes) if self.part.masks else 0
        present = torch.stack([torch.bincount(mask.flatten(), minlength=256)[:count] > 0 for mask in seen])
        return {
            "labels": labels.masked_fill(torch.tensor(weak)[:, None, None], IGNORED),
            "present": present,
        }

    def _drawn(self, indices: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures and masks of the network's size, changed at random."""
        if self.boxed is None:
            images = [self._image(index) for index in indices]
            labels = [resampled(self._mask(index), self.to.size) for index in indices]
        else:
            frames = [self.frame(index) for index in indices]
            sizes = torch.tensor([frame.plane for frame in frames])
            boxes = self.boxed.boxes(sizes, self.to.size, generator).tolist()
            which = list(zip(indices, frames, boxes, strict=True))
            images, labels = [self.image(*cut) for cut in which], [self.labels(*cut) for cut in which]
        return apply_pair(self.augmentation, torch.stack(images), torch.stack(labels), generator)

    def frame(self, index: int) -> Frame:
        """The plane in which a picture's box is drawn."""
        width, height = self.files.size(index)
        return Frame((height, width), self.margin, self.to.size if self.to.fit == "window" else (0, 0))

    def image(self, index: int, frame: Frame, box: Box) -> Tensor:
        """A box of a picture's plane at the network's size. Shape: (C, H, W) uint8"""
        inner = frame.inside(box)
        if self.files.draft and inner is not None:
            return self.files.cut(index, inner)
        rows, columns = (frame.places(axis, box[axis], box[axis + 2])[0] for axis in (0, 1))
        return rescaled(taken(self._image(index), rows, columns), self.to)

    def labels(self, index: int, frame: Frame, box: Box) -> Tensor:
        """The same box of its mask, IGNORED beyond the margin. Shape: (H, W) uint8"""
        (rows, right_rows), (columns, right_columns) = (
            frame.places(axis, box[axis], box[axis + 2]) for axis in (0, 1)
        )
        labels = taken(self._mask(index), rows, columns)
        if not (right_rows.all() and right_columns.all()):
            labels = labels.masked_fill(~(right_rows[:, None] & right_columns), IGNORED)
        return resampled(labels, self.to.size)

    def _image(self, index: int) -> Tensor:
        """A whole picture: at its own size where boxes or windows are seen of it, else at the network's."""
        return _held(self._images, index, self._decoded)

    def _decoded(self, index: int) -> Tensor:
        if self.boxed is None:
            return self.files.whole(index)
        picture = self.part.picture(index)
        return to_bytes(scaled(picture, picture.size, self.to)).contiguous()

    def _mask(self, index: int) -> Tensor:
        """A whole mask at its own size."""
        return _held(self._masks, index, self.part.mask)


def _held(kept: dict[int, Tensor] | None, index: int, make: Callable[[int], Tensor]) -> Tensor:
    """What is made of a picture, once where it is kept."""
    if kept is None:
        return make(index)
    if index not in kept:
        kept[index] = make(index)
    return kept[index]


def taken(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Some rows and columns, in an order of their own. Shape: (..., H, W) -> (..., h, w)"""
    return pixels.index_select(-2, rows).index_select(-1, columns)


def rescaled(image: Tensor, to: Preprocessing) -> Tensor:
    """A cut at the network's size, antialiased. Shape: (C, h, w) -> (C, H, W) uint8"""
    if image.shape[1:] == to.size:
        return image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    return functional.resize(image, list(to.size), InterpolationMode(to.interpolation), antialias=True)


def resampled(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask at another size, every pixel from the one that lies under its centre. Shape: (h, w) -> (H, W)"""
    rows, columns = (
        (((torch.arange(side) + 0.5) * (had / side)).long().clamp(max=had - 1))
        for had, side in zip(mask.shape, size, strict=True)
    )
    return mask if mask.shape == size else taken(mask, rows, columns)


def fit_in_memory(part: Part, to: Preprocessing) -> bool:
    """Whether pictures and masks of a part are kept decoded."""
    room = MEMORY_BYTES
    for index in range(len(part)):
        width, height = part.size(index)
        room -= (len(to.mean) + 1) * width * height
        if room < 0:
            return False
    return True


def one_size(part: Part) -> bool:
    """Whether all pictures of a part, and so their masks, have the same size."""
    return len({part.size(index) for index in range(len(part))}) <= 1


def windows(part: Part, to: Preprocessing, indices: Sequence[int]) -> Tensor:
    """A window of each picture, always the same one. Shape: (N, C, H, W) uint8"""
    pairs = Pairs(part, to, seed=0)
    frames = [pairs.frame(index) for index in indices]
    sizes = torch.tensor([frame.plane for frame in frames])
    boxes = Window(scale=(1.0, 1.0)).boxes(sizes, to.size, torch.Generator().manual_seed(0)).tolist()
    made = [pairs.image(*cut) for cut in zip(indices, frames, boxes, strict=True)]
    return in_order(torch.stack(made), to)
