"""How often each class is in masks: what the check reports, and what losses are balanced by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnkit.data.masks import tallies
from cnnkit.data.sets import Part


@dataclass(frozen=True, slots=True)
class Balance:
    """What the masks of a part hold.

    Attributes:
        pixels: of each class.
        images: that show each class.
        among: pixels of all images that show each class, those that are ignored too.
        sizes: width and height of each mask.
        problems: why each mask cannot be used; empty where it can.
        empty: whether nothing in each mask counts.
    """

    pixels: dict[str, int]
    images: dict[str, int]
    among: dict[str, int]
    sizes: list[tuple[int, int]]
    problems: list[str]
    empty: list[bool]


def balance(
    part: Part, classes: Sequence[str], tick: Callable[[int, int], None] = lambda done, total: None
) -> Balance:
    """What the masks of a part hold; those that cannot be decoded count nowhere.

    Files that did not change since they were looked at are not read again.

    Args:
        part: images with masks.
        classes: their classes, in the order of the labels.
        tick: called with the number of masks seen and their total.

    Raises:
        ValueError: the part has no masks.
    """
    if part.masks is None:
        raise ValueError("these images have no masks")
    coding = part.masks.coding
    pixels, images, among = (dict.fromkeys(classes, 0) for _ in range(3))
    sizes, problems, empty = [], [], []
    for index, tally in enumerate(tallies(part.masks.root, part.masks.keys, tick)):
        counts, unknown = coding.counts(tally)
        path: Path = part.masks.path(index)
        problems.append(tally.problem or (coding.refusal(path, unknown[0]) if unknown else ""))
        sizes.append((tally.width, tally.height))
        empty.append(not any(counts))
        if problems[-1]:
            continue
        for label, count in zip(classes, counts, strict=True):
            pixels[label] += count
            if count:
                images[label] += 1
                among[label] += tally.width * tally.height
    return Balance(pixels, images, among, sizes, problems, empty)


def frequencies(part: Part, classes: Sequence[str]) -> tuple[float, ...]:
    """Of each class its pixels as a share of all pixels in the images that show it; 0 where none does.

    Where images have one class each, its images as a share of all.

    Eigen & Fergus 2015, arXiv:1411.4734, weigh a class by the median of these over its own.
    """
    if part.masks is None:
        return tuple(list(part.labels).count(i) / len(part) for i in range(len(classes)))
    found = balance(part, classes)
    return tuple(found.pixels[label] / (found.among[label] or 1) for label in classes)
