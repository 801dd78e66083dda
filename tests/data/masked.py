"""Small folders of pictures whose every pixel tells its own class: grey 40 * (class + 1)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Grey levels between two classes.
STEP = 40


def blocks(size: tuple[int, int], classes: int, seed: int, block: int = 12) -> NDArray[np.uint8]:
    """A mask of blocks of one class each. Shape: (H, W)"""
    height, width = size
    random = np.random.default_rng(seed)
    coarse = random.integers(0, classes, (-(-height // block), -(-width // block)), dtype=np.uint8)
    return np.kron(coarse, np.ones((block, block), np.uint8))[:height, :width]


def picture(mask: NDArray[np.uint8], colour: bool = True) -> Image.Image:
    """The picture that a mask is of; the ignored are black."""
    grey = np.where(mask == 255, 0, STEP * (mask.astype(np.int64) + 1)).astype(np.uint8)
    return Image.fromarray(np.stack([grey] * 3, -1) if colour else grey)


def write(
    images: Path,
    masks: Path,
    sizes: Sequence[tuple[int, int]],
    classes: int = 3,
    *,
    seed: int = 0,
    colour: bool = True,
    ending: str = "png",
) -> None:
    """Pictures 0, 1, ... of given heights and widths, with their masks."""
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        mask = blocks(size, classes, seed + number)
        picture(mask, colour).save(images / f"{number}.{ending}")
        Image.fromarray(mask).save(masks / f"{number}.png")


#: What is done to an upright picture before it is stored with an EXIF orientation.
LAID = dict(
    zip(
        range(2, 9),
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_90,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_270,
        ),
        strict=True,
    )
)


def lying(upright: Image.Image, orientation: int, path: Path, **how: int) -> None:
    """Save a picture as a camera in one of the eight orientations stores it."""
    stored = upright.transpose(LAID[orientation]) if orientation in LAID else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif, **how)
