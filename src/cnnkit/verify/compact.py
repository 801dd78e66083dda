"""Oracles of the compact networks: SqueezeNet, MobileNet and ShuffleNet."""

from functools import partial
from importlib import import_module

from torch import Tensor, nn

from cnnkit.verify.oracle import Oracle


class Beside(nn.Module):
    """What two modules make of the same, added."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


def projections_beside(network: nn.Module) -> nn.Module:
    """A 1x1 convolution beside each fire module of pytorchcv's that changes the number of maps."""
    for name, unit in list(network.named_modules()):
        if type(unit).__name__ == "FireUnit" and not unit.residual:
            arriving = unit.get_submodule("squeeze.conv").in_channels
            leaving = 2 * unit.get_submodule("expand1x1.conv").out_channels
            network.set_submodule(name, Beside(unit, nn.Conv2d(arriving, leaving, 1)))
    return network


def shortcut_first(network: nn.Module) -> nn.Module:
    """Stack what is carried before what is made; pytorchcv's ShuffleNet has it the other way round."""
    for unit in network.modules():
        if getattr(unit, "downsample", False):
            unit.register_forward_hook(lambda _, arriving, maps: maps.roll(arriving[0].shape[1], dims=1))
    return network


def renumbered(entries: dict[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """Depthwise kernels that act behind the shuffle, in the order of kernels that act before it."""
    return {
        k: v.view(*grid, *v.shape[1:]).transpose(0, 1).reshape(v.shape) if ".dw_" in k and v.ndim else v
        for k, v in entries.items()
    }


def megvii(groups: int, width: float, stem: int) -> nn.Module:
    """pytorchcv's ShuffleNet of the authors' released widths, shuffle and classifier."""
    kind = import_module("pytorchcv.models.shufflenet")
    first = int({3: 240, 8: 384}[groups] * width)
    channels = [[first * 2**i] * depth for i, depth in enumerate((4, 8, 4))]
    network = kind.ShuffleNet(channels, stem, groups)
    for unit in network.modules():
        if isinstance(unit, kind.ShuffleUnit):
            inner = unit.get_submodule("dw_conv2").out_channels
            unit.c_shuffle = kind.ChannelShuffle(inner, inner // groups)
    network.output = nn.Linear(channels[-1][-1], 1000, bias=False)
    return network


#: Registry name -> its oracle.
COMPACT: dict[str, Oracle] = {
    "squeezenet1_0_simple_bypass": Oracle("pytorchcv", "squeezeresnet_v1_0", size=224),
    "squeezenet1_0_complex_bypass": Oracle(
        "pytorchcv", "squeezeresnet_v1_0", size=224, changes=(projections_beside,)
    ),
    **{
        name: Oracle("timm", "mobilenetv1_100", {"act_layer": "relu"})
        for name in ("mobilenet_v1", "mobilenet_v1_1_0_192", "mobilenet_v1_1_0_160", "mobilenet_v1_1_0_128")
    },
    **{
        f"mobilenet_v1_{alpha}_{side}": Oracle("pytorchcv", name, size=224)
        for alpha, name in {"0_75": "mobilenet_w3d4", "0_5": "mobilenet_wd2", "0_25": "mobilenet_wd4"}.items()
        for side in (224, 192, 160, 128)
    },
    **{
        f"mobilenet_v2_{width}".replace(".", "_"): Oracle(
            "torchvision", "mobilenet_v2", {"width_mult": width}
        )
        for width in (0.35, 0.5, 0.75, 1.4)
    },
    **{
        f"shufflenet_v1_g{g}_{width}x": Oracle(
            "pytorchcv",
            f"shufflenet_g{g}_{name}",
            reorder=partial(renumbered, grid=(-1, g)),
            size=224,
            changes=(shortcut_first,),
        )
        for width, name, groups in (
            ("1", "w1", (1, 2, 3, 4, 8)),
            ("0_5", "wd2", (1, 3)),
            ("0_25", "wd4", (1, 3)),
        )
        for g in groups
    },
    **{
        f"shufflenet_v1_g{g}_{width}x_megvii".replace(".", "_"): Oracle(
            "pytorchcv",
            f"shufflenet_g{g}_w1, its widths, shuffle and classifier changed",
            reorder=partial(renumbered, grid=(g, -1)),
            size=224,
            make=partial(megvii, g, width, stem),
            changes=(shortcut_first,),
        )
        for g, stems in {3: (12, 24, 24, 48), 8: (16, 24, 24, 48)}.items()
        for width, stem in zip((0.5, 1, 1.5, 2), stems, strict=True)
    },
}
