"""ResNet, ResNeXt and Wide ResNet.

    ResNet       He, Zhang, Ren & Sun, CVPR 2016, arXiv:1512.03385
    ResNeXt      Xie, Girshick, Dollar, Tu & He, CVPR 2017, arXiv:1611.05431
    Wide ResNet  Zagoruyko & Komodakis, BMVC 2016, arXiv:1605.07146

All three are one equation (Eq. 1 of the first), y = relu(F(x) + s(x)); they differ only in the
branch F. A ResNeXt groups the 3x3 convolution of F; a Wide ResNet widens it.

Departure from the paper: F halves the resolution in its 3x3 convolution, not in the first 1x1.
This is the published "v1.5", better by about half a point; `stride_in="1x1"` gives the original.
"""

from typing import Literal, Protocol

from torch import Tensor, nn

from cnnkit.layers import conv_bn, conv_bn_relu, global_pool_head, he_init
from cnnkit.registry import register


class Branch(Protocol):
    """How F is built: from `in_channels` to `expansion * width` channels at 1 / `stride` of the size."""

    expansion: int

    def __call__(self, in_channels: int, width: int, stride: int) -> nn.Sequential: ...


class Basic:
    """F of ResNet-18 and -34: two 3x3 convolutions (Fig. 5, left)."""

    expansion = 1

    def __call__(self, in_channels: int, width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(conv_bn_relu(in_channels, width, 3, stride=stride), conv_bn(width, width, 3))


class Bottleneck:
    """F of the deeper nets: 1x1 reduces, 3x3 works, 1x1 restores (Fig. 5, right).

    Args:
        groups: cardinality C of a ResNeXt.
        group_width: d, the channels of each group in the first stage (Table 1 of ResNeXt).
        stride_in: the convolution that halves the resolution.
    """

    expansion = 4

    def __init__(
        self, groups: int = 1, group_width: int = 64, stride_in: Literal["3x3", "1x1"] = "3x3"
    ) -> None:
        self.groups, self.group_width, self.stride_in = groups, group_width, stride_in

    def __call__(self, in_channels: int, width: int, stride: int) -> nn.Sequential:
        inner = self.groups * self.group_width * width // 64
        first, second = (1, stride) if self.stride_in == "3x3" else (stride, 1)
        return nn.Sequential(
            conv_bn_relu(in_channels, inner, 1, stride=first),
            conv_bn_relu(inner, inner, 3, stride=second, groups=self.groups),
            conv_bn(inner, self.expansion * width, 1),
        )


class Residual(nn.Module):
    """y = relu(F(x) + s(x)), s the identity wherever shapes allow it, else a 1x1 projection (option B)."""

    def __init__(self, branch: Branch, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = branch.expansion * width
        same_shape = stride == 1 and in_channels == out_channels
        self.branch = branch(in_channels, width, stride)
        self.shortcut = nn.Identity() if same_shape else conv_bn(in_channels, out_channels, 1, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.branch(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem at stride 4, stages of residual blocks at strides 4, 8, 16 and 32, a linear classifier.

    Args:
        branch: the shape of F in every block.
        depths: number of blocks in each stage (Table 1).
    """

    def __init__(
        self, branch: Branch, depths: tuple[int, ...], *, num_classes: int = 1000, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn_relu(in_channels, 64, 7, stride=2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList()
        self.feature_channels = tuple(branch.expansion * 64 * 2**i for i in range(len(depths)))
        channels = 64
        for i, (depth, out_channels) in enumerate(zip(depths, self.feature_channels, strict=True)):
            stage = nn.Sequential()
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1  # only the first block of a later stage halves
                stage.append(Residual(branch, channels, 64 * 2**i, stride))
                channels = out_channels
            self.stages.append(stage)
        self.head = global_pool_head(channels, num_classes)
        he_init(self)

    def features(self, x: Tensor) -> list[Tensor]:
        """One map per stage: (N, feature_channels[i], H / 2**(i+2), W / 2**(i+2))."""
        x = self.stem(x)
        return [x := stage(x) for stage in self.stages]

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(x)[-1])


register(
    ResNet,
    task="classify",
    canon="classification/resnet",
    variants={  # Table 1
        "resnet18": dict(branch=Basic(), depths=(2, 2, 2, 2)),
        "resnet34": dict(branch=Basic(), depths=(3, 4, 6, 3)),
        "resnet50": dict(branch=Bottleneck(), depths=(3, 4, 6, 3)),
        "resnet101": dict(branch=Bottleneck(), depths=(3, 4, 23, 3)),
        "resnet152": dict(branch=Bottleneck(), depths=(3, 8, 36, 3)),
    },
)
