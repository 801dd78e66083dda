"""ResNets trained with stochastic depth. Huang, Sun, Liu, Sedra & Weinberger, ECCV 2016, arXiv:1603.09382.

The networks are He's; what is new is how they are trained, `surgery.stochastic_depth`, and that the
shortcut of the CIFAR networks is average-pooled before zeros are appended (section 4). The authors' code
also keeps biases on convolutions, which the batch norm behind them cancels; here there are none.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from cnnkit.models.classify.resnet import CIFAR, DEEP, Bottleneck, Pad, ResNet
from cnnkit.registry import register
from cnnkit.surgery import stochastic_depth


def pooled(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity; where shapes differ, average pooling and zeros for the missing channels."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), Pad(out_channels - in_channels, stride=1))


def surviving_resnet(
    layout: Mapping[str, Any],
    *,
    survival: float = 0.5,
    width: float = 1.0,
    num_classes: int = 10,
    in_channels: int = 3,
) -> nn.Module:
    """A ResNet whose units survive a mini-batch with probability 1 - l / L (1 - survival).

    Args:
        layout: arguments of `ResNet`.
        survival: p_L, the probability of the last unit.
        width: factor of all channels.
    """
    network = ResNet(**layout, width=width, num_classes=num_classes, in_channels=in_channels)
    return stochastic_depth(network, survival)


def small(n: int) -> dict[str, Any]:
    """The CIFAR network of 6n + 2 layers."""
    return dict(CIFAR, depths=(n, n, n), shortcut=pooled)


register(
    surviving_resnet,
    task="classify",
    canon="classification/stochastic_depth",
    variants={
        "stochastic_depth110_cifar10": dict(layout=small(18)),
        "stochastic_depth110_cifar100": dict(layout=small(18), num_classes=100),
        "stochastic_depth1202_cifar10": dict(layout=small(200)),
        "stochastic_depth152_svhn": dict(layout=small(25)),
        "stochastic_depth152_imagenet": dict(
            layout=dict(branch=Bottleneck(), depths=DEEP[152]), num_classes=1000
        ),
    },
)
