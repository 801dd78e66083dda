"""Images bent: every pixel is read from between four others, one `grid_sample` for the whole batch."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from cnnkit.data.augment.base import Augmentation, Range
from cnnkit.parts import setting

if TYPE_CHECKING:
    from torch import Generator, Tensor

#: What is read outside an image, in the words of `torch.nn.functional.grid_sample`.
OUTSIDE = {"zero": "zeros", "edge": "border", "reflect": "reflection"}
BORDER = "What comes in from outside: black, the edge, or its reflection."

Border = Literal["zero", "edge", "reflect"]


@dataclass(frozen=True, kw_only=True)
class Warp(Augmentation):
    """A change that reads every pixel of an image at another place of it."""

    @property
    @abstractmethod
    def border(self) -> Border:
        """What comes in from outside; a setting of each."""

    @abstractmethod
    def grid(self, images: Tensor, generator: Generator) -> Tensor:
        """Where each pixel is read, from -1 to 1, x before y. Shape: (N, C, H, W) -> (N, H, W, 2)"""

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W), kept"""
        return sampled(images, self.grid(images, generator), self.border)

    def pair(self, images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Shape: (N, C, H, W) and (N, H, W), kept"""
        grid = self.grid(images, generator)
        return sampled(images, grid, self.border), labelled(masks, grid, self.border)


@dataclass(frozen=True, kw_only=True)
class Rotation(Warp):
    """Turned about the centre, either way; one of the distortions of Ciresan et al. 2012, 1202.2745."""

    name: ClassVar[str] = "rotation"
    degrees: float = setting(15, "Largest angle.", ge=0, le=180)
    border: Border = setting("zero", BORDER)

    def grid(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W) -> (N, H, W, 2)"""
        angle = math.radians(self.degrees) * signed(len(images), generator)
        return affine_grid(turning(angle), images)


@dataclass(frozen=True, kw_only=True)
class Affine(Warp):
    """Turned, moved, scaled and sheared, as Simard, Steinkraus & Platt 2003 (ICDAR), section 2, do to
    digits.
    """

    name: ClassVar[str] = "affine"
    degrees: float = setting(15, "Largest angle.", ge=0, le=180)
    translate: float = setting(0.1, "Furthest shift, as a share of the side.", ge=0, le=1)
    scale: Range = setting((0.9, 1.1), "Smallest and largest scale.", ge=0.1, le=10)
    shear: float = setting(10, "Largest angle between a sheared vertical and an upright one.", ge=0, le=60)
    border: Border = setting("zero", BORDER)

    def grid(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W) -> (N, H, W, 2)"""
        import torch

        count, _, height, width = images.shape
        angle = math.radians(self.degrees) * signed(count, generator)
        down, right = (self.translate * side * signed(count, generator) for side in (height, width))
        low, high = self.scale
        scale = low + (high - low) * torch.rand(count, generator=generator)
        slope = torch.tan(math.radians(self.shear) * signed(count, generator))
        # backwards: the place in the output less the shift, turned back, sheared back, scaled back
        matrix = turning(angle)
        matrix[:, 0, :2] = matrix[:, 0, :2] + slope[:, None] * matrix[:, 1, :2]
        matrix[:, :, :2] = matrix[:, :, :2] / scale[:, None, None]
        matrix[:, :, 2] = -(matrix[:, :, :2] @ torch.stack([right, down], 1)[:, :, None])[:, :, 0]
        return affine_grid(matrix, images)


@dataclass(frozen=True, kw_only=True)
class Perspective(Warp):
    """Seen from aside: each corner of the image moves inwards by up to `distortion` of half a side.
    torchvision's `RandomPerspective`.
    """

    name: ClassVar[str] = "perspective"
    distortion: float = setting(0.3, "How far a corner moves, as a share of half the side.", ge=0, le=0.9)
    probability: float = setting(0.5, "Share of the images that are changed.", ge=0, le=1)
    border: Border = setting("zero", BORDER)

    def grid(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W) -> (N, H, W, 2)"""
        import torch

        count, _, height, width = images.shape
        inward = self.distortion * torch.rand(count, 4, 2, generator=generator)
        inward = inward * (torch.rand(count, generator=generator) < self.probability)[:, None, None]
        corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        matrix = homography(corners * (1 - inward), corners)  # from where a corner goes back to itself
        place = torch.cat([still(height, width), torch.ones(height, width, 1)], -1)
        found = place.view(-1, 3) @ matrix.mT
        return (found[..., :2] / found[..., 2:]).view(count, height, width, 2)


@dataclass(frozen=True, kw_only=True)
class Elastic(Warp):
    """Every pixel moved by a smooth random field: Simard, Steinkraus & Platt 2003 (ICDAR), section 2.

    Uniform noise on the paper's 29 x 29 pixels is blurred by a Gaussian of `sigma` pixels and multiplied by
    `alpha`; on larger images the field is stretched, so that both keep their meaning as shares of the side.
    """

    name: ClassVar[str] = "elastic"
    alpha: float = setting(34, "Strength of the field, in pixels of 29.", ge=0, le=500)
    sigma: float = setting(4, "Smoothness of the field, in pixels of 29.", ge=0.5, le=14)
    border: Border = setting("zero", BORDER)

    def grid(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W) -> (N, H, W, 2)"""
        import torch
        from torch.nn import functional

        count, _, height, width = images.shape
        side, reach = 29, math.ceil(3 * self.sigma)
        noise = 2 * torch.rand(2 * count, 1, side + 2 * reach, side + 2 * reach, generator=generator) - 1
        bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / self.sigma).square())
        bell = bell / bell.sum()
        field = functional.conv2d(functional.conv2d(noise, bell.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))
        field = functional.interpolate(
            self.alpha * 2 / side * field, (height, width), mode="bilinear", align_corners=False
        )
        offsets = field.view(count, 2, height, width).permute(0, 2, 3, 1)
        return still(height, width) + offsets


@dataclass(frozen=True, kw_only=True)
class GridElastic(Warp):
    """Bent by random vectors on a coarse grid, each part of them normal, between which bicubic interpolation
    gives every pixel its own: Ronneberger et al. 2015, 1505.04597, section 3.1.

    The grid's outermost points lie in the image's corners, which the paper does not say.
    """

    name: ClassVar[str] = "grid_elastic"
    deviation: float = setting(10, "Standard deviation of a vector's parts, in pixels.", ge=0, le=1000)
    points: int = setting(3, "Points of the grid along each side.", ge=2, le=64)
    border: Border = setting("reflect", BORDER)

    def grid(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W) -> (N, H, W, 2)"""
        import torch
        from torch.nn import functional

        count, _, height, width = images.shape
        vectors = self.deviation * torch.randn(count, 2, self.points, self.points, generator=generator)
        field = functional.interpolate(vectors, (height, width), mode="bicubic", align_corners=True)
        return still(height, width) + field.permute(0, 2, 3, 1) * torch.tensor([2 / width, 2 / height])


def signed(count: int, generator: Generator) -> Tensor:
    """Numbers drawn uniformly from -1 to 1."""
    import torch

    return 2 * torch.rand(count, generator=generator) - 1


def centres(side: int) -> Tensor:
    """Where the centres of pixels lie on a side that runs from -1 to 1."""
    import torch

    return (2 * torch.arange(side) + 1) / side - 1


def still(height: int, width: int) -> Tensor:
    """The grid that reads each pixel where it is. Shape: (H, W, 2)"""
    import torch

    y, x = centres(height)[:, None], centres(width)[None]
    return torch.stack([x.expand(height, -1), y.expand(-1, width)], -1)


def turning(angle: Tensor) -> Tensor:
    """From a place in the turned image back to one in the original, in pixels from the centre; a positive
    angle turns the image to the left. Shape: (N,) -> (N, 2, 3)
    """
    import torch

    cosine, sine, nought = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = [torch.stack([cosine, -sine, nought], 1), torch.stack([sine, cosine, nought], 1)]
    return torch.stack(rows, 1)


def affine_grid(matrix: Tensor, images: Tensor) -> Tensor:
    """Where each pixel is read, from matrices in pixels. Shape: (N, 2, 3) -> (N, H, W, 2)"""
    import torch
    from torch.nn import functional

    half = torch.tensor([images.shape[3] / 2, images.shape[2] / 2])
    units = torch.cat([half, torch.ones(1)])
    return functional.affine_grid(matrix * units / half[:, None], list(images.shape), align_corners=False)


def homography(source: Tensor, target: Tensor) -> Tensor:
    """The projective maps that take four points each to four others. Shape: (N, 4, 2) -> (N, 3, 3)

    With h33 = 1 every pair of points gives two linear equations of the other eight entries.
    """
    import torch

    (x, y), (u, v) = source.double().unbind(-1), target.expand_as(source).double().unbind(-1)
    one, nought = torch.ones_like(x), torch.zeros_like(x)
    across = torch.stack([x, y, one, nought, nought, nought, -u * x, -u * y], -1)
    down = torch.stack([nought, nought, nought, x, y, one, -v * x, -v * y], -1)
    entries = torch.linalg.solve(torch.cat([across, down], 1), torch.cat([u, v], 1))
    return torch.cat([entries, one[:, :1]], 1).view(-1, 3, 3).float()


def sampled(images: Tensor, grid: Tensor, border: str) -> Tensor:
    """Images read at the places of a grid, between their pixels. Shape: (N, C, H, W) uint8, kept"""
    from torch.nn import functional

    found = functional.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode=OUTSIDE[border], align_corners=False
    )
    return found.round_().clamp_(0, 255).byte()


def labelled(masks: Tensor, grid: Tensor, border: str) -> Tensor:
    """Masks read at the places of a grid, each from the nearest pixel; IGNORED where the image turns black.

    Shape: (N, H, W) uint8, kept
    """
    from torch.nn import functional

    from cnnkit.data.masks import IGNORED

    above = (IGNORED - masks.float())[:, None]  # what comes in is 0 here
    found = functional.grid_sample(
        above, grid, mode="nearest", padding_mode=OUTSIDE[border], align_corners=False
    )
    return (IGNORED - found[:, 0]).byte()
