"""Mixtures of training images, as parts of a recipe. The arithmetic is in `train.mix`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cnnkit.parts import Part, named, setting

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Mix(Part, ABC):
    """A way to mix a batch with a permutation of itself."""

    alpha: float = setting(1.0, "The weight is drawn from Beta(alpha, alpha).", gt=0)
    share: float = setting(1.0, "Share of the batches that are mixed.", gt=0, le=1)

    @abstractmethod
    def __call__(self, images: Tensor, targets: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and targets (N, K), mixed."""


@dataclass(frozen=True, kw_only=True)
class Mixup(Mix):
    """Two images and their labels are averaged with a random weight (Zhang et al. 2018, 1710.09412).

    alpha is 1 for CIFAR-10 and 0.2 for ImageNet.
    """

    name: ClassVar[str] = "mixup"

    def __call__(self, images: Tensor, targets: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
        """The weighted sums."""
        from cnnkit.train.mix import mixup

        return mixup(images, targets, self.alpha, random)


@dataclass(frozen=True, kw_only=True)
class Cutmix(Mix):
    """A box of each image, and its share of the label, comes from another (Yun et al. 2019, 1905.04899).

    The authors mix half of the batches of CIFAR and all of ImageNet's.
    """

    name: ClassVar[str] = "cutmix"

    def __call__(self, images: Tensor, targets: Tensor, random: Generator) -> tuple[Tensor, Tensor]:
        """The patched images."""
        from cnnkit.train.mix import cutmix

        return cutmix(images, targets, self.alpha, random)


MIXES: dict[str, type[Mix]] = named(Mixup, Cutmix)
