"""Changes that have no form for whole batches: torchvision's transforms, one image after the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cnnkit.data.augment.base import Augmentation, Range
from cnnkit.parts import setting

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class PerImage(Augmentation):
    """A transform of torchvision's, which draws from torch's global random state: each image's own seed is
    drawn from the generator, and the state is put back.
    """

    @abstractmethod
    def transform(self, side: int) -> Callable[[Tensor], Tensor]:
        """torchvision's transform of one image whose shorter side is given."""

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shape: (N, C, H, W), kept"""
        import torch

        change = self.transform(min(images.shape[2:]))
        seeds = torch.randint(2**62, (len(images),), generator=generator).tolist()
        made = torch.empty_like(images)
        with torch.random.fork_rng(devices=[]):
            for place, seed in enumerate(seeds):
                torch.default_generator.manual_seed(seed)
                made[place] = change(images[place])
        return made


@dataclass(frozen=True, kw_only=True)
class Blur(PerImage):
    """A Gaussian blur of random width: Chen et al. 2020, 2002.05709, appendix A, whose kernel is a tenth of
    the side.
    """

    name: ClassVar[str] = "blur"
    sigma: Range = setting((0.1, 2.0), "Standard deviation in pixels.", ge=0.01, le=20)
    probability: float = setting(0.5, "Share of the images.", ge=0, le=1)

    def transform(self, side: int) -> Callable[[Tensor], Tensor]:
        """`GaussianBlur` of an odd kernel of at least 3 pixels."""
        from torchvision.transforms import v2

        blur = v2.GaussianBlur(2 * max(1, round(side / 20)) + 1, self.sigma)
        return v2.RandomApply([blur], self.probability)


@dataclass(frozen=True, kw_only=True)
class RandAugment(PerImage):
    """Some of 14 changes, all at one strength: Cubuk et al. 2020, 1909.13719."""

    name: ClassVar[str] = "rand_augment"
    for_masks: ClassVar[bool] = False
    changes: int = setting(2, "How many follow on each other (N).", ge=1, le=14)
    magnitude: int = setting(9, "Their strength (M).", ge=0, le=30)

    def transform(self, side: int) -> Callable[[Tensor], Tensor]:
        """`RandAugment`, with 31 strengths."""
        from torchvision.transforms import v2

        return v2.RandAugment(self.changes, self.magnitude)


@dataclass(frozen=True, kw_only=True)
class TrivialAugment(PerImage):
    """One of 14 changes at a random strength, the wide set: Mueller & Hutter 2021, 2103.10158."""

    name: ClassVar[str] = "trivial_augment"
    for_masks: ClassVar[bool] = False

    def transform(self, side: int) -> Callable[[Tensor], Tensor]:
        """`TrivialAugmentWide`."""
        from torchvision.transforms import v2

        return v2.TrivialAugmentWide()


@dataclass(frozen=True, kw_only=True)
class AugMix(PerImage):
    """A random mixture of the image and several chains of changes to it: Hendrycks et al. 2020, 1912.02781;
    without the paper's consistency loss.
    """

    name: ClassVar[str] = "augmix"
    for_masks: ClassVar[bool] = False
    severity: int = setting(3, "Strength of the changes.", ge=1, le=10)
    width: int = setting(3, "Number of chains.", ge=1, le=10)

    def transform(self, side: int) -> Callable[[Tensor], Tensor]:
        """`AugMix`, with chains of one to three changes."""
        from torchvision.transforms import v2

        return v2.AugMix(self.severity, self.width)
