"""Images moved, mirrored and turned by whole pixels: nothing is interpolated."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from cnnkit.data.augment.base import Augmentation, replaced
from cnnkit.parts import setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class Moved(Augmentation):
    """A change that moves every image by a whole number of pixels of its own."""

    @abstractmethod
    def reach(self, height: int, width: int) -> tuple[int, int, str]:
        """Furthest shift down or up, furthest to the right or left, and what comes in."""

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W), kept"""
        down, right, border = self.reach(*images.shape[2:])
        return shifted(images, down, right, border, shifts(len(images), down, right, generator))

    def pair(self, images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Shape: (N, C, H, W) and (N, H, W), kept"""
        from cnnkit.data.masks import IGNORED

        down, right, border = self.reach(*images.shape[2:])
        by = shifts(len(images), down, right, generator)
        labels = shifted(masks[:, None], down, right, border, by, outside=IGNORED)
        return shifted(images, down, right, border, by), labels[:, 0]


@dataclass(frozen=True, kw_only=True)
class Shift(Moved):
    """Each image moved by its own whole number of pixels, its border repeated.

    LeCun et al. 1998, Proc. IEEE, section III-A, shift digits so (among other distortions).
    """

    name: ClassVar[str] = "shift"
    share: float = setting(0.07, "Furthest shift, as a share of the side: two pixels of 28.", ge=0, le=0.5)

    def reach(self, height: int, width: int) -> tuple[int, int, str]:
        """The same share of both sides."""
        return round(self.share * height), round(self.share * width), "edge"


@dataclass(frozen=True, kw_only=True)
class PadCrop(Moved):
    """The image with a margin, cut back to its size at a random place: He et al. 2016, 1512.03385,
    section 4.2.
    """

    name: ClassVar[str] = "pad_crop"
    padding: int = setting(4, "Pixels on each side.", ge=1, le=64)
    border: Literal["zero", "edge", "reflect"] = setting(
        "zero", "What the margin holds: black, the edge, or its reflection."
    )

    def reach(self, height: int, width: int) -> tuple[int, int, str]:
        """The margin.

        Raises:
            ValueError: the margin is wider than an image that it reflects.
        """
        if self.border == "reflect" and self.padding >= min(height, width):
            raise ValueError(
                f"pad_crop cannot reflect {self.padding} pixels of an image of {height} x {width}"
            )
        return self.padding, self.padding, self.border


@dataclass(frozen=True, kw_only=True)
class Mirrored(Augmentation):
    """A share of the images mirrored along one dimension."""

    dim: ClassVar[int]
    probability: float = setting(0.5, "Share of the images that are mirrored.", ge=0, le=1)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W), kept"""
        return self._mirrored(images, self._chosen(len(images), generator))

    def pair(self, images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Shape: (N, C, H, W) and (N, H, W), kept"""
        chosen = self._chosen(len(images), generator)
        return self._mirrored(images, chosen), self._mirrored(masks, chosen)

    def _chosen(self, count: int, generator: Generator) -> Tensor:
        import torch

        return torch.rand(count, generator=generator) < self.probability

    def _mirrored(self, images: Tensor, chosen: Tensor) -> Tensor:
        return replaced(images, chosen, lambda some: some.flip(self.dim))


@dataclass(frozen=True, kw_only=True)
class Flip(Mirrored):
    """Mirrored left to right: Krizhevsky et al. 2012, section 4.1. Not for digits and letters."""

    name: ClassVar[str] = "flip"
    dim: ClassVar[int] = -1


@dataclass(frozen=True, kw_only=True)
class VerticalFlip(Mirrored):
    """Mirrored top to bottom; for pictures without an up, from microscopes and satellites (Ronneberger et
    al. 2015, 1505.04597, train on such).
    """

    name: ClassVar[str] = "vertical_flip"
    dim: ClassVar[int] = -2


@dataclass(frozen=True, kw_only=True)
class QuarterTurns(Augmentation):
    """Turned by none, one, two or three right angles, each as often; for pictures without an up. Of images
    that are not square, which would change their shape, only by none or two.
    """

    name: ClassVar[str] = "quarter_turns"

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W), kept"""
        return turned(images, self._turns(images, generator))

    def pair(self, images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Shape: (N, C, H, W) and (N, H, W), kept"""
        turns = self._turns(images, generator)
        return turned(images, turns), turned(masks, turns)

    def _turns(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N,)"""
        import torch

        step = 1 if images.shape[2] == images.shape[3] else 2
        return step * torch.randint(4 // step, (len(images),), generator=generator)


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Each image turned to the left by its number of right angles. Shape: (N, ..., H, W) and (N,), kept"""
    for number in set(turns.tolist()) - {0}:
        images = replaced(images, turns == number, partial(_turned, by=number))
    return images


def _turned(images: Tensor, by: int) -> Tensor:
    return images.rot90(by, (-2, -1))


def shifts(count: int, down: int, right: int, generator: Generator) -> tuple[NDArray[np.int64], ...]:
    """For each image, from which row and column of the image with its margins it is read."""
    import torch

    return tuple(torch.randint(2 * most + 1, (count,), generator=generator).numpy() for most in (down, right))


def shifted(
    images: Tensor,
    down: int,
    right: int,
    border: str,
    by: tuple[NDArray[np.int64], ...],
    outside: int = 0,
) -> Tensor:
    """Each image read from its own place in itself with margins. Shape: (N, C, H, W), kept"""
    import numpy as np
    import torch

    rows, columns = by
    wide = padded(images, down, right, border, outside)
    windows = np.lib.stride_tricks.sliding_window_view(wide, tuple(images.shape[2:]), axis=(2, 3))
    # torch's own indexing takes five times as long
    return torch.from_numpy(windows[np.arange(len(images)), :, rows, columns])


def padded(images: Tensor, down: int, right: int, border: str, outside: int = 0) -> NDArray[np.uint8]:
    """Images with a margin, which holds `outside` where nothing of the image is asked for.

    Shape: (N, C, H, W) -> (N, C, H + 2 * down, W + 2 * right)
    """
    import numpy as np
    from torch.nn import functional

    if border == "zero":  # several times as fast as NumPy's
        return functional.pad(images, (right, right, down, down), value=outside).numpy()
    margins = ((0, 0), (0, 0), (down, down), (right, right))
    return np.pad(images.numpy(), margins, "edge" if border == "edge" else "reflect")
