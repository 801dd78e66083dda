"""Random changes to training images, by the names that a recipe gives them.

`parse` reads a recipe's list, `resolve` fills in what comes from the data, `apply` changes a batch of bytes.
Reading and checking a list needs no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cnnkit.data.augment.base import Augmentation
from cnnkit.data.augment.colour import ColourJitter, Grey, PcaColour
from cnnkit.data.augment.crop import Boxed, Crop, ScaleJitter, Window
from cnnkit.data.augment.erase import Cutout, Erasing
from cnnkit.data.augment.move import Flip, PadCrop, QuarterTurns, Shift, VerticalFlip
from cnnkit.data.augment.single import AugMix, Blur, RandAugment, TrivialAugment
from cnnkit.data.augment.warp import Affine, Elastic, GridElastic, Perspective, Rotation
from cnnkit.errors import Misuse
from cnnkit.parts import choose, named

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cnnkit.data.sets import Part
    from cnnkit.weights.preprocessing import Preprocessing

__all__ = ["AUGMENTATIONS", "Augmentation", "Boxed", "Item", "apply", "check", "in_rgb", "parse"]
__all__ += ["apply_pair", "resolve"]

#: All there are, in the order in which they are listed to people.
AUGMENTATIONS: dict[str, type[Augmentation]] = named(
    *(Crop, ScaleJitter, Window, PadCrop, Shift, Flip, VerticalFlip, QuarterTurns),
    *(Rotation, Affine, Perspective, Elastic, GridElastic),
    *(PcaColour, ColourJitter, Grey, Blur),
    *(Erasing, Cutout),
    *(RandAugment, TrivialAugment, AugMix),
)

#: An item of a recipe's list: a name, a table with a name and settings, or the part itself.
Item = str | Mapping[str, Any] | Augmentation


def parse(items: Iterable[Item]) -> tuple[Augmentation, ...]:
    """A recipe's list as augmentations.

    Raises:
        Misuse: a name or a setting is not known, or a value is not allowed.
    """
    return tuple(choose(AUGMENTATIONS, item, "augment") for item in items)


def check(augmentations: Iterable[Augmentation], channels: int, *, masks: bool = False) -> None:
    """Refuse what makes no sense, together, for images of so many channels, or for images with masks.

    Raises:
        Misuse: a range ends before it begins, two choose the part of the image, an augmentation changes
            colours and there are none, or masks cannot follow it.
    """
    augmentations = tuple(augmentations)
    boxed = [a.name for a in augmentations if isinstance(a, Boxed)]
    if len(boxed) > 1:
        raise Misuse(f"{boxed[0]} and {boxed[1]} both choose the part of the image; give one of them")
    for augmentation in augmentations:
        for name, value in augmentation.plain().items():
            if isinstance(value, tuple) and len(value) == 2 and value[0] > value[1]:
                raise Misuse(
                    f"{augmentation.name}: {name} = [{value[0]:g}, {value[1]:g}] ends before it begins"
                )
        if channels not in augmentation.channels:
            raise Misuse(f"{augmentation.name} changes colours and grey images have none; leave it out")
        if masks and not augmentation.for_masks:
            raise Misuse(f"{augmentation.name} moves parts of images and masks cannot follow; leave it out")


def resolve(augmentations: Iterable[Augmentation], part: Part, to: Preprocessing) -> tuple[Augmentation, ...]:
    """The same with all that comes from the data filled in.

    Args:
        augmentations: as they were asked for.
        part: the training part.
        to: how its images become the network's input.

    Raises:
        Misuse: as `check`.
    """
    from cnnkit.data.batches import sample

    augmentations = tuple(augmentations)
    check(augmentations, len(to.mean), masks=part.masks is not None)
    mean = to.mean[::-1] if to.channels == "BGR" else to.mean
    return tuple(a.resolved(lambda: sample(part, in_rgb(to)), mean) for a in augmentations)


def in_rgb(to: Preprocessing) -> Preprocessing:
    """The same with colours in the order in which augmentations take them."""
    if to.channels != "BGR":
        return to
    return dataclasses.replace(to, channels="RGB", mean=to.mean[::-1], std=to.std[::-1])


def apply(augmentations: Iterable[Augmentation], images: Tensor, generator: Generator) -> Tensor:
    """One after the other. Shape: (N, C, H, W) uint8, kept; colours in the order RGB"""
    for augmentation in augmentations:
        images = augmentation(images, generator)
    return images


def apply_pair(
    augmentations: Iterable[Augmentation], images: Tensor, masks: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """One after the other, masks along with their images. Shape: (N, C, H, W) and (N, H, W) uint8, kept"""
    for augmentation in augmentations:
        images, masks = augmentation.pair(images, masks, generator)
    return images, masks
