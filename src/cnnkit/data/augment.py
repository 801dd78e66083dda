"""Random changes to training images: on whole batches in memory, or on one photo at a time."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from cnnkit.weights.preprocessing import Preprocessing

#: `shift` moves by up to 0.07 of the side (two pixels of 28), `flip` mirrors left and right, `crop` is
#: Inception's random crop.
Augmentation = Literal["shift", "flip", "crop"]
SHIFT = 0.07

BatchAugmentation = Callable[[Tensor, torch.Generator], Tensor]


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by its own whole number of pixels, its border repeated. Shape: (N, C, H, W), kept"""
    count, _, height, width = images.shape
    dy, dx = round(SHIFT * height), round(SHIFT * width)
    rows = torch.arange(-dy, height + dy).clamp(0, height - 1)
    columns = torch.arange(-dx, width + dx).clamp(0, width - 1)
    windows = images[:, :, rows][..., columns].unfold(2, height, 1).unfold(3, width, 1)
    down = torch.randint(2 * dy + 1, (count,), generator=generator)
    right = torch.randint(2 * dx + 1, (count,), generator=generator)
    return windows[torch.arange(count), :, down, right]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images mirrored left to right. Shape: (N, C, H, W), kept"""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def on_batches(names: Sequence[Augmentation]) -> BatchAugmentation:
    """The named changes as one function on batches of bytes, drawn from a generator.

    Raises:
        ValueError: `crop`, which needs the images before they were scaled.
    """
    known: dict[str, BatchAugmentation] = {"shift": shift, "flip": flip}
    if "crop" in names:
        raise ValueError("crop works on single photos; on images in memory use shift")
    steps = [known[name] for name in names]

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        for step in steps:
            images = step(images, generator)
        return images

    return augment


def on_photos(
    names: Sequence[Augmentation], to: Preprocessing
) -> tuple[Callable[[Image.Image], Image.Image], Callable[[Image.Image], Image.Image]]:
    """The named changes to one photo: before it is fitted to the network's size, and after.

    They draw from torch's global random state, as torchvision's transforms do.
    """
    from torchvision.transforms import InterpolationMode, v2

    before: list[Callable[[Image.Image], Image.Image]] = []
    after: list[Callable[[Image.Image], Image.Image]] = []
    if "crop" in names:
        before.append(v2.RandomResizedCrop(to.size, interpolation=InterpolationMode(to.interpolation)))
    if "shift" in names:
        margin = [round(SHIFT * to.size[1]), round(SHIFT * to.size[0])]
        after.append(v2.RandomCrop(to.size, padding=margin, padding_mode="edge"))
    if "flip" in names:
        after.append(v2.RandomHorizontalFlip())
    return _chain(before), _chain(after)


def _chain(steps: list[Callable[[Image.Image], Image.Image]]) -> Callable[[Image.Image], Image.Image]:
    def run(image: Image.Image) -> Image.Image:
        for step in steps:
            image = step(image)
        return image

    return run
