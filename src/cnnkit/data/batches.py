"""Feeding images to a network: whole batches out of memory for small ones, worker processes for photos.

A batch is a dict of `images` (N, C, H, W) uint8, `labels` (N,) int64 and `index` (N,) int64, the image's
place in its part; where images have masks it is `pairs`'. The order of an epoch and what augmentation draws
in it depend on the seed and the epoch's number alone, not on the worker, the device or what ran before, so
that a run can be taken up again at any epoch.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnnkit.data.augment import Augmentation, Boxed, Item, apply, check, in_rgb, parse
from cnnkit.data.cache import Tick, cached
from cnnkit.data.order import Order, Turns, derive
from cnnkit.data.pairs import Pairs, Weigh, fit_in_memory, one_size, windows
from cnnkit.data.photos import Batch, Files, Photos, Source, as_made, in_order
from cnnkit.data.pictures import fit, to_tensor
from cnnkit.data.sets import Part
from cnnkit.errors import Misuse
from cnnkit.weights.preprocessing import Preprocessing

__all__ = ["Batch", "Batches", "InMemory", "Order", "Photos", "batches", "derive", "fits_in_memory", "fitted"]
__all__ += ["sample", "statistics"]

#: Images up to this many pixels a side are kept in memory, as long as they take no more than the bytes below.
MEMORY_SIDE = 64
MEMORY_BYTES = 2**30

#: Images that stand for a part whose images are in files, when its colours are measured.
SAMPLE = 256


class InMemory:
    """Batches cut out of one tensor: no Python call an image.

    Args:
        pixels: (N, C, H, W) uint8 at the network's size, colours in the order RGB.
        labels: N class indices.
        order: which images make which batch.
        to: the network's input.
        augmentation: random changes.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Sequence[int],
        order: Order,
        to: Preprocessing,
        augmentation: Sequence[Augmentation] = (),
    ) -> None:
        self.pixels, self.labels, self.to = pixels, torch.tensor(labels, dtype=torch.int64), to
        self.batch_sampler = order
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        generator = self.batch_sampler.generator(1)
        for place, whole in enumerate(self.batch_sampler.indices()):
            images = apply(self.augmentation, self.pixels.index_select(0, whole), generator)
            piece = self.batch_sampler.piece(place)  # of the changed batch: all processes draw the same
            index = whole[piece]
            yield {"images": in_order(images[piece], self.to), "labels": self.labels[index], "index": index}


#: What feeds a network; its `batch_sampler` is an `Order`.
Batches = InMemory | DataLoader[Batch]


def fits_in_memory(count: int, to: Preprocessing) -> bool:
    """Whether that many images are kept decoded, at the network's size."""
    height, width = to.size
    return max(height, width) <= MEMORY_SIDE and count * height * width * len(to.mean) <= MEMORY_BYTES


def fitted(part: Part, to: Preprocessing, indices: Sequence[int] | None = None) -> Tensor:
    """Images of a part at the network's size, or windows of them. Shape: (N, C, H, W) uint8"""
    chosen = range(len(part)) if indices is None else indices
    if to.fit == "window":
        return windows(part, to, chosen)
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
    augmentation: Iterable[Item] = (),
    workers: int = 0,
    cache: Path | None = None,
    tick: Tick = lambda done, total: None,
    margin: int = 0,
    weigh: Weigh | None = None,
    weak: Collection[int] = (),
) -> Batches:
    """What feeds a network: shuffled and augmented where a seed is given, else in order and unchanged.

    Images with masks are unchanged in this way: whole at their own size, one a batch, where `to.fit` is
    `window`; scaled to the network's size with masks of their own size where it is `squash`, and one a batch
    where these sizes differ.

    Args:
        part: the images.
        to: how they become the network's input.
        batch_size: images a batch.
        seed: where order and augmentation come from.
        augmentation: random changes, resolved; or their names. One that chooses a box comes first.
        workers: processes that decode photos.
        cache: a folder where decoded photos are kept for later epochs and runs; made up to date before this
            returns. Images in memory need none.
        tick: called with the number of photos in the cache and their total, while it is made.
        margin: pixels that the network's output lacks on every side: training windows are drawn of images
            and masks that are mirrored so far beyond their borders.
        weigh: gives the pixels of training labels, (N, H, W), the weights that come as `weights`.
        weak: indices of images of which only the classes that they show are known, as `present`.

    Raises:
        Misuse: an augmentation, the fit or the cache is unknown or makes no sense for these images.
        Failure: the cache cannot be made.
    """
    changes = sorted(parse(augmentation), key=lambda change: not isinstance(change, Boxed))
    check(changes, len(to.mean), masks=part.masks is not None)
    if part.masks is not None:
        require_masks(to, cache)
        return _paired(part, to, batch_size, seed, changes, workers, margin, weigh, weak)
    if to.fit == "window":
        raise Misuse("fit window is for images with masks; use crop, squash or pad")
    order = Order(len(part), batch_size, seed)
    boxed = next((change for change in changes if isinstance(change, Boxed)), None)
    small = fits_in_memory(len(part), to) and (boxed is None or part.pixels is not None)
    files = Files(part, in_rgb(to), draft=seed is not None and not small)
    keep = cache if part.pixels is None else None
    if small:
        pixels = fitted(part, files.to) if keep is None else cached(files, keep, room=None, tick=tick).all()
        return InMemory(pixels, part.labels, order, to, changes)
    source: Source = files
    if keep is not None:
        source = cached(files, keep, room=boxed.room if boxed else None, tick=tick)
    return _loader(Photos(source, part.labels, to, seed or 0, changes), order, workers)


def require_masks(to: Preprocessing, cache: Path | str | None) -> None:
    """Refuse what cannot be done to images with masks.

    Raises:
        Misuse: an image would be cropped or padded where its mask is not, or photos be cached.
    """
    if to.fit not in ("window", "squash"):
        raise Misuse(f"fit {to.fit} is for images with one label each; with masks use window or squash")
    if cache is not None:
        raise Misuse("a cache of photos holds no masks; leave --cache out")


def _paired(
    part: Part,
    to: Preprocessing,
    batch_size: int,
    seed: int | None,
    changes: Sequence[Augmentation],
    workers: int,
    margin: int,
    weigh: Weigh | None,
    weak: Collection[int],
) -> Batches:
    """What feeds a network with images and masks."""
    small = fit_in_memory(part, to)
    draft, keep = seed is not None and not small, small and workers == 0
    pairs = Pairs(part, to, seed, changes, margin=margin, weigh=weigh, weak=weak, draft=draft, keep=keep)
    alone = seed is None and (to.fit == "window" or not one_size(part))
    return _loader(pairs, Turns(len(part)) if alone else Order(len(part), batch_size, seed), workers)


def _loader(dataset: Dataset[Batch], order: Order, workers: int) -> DataLoader[Batch]:
    """Batches of a data set that makes each of them whole."""
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=as_made,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # or it would draw from the global one
    )


def sample(part: Part, to: Preprocessing, most: int = SAMPLE) -> Tensor:
    """Images that stand for a part: all where they are kept in memory, else an even sample. Shape: (N, C, H,
    W) uint8
    """
    everything = fits_in_memory(len(part), to)
    return fitted(part, to, range(0, len(part), 1 if everything else max(1, len(part) // most)))


def statistics(
    part: Part, to: Preprocessing, most: int = SAMPLE
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of the fitted images, in [0, 1]; of an even sample where there are
    many.

    Images in memory are all counted.
    """
    pixels = sample(part, to, most)
    count = pixels.numel() / pixels.shape[1]
    mean = variance = torch.zeros(pixels.shape[1], dtype=torch.float64)
    for chunk in torch.split(pixels, 1024):
        mean = mean + chunk.double().sum(dim=(0, 2, 3)) / (255 * count)
    for chunk in torch.split(pixels, 1024):
        centred = chunk.double() / 255 - mean[:, None, None]
        variance = variance + centred.square().sum(dim=(0, 2, 3)) / count
    std = variance.sqrt().clamp(min=1 / 255)
    return tuple(round(v, 6) for v in mean.tolist()), tuple(round(v, 6) for v in std.tolist())
