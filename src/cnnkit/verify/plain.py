"""Oracles of the plain networks: AlexNet, ZFNet, NIN and VGG."""

from importlib import import_module
from typing import Any

from torch import nn

from cnnkit.verify.oracle import Oracle


def response_norm() -> nn.Module:
    """AlexNet's constants; PyTorch divides alpha by the 5 channels of the window."""
    return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)


def alphas_of_the_paper(network: nn.Module) -> nn.Module:
    """pytorchcv normalises AlexNet's responses with an alpha that is divided by 5."""
    for i in (1, 2):
        stage: Any = network.get_submodule(f"features.stage{i}")
        stage.unit1.use_lrn = False
        setattr(stage, f"pool{i}", nn.Sequential(response_norm(), getattr(stage, f"pool{i}")))
    return network


def two_towers(network: nn.Module) -> nn.Module:
    """Split the second, fourth and fifth convolution of pytorchcv's AlexNet."""
    for name in ("stage2.unit1", "stage3.unit2", "stage3.unit3"):
        unit: Any = network.get_submodule(f"features.{name}")
        old = unit.conv
        unit.conv = nn.Conv2d(
            old.in_channels, old.out_channels, old.kernel_size, padding=old.padding, groups=2
        )
    return network


def poolings_padded_and_normalised_after(network: nn.Module) -> nn.Module:
    """pytorchcv's ZFNet pools without padding, and behind the normalisation as AlexNet does."""
    for i in (1, 2):
        stage: Any = network.get_submodule(f"features.stage{i}")
        stage.unit1.use_lrn = False
        setattr(stage, f"pool{i}", nn.Sequential(nn.MaxPool2d(3, 2, padding=1), response_norm()))
    return network


def poolings_of_the_paper(network: nn.Module) -> nn.Module:
    """pytorchcv's NIN pads its poolings, and averages in the second."""
    for name, stage in network.get_submodule("features").named_children():
        if hasattr(stage, pool := name.replace("stage", "pool")):
            setattr(stage, pool, nn.MaxPool2d(3, 2, ceil_mode=True))
    return network


def nin_imagenet() -> nn.Module:
    """pytorchcv's NIN of the widths and kernels of the authors' Caffe model."""
    kind = import_module("pytorchcv.models.nin_cifar").CIFARNIN
    widths = [[96] * 3, [256] * 3, [384] * 3, [1024] * 2]
    network: Any = kind(widths, [11, 5, 3, 3], num_classes=1000)
    network.features.stage1.unit1.conv = nn.Conv2d(3, 96, 11, stride=4)
    network.output.final_pool = nn.AdaptiveAvgPool2d(1)
    return network


def normalised(network: nn.Module) -> nn.Module:
    """Normalise the responses of the first layer of torchvision's VGG."""
    network.set_submodule("features.1", nn.Sequential(nn.ReLU(), response_norm()))
    return network


def third_of_a_group_1x1(network: nn.Module) -> nn.Module:
    """Make 1x1 what configuration C has as 1x1 of torchvision's VGG-16."""
    for name in ("features.14", "features.21", "features.28"):
        channels = network.get_parameter(f"{name}.weight").shape[0]
        network.set_submodule(name, nn.Conv2d(channels, channels, 1))
    return network


NO_INIT = {"init_weights": False}

#: Registry name -> its oracle.
PLAIN: dict[str, Oracle] = {
    "alexnet": Oracle("torchvision", "alexnet", size=67),
    "alexnet_one_tower": Oracle("pytorchcv", "alexnet", size=227, changes=(alphas_of_the_paper,)),
    "alexnet_two_tower": Oracle("pytorchcv", "alexnet", size=227, changes=(alphas_of_the_paper, two_towers)),
    "zfnet": Oracle("pytorchcv", "zfnet", size=224, changes=(poolings_padded_and_normalised_after,)),
    "zfnet_wide": Oracle("pytorchcv", "zfnetb", size=224, changes=(poolings_padded_and_normalised_after,)),
    **{
        f"nin_cifar{n}": Oracle("pytorchcv", f"nin_cifar{n}", size=32, changes=(poolings_of_the_paper,))
        for n in (10, 100)
    },
    "nin_imagenet": Oracle(
        "pytorchcv",
        "units of nin_cifar10 put together",
        size=99,
        make=nin_imagenet,
        changes=(poolings_of_the_paper,),
    ),
    "vgg11_lrn": Oracle("torchvision", "vgg11", NO_INIT, changes=(normalised,)),
    "vgg16_c": Oracle("torchvision", "vgg16", NO_INIT, changes=(third_of_a_group_1x1,)),
}
