"""Oracles of the DenseNets that no library has by name."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module

from torch import nn

from cnnkit.verify.oracle import Oracle

CLASSES = {"cifar10": 10, "cifar100": 100}


def small_stem(network: nn.Module) -> nn.Module:
    """Give timm's DenseNet a 3x3 convolution as its stem."""
    features = network.get_submodule("features")
    channels = features.get_parameter("conv0.weight").shape[0]
    features.conv0 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    del features.norm0, features.pool0
    return network


def plain(depths: Sequence[int], growth: int, num_classes: int) -> nn.Module:
    """pytorchcv's plain dense units, with transitions between them that keep all maps.

    Its own plain networks begin with 2k maps instead of 16 and halve them in the transitions.
    """
    kind = import_module("pytorchcv.models.densenet_cifar")
    channels = 16
    layers: list[nn.Module] = [kind.conv3x3(3, channels)]
    for i, depth in enumerate(depths):
        if i:
            layers.append(kind.TransitionBlock(channels, channels))
        for _ in range(depth):
            layers.append(kind.DenseSimpleUnit(channels, channels + growth, dropout_rate=0.0))
            channels += growth
    layers += [kind.PreResActivation(channels), nn.AvgPool2d(8), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, num_classes))


#: Registry name -> its oracle.
DENSE: dict[str, Oracle] = {
    "densenet264": Oracle("timm", "densenet121", {"block_config": (6, 12, 64, 48)}),
    **{
        f"densenet_bc_{depth}_{k}_{data}": Oracle(
            "timm",
            "densenet121",
            dict(growth_rate=k, block_config=(depth // 6,) * 3, num_classes=classes),
            size=32,
            changes=(small_stem,),
        )
        for depth, k in ((100, 12), (250, 24), (190, 40))
        for data, classes in CLASSES.items()
    },
    **{
        f"densenet_{depth}_{k}_{data}": Oracle(
            "pytorchcv",
            "plain dense units put together",
            size=32,
            make=partial(plain, (depth // 3 - 1,) * 3, k, classes),
        )
        for depth, k in ((40, 12), (100, 12), (100, 24))
        for data, classes in CLASSES.items()
    },
}
