"""Oracles of the Inception networks that no library has by name: blocks of torchvision and timm, changed."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from cnnkit import canon
from cnnkit.verify.oracle import Oracle

NO_AUX = {"aux_logits": False, "init_weights": False}


def googlenet() -> nn.Module:
    """torchvision's with the paper's biases, normalised responses, 5x5 convolutions and last pooling."""
    network = import_module("torchvision.models").googlenet(weights=None, **NO_AUX)
    block = import_module("torchvision.ops").Conv2dNormActivation
    basic = import_module("torchvision.models.googlenet").BasicConv2d
    for name, module in list(network.named_modules()):
        if isinstance(module, basic):
            old = module.conv
            kernel = 5 if name.endswith("branch3.1") else old.kernel_size[0]
            settings: Any = dict(stride=old.stride, norm_layer=None, inplace=False)
            network.set_submodule(name, block(old.in_channels, old.out_channels, kernel, **settings))
    norm = partial(nn.LocalResponseNorm, 5, alpha=1e-4, beta=0.75, k=1.0)
    network.maxpool1 = nn.Sequential(network.maxpool1, norm())
    network.conv3 = nn.Sequential(network.conv3, norm())
    network.maxpool4 = nn.MaxPool2d(3, 2, ceil_mode=True)
    return network


class NoMaps(nn.Module):
    """No channel at half the size, for the branch that a reduction does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :0, ::2, ::2]


def bn_inception() -> nn.Module:
    """torchvision's GoogLeNet with blocks of the widths that the canon's table has."""
    layers = next(
        v["layers"] for v in canon.facts("classification/inception")["variant"] if v["name"] == "bn_inception"
    )
    rows = {line.split()[0]: line.split() for line in layers.splitlines() if line[:1].isdigit()}
    network = import_module("torchvision.models").googlenet(weights=None, **NO_AUX)
    block = import_module("torchvision.models.googlenet").Inception
    norm = partial(nn.BatchNorm2d, eps=1e-5)
    conv = partial(
        import_module("torchvision.ops").Conv2dNormActivation, norm_layer=norm, inplace=False, bias=True
    )

    def mixed(row: str, channels: int) -> nn.Module:
        stride = 2 if row.endswith("/s2") else 1
        one, reduce3, three, reduce33, first, second, pool, projected = rows[row][1:9]
        made = block(channels, 1, 1, 1, 1, 1, 1)
        made.branch1 = NoMaps() if one == "-" else conv(channels, int(one), 1)
        made.branch2 = nn.Sequential(
            conv(channels, int(reduce3), 1), conv(int(reduce3), int(three), 3, stride)
        )
        made.branch3 = nn.Sequential(
            conv(channels, int(reduce33), 1),
            conv(int(reduce33), int(first), 3),
            conv(int(first), int(second), 3, stride),
        )
        if stride == 2:
            made.branch4 = nn.MaxPool2d(3, 2, ceil_mode=True)
        else:
            pooling = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}[pool](3, 1, 1)
            made.branch4 = nn.Sequential(pooling, conv(channels, int(projected), 1))
        return made

    network.conv1, network.conv2, network.conv3 = conv(3, 64, 7, 2), conv(64, 64, 1), conv(64, 192, 3)
    network.inception3a, network.inception3b = mixed("3a", 192), mixed("3b", 256)
    network.maxpool3, network.maxpool4 = mixed("3c/s2", 320), mixed("4e/s2", 608)
    for row, channels in (("4a", 576), ("4b", 576), ("4c", 576), ("4d", 608), ("5a", 1056), ("5b", 1024)):
        setattr(network, f"inception{row}", mixed(row, channels))
    network.inception4e = nn.Identity()
    return network


def rewidth(block: nn.Module, channels: int, *widths: Sequence[int]) -> nn.Module:
    """A block of timm's on so many channels; its convolutions stay as wide as they are without `widths`.

    Args:
        block: with `branch0`, `branch1` and so on, and `conv2d` where it is a residual unit.
        widths: of the convolutions of each branch that has any.
    """
    branches: list[Any] = [
        b for n, b in block.named_children() if n.startswith("branch") and [*b.parameters()]
    ]
    leaving = 0
    for i, branch in enumerate(branches):
        units = [*branch] if isinstance(branch, nn.Sequential) else [branch]
        arriving = channels
        for unit, width in zip(
            units, widths[i] if widths else [u.conv.out_channels for u in units], strict=True
        ):
            old = unit.conv
            unit.conv = nn.Conv2d(arriving, width, old.kernel_size, old.stride, old.padding, bias=False)
            unit.bn = type(unit.bn)(width, eps=unit.bn.eps)
            arriving = width
        leaving += arriving
    if hasattr(block, "conv2d"):
        block.conv2d = nn.Conv2d(leaving, channels, 1)
    return block


def timm_parts() -> tuple[Any, Any]:
    """timm's file of Inception-ResNet, and the convolution that its blocks are made with."""
    unit = partial(import_module("timm.layers").ConvNormAct, padding=0, norm_kwargs={"eps": 1e-3})
    return import_module("timm.models.inception_resnet_v2"), unit


def inception_resnet_v1() -> nn.Module:
    """timm's second version with the widths and the numbers of blocks of the first."""
    timm, unit = timm_parts()
    a, b, c = ((32,), (32, 32), (32, 32, 32)), ((128,), (128,) * 3), ((192,), (192,) * 3)
    network = timm.InceptionResnetV2()
    network.maxpool_5a = unit(192, 256, 3, 2)
    network.mixed_5b = network.block8 = network.conv2d_7b = nn.Identity()
    network.repeat = nn.Sequential(*(rewidth(timm.Block35(0.17, unit), 256, *a) for _ in range(5)))
    network.mixed_6a = rewidth(timm.Mixed_6a(unit), 256, (384,), (192, 192, 256))
    network.repeat_1 = nn.Sequential(*(rewidth(timm.Block17(0.1, unit), 896, *b) for _ in range(10)))
    network.mixed_7a = rewidth(timm.Mixed_7a(unit), 896, (256, 384), (256, 256), (256,) * 3)
    network.repeat_2 = nn.Sequential(*(rewidth(timm.Block8(0.2, False, unit), 1792, *c) for _ in range(5)))
    network.classif = nn.Linear(1792, 1000)
    return network


def inception_resnet_v2_as_drawn() -> nn.Module:
    """timm's second version behind the stem of its Inception v4, with as many blocks as in the figures."""
    timm, unit = timm_parts()
    v4 = import_module("timm.models.inception_v4")
    network = timm.InceptionResnetV2()
    network.maxpool_3a, network.conv2d_3b = v4.Mixed3a(unit), v4.Mixed4a(unit)
    network.conv2d_4a = v4.Mixed5a(unit)
    network.maxpool_5a = network.mixed_5b = network.block8 = network.conv2d_7b = nn.Identity()
    network.repeat = nn.Sequential(*(rewidth(timm.Block35(0.17, unit), 384) for _ in range(5)))
    network.mixed_6a = rewidth(timm.Mixed_6a(unit), 384)
    network.repeat_1 = nn.Sequential(*(rewidth(timm.Block17(0.1, unit), 1152) for _ in range(10)))
    network.mixed_7a = rewidth(timm.Mixed_7a(unit), 1152)
    network.repeat_2 = nn.Sequential(*(rewidth(timm.Block8(0.2, False, unit), 2144) for _ in range(5)))
    network.classif = nn.Linear(2144, 1000)
    return network


#: Registry name -> its oracle.
INCEPTION: dict[str, Oracle] = {
    "googlenet": Oracle("torchvision", "googlenet, changed to the paper's", size=97, make=googlenet),
    "googlenet_bn": Oracle("torchvision", "googlenet", NO_AUX, size=97),
    "bn_inception": Oracle("torchvision", "googlenet, its blocks changed", size=97, make=bn_inception),
    "inception_v3": Oracle("torchvision", "inception_v3", NO_AUX, size=107),
    "inception_v4": Oracle("timm", "inception_v4", size=107),
    "inception_resnet_v1": Oracle(
        "timm", "inception_resnet_v2, its blocks changed", size=107, make=inception_resnet_v1
    ),
    "inception_resnet_v2": Oracle("timm", "inception_resnet_v2", size=107),
    "inception_resnet_v2_as_drawn": Oracle(
        "timm",
        "inception_resnet_v2 and inception_v4, put together",
        size=107,
        make=inception_resnet_v2_as_drawn,
    ),
    "xception": Oracle("timm", "legacy_xception", size=97),
}
