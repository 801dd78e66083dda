"""ShuffleNet. Zhang, Zhou, Lin & Sun, CVPR 2018, arXiv:1707.01083.

The 1x1 convolutions of a bottleneck are the costly ones, so they are grouped; and since groups that never
mix learn little, the channels are shuffled between two of them (section 3.1): laid out as (g, n),
transposed, and read out again. A unit (Fig. 2b, 2c) is

    y = relu(x + F(x)),     or at stride 2     y = [avgpool3x3(x), relu(F(x))],
    F = bn . gconv1x1 . shuffle . bn . depthwise3x3 . relu . bn . gconv1x1,

with a quarter of the output's channels inside. The first 1x1 convolution of all reads few channels and is
not grouped; with one group there is no shuffle.

Departures: F shuffles after the depthwise convolution and not before it, as the authors' code does; both
treat each map by itself, so this only renumbers their kernels. The rows `_megvii` are that code, released
later: it reads the shuffled channels out the other way round, has no bias in the last layer, and gives
other errors than the paper. In the rows of half and quarter width the first convolution shrinks too,
which reproduces the paper's multiply-adds at half width (and not at a quarter: 11 million where the paper
has 13).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cnnkit.layers import conv_bn, conv_bn_relu
from cnnkit.registry import register

#: Table 1: channels of the first stage, by the number of groups; each later stage has twice as many.
CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
DEPTHS = (4, 8, 4)

#: (channels, groups) -> the module that shuffles between the grouped convolutions.
Shuffle = Callable[[int, int], nn.Module]


def by_group(channels: int, groups: int) -> nn.Module:
    """The shuffle of the paper: first the first channel of each group, then the second of each."""
    return nn.ChannelShuffle(groups)


def by_position(channels: int, groups: int) -> nn.Module:
    """The shuffle of the authors' code: every g-th channel from the first on, then from the second on."""
    return nn.ChannelShuffle(channels // groups)


class ShuffleUnit(nn.Module):
    """Fig. 2b at stride 1 and Fig. 2c at stride 2. Shape: (N, C, H, W) -> (N, out, H / stride, W / stride)

    Raises:
        ValueError: the groups do not divide the channels inside or those that the branch makes.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, groups: tuple[int, int], shuffle: Shuffle
    ) -> None:
        super().__init__()
        first, second = groups
        inner = out_channels // 4  # section 3.2
        made = out_channels if stride == 1 else out_channels - in_channels
        if inner % second or made % second:
            raise ValueError(
                f"{second} groups do not divide {inner} or {made} channels; choose another width or stem"
            )
        self.branch = nn.Sequential(
            conv_bn_relu(in_channels, inner, 1, groups=first),
            conv_bn(inner, inner, 3, stride=stride, groups=inner),
        )
        if second > 1:
            self.branch.append(shuffle(inner, second))
        self.branch.append(conv_bn(inner, made, 1, groups=second))
        self.shortcut = None if stride == 1 else nn.AvgPool2d(3, 2, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut is None:
            return self.relu(x + self.branch(x))
        return torch.cat([self.shortcut(x), self.relu(self.branch(x))], dim=1)


class ShuffleNetV1(nn.Module):
    """A stem at stride 4, three stages at strides 8, 16 and 32, a linear classifier.

    Args:
        groups: g, of the 1x1 convolutions; one of `CHANNELS`.
        stem: channels of the first convolution.
        shuffle: how channels are shuffled.
        bias: whether the last layer has one.
        width: s, multiplies the channels of the stages.

    Raises:
        ValueError: the width does not suit the groups.
    """

    smallest_image = 32

    def __init__(
        self,
        groups: int,
        stem: int = 24,
        shuffle: Shuffle = by_group,
        *,
        bias: bool = True,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        first = nn.Sequential(conv_bn_relu(in_channels, stem, 3, stride=2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList([first])
        self.feature_channels = (stem, *(int(width * CHANNELS[groups] * 2**i) for i in range(len(DEPTHS))))
        channels = stem
        for out_channels, depth in zip(self.feature_channels[1:], DEPTHS, strict=True):
            grouped = (1 if channels == stem else groups, groups)
            stage = nn.Sequential(ShuffleUnit(channels, out_channels, 2, grouped, shuffle))
            for _ in range(depth - 1):
                stage.append(ShuffleUnit(out_channels, out_channels, 1, (groups, groups), shuffle))
            self.stages.append(stage)
            channels = out_channels
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes, bias=bias)
        )
        shufflenet_init(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> maps of `feature_channels` at strides 4, 8, 16 and 32"""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


def shufflenet_init(model: nn.Module) -> None:
    """The authors' code: deviation 0.01 in the first and the last layer, 1 / (channels that a kernel reads)
    in the others; linear biases zero, shifts of batch norm 1e-4."""
    first = True
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01 if first else 1 / layer.weight.shape[1])
            first = False
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.bias, 1e-4)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


MEGVII = dict(shuffle=by_position, bias=False)

register(
    ShuffleNetV1,
    task="classify",
    canon="classification/shufflenet",
    variants={  # Tables 1 and 2
        "shufflenet_v1_g1_1x": dict(groups=1),
        "shufflenet_v1_g2_1x": dict(groups=2),
        "shufflenet_v1_g3_1x": dict(groups=3),
        "shufflenet_v1_g4_1x": dict(groups=4),
        "shufflenet_v1_g8_1x": dict(groups=8),
        "shufflenet_v1_g1_0_5x": dict(groups=1, stem=12, width=0.5),
        "shufflenet_v1_g3_0_5x": dict(groups=3, stem=12, width=0.5),
        "shufflenet_v1_g1_0_25x": dict(groups=1, stem=6, width=0.25),
        "shufflenet_v1_g3_0_25x": dict(groups=3, stem=6, width=0.25),
        "shufflenet_v1_g3_0_5x_megvii": dict(groups=3, stem=12, width=0.5, **MEGVII),
        "shufflenet_v1_g3_1x_megvii": dict(groups=3, **MEGVII),
        "shufflenet_v1_g3_1_5x_megvii": dict(groups=3, width=1.5, **MEGVII),
        "shufflenet_v1_g3_2x_megvii": dict(groups=3, stem=48, width=2.0, **MEGVII),
        "shufflenet_v1_g8_0_5x_megvii": dict(groups=8, stem=16, width=0.5, **MEGVII),
        "shufflenet_v1_g8_1x_megvii": dict(groups=8, **MEGVII),
        "shufflenet_v1_g8_1_5x_megvii": dict(groups=8, width=1.5, **MEGVII),
        "shufflenet_v1_g8_2x_megvii": dict(groups=8, stem=48, width=2.0, **MEGVII),
    },
)
