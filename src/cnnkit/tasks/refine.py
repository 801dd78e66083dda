"""What is done to the probabilities of pixels once a network has given them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnkit.ops.crf import Kernel, dense_crf


@dataclass(frozen=True, slots=True, kw_only=True)
class Crf:
    """Labels follow the colours: a dense CRF (Krähenbühl & Koltun 2011, 1210.5644), as DeepLab ends with.

    The defaults are those of the authors' tool; DeepLab v2's for VOC are 4, 67 and 3 for `weight`, `near` and
    `colour`, and 3 and 1 for the other two (canon, segmentation/deeplab).

    Attributes:
        weight: what pixels of like colour count.
        near: how far apart they may lie: a standard deviation, in pixels.
        colour: how much they may differ: the same, in grey levels of bytes.
        smooth_weight: what neighbours count, whatever their colour.
        smooth: how far apart those may lie, in pixels.
        iterations: rounds of mean field.
    """

    weight: float = 10.0
    near: float = 60.0
    colour: float = 20.0
    smooth_weight: float = 3.0
    smooth: float = 3.0
    iterations: int = 10

    def __call__(self, images: Tensor, probabilities: Tensor) -> Tensor:
        """The beliefs of the mean field. Shape: (N, C, H, W) bytes, (N, K, H, W) -> (N, K, H, W)"""
        kernels = (
            Kernel(self.smooth_weight, self.smooth),
            Kernel(self.weight, self.near, self.colour),
        )
        logs = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
        return dense_crf(logs, images.float(), kernels, iterations=self.iterations).softmax(1)
