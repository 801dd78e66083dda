"""What is done to the probabilities of pixels once a network has given them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cnnkit.parts import Part, named, setting

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Refiner(Part):
    """Makes probabilities better by looking at the image."""

    def __call__(self, images: Tensor, probabilities: Tensor) -> Tensor:
        """Shape: (N, C, H, W), (N, K, H, W) -> (N, K, H, W)"""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Crf(Refiner):
    """Labels follow the colours: a dense CRF (Krähenbühl & Koltun 2011, 1210.5644), as DeepLab ends with.

    The defaults are those of the authors' tool; DeepLab v2's for VOC are 4, 67 and 3 for `weight`, `near` and
    `colour`, and 3 and 1 for the other two (canon, segmentation/deeplab).
    """

    name: ClassVar[str] = "crf"

    weight: float = setting(10.0, "What pixels of like colour count.", ge=0)
    near: float = setting(60.0, "How far apart they may lie: a standard deviation, in pixels.", gt=0)
    colour: float = setting(20.0, "How much they may differ: the same, in grey levels.", gt=0)
    smooth_weight: float = setting(3.0, "What neighbours count, whatever their colour.", ge=0)
    smooth: float = setting(3.0, "How far apart those may lie, in pixels.", gt=0)
    iterations: int = setting(10, "Rounds of mean field.", ge=1)
    levels: float = setting(1.0, "Grey levels that one unit of the images is: 1 for bytes.", gt=0)

    def __call__(self, images: Tensor, probabilities: Tensor) -> Tensor:
        """The beliefs of the mean field."""
        import torch

        from cnnkit.ops.crf import Kernel, dense_crf

        kernels = (
            Kernel(self.smooth_weight, self.smooth),
            Kernel(self.weight, self.near, self.colour),
        )
        logs = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
        return dense_crf(logs, self.levels * images.float(), kernels, iterations=self.iterations).softmax(1)


REFINERS: dict[str, type[Refiner]] = named(Crf)
