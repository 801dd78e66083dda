"""Images moved and mirrored by whole pixels: nothing is interpolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from cnnkit.data.augment.base import Augmentation, replaced
from cnnkit.parts import setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class Shift(Augmentation):
    """Each image moved by its own whole number of pixels, its border repeated.

    LeCun et al. 1998, Proc. IEEE, section III-A, shift digits so (among other distortions).
    """

    name: ClassVar[str] = "shift"
    share: float = setting(0.07, "Furthest shift, as a share of the side: two pixels of 28.", ge=0, le=0.5)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W), kept"""
        height, width = images.shape[2:]
        return moved(images, round(self.share * height), round(self.share * width), "edge", generator)


@dataclass(frozen=True, kw_only=True)
class PadCrop(Augmentation):
    """The image with a margin, cut back to its size at a random place: He et al. 2016, 1512.03385,
    section 4.2.
    """

    name: ClassVar[str] = "pad_crop"
    padding: int = setting(4, "Pixels on each side.", ge=1, le=64)
    border: Literal["zero", "edge", "reflect"] = setting(
        "zero", "What the margin holds: black, the edge, or its reflection."
    )

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W), kept

        Raises:
            ValueError: the margin is wider than an image that it reflects.
        """
        if self.border == "reflect" and self.padding >= min(images.shape[2:]):
            raise ValueError(
                f"pad_crop cannot reflect {self.padding} pixels of an image of "
                f"{images.shape[2]} x {images.shape[3]}"
            )
        return moved(images, self.padding, self.padding, self.border, generator)


@dataclass(frozen=True, kw_only=True)
class Flip(Augmentation):
    """Mirrored left to right: Krizhevsky et al. 2012, section 4.1. Not for digits and letters."""

    name: ClassVar[str] = "flip"
    probability: float = setting(0.5, "Share of the images that are mirrored.", ge=0, le=1)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W), kept"""
        return mirrored(images, 3, self.probability, generator)


@dataclass(frozen=True, kw_only=True)
class VerticalFlip(Augmentation):
    """Mirrored top to bottom; for pictures without an up, from microscopes and satellites (Ronneberger et
    al. 2015, 1505.04597, train on such).
    """

    name: ClassVar[str] = "vertical_flip"
    probability: float = setting(0.5, "Share of the images that are mirrored.", ge=0, le=1)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W), kept"""
        return mirrored(images, 2, self.probability, generator)


def moved(images: Tensor, down: int, right: int, border: str, generator: Generator) -> Tensor:
    """Each image moved by up to so many pixels down or up, and right or left. Shape: (N, C, H, W), kept"""
    import numpy as np
    import torch

    rows, columns = (
        torch.randint(2 * most + 1, (len(images),), generator=generator).numpy() for most in (down, right)
    )
    wide = padded(images, down, right, border)
    windows = np.lib.stride_tricks.sliding_window_view(wide, tuple(images.shape[2:]), axis=(2, 3))
    # torch's own indexing takes five times as long
    return torch.from_numpy(windows[np.arange(len(images)), :, rows, columns])


def padded(images: Tensor, down: int, right: int, border: str) -> NDArray[np.uint8]:
    """Images with a margin. Shape: (N, C, H, W) -> (N, C, H + 2 * down, W + 2 * right)"""
    import numpy as np
    from torch.nn import functional

    if border == "zero":  # several times as fast as NumPy's
        return functional.pad(images, (right, right, down, down)).numpy()
    margins = ((0, 0), (0, 0), (down, down), (right, right))
    return np.pad(images.numpy(), margins, "edge" if border == "edge" else "reflect")


def mirrored(images: Tensor, dim: int, probability: float, generator: Generator) -> Tensor:
    """A share of the images mirrored along one dimension. Shape: (N, C, H, W), kept"""
    import torch

    chosen = torch.rand(len(images), generator=generator) < probability
    return replaced(images, chosen, lambda some: some.flip(dim))
