"""U-Net. Ronneberger, Fischer & Brox, MICCAI 2015, arXiv:1505.04597.

Down: two convolutions of 3x3 and a pooling, five times, each time with twice the channels. Up: an
up-convolution doubles the size and halves the channels, the map of the same level of the way down is cropped
to its size and put beside it, and two convolutions follow (Fig. 1):

    x_l = conv(conv([crop(down_l), up(x_{l+1})])).

Nothing is padded, so what comes out is computed of real pixels alone: 572 x 572 gives 388 x 388, and each
side loses `margin` = 92. Sides are 16 k + 60, which leaves every pooling an even map.

`unet_release_phseg_v5` is the network that the authors released: ReLUs after the up-convolutions, of which
the last keeps its 128 channels, so that it has 31,100,354 parameters where Fig. 1 has 31,030,658.
`unet_padded_bn` is what most libraries call U-Net: convolutions pad by 1, have batch norm and no bias, and an
image of any size from 16 x 16 on gives scores of its own size.

Departures: dropout after the two deepest levels of the way down is 0.5, a rate that the paper does not print.
The release puts the up-convolved map in front of the copied one, which only permutes weights; here the copied
one comes first, as in Fig. 1.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.layers import he_init
from cnnkit.models.segment.trunks import require_sides
from cnnkit.registry import register

#: Channels of the levels, the finest first (Fig. 1).
CHANNELS = (64, 128, 256, 512, 1024)

#: (in_channels, out_channels) -> two convolutions, or an up-convolution.
Unit = Callable[[int, int], nn.Sequential]


def pair(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two convolutions without padding. Shape: (N, in_channels, H, W) -> (N, out_channels, H - 4, W - 4)"""
    return nn.Sequential(
        *(nn.Conv2d(in_channels, out_channels, 3), nn.ReLU()),
        *(nn.Conv2d(out_channels, out_channels, 3), nn.ReLU()),
    )


def padded_pair(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two convolutions that pad, with batch norm. Shape: (N, in_channels, H, W) -> (N, out_channels, H, W)"""
    layers = nn.Sequential()
    for arriving in (in_channels, out_channels):
        layers.append(nn.Conv2d(arriving, out_channels, 3, padding=1, bias=False))
        layers.append(nn.BatchNorm2d(out_channels)).append(nn.ReLU())
    return layers


def up_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """A transposed convolution of 2x2. Shape: (N, in_channels, H, W) -> (N, out_channels, 2 H, 2 W)"""
    return nn.Sequential(nn.ConvTranspose2d(in_channels, out_channels, 2, 2))


def rectified_up_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """`up_convolution` and a ReLU, as released."""
    return up_convolution(in_channels, out_channels).append(nn.ReLU())


class Level(nn.Module):
    """[crop(finer), up(x)], then two convolutions.

    Shape: (N, C, h, w), (N, finer, H, W) -> (N, finer, 2 h - 4, 2 w - 4), or (N, finer, H, W) where they pad
    """

    def __init__(self, up: nn.Sequential, convolutions: nn.Sequential) -> None:
        super().__init__()
        self.up, self.convolutions = up, convolutions

    def forward(self, x: Tensor, finer: Tensor) -> Tensor:
        x = self.up(x)
        down, right = finer.shape[2] - x.shape[2], finer.shape[3] - x.shape[3]
        if self.convolutions[0].padding == (0, 0):
            finer = functional.pad(finer, (-(right // 2), right // 2 - right, -(down // 2), down // 2 - down))
        else:  # a map of an odd size has lost a row or a column to its pooling
            x = functional.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return self.convolutions(torch.cat([finer, x], dim=1))


class UNet(nn.Module):
    """Five levels down, four up.

    Args:
        unit: the two convolutions of a level.
        up: an up-convolution.
        up_channels: outputs of the up-convolutions, the deepest first.
        dropout: fraction dropped after the two deepest levels.
        width: multiplies all channels but those of the scores.
    """

    def __init__(
        self,
        unit: Unit = pair,
        up: Unit = up_convolution,
        *,
        up_channels: tuple[int, int, int, int] = (512, 256, 128, 64),
        dropout: float = 0.5,
        width: float = 1.0,
        num_classes: int = 2,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        channels = [int(width * c) for c in CHANNELS]
        levels = [unit(arriving, leaving) for arriving, leaving in pairwise([in_channels, *channels])]
        for level in levels[-2:] if dropout else ():
            level.append(nn.Dropout(dropout))
        self.downs = nn.ModuleList(levels)
        self.pool = nn.MaxPool2d(2)
        self.ups = nn.ModuleList()
        arriving = channels[-1]
        for beside, wide in zip(reversed(channels[:-1]), up_channels, strict=True):
            risen = int(width * wide)
            self.ups.append(Level(up(arriving, risen), unit(beside + risen, beside)))
            arriving = beside
        self.score = nn.Conv2d(arriving, num_classes, 1)
        valid = levels[0][0].padding == (0, 0)
        self.margin = 92 if valid else 0
        self.smallest_image, self.image_step = (188, 16) if valid else (16, 1)
        he_init(self, mode="fan_in")

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes, H - 2 margin, W - 2 margin)

        Raises:
            ValueError: the sides are none that the network takes.
        """
        require_sides(self, images)
        x, finer = images, []
        for i, down in enumerate(self.downs):
            x = down(self.pool(x) if i else x)
            finer.append(x)
        finer.pop()
        for level in self.ups:
            x = level(x, finer.pop())
        return self.score(x)


register(
    UNet,
    task="segment",
    canon="segmentation/unet",
    variants={
        "unet": dict(in_channels=1),
        "unet_release_phseg_v5": dict(
            in_channels=1, up=rectified_up_convolution, up_channels=(512, 256, 128, 128)
        ),
        "unet_padded_bn": dict(unit=padded_pair, dropout=0.0),
    },
)
