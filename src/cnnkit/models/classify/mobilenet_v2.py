"""MobileNet v2. Sandler, Howard, Zhu, Zhmoginov & Chen, CVPR 2018, arXiv:1801.04381.

A residual block turned inside out (section 3.3): the shortcut joins the narrow ends, and between them the
maps are expanded t-fold, filtered one by one, and projected back without a non-linearity, which would
destroy what few maps hold (section 3.2),

    y = x + F(x),     F = project1x1 . relu6 . depthwise3x3 . relu6 . expand1x1,

where x is added only if F keeps the shape. Table 2 is `STEM` and `STAGES`.

Departures: none in the network. The authors' code pads images of even size at the right and below only;
here both sides are padded, as in torchvision.
"""

from typing import NamedTuple

from torch import Tensor, nn

from cnnkit.layers import Residual, conv_bn
from cnnkit.models.classify.mobilenet_v1 import slim_init
from cnnkit.registry import register


class Row(NamedTuple):
    """A row of Table 2: `depth` (n) blocks of `channels` (c), the first at `stride` (s), expanding t-fold."""

    expansion: int
    channels: int
    depth: int
    stride: int


STEM = Row(1, 16, 1, 1)
STAGES = (
    (Row(6, 24, 2, 2),),
    (Row(6, 32, 3, 2),),
    (Row(6, 64, 4, 2), Row(6, 96, 3, 1)),
    (Row(6, 160, 3, 2), Row(6, 320, 1, 1)),
)


def round_channels(channels: float) -> int:
    """The nearest multiple of 8, but not below nine tenths of what was asked for (the authors' code).

    Channels of 8 or fewer are 8.
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def conv_bn_relu6(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm and a ReLU cut off at 6, of the shape of `conv_bn`."""
    return conv_bn(in_channels, out_channels, kernel, stride=stride, groups=groups).append(nn.ReLU6())


def inverted_residual(in_channels: int, out_channels: int, stride: int, expansion: int) -> nn.Module:
    """y = x + F(x), or F(x) where it changes the shape.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)
    """
    inner = expansion * in_channels
    branch = nn.Sequential()
    if expansion > 1:
        branch.append(conv_bn_relu6(in_channels, inner, 1))
    branch.append(conv_bn_relu6(inner, inner, 3, stride=stride, groups=inner))
    branch.append(conv_bn(inner, out_channels, 1))
    same_shape = stride == 1 and in_channels == out_channels
    return Residual(branch, nn.Identity()) if same_shape else branch


class MobileNetV2(nn.Module):
    """A stem at stride 2, inverted residuals at strides 4 to 32; the last 1x1 convolution is the head's.

    Args:
        width: multiplies all channels; the last 1x1 convolution grows with it and never shrinks.
    """

    smallest_image = 32

    def __init__(self, *, width: float = 1.0, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        channels = round_channels(32 * width)
        self.stem = nn.Sequential(conv_bn_relu6(in_channels, channels, 3, stride=2))
        channels = self._append(self.stem, STEM, channels, width)
        self.stages = nn.ModuleList()
        self.feature_channels: tuple[int, ...] = ()
        for rows in STAGES:
            stage = nn.Sequential()
            for row in rows:
                channels = self._append(stage, row, channels, width)
            self.stages.append(stage)
            self.feature_channels += (channels,)
        last = round_channels(1280 * max(1.0, width))
        self.head = nn.Sequential(
            *(conv_bn_relu6(channels, last, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            *(nn.Dropout(0.2), nn.Linear(last, num_classes)),
        )
        slim_init(self)

    @staticmethod
    def _append(stage: nn.Sequential, row: Row, channels: int, width: float) -> int:
        """Append a row's blocks; returns the channels that leave them."""
        out_channels = round_channels(row.channels * width)
        for i in range(row.depth):
            stride = row.stride if i == 0 else 1
            stage.append(inverted_residual(channels, out_channels, stride, row.expansion))
            channels = out_channels
        return channels

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> maps of `feature_channels` at strides 4, 8, 16 and 32"""
        x = self.stem(images)
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


register(
    MobileNetV2,
    task="classify",
    canon="classification/mobilenet",
    variants={
        "mobilenet_v2_1_4": dict(width=1.4),
        "mobilenet_v2": dict(width=1.0),
        "mobilenet_v2_0_75": dict(width=0.75),
        "mobilenet_v2_0_5": dict(width=0.5),
        "mobilenet_v2_0_35": dict(width=0.35),
    },
)
