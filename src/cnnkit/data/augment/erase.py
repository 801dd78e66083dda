"""Parts of images wiped out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from cnnkit.data.augment.base import Augmentation, Range
from cnnkit.data.augment.crop import placed, shapes
from cnnkit.parts import setting

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class Erasing(Augmentation):
    """A box of random area and shape filled with noise: Zhong et al. 2020, 1708.04896, Algorithm 1, with
    torchvision's ranges.
    """

    name: ClassVar[str] = "erasing"
    probability: float = setting(0.5, "Share of the images.", ge=0, le=1)
    area: Range = setting((0.02, 0.33), "Share of the image's area.", ge=0.001, le=0.95)
    aspect: Range = setting((0.3, 3.3), "Height over width.", ge=0.1, le=10)
    fill: Literal["noise", "zero"] = setting("noise", "What the box holds: a random byte each, or black.")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W), kept"""
        import torch

        count, _, height, width = images.shape
        chosen = torch.rand(count, generator=generator) < self.probability
        sizes = torch.tensor([[height, width]]).expand(count, 2)
        inverse = (1 / self.aspect[1], 1 / self.aspect[0])
        tall, broad = shapes(self.area, inverse, sizes[:, :1], sizes[:, 1:], generator)
        fits = (tall < height) & (broad < width) & (tall > 0) & (broad > 0)
        first = fits.float().argmax(1, keepdim=True)
        box = torch.cat([tall.gather(1, first), broad.gather(1, first)], 1)
        box = box * (fits.any(1) & chosen)[:, None]
        top, left, tall, broad = placed(box, sizes, torch.rand(count, 2, generator=generator)).unbind(1)
        inside = in_box((height, width), top, left, tall, broad)
        if self.fill == "zero":
            return images.masked_fill(inside, 0)
        noise = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=generator)
        return torch.where(inside, noise, images)


@dataclass(frozen=True, kw_only=True)
class Cutout(Augmentation):
    """A square about a random place filled with the data's mean colour; it may reach over the border: DeVries
    & Taylor 2017, 1708.04552, section 3.
    """

    name: ClassVar[str] = "cutout"
    size: int = setting(16, "Side of the square in pixels.", ge=1, le=4096)
    colour: tuple[float, ...] | None = setting(None, "What it is filled with, a byte a channel.")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W), kept

        Raises:
            ValueError: the colour was not found yet.
        """
        import torch

        if self.colour is None:
            raise ValueError("cutout has no colour yet: resolve finds it in the data")
        count, _, height, width = images.shape
        rows = torch.randint(height, (count,), generator=generator)
        columns = torch.randint(width, (count,), generator=generator)
        side = torch.tensor(self.size)
        inside = in_box((height, width), rows - self.size // 2, columns - self.size // 2, side, side)
        return torch.where(inside, torch.tensor(self.colour).round().byte().view(-1, 1, 1), images)

    def resolved(self, pixels: Callable[[], Tensor], mean: Sequence[float]) -> Self:
        """With the mean that is subtracted, so that what is wiped out becomes zero, as in the paper."""
        return self if self.colour is not None else replace(self, colour=tuple(255 * m for m in mean))


def in_box(size: tuple[int, int], top: Tensor, left: Tensor, tall: Tensor, broad: Tensor) -> Tensor:
    """Whether each pixel is in its image's box. Shape: four times (N,) -> (N, 1, H, W)"""
    import torch

    y, x = torch.arange(size[0]), torch.arange(size[1])
    down = (y >= top[:, None]) & (y < (top + tall)[:, None])
    across = (x >= left[:, None]) & (x < (left + broad)[:, None])
    return down[:, None, :, None] & across[:, None, None, :]
