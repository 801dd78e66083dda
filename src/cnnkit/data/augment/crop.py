"""Parts of an image at random, scaled to the network's size: photos are cropped before they are fitted."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cnnkit.data.augment.base import Augmentation, Range
from cnnkit.data.augment.warp import centres, labelled, sampled
from cnnkit.parts import setting

if TYPE_CHECKING:
    from torch import Generator, Tensor

#: How often a box is drawn before the whole image is taken.
TRIES = 10


@dataclass(frozen=True, kw_only=True)
class Boxed(Augmentation):
    """A change that is a box of the image, so that no more of a photo is decoded than is needed.

    Called on a batch of images that have the network's size already, it enlarges a box of each.
    """

    @property
    @abstractmethod
    def room(self) -> float:
        """The short side at which a cache keeps photos for it, in sides of the network's input."""

    @abstractmethod
    def boxes(self, sizes: Tensor, target: tuple[int, int], generator: Generator) -> Tensor:
        """Top, left, height and width of a box in each image, in whole pixels.

        Shape: (N, 2) heights and widths -> (N, 4), int64

        Args:
            sizes: of the images.
            target: height and width that the boxes will be scaled to.
            generator: where randomness comes from.
        """

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W), kept"""
        return sampled(images, self._grid(images, generator), "edge")

    def pair(self, images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Shape: (N, C, H, W) and (N, H, W), kept"""
        grid = self._grid(images, generator)
        return sampled(images, grid, "edge"), labelled(masks, grid, "edge")

    def _grid(self, images: Tensor, generator: Generator) -> Tensor:
        """Where each pixel is read. Shape: (N, H, W, 2)"""
        import torch

        count, _, height, width = images.shape
        sizes = torch.tensor([[height, width]]).expand(count, 2)
        top, left, tall, broad = self.boxes(sizes, (height, width), generator).float().unbind(1)
        middle_y, middle_x = (2 * top + tall) / height - 1, (2 * left + broad) / width - 1
        y = middle_y[:, None] + (tall / height)[:, None] * centres(height)
        x = middle_x[:, None] + (broad / width)[:, None] * centres(width)
        grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], -1)
        return within(grid, top, left, tall, broad)


def within(grid: Tensor, top: Tensor, left: Tensor, tall: Tensor, broad: Tensor) -> Tensor:
    """Places kept from reading beyond the outermost pixel centres of their box, as if it had been cut out."""
    import torch

    _, height, width, _ = grid.shape
    low = torch.stack([(2 * left + 1) / width - 1, (2 * top + 1) / height - 1], -1)
    high = torch.stack([(2 * (left + broad) - 1) / width - 1, (2 * (top + tall) - 1) / height - 1], -1)
    return torch.minimum(torch.maximum(grid, low[:, None, None]), high[:, None, None])


@dataclass(frozen=True, kw_only=True)
class Crop(Boxed):
    """A box of random area and shape, scaled to the network's size: Szegedy et al. 2015, 1409.4842, section
    6. The law of the shapes, uniform in the logarithm, is torchvision's: the paper gives none.
    """

    name: ClassVar[str] = "crop"
    area: Range = setting((0.08, 1.0), "Share of the image's area.", ge=0.001, le=1)
    aspect: Range = setting((3 / 4, 4 / 3), "Width over height.", ge=0.1, le=10)

    @property
    def room(self) -> float:
        """256 for 224: as much as the usual test sees; smaller boxes are enlarged from there."""
        return 8 / 7

    def boxes(self, sizes: Tensor, target: tuple[int, int], generator: Generator) -> Tensor:
        """Shape: (N, 2) -> (N, 4)"""
        import torch

        height, width = (side[:, None].float() for side in sizes.unbind(1))
        tall, broad = shapes(self.area, self.aspect, height, width, generator)
        fits = (tall > 0) & (tall <= height) & (broad > 0) & (broad <= width)
        first = fits.float().argmax(1, keepdim=True)
        tall, broad = tall.gather(1, first), broad.gather(1, first)
        # where none of the boxes fits: the widest or tallest box of an allowed shape, in the centre
        none = ~fits.any(1, keepdim=True)
        narrowest, broadest = self.aspect
        whole_tall = torch.minimum(height, (width / narrowest).round())
        whole_broad = torch.minimum(width, (height * broadest).round())
        tall, broad = torch.where(none, whole_tall, tall), torch.where(none, whole_broad, broad)
        where = torch.rand(len(sizes), 2, generator=generator)
        where = torch.where(none, 0.5, where)
        return placed(torch.cat([tall, broad], 1), sizes, where)


@dataclass(frozen=True, kw_only=True)
class ScaleJitter(Boxed):
    """The image scaled until its short side is drawn from a range, then cropped to the network's size:
    Simonyan & Zisserman 2015, 1409.1556, section 3.1 (256 to 512 for 224).
    """

    name: ClassVar[str] = "scale_jitter"
    side: Range = setting(
        (256 / 224, 512 / 224), "Scaled short side, in sides of the network's input.", ge=1, le=10
    )

    @property
    def room(self) -> float:
        """The largest that is drawn."""
        return self.side[1]

    def boxes(self, sizes: Tensor, target: tuple[int, int], generator: Generator) -> Tensor:
        """Shape: (N, 2) -> (N, 4)"""
        import torch

        least, most = (round(side * max(target)) for side in self.side)
        side = torch.randint(least, most + 1, (len(sizes), 1), generator=generator)
        scale = sizes.amin(1, keepdim=True) / side
        box = (torch.tensor(target) * scale).round().clamp(min=1)
        return placed(box, sizes, torch.rand(len(sizes), 2, generator=generator))


@dataclass(frozen=True, kw_only=True)
class Window(Boxed):
    """The image at a random scale, seen through a window of the network's size at a random place: for
    networks that read images at their own scale. The law of the scale, uniform in the logarithm, is ours.
    """

    name: ClassVar[str] = "window"
    scale: Range = setting((0.5, 2.0), "How many times its own size the image has.", ge=0.05, le=20)

    @property
    def room(self) -> float:
        """More than any photo has: its own scale is what counts."""
        return 1e6

    def boxes(self, sizes: Tensor, target: tuple[int, int], generator: Generator) -> Tensor:
        """Shape: (N, 2) -> (N, 4)

        An image that would be smaller than the window is enlarged until it is not.
        """
        import torch

        low, high = map(math.log, self.scale)
        scale = torch.exp(low + (high - low) * torch.rand(len(sizes), 1, generator=generator))
        window = torch.tensor(target)
        share = torch.minimum(1 / scale, (sizes / window).amin(1, keepdim=True))
        box = (share * window).round().clamp(min=1).minimum(sizes)
        return placed(box, sizes, torch.rand(len(sizes), 2, generator=generator))


def shapes(
    area: tuple[float, float],
    aspect: tuple[float, float],
    height: Tensor,
    width: Tensor,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Heights and widths of boxes of random area and aspect, several tries an image: (N, 1) -> (N, TRIES)"""
    import torch

    low, high = area
    share = low + (high - low) * torch.rand(len(height), TRIES, generator=generator)
    low, high = map(math.log, aspect)
    ratio = torch.exp(low + (high - low) * torch.rand(len(height), TRIES, generator=generator))
    pixels = share * height * width
    return (pixels / ratio).sqrt().round(), (pixels * ratio).sqrt().round()


def placed(box: Tensor, sizes: Tensor, where: Tensor) -> Tensor:
    """Boxes at random places, `where` from 0 to 1: heights and widths (N, 2) -> (N, 4)"""
    import torch

    corner = (where * (sizes - box + 1)).floor()
    return torch.cat([corner.minimum(sizes - box), box], 1).long()
