"""Colours changed: every image by factors of its own, the whole batch at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from cnnkit.data.augment.base import Augmentation, replaced
from cnnkit.parts import setting

if TYPE_CHECKING:
    from torch import Generator, Tensor

#: Luma of red, green and blue (ITU-R BT.601), as torchvision and Pillow have it.
LUMA = (0.299, 0.587, 0.114)

#: Covariance of ImageNet's colours in [0, 1]: eigenvalues, and eigenvectors as rows. From the Torch ResNet
#: code (fb.resnet.torch, datasets/imagenet.lua); AlexNet's own were not published.
IMAGENET_VALUES = (0.2175, 0.0188, 0.0045)
IMAGENET_VECTORS = (
    (-0.5675, -0.5808, -0.5836),
    (0.7192, -0.0045, -0.6948),
    (0.4009, -0.8140, 0.4203),
)


@dataclass(frozen=True, kw_only=True)
class PcaColour(Augmentation):
    """One colour added to all pixels of an image, drawn along the principal components of the data's colours:
    Krizhevsky et al. 2012, section 4.1, sum_i a_i l_i p_i with a_i normal.

    The formula holds for pixels in [0, 1]: an eigenvalue has units of a pixel squared.
    """

    name: ClassVar[str] = "pca_colour"
    channels: ClassVar[tuple[int, ...]] = (3,)
    deviation: float = setting(0.1, "Standard deviation of a.", ge=0, le=10)
    source: Literal["data", "imagenet"] = setting(
        "data", "Whose components: the training images' or ImageNet's."
    )
    values: tuple[float, ...] | None = setting(None, "Eigenvalues of the colours' covariance.")
    vectors: tuple[tuple[float, ...], ...] | None = setting(None, "Its eigenvectors, as rows.")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, 3, H, W), kept

        Raises:
            ValueError: the components were not found yet.
        """
        import torch

        values, vectors = self.values, self.vectors
        if self.source == "imagenet":
            values, vectors = IMAGENET_VALUES, IMAGENET_VECTORS
        if values is None or vectors is None:
            raise ValueError("pca_colour has no components yet: resolve finds them in the data")
        drawn = self.deviation * torch.randn(len(images), 3, generator=generator)
        added = 255 * (drawn * torch.tensor(values)) @ torch.tensor(vectors)
        return to_bytes(images + added[:, :, None, None])

    def resolved(self, pixels: Callable[[], Tensor], mean: Sequence[float]) -> Self:
        """With the eigenvalues and eigenvectors of the data's colours."""
        if self.source == "imagenet" or self.values is not None:
            return self
        values, vectors = components(pixels())
        return replace(self, values=values, vectors=vectors)


@dataclass(frozen=True, kw_only=True)
class ColourJitter(Augmentation):
    """Brightness, contrast, saturation and hue changed by random factors in random order: Howard 2013,
    1312.5402, as torchvision's `ColorJitter` does it. Saturation and hue leave grey images as they are.
    """

    name: ClassVar[str] = "colour_jitter"
    brightness: float = setting(0.4, "Factor from 1 less this to 1 and this.", ge=0, le=1)
    contrast: float = setting(0.4, "The same, of the distance to the image's mean grey.", ge=0, le=1)
    saturation: float = setting(0.4, "The same, of the distance to each pixel's grey.", ge=0, le=1)
    hue: float = setting(0.0, "Furthest turn of the colour circle, in turns.", ge=0, le=0.5)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, 1 or 3, H, W), kept"""
        import torch

        count, colour = len(images), images.shape[1] == 3
        order = torch.rand(count, 4, generator=generator).argsort(1)
        drawn = 2 * torch.rand(4, count, generator=generator) - 1
        widths = (self.brightness, self.contrast, self.saturation, self.hue)
        changes = (brightened, contrasted, saturated, turned)
        made = images.float()
        for step in range(4):
            for which, (width, change) in enumerate(zip(widths, changes, strict=True)):
                chosen = order[:, step] == which
                if width > 0 and (colour or which < 2):
                    factors = width * drawn[which, chosen, None, None, None]
                    made = replaced(made, chosen, partial(change, change=factors))
        return to_bytes(made)


@dataclass(frozen=True, kw_only=True)
class Grey(Augmentation):
    """Some images without their colours, in as many channels: Chen et al. 2020, 2002.05709, appendix A."""

    name: ClassVar[str] = "grey"
    channels: ClassVar[tuple[int, ...]] = (3,)
    probability: float = setting(0.2, "Share of the images.", ge=0, le=1)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, 3, H, W), kept"""
        import torch

        chosen = torch.rand(len(images), generator=generator) < self.probability
        return replaced(images, chosen, lambda some: to_bytes(luma(some.float())).expand(-1, 3, -1, -1))


def brightened(images: Tensor, change: Tensor) -> Tensor:
    """Pixels times 1 + change. Shape: (N, C, H, W) and (N, 1, 1, 1) -> (N, C, H, W), as all of these"""
    return (images * (1 + change)).clamp_(0, 255)


def contrasted(images: Tensor, change: Tensor) -> Tensor:
    """The distance to the image's mean grey, times 1 + change."""
    mean = luma(images).mean((1, 2, 3), keepdim=True)
    return (images + change * (images - mean)).clamp_(0, 255)


def saturated(images: Tensor, change: Tensor) -> Tensor:
    """The distance to each pixel's grey, times 1 + change."""
    return (images + change * (images - luma(images))).clamp_(0, 255)


def turned(images: Tensor, change: Tensor) -> Tensor:
    """Hues moved around the colour circle of HSV by `change` turns, value and saturation kept (Smith 1978,
    SIGGRAPH).
    """
    import torch

    red, green, blue = images.unbind(1)
    value, place = images.max(1)
    chroma = value - images.amin(1)
    divisor = chroma.clamp(min=1e-6)
    sectors = torch.stack([(green - blue) / divisor, (blue - red) / divisor + 2, (red - green) / divisor + 4])
    hue = sectors.gather(0, place[None])[0] + 6 * change[:, 0]
    bent = [(hue + n) % 6 for n in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in bent], 1)


def components(pixels: Tensor) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """Eigenvalues and, as rows, eigenvectors of the covariance of colours in [0, 1], the largest first; the
    largest entry of each vector is positive. Shape: (N, 3, H, W) uint8 -> 3 and 3 x 3
    """
    import torch

    total, square, count = torch.zeros(3).double(), torch.zeros(3, 3).double(), 0
    for chunk in torch.split(pixels, 256):
        colours = chunk.transpose(0, 1).reshape(3, -1).double() / 255
        total, square, count = total + colours.sum(1), square + colours @ colours.T, count + colours.shape[1]
    mean = total / count
    values, vectors = torch.linalg.eigh(square / count - mean.outer(mean))
    rows = vectors.T.flip(0)
    rows = rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    return (
        tuple(round(v, 6) for v in values.flip(0).clamp(min=0).tolist()),
        tuple(tuple(round(v, 6) for v in row) for row in rows.tolist()),
    )


def luma(images: Tensor) -> Tensor:
    """The grey of each pixel. Shape: (N, C, H, W) -> (N, 1, H, W)"""
    if images.shape[1] == 1:
        return images
    red, green, blue = (weight * channel for weight, channel in zip(LUMA, images.unbind(1), strict=True))
    return (red + green + blue)[:, None]


def to_bytes(images: Tensor) -> Tensor:
    """The nearest bytes."""
    return images.round().clamp_(0, 255).byte()
