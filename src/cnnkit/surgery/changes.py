"""Changes to a network as plain values, so that an artefact can store them and loading can make them again.

A change is a mapping: its name under `change`, and the arguments of the function that makes it,

    {"change": "stochastic_depth", "survival": 0.5}.

Only what a trained network needs is a change of this kind. Dropout and its relatives do nothing outside
training and have no weights, so they are not stored; the recipe says that they were there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from cnnkit.registry import unknown
from cnnkit.surgery.activations import swap_activations
from cnnkit.surgery.norms import (
    add_batch_norm,
    add_response_norm,
    remove_batch_norm,
    remove_response_norm,
)
from cnnkit.surgery.stochastic_depth import stochastic_depth

#: A change as it is stored: plain values only.
Change = Mapping[str, Any]

#: By name, the functions that change a network in place and return it.
CHANGES: dict[str, Callable[..., nn.Module]] = {
    "add_batch_norm": add_batch_norm,
    "add_response_norm": add_response_norm,
    "remove_batch_norm": remove_batch_norm,
    "remove_response_norm": remove_response_norm,
    "stochastic_depth": stochastic_depth,
    "swap_activations": swap_activations,
}


def replay(network: nn.Module, changes: Sequence[Change]) -> nn.Module:
    """Make the changes in their order; the network, changed in place.

    Raises:
        LookupError: a change has a name that is not known.
        ValueError: its arguments are not those of its function, or it cannot be made on this network.
    """
    for change in changes:
        arguments = dict(change)
        name = arguments.pop("change", None)
        if name not in CHANGES:
            raise LookupError(unknown(str(name), CHANGES, "change"))
        try:
            network = CHANGES[name](network, **arguments)
        except TypeError as error:  # other arguments than the function has, or of other types
            raise ValueError(f"{name}: {error}") from None
    return network
