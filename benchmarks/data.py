"""Images a second of the two pipelines, against what people use: torchvision's data sets and transforms in a
DataLoader. All end at the float tensor that a network reads.

    photos   random crop, flip and normalise at 224 pixels: from the files, from a cold cache (which is made
             in the time) and from a warm one; against ImageFolder + transforms.v2
    small    pad and crop, flip and normalise at 32 pixels: whole batches in memory; against the same
             transforms sample by sample, of v2 and of v1

The candidates take turns, a round of all after the other. Speeds and ratios are medians over the rounds, with
the least and the most; without workers the ratio is given by CPU time as well.

    python benchmarks/data.py --photos FOLDER_OF_CLASSES     (or CNNKIT_REALDATA=..., which has hymenoptera)
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from cnnkit import data
from cnnkit.data.batches import batches
from cnnkit.data.sets import Part
from cnnkit.weights.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTO, SMALL = Preprocessing((224, 224)), Preprocessing((32, 32))
NORMALISE = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


class Speed(NamedTuple):
    """Images a second, by the clock and by this process's CPU time, which a busy machine disturbs less."""

    wall: float
    cpu: float


Run = Callable[[], Speed]


@contextmanager
def timed(count: int) -> Iterator[list[Speed]]:
    """The speed at which so many images went by, in a list."""
    found: list[Speed] = []
    wall, cpu = time.perf_counter(), time.process_time()
    yield found
    found.append(Speed(count / (time.perf_counter() - wall), count / (time.process_time() - cpu)))


def passed(batches: Iterable[Tensor], count: int) -> Speed:
    """The speed of one pass."""
    with timed(count) as found:
        assert sum(len(images) for images in batches) == count
    return found[0]


class Pass:
    """One pass through one of our pipelines, normalised as the trainer does; an epoch further each time."""

    def __init__(self, part: Part, to: Preprocessing, batch: int, names: list[str], **how: object) -> None:
        self.to, self.count = to, len(part)
        self.feed = batches(part, to, batch, seed=0, augmentation=names, **how)  # type: ignore[arg-type]

    def __call__(self) -> Speed:
        self.feed.batch_sampler.set_epoch(self.feed.batch_sampler.epoch + 1)  # type: ignore[attr-defined]
        return passed((self.to.normalise(batch["images"]) for batch in self.feed), self.count)


class Several(Dataset[tuple[Tensor, int]]):
    """A data set several times over, so that a pass is long enough to be timed."""

    def __init__(self, data: torchvision.datasets.ImageFolder, times: int) -> None:
        self.data, self.times = data, times

    def __len__(self) -> int:
        return len(self.data) * self.times

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.data[index % len(self.data)]


def loader(dataset: Dataset[tuple[Tensor, int]], batch: int, workers: int) -> Run:
    """One pass through a DataLoader, its workers kept."""
    feed = DataLoader(dataset, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda: passed((images for images, _ in feed), len(dataset))  # type: ignore[arg-type]


def photos(folder: Path, batch: int, workers: int, times: int, cache: Path) -> dict[str, Run]:
    """The candidates for photos, the peer first."""
    part = data.open(folder).parts["train"]
    part = Part(list(part.keys) * times, list(part.labels) * times, part.root)
    change = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.ToImage(), *NORMALISE]
    peer = torchvision.datasets.ImageFolder(str(folder / "train"), v2.Compose(change))
    names = ["crop", "flip"]

    def cold() -> Speed:
        shutil.rmtree(cache / "cold", ignore_errors=True)
        with timed(len(part)) as found:
            Pass(part, PHOTO, batch, names, workers=workers, cache=cache / "cold")()
        return found[0]

    return {
        "ImageFolder + transforms.v2": loader(Several(peer, times), batch, workers),
        "cnnkit, no cache": Pass(part, PHOTO, batch, names, workers=workers),
        "cnnkit, cold cache": cold,
        "cnnkit, warm cache": Pass(part, PHOTO, batch, names, workers=workers, cache=cache / "warm"),
    }


class Samples(Dataset[tuple[Tensor, int]]):
    """Small images with a transform each, as `torchvision.datasets.CIFAR10` gives them."""

    def __init__(self, pixels: Tensor, transform: Callable[[Image.Image], Tensor]) -> None:
        self.pixels, self.transform = pixels.permute(0, 2, 3, 1).contiguous().numpy(), transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), 0


def small(count: int, batch: int, workers: int) -> dict[str, Run]:
    """The candidates for small images, the peer first."""
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    part = Part([str(i) for i in range(count)], [0] * count, pixels=pixels)
    second = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToImage(), *NORMALISE])
    first = v1.Compose(
        [v1.RandomCrop(32, padding=4), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)]
    )
    return {
        "DataLoader + transforms.v2": loader(Samples(pixels, second), batch, workers),
        "DataLoader + transforms v1": loader(Samples(pixels, first), batch, workers),
        "cnnkit, whole batches": Pass(part, SMALL, batch, ["pad_crop", "flip"]),
    }


def compare(title: str, candidates: dict[str, Run], rounds: int, *, cpu: bool) -> None:
    """Time all in turns, after a pass each to warm up, and print medians and their ratios to the first's."""
    found: dict[str, list[Speed]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            speed = run()
            if turn > 0:
                found[name].append(speed)
    print(f"\n{title}; {rounds} rounds, load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")
    print(f"{'':30}{'images/s':>10}{'ratio':>8}{'':17}" + ("by CPU time" if cpu else ""))
    peer = next(iter(found.values()))
    for name, speeds in found.items():
        line = f"{name:30}{statistics.median(speed.wall for speed in speeds):10,.0f}"
        for kind in (0, 1) if cpu else (0,):
            ratios = [own[kind] / other[kind] for own, other in zip(speeds, peer, strict=True)]
            line += f"{statistics.median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f})".ljust(25)
        print(line.rstrip())


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    real = os.environ.get("CNNKIT_REALDATA")
    parser.add_argument("--photos", type=Path, default=Path(real, "hymenoptera") if real else None)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {asked.threads} thread(s) in this process")
    for workers in asked.workers:
        title = f"small images, batch 128, {workers} workers"
        compare(title, small(6400, 128, workers), asked.rounds, cpu=workers == 0)
        if asked.photos is None:
            print("no photos: give --photos or CNNKIT_REALDATA")
            continue
        with tempfile.TemporaryDirectory() as cache:
            title = f"photos of {asked.photos.name}, batch {asked.batch}, {workers} workers"
            candidates = photos(asked.photos, asked.batch, workers, 4, Path(cache))
            compare(title, candidates, asked.rounds, cpu=workers == 0)


if __name__ == "__main__":
    main()
