"""DeepLab v1. Chen, Papandreou, Kokkinos, Murphy & Yuille, "Semantic Image Segmentation with Deep
Convolutional Nets and Fully Connected CRFs", ICLR 2015, arXiv:1412.7062.

VGG-16 whose last two poolings move by one pixel, so that its maps stay at an eighth of the image; what
follows is dilated ("with holes", section 3.1) by as much as was not halved. A small fc6 with large holes sees
as far as the 7x7 one and has a fifth of the weights (section 3.3): LargeFOV is 3x3 at rate 12 with 1024
channels. A dense CRF, `cnnkit.ops.crf`, sharpens what comes out.

Poolings are 3x3, and in LargeFOV an average follows the last (the authors' definition for Caffe). Grids align
where the sides are 8 k + 1, as 321 and 513; other sizes are taken too.

Departures: logits are interpolated to the image in training too, where the authors shrink the labels by 8.
fc6 of LargeFOV starts at random where the authors thin out VGG's. The average pooling before fc6 is in
LargeFOV alone, and an even fc6 (4x4 at rate 4) pads by 6 on each side: for these forms the sources say
nothing.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from cnnkit.models.classify.vgg import glorot_init
from cnnkit.models.segment.trunks import convolutions, vgg16_groups
from cnnkit.registry import register


class Fc6(NamedTuple):
    """The layer that sees: channels, which are fc7's too, kernel, rate, and if an average precedes it."""

    channels: int
    kernel: int
    rate: int
    averaged: bool = False


LARGE_FOV = Fc6(1024, 3, 12, averaged=True)


def vgg16_trunk(in_channels: int, width: float) -> nn.Sequential:
    """VGG-16's convolutions at stride 8, the last three dilated by 2, up to the last pooling.

    Shape: (N, in_channels, H, W) -> (N, 512, ceil(H / 8), ceil(W / 8))
    """
    trunk = nn.Sequential()
    for i, group in enumerate(vgg16_groups(in_channels, width)):
        trunk.append(group).append(nn.MaxPool2d(3, 2 if i < 3 else 1, 1, ceil_mode=True))
    for layer in convolutions(trunk)[-3:]:
        layer.dilation = layer.padding = (2, 2)
    return trunk


def classifier(channels: int, fc6: Fc6, width: float, num_classes: int) -> nn.Sequential:
    """fc6, fc7 and the scores. Shape: (N, channels, H, W) -> (N, num_classes, H, W)"""
    units, padding = int(width * fc6.channels), fc6.rate * (fc6.kernel - 1) // 2
    score = nn.Conv2d(units, num_classes, 1)
    layers = nn.Sequential(
        nn.AvgPool2d(3, 1, 1) if fc6.averaged else nn.Identity(),
        *(
            nn.Conv2d(channels, units, fc6.kernel, padding=padding, dilation=fc6.rate),
            nn.ReLU(),
            nn.Dropout(0.5),
        ),
        *(nn.Conv2d(units, units, 1), nn.ReLU(), nn.Dropout(0.5)),
        score,
    )
    glorot_init(layers)
    nn.init.normal_(score.weight, std=0.01)
    return layers


def enlarge(maps: Tensor, images: Tensor) -> Tensor:
    """Bilinear interpolation to the images' size, corner on corner: a pixel of the map is one of 8 k + 1."""
    return functional.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=True)


class DeepLabV1(nn.Module):
    """A dilated VGG-16 whose scores are interpolated.

    Args:
        fc6: the layer that sees.
        width: multiplies all channels but those of the scores.
    """

    smallest_image = 16

    def __init__(
        self, fc6: Fc6 = LARGE_FOV, *, width: float = 1.0, num_classes: int = 21, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.trunk = vgg16_trunk(in_channels, width)
        glorot_init(self.trunk)
        self.head = classifier(int(width * 512), fc6, width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes, H, W)"""
        return enlarge(self.head(self.trunk(images)), images)


register(
    DeepLabV1,
    task="segment",
    canon="segmentation/deeplab",
    variants={
        "deeplab_v1_largefov_vgg16": {},
        "deeplab_v1_7x7_vgg16": dict(fc6=Fc6(4096, 7, 4)),
        "deeplab_v1_4x4_vgg16": dict(fc6=Fc6(4096, 4, 4)),
    },
)
