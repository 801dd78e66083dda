"""DeepLab v2. Chen, Papandreou, Kokkinos, Murphy & Yuille, "DeepLab: Semantic Image Segmentation with Deep
Convolutional Nets, Atrous Convolution, and Fully Connected CRFs", TPAMI 2018, arXiv:1606.00915.

Atrous spatial pyramid pooling (section 3.2): several classifiers read the same map through holes of different
size, and their scores are added,

    y = sum_r classify_r(x),     r = 6, 12, 18, 24 (ASPP-L), or 2, 4, 8, 12 (ASPP-S).

On VGG-16 a classifier is fc6, fc7 and scores; on ResNet-101 it is one 3x3 convolution. The trunk is at stride
8; the ResNet halves in the first 1x1 of a unit and its first pooling rounds up (the authors' definition), and
all units of a dilated stage have its rate.

Departures: logits are interpolated to the image in training too, where the authors shrink the labels by 8,
and one scale of the image is read, where the best published figures take the maximum over three. The authors
freeze batch norm, which is the recipe's to do.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cnnkit.models.classify.resnet import DEEP, Bottleneck
from cnnkit.models.classify.vgg import glorot_init
from cnnkit.models.segment.deeplab_v1 import Fc6, classifier, enlarge, vgg16_trunk
from cnnkit.models.segment.trunks import dilate, resnet_trunk
from cnnkit.registry import register

LARGE = (6, 12, 18, 24)
SMALL = (2, 4, 8, 12)


class ResNet101(nn.Module):
    """The authors' ResNet-101 at stride 8. Shape: (N, in_channels, H, W) -> (N, 2048, H / 8, W / 8)"""

    def __init__(self, in_channels: int, width: float) -> None:
        super().__init__()
        self.backbone = resnet_trunk(Bottleneck(stride_in="1x1"), DEEP[101], in_channels, width)
        self.backbone.stem[1] = nn.MaxPool2d(3, 2, 1, ceil_mode=True)  # type: ignore[operator]
        *_, third, last = self.backbone.stages
        dilate(third, 2)
        dilate(last, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.features(images)[-1]


def vgg16(in_channels: int, width: float) -> nn.Module:
    """The trunk of version 1."""
    trunk = vgg16_trunk(in_channels, width)
    glorot_init(trunk)
    return trunk


def fc_branch(rate: int, width: float, num_classes: int) -> nn.Module:
    """fc6, fc7 and scores on VGG-16."""
    return classifier(int(width * 512), Fc6(1024, 3, rate), width, num_classes)


def plain_branch(rate: int, width: float, num_classes: int) -> nn.Module:
    """One convolution on ResNet-101."""
    layer = nn.Conv2d(int(width * 64) * 32, num_classes, 3, padding=rate, dilation=rate)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type] # it has one
    return layer


class DeepLabV2(nn.Module):
    """A trunk at stride 8, and classifiers of several rates whose scores are added.

    Args:
        trunk: built from in_channels and width.
        branch: a classifier, from its rate, width and the number of classes.
        rates: one a classifier.
        width: multiplies all channels but those of the scores.
    """

    smallest_image = 16

    def __init__(
        self,
        trunk: Callable[[int, float], nn.Module],
        branch: Callable[[int, float, int], nn.Module],
        rates: tuple[int, ...] = LARGE,
        *,
        width: float = 1.0,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.trunk = trunk(in_channels, width)
        self.branches = nn.ModuleList(branch(rate, width, num_classes) for rate in rates)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes, H, W)"""
        x = self.trunk(images)
        return enlarge(torch.stack([branch(x) for branch in self.branches]).sum(0), images)


register(
    DeepLabV2,
    task="segment",
    canon="segmentation/deeplab",
    variants={
        "deeplab_v2_aspp_vgg16": dict(trunk=vgg16, branch=fc_branch),
        "deeplab_v2_aspp_s_vgg16": dict(trunk=vgg16, branch=fc_branch, rates=SMALL),
        "deeplab_v2_aspp_resnet101": dict(trunk=ResNet101, branch=plain_branch),
    },
)
