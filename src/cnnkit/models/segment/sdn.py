"""Stacked deconvolutional network. Fu, Liu, Wang & Lu, arXiv:1708.04943; with Zhou and Wang in IEEE
Transactions on Image Processing, 2019.

Shallow encoder-decoders stand one after the other. The first encodes with DenseNet-161 down to a sixteenth of
the image, the others with two downsampling blocks; each decodes with two upsampling blocks to a quarter. A
block is

    down: pool, [x, same scale of the unit before], two dense layers, compression,
    up:   up-convolution, [x, same scale of the first encoder], two dense layers, compression,

a dense layer being batch norm, ReLU, a 3x3 convolution to 48 maps and dropout, whose output is put beside its
input. The finest scores of every unit have those of the unit before added; with `aux=True` there are scores
at every scale, and all of them are supervised in training (hierarchical supervision).

Departures: there is no official definition, and the paper's tables were not at hand, so that this is the
paper's idea and not its network. Widths of compression (768 and 1024 down, 768 and 576 up) are those of a
third party's; decided here are 48 maps from the first encoder by a 1x1 convolution, dropout of 0.2, the map
of the unit before at a sixteenth being where its decoder starts, and losses that all weigh the same. Nothing
is claimed to equal the authors' network.
"""

import torch
from torch import Tensor, nn

from cnnkit.layers import WithAux, he_init
from cnnkit.models.classify.densenet import DenseLayer, DenseNet
from cnnkit.models.segment.fcn_resnet import enlarge
from cnnkit.registry import register

GROWTH, DOWN, UP = 48, (768, 1024), (768, 576)
#: DenseNet-161 down to a sixteenth of the image.
DEPTHS = (6, 12, 36)


def dense(in_channels: int, out_channels: int, growth: int) -> nn.Sequential:
    """Two dense layers and a compression. Shape: (N, in_channels, H, W) -> (N, out_channels, H, W)"""
    layers = nn.Sequential()
    for _ in range(2):
        layers.append(
            DenseLayer(
                nn.Sequential(
                    *(nn.BatchNorm2d(in_channels), nn.ReLU()),
                    *(nn.Conv2d(in_channels, growth, 3, padding=1), nn.Dropout(0.2)),
                )
            )
        )
        in_channels += growth
    return layers.append(nn.Conv2d(in_channels, out_channels, 3, padding=1))


class Down(nn.Module):
    """Half the size, beside a map of that size.

    Shape: (N, in_channels, H, W), (N, beside, H / 2, W / 2) -> (N, out_channels, H / 2, W / 2)
    """

    def __init__(self, in_channels: int, beside: int, out_channels: int, growth: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.layers = dense(in_channels + beside, out_channels, growth)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        return self.layers(torch.cat([self.pool(x), beside], dim=1))


class Up(nn.Module):
    """Twice the size, beside some maps of the first encoder.

    Shape: (N, in_channels, h, w), (N, beside, H, W) -> (N, out_channels, H, W)
    """

    def __init__(self, in_channels: int, beside: int, out_channels: int, growth: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, in_channels, 2, 2)
        self.reduce = nn.Conv2d(beside, growth, 1)
        self.layers = dense(in_channels + growth, out_channels, growth)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        x = self.up(x, output_size=beside.shape[2:])
        return self.layers(torch.cat([x, self.reduce(beside)], dim=1))


class Decoder(nn.Module):
    """From a sixteenth to a quarter, and the scores of as many of the finest scales as told."""

    def __init__(
        self,
        beside: tuple[int, int],
        widths: tuple[int, int, int],
        growth: int,
        classes: int,
        scored: int,
    ) -> None:
        super().__init__()
        ways = zip(widths, reversed(beside), widths[1:], strict=False)
        self.ups = nn.ModuleList(Up(arriving, wide, leaving, growth) for arriving, wide, leaving in ways)
        self.scores = nn.ModuleList(nn.Conv2d(wide, classes, 3, padding=1) for wide in widths[-scored:])

    def forward(self, x: Tensor, first: list[Tensor]) -> list[Tensor]:
        """The maps at a sixteenth, an eighth and a quarter."""
        maps = [x]
        for up, beside in zip(self.ups, reversed(first), strict=True):
            maps.append(up(maps[-1], beside))
        return maps


class SDN(nn.Module):
    """A stack of encoder-decoders.

    Args:
        units: how many.
        aux: whether all scales make scores, which come with the logits in training.
        width: multiplies all channels but those of the scores.
    """

    smallest_image = 32

    def __init__(
        self,
        units: int = 3,
        *,
        aux: bool = False,
        width: float = 1.0,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        growth = int(width * GROWTH)
        self.scored = len(UP) + 1 if aux else 1
        middle, deep = (int(width * wide) for wide in DOWN)
        eighth_up, quarter_up = (int(width * wide) for wide in UP)
        widths = (deep, eighth_up, quarter_up)
        self.encoder = DenseNet(DEPTHS, GROWTH, num_classes=1, in_channels=in_channels, width=width)
        del self.encoder.head
        quarter, eighth, sixteenth = self.encoder.feature_channels
        self.compression = nn.Conv2d(sixteenth, deep, 3, padding=1)
        self.downs = nn.ModuleList(
            nn.ModuleList([Down(widths[2], widths[1], middle, growth), Down(middle, widths[0], deep, growth)])
            for _ in range(units - 1)
        )
        self.decoders = nn.ModuleList(
            Decoder((quarter, eighth), widths, growth, num_classes, self.scored) for _ in range(units)
        )
        he_init(self, mode="fan_in")

    def forward(self, images: Tensor) -> Tensor | WithAux:
        """(N, in_channels, H, W) -> logits (N, num_classes, H, W), in training with those of all scales"""
        *first, x = self.encoder.features(images)
        maps: list[Tensor] = []
        scores: list[list[Tensor]] = []
        for i, decoder in enumerate(self.decoders):
            if i == 0:
                x = self.compression(x)
            else:
                for down, beside in zip(self.downs[i - 1], reversed(maps[:-1]), strict=True):  # type: ignore[call-overload]
                    x = down(x, beside)
            maps = decoder(x, first)
            x = maps[-1]
            made = [score(m) for score, m in zip(decoder.scores, maps[-self.scored :], strict=True)]  # type: ignore[arg-type]
            scores.append([a + b for a, b in zip(made, scores[-1], strict=True)] if scores else made)
        *others, last = [score for unit in scores for score in unit]
        logits = enlarge(last, images)
        if self.scored == 1 or not self.training:
            return logits
        return WithAux(logits, tuple(enlarge(score, images) for score in others), 1.0)


register(SDN, task="segment", canon="segmentation/sdn", variants={"sdn_m3": {}})
