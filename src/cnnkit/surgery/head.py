"""New heads, and parts that stay as they are: what carrying weights over to another task needs."""

import copy
from typing import Any

import torch
from torch import nn

from cnnkit.layers import Backbone

Head = nn.Linear | nn.Conv2d


def head_of(network: nn.Module) -> tuple[str, Head]:
    """The layer that makes the logits: the last dense layer; in a network without one the last convolution.

    Raises:
        ValueError: the network has neither.
    """
    for kind in (nn.Linear, nn.Conv2d):
        layers = [(name, m) for name, m in network.named_modules() if isinstance(m, kind)]
        if layers:
            return layers[-1]
    raise ValueError(f"{type(network).__name__} has neither a dense layer nor a convolution to replace")


def replace_head(network: nn.Module, classes: int) -> str:
    """Put a new layer for so many classes in the place of `head_of`, drawn as torch draws one; its name.

    Everything else stays the same object with the same weights.
    """
    name, old = head_of(network)
    new: Head
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    else:
        names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        settings: dict[str, Any] = {name: getattr(old, name) for name in names}
        new = nn.Conv2d(old.in_channels, classes, bias=old.bias is not None, **settings)
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, new.to(old.weight.device, old.weight.dtype))
    return name


def freeze(network: nn.Module, part: str | int) -> None:
    """Keep parameters from learning: `features` is all but the head, N the first N maps of `features()`.

    A parameter belongs to the first N maps where it has a gradient of them. `frozen_norms` names what must
    be kept in evaluation mode besides.

    Raises:
        ValueError: the network has no `features()`, or not so many maps, or the part is another word.
    """
    if part == "features":
        head = {id(p) for p in head_of(network)[1].parameters()}
        frozen = [p for p in network.parameters() if id(p) not in head]
    else:
        names = names_of_stages(network, part)
        frozen = [p for name, p in network.named_parameters() if name in names]
    for parameter in frozen:
        parameter.requires_grad_(False)


def names_of_stages(network: nn.Module, part: str | int) -> set[str]:
    """Names of the parameters that the first so many maps of `features()` depend on.

    Raises:
        ValueError: the network has no `features()`, or not so many maps.
    """
    if not isinstance(network, Backbone):
        raise ValueError(f"{type(network).__name__} has no stages; freeze its features instead")
    count = len(network.feature_channels)
    if not str(part).isdecimal() or not 1 <= int(part) <= count:
        raise ValueError(
            f"freeze must be 'features' or a number of stages from 1 to {count} of "
            f"{type(network).__name__}, got {part!r}"
        )
    shadow = copy.deepcopy(network).to("meta").eval().requires_grad_(True)
    first = next(m for m in shadow.modules() if isinstance(m, nn.Conv2d))
    side = getattr(network, "smallest_image", 224)
    images = torch.empty(1, first.in_channels, side, side, device="meta")
    found = shadow.features(images)[int(part) - 1].sum()
    names, parameters = zip(*shadow.named_parameters(), strict=True)
    gradients = torch.autograd.grad(found, parameters, allow_unused=True)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def frozen_norms(network: nn.Module) -> list[nn.Module]:
    """Batch norms whose parameters are frozen: their statistics must not move either."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine]
    return [m for m in norms if not any(p.requires_grad for p in m.parameters())]
