"""Every registered network with inputs that fit it."""

from typing import Any

import torch
from torch import nn

from cnnkit import canon
from cnnkit.models import specs
from cnnkit.registry import Spec

SPECS = {spec.name: spec for spec in specs()}


def example(spec: Spec, *, batch: int = 1, device: str = "meta") -> tuple[Any, ...]:
    """Inputs of the published size."""
    return (torch.zeros(batch, *canon.entry(spec.canon, spec.name).input, device=device),)


def built(spec: Spec, **overrides: Any) -> nn.Module:
    """The network on the meta device."""
    with torch.device("meta"):
        return spec.build(**overrides)
