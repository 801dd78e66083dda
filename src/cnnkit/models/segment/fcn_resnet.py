"""FCN on a dilated ResNet, as torchvision has it: not the paper of Long, Shelhamer & Darrell (see fcn.py).

A ResNet whose last two stages keep the resolution and dilate their 3x3 convolutions instead, so that its maps
are an eighth of the image (Yu, Koltun & Funkhouser, "Dilated Residual Networks", CVPR 2017, arXiv:1705.09914,
section 2); a head of one 3x3 convolution and the scores; bilinear interpolation to the image. There are no
skips. With `aux=True` a second head scores the stage before the last in training.

The network equals torchvision's `fcn_resnet50` and `fcn_resnet101`, weights and outputs; the first unit of a
dilated stage has the rate of the stage before, as there.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from cnnkit.layers import WithAux
from cnnkit.models.classify.resnet import DEEP, Bottleneck
from cnnkit.models.segment.trunks import dilate, resnet_trunk
from cnnkit.registry import register

#: What the auxiliary loss counts in torchvision's reference training.
AUX_WEIGHT = 0.5

#: (channels, num_classes) -> what makes scores of the trunk's last map.
Head = Callable[[int, int], nn.Module]


def fcn_head(channels: int, num_classes: int) -> nn.Sequential:
    """Shape: (N, channels, H, W) -> (N, num_classes, H, W)"""
    inner = channels // 4
    return nn.Sequential(
        nn.Conv2d(channels, inner, 3, padding=1, bias=False),
        *(nn.BatchNorm2d(inner), nn.ReLU(), nn.Dropout(0.1)),
        nn.Conv2d(inner, num_classes, 1),
    )


class DilatedResNet(nn.Module):
    """A head on a ResNet at stride 8.

    Args:
        depths: number of units in each stage of the ResNet.
        head: builds the head.
        aux: whether there is an auxiliary head, which speaks in training only.
        width: multiplies the channels of the ResNet.
    """

    smallest_image = 16

    def __init__(
        self,
        depths: tuple[int, ...],
        head: Head = fcn_head,
        *,
        aux: bool = False,
        width: float = 1.0,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.backbone = resnet_trunk(Bottleneck(), depths, in_channels, width)
        *_, third, last = self.backbone.stages
        dilate(third, 1, 2)
        dilate(last, 2, 4)
        *_, before, channels = self.backbone.feature_channels
        self.head = head(channels, num_classes)
        self.aux = fcn_head(before, num_classes) if aux else None

    def forward(self, images: Tensor) -> Tensor | WithAux:
        """(N, in_channels, H, W) -> logits (N, num_classes, H, W), in training with those of the aux head"""
        *_, before, last = self.backbone.features(images)
        logits = enlarge(self.head(last), images)
        if self.aux is None or not self.training:
            return logits
        return WithAux(logits, (enlarge(self.aux(before), images),), AUX_WEIGHT)


def enlarge(maps: Tensor, images: Tensor) -> Tensor:
    """Bilinear interpolation to the images' size, between the centres of pixels."""
    return functional.interpolate(maps, images.shape[2:], mode="bilinear")


register(
    DilatedResNet,
    task="segment",
    canon="segmentation/fcn",
    variants={f"fcn_resnet{n}": dict(depths=DEEP[n]) for n in (50, 101)},
)
