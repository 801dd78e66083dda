"""Another non-linearity in the place of a network's own, as in AlexNet's comparison of ReLU with tanh.

Krizhevsky, Sutskever & Hinton, NIPS 2012, section 3.1.
"""

from torch import nn

from cnnkit.registry import unknown

#: What can be put in, by name.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}

#: What is taken out. A sigmoid stays: in a network of today it is a gate.
EXCHANGED = (nn.ReLU, nn.ReLU6, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish)


def swap_activations(network: nn.Module, kind: str) -> nn.Module:
    """Put one kind of non-linearity everywhere; no name in the state dict changes.

    Raises:
        LookupError: there is no such kind.
        ValueError: the network has no non-linearity that could be exchanged.
    """
    if kind not in ACTIVATIONS:
        raise LookupError(unknown(kind, ACTIVATIONS, "activation"))
    named = network.named_modules(remove_duplicate=False)
    places = [name for name, module in named if name and isinstance(module, EXCHANGED)]
    if not places:
        raise ValueError(f"{type(network).__name__} has no activation module that could be exchanged")
    for name in places:
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, ACTIVATIONS[kind]())
    return network
