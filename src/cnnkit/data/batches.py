"""Feeding images to a network: whole batches out of memory for small ones, worker processes for photos.

A batch is a dict of `images` (N, C, H, W) uint8, `labels` (N,) int64 and `index` (N,) int64, the image's
place in its part. The order of an epoch and what augmentation draws in it depend on the seed and the epoch's
number alone, not on the worker, the device or what ran before, so that a run can be taken up again at any
epoch.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnnkit.data.augment import Augmentation, on_batches, on_photos
from cnnkit.data.pictures import fit, to_tensor
from cnnkit.data.sets import Part
from cnnkit.weights.preprocessing import Preprocessing

Batch = dict[str, Tensor]

#: Images up to this many pixels a side are kept in memory, as long as they take no more than the bytes below.
MEMORY_SIDE = 64
MEMORY_BYTES = 2**30


def derive(*numbers: int) -> int:
    """A seed that depends on all of the numbers and shares nothing with its neighbours'."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class Order:
    """Which images make which batch, an epoch at a time; a batch sampler.

    A last batch of one image joins the batch before it: batch norm has no variance of one value.

    Args:
        count: number of images.
        batch_size: images a batch.
        seed: where the permutations come from; None keeps the images in order.
    """

    def __init__(self, count: int, batch_size: int, seed: int | None = None) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch = 0
        self.sampler = self  # where the Trainer looks for `set_epoch`

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; called by the Trainer before an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(self.count, self.batch_size)
        return full + (rest > 1 or full == 0)

    def indices(self) -> list[Tensor]:
        """The batches of the current epoch."""
        if self.seed is None:
            order = torch.arange(self.count)
        else:
            order = torch.randperm(self.count, generator=self.generator(0))
        cuts = [self.batch_size * i for i in range(1, len(self))]
        return list(order.tensor_split(cuts))

    def generator(self, purpose: int) -> torch.Generator:
        """A generator of its own for one purpose in the current epoch."""
        return torch.Generator().manual_seed(derive(self.seed or 0, self.epoch, purpose))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Batches of (epoch, index), so that a worker process knows the epoch."""
        for batch in self.indices():
            yield [(self.epoch, index) for index in batch.tolist()]


class InMemory:
    """Batches cut out of one tensor: no Python call an image.

    Args:
        pixels: (N, C, H, W) uint8 at the network's size.
        labels: N class indices.
        order: which images make which batch.
        augmentation: random changes, by name.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Sequence[int],
        order: Order,
        augmentation: Sequence[Augmentation] = (),
    ) -> None:
        self.pixels, self.labels = pixels, torch.tensor(labels, dtype=torch.int64)
        self.batch_sampler = order
        self.augment = on_batches(augmentation)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        generator = self.batch_sampler.generator(1)
        for index in self.batch_sampler.indices():
            images = self.augment(self.pixels[index], generator)
            yield {"images": images, "labels": self.labels[index], "index": index}


class Photos(Dataset[Batch]):
    """Photos of one part, decoded and augmented one by one; items are asked for by (epoch, index)."""

    def __init__(
        self, part: Part, to: Preprocessing, seed: int, augmentation: Sequence[Augmentation] = ()
    ) -> None:
        self.part, self.to, self.seed = part, to, seed
        self.before, self.after = on_photos(augmentation, to)

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, which: tuple[int, int]) -> Batch:
        epoch, index = which
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(self.seed, epoch, 2, index))
            image = self.after(fit(self.before(self.part.picture(index)), self.to))
        label = torch.tensor(self.part.labels[index])
        return {"images": to_tensor(image, self.to), "labels": label, "index": torch.tensor(index)}


#: What feeds a network; its `batch_sampler` is an `Order`.
Batches = InMemory | DataLoader[Batch]


def fits_in_memory(count: int, to: Preprocessing) -> bool:
    """Whether that many images are kept decoded, at the network's size."""
    height, width = to.size
    return max(height, width) <= MEMORY_SIDE and count * height * width * len(to.mean) <= MEMORY_BYTES


def fitted(part: Part, to: Preprocessing, indices: Sequence[int] | None = None) -> Tensor:
    """Images of a part at the network's size. Shape: (N, C, H, W) uint8"""
    chosen = range(len(part)) if indices is None else indices
    if part.pixels is not None and part.pixels.shape[1:] == (len(to.mean), *to.size) and to.channels != "BGR":
        return part.pixels[list(chosen)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return torch.stack(list(pool.map(lambda i: to_tensor(fit(part.picture(i), to), to), chosen)))


def batches(
    part: Part,
    to: Preprocessing,
    batch_size: int,
    *,
    seed: int | None = None,
    augmentation: Sequence[Augmentation] = (),
    workers: int = 0,
) -> Batches:
    """What feeds a network: shuffled and augmented where a seed is given, else in order and unchanged."""
    order = Order(len(part), batch_size, seed)
    if fits_in_memory(len(part), to) and "crop" not in augmentation:
        return InMemory(fitted(part, to), part.labels, order, augmentation)
    return DataLoader(
        Photos(part, to, seed or 0, augmentation),
        batch_sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # or it would draw from the global one
    )


def statistics(part: Part, to: Preprocessing, most: int = 256) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of the fitted images, in [0, 1]; of an even sample where there are
    many.

    Images in memory are all counted.
    """
    everything = fits_in_memory(len(part), to)
    chosen = range(len(part)) if everything else range(0, len(part), max(1, len(part) // most))
    pixels = fitted(part, to, chosen)
    count = pixels.numel() / pixels.shape[1]
    mean = variance = torch.zeros(pixels.shape[1], dtype=torch.float64)
    for chunk in torch.split(pixels, 1024):
        mean = mean + chunk.double().sum(dim=(0, 2, 3)) / (255 * count)
    for chunk in torch.split(pixels, 1024):
        centred = chunk.double() / 255 - mean[:, None, None]
        variance = variance + centred.square().sum(dim=(0, 2, 3)) / count
    std = variance.sqrt().clamp(min=1 / 255)
    return tuple(round(v, 6) for v in mean.tolist()), tuple(round(v, 6) for v in std.tolist())
