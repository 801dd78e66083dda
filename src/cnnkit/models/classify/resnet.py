"""ResNet. He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.

A unit adds what a branch F makes of its input to the input itself (Eqs. 1 and 2),

    y = relu(F(x) + s(x)),

s being the identity; where shapes differ it is A, zeros for the missing channels, or B, a 1x1 projection; in
option C every s is a projection (section 4.1). A plain network is the same without s.

Departure from the paper: F halves the resolution in its 3x3 convolution, not in the first 1x1. This is the
published "v1.5", better by about half a point; `Bottleneck(stride_in="1x1")` is the original, `resnet50_v1`.
"""

from collections.abc import Callable
from typing import Literal, Protocol

from torch import Tensor, nn
from torch.nn import functional

from cnnkit.layers import (
    CifarStem,
    ImageNetStem,
    Residual,
    Stem,
    conv_bn,
    conv_bn_relu,
    global_pool_head,
    he_init,
)
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
        group_width: d, the channels of each group in a stage of width 64 (Table 1 of ResNeXt).
        stride_in: the convolution that halves the resolution.
    """

    expansion = 4

    def __init__(
        self, groups: int = 1, group_width: int = 64, stride_in: Literal["3x3", "1x1"] = "3x3"
    ) -> None:
        self.groups, self.group_width, self.stride_in = groups, group_width, stride_in

    def __call__(self, in_channels: int, width: int, stride: int) -> nn.Sequential:
        inner = self.groups * (self.group_width * width // 64)
        first, second = (1, stride) if self.stride_in == "3x3" else (stride, 1)
        return nn.Sequential(
            conv_bn_relu(in_channels, inner, 1, stride=first),
            conv_bn_relu(inner, inner, 3, stride=second, groups=self.groups),
            conv_bn(inner, self.expansion * width, 1),
        )


class Shortcut(Protocol):
    """How s is built."""

    def __call__(self, in_channels: int, out_channels: int, stride: int) -> nn.Module: ...


class Pad(nn.Module):
    """Every `stride`-th pixel, and zero channels after those that there are.

    Shape: (N, C, H, W) -> (N, C + missing, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, missing: int, stride: int) -> None:
        super().__init__()
        self.missing, self.stride = missing, stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))


def option_a(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity, padded with zeros where shapes differ."""
    same = stride == 1 and in_channels == out_channels
    return nn.Identity() if same else Pad(out_channels - in_channels, stride)


def option_b(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity, a projection where shapes differ."""
    same = stride == 1 and in_channels == out_channels
    return nn.Identity() if same else conv_bn(in_channels, out_channels, 1, stride=stride)


def option_c(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A projection everywhere."""
    return conv_bn(in_channels, out_channels, 1, stride=stride)


def stages(
    unit: Callable[[int, int, int], nn.Module],
    arriving: int,
    widths: tuple[int, ...],
    expansion: int,
    depths: tuple[int, ...],
) -> nn.ModuleList:
    """Units one after the other, built from arriving channels, width and stride.

    Only the first unit of a later stage halves the resolution, so that each stage begins with its halving.
    """
    built = nn.ModuleList()
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        stage = nn.Sequential()
        for j in range(depth):
            stage.append(unit(arriving, width, 2 if i > 0 and j == 0 else 1))
            arriving = expansion * width
        built.append(stage)
    return built


class ResNet(nn.Module):
    """A stem, stages of residual units, each but the first at half the resolution, a linear classifier.

    Args:
        branch: the shape of F in every unit.
        depths: number of units in each stage (Table 1).
        shortcut: s; None makes a plain network.
        stem: the layers before the first stage.
        stem_channels: maps that leave it.
        channels: width of F in the first stage; each further one doubles it.
        width: factor of all channels.
    """

    def __init__(
        self,
        branch: Branch,
        depths: tuple[int, ...],
        *,
        shortcut: Shortcut | None = option_b,
        stem: Stem = ImageNetStem,
        stem_channels: int = 64,
        channels: int = 64,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        widths = tuple(int(width * channels) * 2**i for i in range(len(depths)))
        self.feature_channels = tuple(branch.expansion * w for w in widths)
        self.feature_strides = tuple(stem.stride * 2**i for i in range(len(depths)))
        self.smallest_image = self.feature_strides[-1]

        def unit(arriving: int, width: int, stride: int) -> nn.Module:
            body: nn.Module = branch(arriving, width, stride)
            if shortcut is not None:
                body = Residual(body, shortcut(arriving, branch.expansion * width, stride))
            return nn.Sequential(body, nn.ReLU())

        self.stem = stem(in_channels, int(width * stem_channels))
        self.stages = stages(unit, int(width * stem_channels), widths, branch.expansion, depths)
        self.head = global_pool_head(self.feature_channels[-1], num_classes)
        he_init(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """One map a stage: (N, feature_channels[i], H / feature_strides[i], W / feature_strides[i])."""
        x = self.stem(images)
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
DEEP = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
SHORTCUTS = {"_a": option_a, "": option_b, "_c": option_c}
CIFAR = dict(branch=Basic(), stem=CifarStem, stem_channels=16, channels=16)

register(
    ResNet,
    task="classify",
    canon="classification/resnet",
    variants={  # Tables 1 and 6
        **{f"plain{n}": dict(branch=Basic(), depths=BASIC[n], shortcut=None) for n in BASIC},
        **{
            f"resnet{n}{suffix}": dict(branch=Basic(), depths=BASIC[n], shortcut=shortcut)
            for n in BASIC
            for suffix, shortcut in SHORTCUTS.items()
        },
        **{f"resnet{n}": dict(branch=Bottleneck(), depths=DEEP[n]) for n in DEEP},
        **{f"resnet{n}_v1": dict(branch=Bottleneck(stride_in="1x1"), depths=DEEP[n]) for n in DEEP},
        "resnet50_shortcut_a": dict(branch=Bottleneck(stride_in="1x1"), depths=DEEP[50], shortcut=option_a),
        "resnet50_shortcut_c": dict(branch=Bottleneck(stride_in="1x1"), depths=DEEP[50], shortcut=option_c),
        **{  # 6n + 2 layers
            f"resnet{6 * n + 2}_cifar10": dict(CIFAR, depths=(n, n, n), shortcut=option_a, num_classes=10)
            for n in (3, 5, 7, 9, 18, 200)
        },
        **{
            f"plain{6 * n + 2}_cifar10": dict(CIFAR, depths=(n, n, n), shortcut=None, num_classes=10)
            for n in (3, 5, 7, 9, 18)
        },
    },
)
