"""Oracles of segmentation networks: torchvision's, its blocks, and authors' definitions run by torch."""

from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.verify.definition import Definition, source
from cnnkit.verify.oracle import Oracle
from cnnkit.verify.residual import halving_first

#: Networks whose authors' definition is at hand.
DEFINED = (
    *("fcn32s_vgg16", "fcn16s_vgg16", "fcn8s_vgg16", "fcn8s_at_once_vgg16", "fcn32s_alexnet"),
    *("segnet", "segnet_voc", "segnet_sunrgbd", "segnet_basic", "bayesian_segnet_camvid"),
    *("deconvnet", "deeplab_v1_largefov_vgg16", "fcn8s_crf_rnn"),
    *("dilation8_voc", "dilation8_camvid", "dilation7_kitti", "dilation10_cityscapes"),
)


class Answer(nn.Module):
    """What torchvision's network says of the pixels, by itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)["out"]


def torchvision(name: str) -> nn.Module:
    """torchvision's network without its auxiliary head, which comes before the head in its state dict."""
    models: Any = import_module("torchvision.models.segmentation")
    return Answer(getattr(models, name)(weights=None, weights_backbone=None, aux_loss=False, num_classes=21))


class ASPP(nn.Module):
    """Windows of several rates side by side, their sum enlarged corner on corner."""

    def __init__(self, trunk: nn.Module, channels: int, classes: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = trunk
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, classes, 3, padding=rate, dilation=rate) for rate in rates
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.trunk(images)
        y = torch.zeros(())
        for branch in self.branches:
            y = y + branch(x)
        return functional.interpolate(y, images.shape[2:], mode="bilinear", align_corners=True)


def deeplab_v2() -> nn.Module:
    """torchvision's ResNet-101 made the authors': halved first, pooled upwards, one rate a stage."""
    network: Any = import_module("torchvision.models").resnet101(
        weights=None, replace_stride_with_dilation=[False, True, True]
    )
    halving_first(network)
    network.maxpool.ceil_mode = True
    for stage, rate in ((network.layer3, 2), (network.layer4, 4)):
        stage[0].conv2.dilation = stage[0].conv2.padding = (rate, rate)
    trunk = nn.Sequential(*list(network.children())[:-2])
    return ASPP(trunk, 2048, 21, (6, 12, 18, 24))


def defined(name: str) -> Oracle:
    """The definition of the same name, on images that are odd at every pooling where it takes small ones."""
    size = 380 if name.startswith("dilation") else {"deconvnet": 224}.get(name, 33)
    ours = {"levels": 1.0} if name == "fcn8s_crf_rnn" else {}  # its images are grey levels
    return Oracle("torch", f"by {source(name)}", ours=ours, size=size, make=partial(Definition, name))


SEGMENTATION: dict[str, Oracle] = {
    **{
        name: Oracle("torchvision", name, make=partial(torchvision, name))
        for name in ("fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101")
    },
    "deeplab_v2_aspp_resnet101": Oracle("torchvision", "resnet101 with ASPP", make=deeplab_v2),
    **{name: defined(name) for name in DEFINED},
}
