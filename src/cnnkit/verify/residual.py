"""Oracles of the residual networks.

Where a library has the blocks of a network and no name for it, its blocks are put together here. What stands
beside them, such as zero padding, is written another way than in our networks, so that it is checked too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.verify.oracle import Change, Oracle
from cnnkit.weights.definitions import shortcuts_last

#: What stands beside a branch, from channels, channels and stride; None is the identity.
Shortcut = Callable[[int, int, int], nn.Module | None]


class Diagonal(nn.Module):
    """Zero padding as the projection that it is: a 1x1 convolution with ones on the diagonal."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = (out_channels, in_channels), stride

    def forward(self, x: Tensor) -> Tensor:
        kernel = torch.eye(*self.size, dtype=x.dtype, device=x.device)[:, :, None, None]
        return functional.conv2d(x, kernel, stride=self.stride)


class Times(nn.Module):
    """A multiple of the input."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def padded(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Option A."""
    return None if (in_channels, stride) == (out_channels, 1) else Diagonal(in_channels, out_channels, stride)


def pooled(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Option A behind an average pooling."""
    return None if stride == 1 else nn.Sequential(nn.AvgPool2d(2), Diagonal(in_channels, out_channels, 1))


def projected(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Option B."""
    return None if (in_channels, stride) == (out_channels, 1) else always(in_channels, out_channels, stride)


def always(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Option C."""
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def nothing(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """No shortcut: a plain network."""
    return nn.Sequential(Diagonal(in_channels, out_channels, stride), Times(0.0))


def resnet(
    block: str,
    depths: Sequence[int],
    *,
    shortcut: Shortcut = projected,
    stem: tuple[int, int, int] = (64, 7, 2),
    channels: int = 64,
    num_classes: int = 1000,
    **groups: int,
) -> nn.Module:
    """torchvision's residual blocks. `stem` is channels, kernel and stride; at stride 2 a pooling follows."""
    kind = getattr(import_module("torchvision.models.resnet"), block)
    arriving, kernel, stride = stem
    convolution = nn.Conv2d(3, arriving, kernel, stride, kernel // 2, bias=False)
    layers: list[nn.Module] = [convolution, nn.BatchNorm2d(arriving), nn.ReLU()]
    if stride == 2:
        layers.append(nn.MaxPool2d(3, 2, padding=1))
    for i, depth in enumerate(depths):
        for j in range(depth):
            stride, leaving = (2 if i and not j else 1), channels * 2**i * kind.expansion
            beside = shortcut(arriving, leaving, stride)
            layers.append(kind(arriving, channels * 2**i, stride, beside, **groups))
            arriving = leaving
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(arriving, num_classes))


def halving_first(network: nn.Module) -> nn.Module:
    """Give the stride of each bottleneck's 3x3 convolution to its first 1x1."""
    for block in network.modules():
        if hasattr(block, "conv3"):
            first, second = block.get_submodule("conv1"), block.get_submodule("conv2")
            first.stride, second.stride = second.stride, first.stride
    return network


def surviving(network: nn.Module) -> nn.Module:
    """Multiply each branch by a probability of survival that falls linearly to a half."""
    blocks = [m for m in network.modules() if type(m).__name__ in ("BasicBlock", "Bottleneck")]
    for i, block in enumerate(blocks, start=1):
        last = "bn3" if hasattr(block, "bn3") else "bn2"
        setattr(block, last, nn.Sequential(block.get_submodule(last), Times(1 - i / (2 * len(blocks)))))
    return network


def small_stem(network: nn.Module) -> nn.Module:
    """Give timm's pre-activation ResNet a 3x3 convolution as its stem."""
    network.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    return network


def activated_stem(network: nn.Module) -> nn.Module:
    """Let the first activation follow timm's first convolution, before any pooling and both paths."""
    first, stem = network.get_submodule("stages.0.blocks.0"), network.get_submodule("stem")
    convolution, *pooling = stem if isinstance(stem, nn.Sequential) else [stem]
    network.stem = nn.Sequential(convolution, first.get_submodule("norm1"), *pooling)
    first.norm1 = nn.Identity()
    return network


def padding(network: nn.Module) -> nn.Module:
    """Pad with zeros where a block of timm's has a projection."""
    for block in list(network.modules()):
        if getattr(block, "downsample", None) is not None:
            leaving, arriving, _, _ = block.get_parameter("downsample.conv.weight").shape
            block.downsample = Diagonal(arriving, leaving, 2)
    return network


def blocks(block: str, depths: Sequence[int], *changes: Change, size: int = 64, **kwargs: Any) -> Oracle:
    """torchvision's blocks, put together and changed."""
    make = partial(resnet, block, depths, **kwargs)
    return Oracle("torchvision", f"{block} blocks put together", size=size, make=make, changes=changes)


def altered(name: str, *changes: Change, size: int = 64, **kwargs: Any) -> Oracle:
    """timm's network, changed."""
    return Oracle("timm", name, kwargs, reorder=shortcuts_last, size=size, changes=changes)


DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
SMALL: dict[str, Any] = dict(stem=(16, 3, 1), channels=16, size=32)
SMALL_PRE: dict[str, Any] = dict(stem_chs=16, size=32)
CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10}

#: Registry name -> its oracle.
RESIDUAL: dict[str, Oracle] = {
    **{f"resnet{n}_v1": blocks("Bottleneck", DEPTHS[n], halving_first) for n in (50, 101, 152)},
    **{
        f"resnet50_shortcut_{option}": blocks("Bottleneck", DEPTHS[50], halving_first, shortcut=shortcut)
        for option, shortcut in {"a": padded, "c": always}.items()
    },
    **{
        name.format(n): blocks("BasicBlock", DEPTHS[n], shortcut=shortcut)
        for n in (18, 34)
        for name, shortcut in {"plain{}": nothing, "resnet{}_a": padded, "resnet{}_c": always}.items()
    },
    **{
        f"{name}{6 * n + 2}_cifar10": blocks(
            "BasicBlock", (n,) * 3, shortcut=shortcut, num_classes=10, **SMALL
        )
        for name, shortcut, sizes in (
            ("plain", nothing, (3, 5, 7, 9, 18)),
            ("resnet", padded, (3, 5, 7, 9, 18, 200)),
        )
        for n in sizes
    },
    **{
        f"stochastic_depth{6 * n + 2}_{data}": blocks(
            "BasicBlock", (n,) * 3, surviving, shortcut=pooled, num_classes=CLASSES[data], **SMALL
        )
        for n, data in ((18, "cifar10"), (18, "cifar100"), (200, "cifar10"), (25, "svhn"))
    },
    "stochastic_depth152_imagenet": blocks("Bottleneck", DEPTHS[152], surviving),
    "resnext101_32x4d": Oracle("timm", "resnext101_32x4d"),
    **{
        f"resnext50_{c}x{d}d": blocks("Bottleneck", DEPTHS[50], groups=c, base_width=d)
        for c, d in ((2, 40), (4, 24), (8, 14))
    },
    **{
        f"resnext29_{c}x64d_{data}": blocks(
            "Bottleneck",
            (3, 3, 3),
            size=32,
            stem=(64, 3, 1),
            num_classes=CLASSES[data],
            groups=c,
            base_width=64,
        )
        for c in (8, 16)
        for data in ("cifar10", "cifar100")
    },
    **{
        f"wrn_{n}_w{name}": blocks("BasicBlock", DEPTHS[n], channels=channels)
        for name, channels, depths in (("1_5", 96, (18, 34)), ("2", 128, (18, 34)), ("3", 192, (18,)))
        for n in depths
    },
    **{
        f"wrn_{depth}_{k}_{data}": altered(
            "resnetv2_18",
            small_stem,
            layers=(depth // 6,) * 3,
            channels=(16 * k, 32 * k, 64 * k),
            num_classes=CLASSES[data],
            **SMALL_PRE,
        )
        for depth, factors in ((16, (4, 8, 10)), (22, (8, 10)), (28, (10, 12)), (40, (1, 2, 4, 8, 10)))
        for k in factors
        for data in ("cifar10", "cifar100")
    },
    **{f"preresnet{n}": altered(f"resnetv2_{n}", activated_stem) for n in (50, 101, 152)},
    "preresnet200": altered("resnetv2_50", activated_stem, layers=(3, 24, 36, 3)),
    **{
        f"preresnet{9 * n + 2}_{data}": altered(
            "resnetv2_50",
            small_stem,
            halving_first,
            layers=(n,) * 3,
            channels=(64, 128, 256),
            num_classes=CLASSES[data],
            **SMALL_PRE,
        )
        for n in (18, 111)
        for data in ("cifar10", "cifar100")
    },
    **{
        f"preresnet110_{data}": altered(
            "resnetv2_18",
            small_stem,
            activated_stem,
            padding,
            layers=(18,) * 3,
            channels=(16, 32, 64),
            num_classes=CLASSES[data],
            **SMALL_PRE,
        )
        for data in ("cifar10", "cifar100")
    },
}
