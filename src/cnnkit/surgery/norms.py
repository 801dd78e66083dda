"""Normalisation put into a network and taken out of it: "with and without" as one change.

Ioffe & Szegedy, "Batch Normalization", ICML 2015, arXiv:1502.03167: between a layer's weights and its
non-linearity.
Krizhevsky, Sutskever & Hinton, NIPS 2012, section 3.3: response normalisation behind the non-linearity of
the first two layers.
"""

from collections.abc import Sequence

import torch
from torch import nn

from cnnkit.layers import ResponseNorm
from cnnkit.surgery.head import head_of
from cnnkit.surgery.rehearsal import Shape, is_activation, rehearse, then

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
RESPONSE_NORMS = (ResponseNorm, nn.LocalResponseNorm)

#: Layers whose responses AlexNet normalises.
ALEXNET = 2


def add_batch_norm(network: nn.Module) -> nn.Module:
    """Batch norm behind every 2-D convolution but one that makes the logits, as in torchvision's `_bn` forms.

    The convolutions keep their weights and biases; their names in the state dict get a `.0`.

    Raises:
        ValueError: the network has batch norm already, or no such convolution.
    """
    kind = type(network).__name__
    if any(isinstance(m, BATCH_NORMS) for m in network.modules()):
        raise ValueError(f"{kind} has batch norm already")
    head, _ = head_of(network)
    found = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and n != head]
    if not found:
        raise ValueError(f"{kind} has no convolution that could be normalised")
    for name, layer in found:
        norm = nn.BatchNorm2d(layer.out_channels, device=layer.weight.device, dtype=layer.weight.dtype)
        then(network, name, norm.train(layer.training))
    return network


def remove_batch_norm(network: nn.Module) -> nn.Module:
    """No batch norm; convolutions and dense layers that left their bias to it get one, of zeros.

    It is for a network that is about to be trained: a trained one no longer computes what it did.

    Raises:
        ValueError: the network has none.
    """
    _remove(network, BATCH_NORMS, "batch norm")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is None:
            out = layer.weight.shape[0]
            bias = torch.zeros(out, device=layer.weight.device, dtype=layer.weight.dtype)
            layer.bias = nn.Parameter(bias)
    return network


def first_activations(network: nn.Module, count: int = ALEXNET, image: Shape | None = None) -> list[str]:
    """Names of the non-linearities of the first layers of maps, where AlexNet normalises responses.

    Raises:
        ValueError: there are fewer.
    """
    steps = rehearse(network, image)
    names = [s.name for s in steps if is_activation(s) and len(s.makes) == 4 and s.makes[2] * s.makes[3] > 1]
    if len(names) < count:
        raise ValueError(f"{type(network).__name__} has {len(names)} activations of maps, fewer than {count}")
    return names[:count]


def add_response_norm(network: nn.Module, after: Sequence[str]) -> nn.Module:
    """AlexNet's response normalisation behind the named layers.

    Raises:
        ValueError: the network has response normalisation already, or no such layer.
    """
    if any(isinstance(m, RESPONSE_NORMS) for m in network.modules()):
        raise ValueError(f"{type(network).__name__} has response normalisation already")
    for name in after:
        try:
            then(network, name, ResponseNorm())
        except AttributeError:
            raise ValueError(f"{type(network).__name__} has no module {name!r}") from None
    return network


def remove_response_norm(network: nn.Module) -> nn.Module:
    """No response normalisation; it has no weights, so no name changes.

    Raises:
        ValueError: the network has none.
    """
    return _remove(network, RESPONSE_NORMS, "response normalisation")


def _remove(network: nn.Module, kinds: tuple[type[nn.Module], ...], what: str) -> nn.Module:
    found = [name for name, module in network.named_modules() if isinstance(module, kinds)]
    if not found:
        raise ValueError(f"{type(network).__name__} has no {what}")
    for name in found:
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, nn.Identity())
    return network
