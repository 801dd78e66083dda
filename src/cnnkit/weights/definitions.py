"""Networks of torchvision and timm whose weights fit ours: how they are built and how their entries lie.

Our modules are made in the order of these definitions, so entries are paired by position, shape by shape;
a row says what must be reordered or reshaped first. The libraries are imported only when a row is built.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import Tensor, nn

Entries = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Definition:
    """Another library's definition of one of our networks.

    Attributes:
        library: `torchvision` or `timm`.
        name: its name there.
        kwargs: arguments that its builder takes besides.
        reorder: its entries in the order and the shapes of ours.
        auxiliary: what the names of entries begin with that only training uses; they are left out.
        rescales: its published networks bring images normalised as ImageNet's to mean and deviation 0.5.
        not_negative: the entry that must not be negative anywhere for it to compute what ours does.
        twin: another network of that library with the same entries that computes something else.
    """

    library: str
    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    reorder: Callable[[Entries], Entries] = dict
    auxiliary: tuple[str, ...] = ()
    rescales: bool = False
    not_negative: str = ""
    twin: str = ""

    def build(self) -> nn.Module:
        """The other network with random weights.

        Raises:
            ModuleNotFoundError: the library is not installed.
        """
        return other(self.library, self.name, **self.kwargs)


def other(library: str, name: str, **kwargs: Any) -> nn.Module:
    """Another library's network of that name with random weights.

    Raises:
        ModuleNotFoundError: the library is not installed.
    """
    if library == "torchvision":
        return import_module("torchvision.models").get_model(name, weights=None, **kwargs)
    if library == "timm":
        return import_module("timm").create_model(name, pretrained=False, **kwargs)
    return import_module(f"{library}.model_provider").get_model(name, **kwargs)  # pytorchcv, an oracle only


def shortcuts_last(entries: Entries) -> Entries:
    """timm's pre-activation blocks name their shortcut first, and its classifier is a 1x1 convolution."""

    def block(key: str) -> str:
        found = re.match(r"stages\.\d+\.blocks\.\d+\.", key)
        return found.group() if found else key

    first: dict[str, int] = {}
    for i, key in enumerate(entries):
        first.setdefault(block(key), i)
    ordered = sorted(entries, key=lambda key: (first[block(key)], ".downsample." in key))
    return {k: entries[k].flatten(1) if k == "head.fc.weight" else entries[k] for k in ordered}


def dense_layers(entries: Entries) -> Entries:
    """timm's VGG has its first two dense layers as convolutions."""
    return {k: v.flatten(1) if k.startswith("pre_logits.") and v.ndim == 4 else v for k, v in entries.items()}


_NO_AUX = {"aux_logits": False, "init_weights": False}
_VGG = [f"vgg{n}{norm}" for norm in ("", "_bn") for n in (11, 13, 16, 19)]
_RESNETS = [
    *(f"resnet{n}" for n in (18, 34, 50, 101, 152)),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
]
_DENSENETS = [f"densenet{n}" for n in (121, 161, 169, 201)]
_SEGMENTATION = [f"{kind}_resnet{n}" for kind in ("fcn", "deeplabv3") for n in (50, 101)]
_SAME_PADDING = "tf_{}, which pads otherwise"

#: Registry name -> torchvision's definition.
TORCHVISION: dict[str, Definition] = {
    **{
        name: Definition("torchvision", name)
        for name in (
            *_RESNETS,
            *_DENSENETS,
            *("alexnet", "squeezenet1_0", "squeezenet1_1", "mobilenet_v2"),
            *(f"shufflenet_v2_{n}" for n in ("x0_5", "x1_0", "x1_5", "x2_0")),
            *(f"efficientnet_b{n}" for n in range(8)),
        )
    },
    **{name: Definition("torchvision", name, {"init_weights": False}) for name in _VGG},
    **{
        name: Definition(
            "torchvision",
            name,
            {"weights_backbone": None, "aux_loss": False},
            auxiliary=("aux_classifier.",),
        )
        for name in _SEGMENTATION
    },
    "googlenet_bn": Definition(
        "torchvision", "googlenet", _NO_AUX, auxiliary=("aux1.", "aux2."), rescales=True
    ),
    "inception_v3": Definition(
        "torchvision", "inception_v3", _NO_AUX, auxiliary=("AuxLogits.",), rescales=True
    ),
}

#: Registry name -> timm's definition.
TIMM: dict[str, Definition] = {
    **{name: Definition("timm", name) for name in (*_RESNETS, "resnext101_32x4d", *_DENSENETS)},
    **{name: Definition("timm", name, reorder=dense_layers) for name in _VGG},
    **{
        f"preresnet{n}": Definition(
            "timm",
            f"resnetv2_{n}",
            reorder=shortcuts_last,
            not_negative="stages.0.blocks.0.norm1.weight",  # timm pools before this norm, the authors after
        )
        for n in (50, 101, 152)
    },
    **{
        name: Definition("timm", name, twin=_SAME_PADDING.format(name))
        for name in (f"efficientnet_b{n}" for n in range(5))
    },
    "mobilenet_v2": Definition("timm", "mobilenetv2_100"),
    "mobilenet_v2_0_5": Definition("timm", "mobilenetv2_050"),
    "mobilenet_v2_1_4": Definition("timm", "mobilenetv2_140"),
    "inception_v3": Definition("timm", "inception_v3", {"aux_logits": False}, auxiliary=("AuxLogits.",)),
    "inception_v4": Definition("timm", "inception_v4"),
    "inception_resnet_v2": Definition("timm", "inception_resnet_v2"),
    "xception": Definition("timm", "legacy_xception"),
}


def definitions(model: str | None = None) -> list[tuple[str, Definition]]:
    """Registry names and their definitions, torchvision's first: of one network, or all."""
    rows = [*TORCHVISION.items(), *TIMM.items()]
    return [(name, definition) for name, definition in rows if model in (None, name)]
