"""What a network has learned and what it sees: first-layer kernels, and the maps that one image makes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def first_kernels(model: nn.Module) -> tuple[str, Tensor] | None:
    """Name and kernels (out_channels, in_channels, H, W) of the first convolution, if there is one."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module.weight.detach()
    return None


@contextmanager
def _recorded(layers: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Outputs of the layers while the block runs; the hooks are gone after it."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: found.update({name: output.detach()})

    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def feature_maps(model: nn.Module, image: Tensor, most: int = 4) -> dict[str, Tensor]:
    """Maps that one image makes after up to so many convolutions, evenly spread from the first to the last.

    Args:
        model: any network; it is run once, in evaluation mode.
        image: (C, H, W), as the network reads it.
        most: how many layers.

    Returns:
        Layer name -> (channels, H, W), in the order of the layers.
    """
    convolutions = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    if not convolutions:
        return {}
    places = torch.linspace(0, len(convolutions) - 1, min(most, len(convolutions))).round().int().tolist()
    was_training = model.training
    model.eval()
    try:
        with _recorded(dict(convolutions[i] for i in places)) as found:
            model(image[None])
    finally:
        model.train(was_training)
    return {name: maps[0].cpu() for name, maps in found.items()}
