"""ShuffleNet v2. Ma, Zhang, Zheng & Sun, ECCV 2018, arXiv:1807.11164.

What makes a network fast is not its multiply-adds alone: equal widths on both sides of a 1x1 convolution
save memory traffic, groups and elementwise operations cost it (section 2). So nothing is grouped or
added; half of the channels pass by a unit untouched, and a shuffle gives the next unit other halves
(section 3, Fig. 3c, 3d),

    y = shuffle([x_1, F(x_2)]),     or at stride 2     y = shuffle([G(x), F(x)]),
    F = relu . bn . conv1x1 . bn . depthwise3x3 . relu . bn . conv1x1.

Departures: none from the paper. The authors' code splits even from odd channels before a unit instead of
shuffling behind it (the same up to the first and last unit of a stage), has no bias in the last layer,
and drops a fifth of its input in the widest network; torchvision and this file do not.
"""

import torch
from torch import Tensor, nn

from cnnkit.layers import conv_bn, conv_bn_relu
from cnnkit.models.classify.shufflenet_v1 import DEPTHS, shufflenet_init
from cnnkit.registry import register


class ShuffleUnitV2(nn.Module):
    """Fig. 3d: halves the resolution, both branches read all channels; `SplitUnit` is the one at stride 1.

    Shape: (N, C, H, W) -> (N, out_channels, H / 2, W / 2)
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.left = nn.Sequential(
            conv_bn(in_channels, in_channels, 3, stride=2, groups=in_channels),
            conv_bn_relu(in_channels, half, 1),
        )
        self.right = branch(in_channels, half, stride=2)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(torch.cat([self.left(x), self.right(x)], dim=1))


class SplitUnit(nn.Module):
    """Fig. 3c: works on the second half of the channels. Shape: (N, C, H, W) -> (N, C, H, W)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = branch(channels // 2, channels // 2, stride=1)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = x.chunk(2, dim=1)
        return self.shuffle(torch.cat([kept, self.branch(worked)], dim=1))


def branch(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """F. Shape: (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)"""
    return nn.Sequential(
        conv_bn_relu(in_channels, channels, 1),
        conv_bn(channels, channels, 3, stride=stride, groups=channels),
        conv_bn_relu(channels, channels, 1),
    )


class ShuffleNetV2(nn.Module):
    """A stem at stride 4, three stages at strides 8, 16 and 32; the last 1x1 convolution is the head's.

    Args:
        channels: of the three stages (Table 5), all even.
        last: channels of the last 1x1 convolution.

    Raises:
        ValueError: a stage has an odd number of channels.
    """

    smallest_image = 32

    def __init__(
        self, channels: tuple[int, int, int], last: int, *, num_classes: int = 1000, in_channels: int = 3
    ) -> None:
        super().__init__()
        if any(c % 2 for c in channels):
            raise ValueError(f"channels must be even to be split in halves, got {channels}")
        self.feature_channels = (24, *channels)
        first = nn.Sequential(conv_bn_relu(in_channels, 24, 3, stride=2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList([first])
        for before, after, depth in zip(self.feature_channels, channels, DEPTHS, strict=False):
            stage = nn.Sequential(ShuffleUnitV2(before, after))
            stage.extend(SplitUnit(after) for _ in range(depth - 1))
            self.stages.append(stage)
        self.head = nn.Sequential(
            *(conv_bn_relu(channels[-1], last, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(last, num_classes),
        )
        shufflenet_init(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> maps of `feature_channels` at strides 4, 8, 16 and 32"""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


register(
    ShuffleNetV2,
    task="classify",
    canon="classification/shufflenet",
    variants={  # Table 5; the widths of x2_0 are those of the authors' code
        "shufflenet_v2_x0_5": dict(channels=(48, 96, 192), last=1024),
        "shufflenet_v2_x1_0": dict(channels=(116, 232, 464), last=1024),
        "shufflenet_v2_x1_5": dict(channels=(176, 352, 704), last=1024),
        "shufflenet_v2_x2_0": dict(channels=(244, 488, 976), last=2048),
    },
)
