"""A recipe's regularisers and start, applied to a network before its training."""

from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.data import DataSet
from cnnkit.errors import Misuse
from cnnkit.models import create
from cnnkit.surgery.changes import replay
from cnnkit.surgery.norms import BATCH_NORMS
from cnnkit.train.recipe import Recipe
from cnnkit.train.transfer import Transfer
from cnnkit.weights.preprocessing import Preprocessing


def change(
    network: nn.Module, recipe: Recipe, to: Preprocessing, images: Tensor | None
) -> list[dict[str, Any]]:
    """Change the network as the recipe's regularisers want, in place, and start it as it says.

    Args:
        to: what makes its input.
        images: normalised, for a start that looks at some; without them such a start is left out.

    Returns:
        The changes that a trained network needs too.

    Raises:
        Misuse: the network cannot be changed or started so.
    """
    image = (len(to.mean), *to.size)
    made: list[dict[str, Any]] = []
    try:
        if recipe.activation is not None:
            made.append({"change": "swap_activations", "kind": recipe.activation})
            replay(network, made)
        for part in recipe.regularise:
            changes = part.changes(network, image)
            replay(network, changes)
            made += map(dict, changes)
        for start in recipe.init:
            if images is not None or not start.looks:
                start.apply(network, images)
        for part in recipe.regularise:
            part.put_on(network, image)
    except ValueError as error:
        raise Misuse(f"{recipe.model}: {error}") from None
    return made


def check(recipe: Recipe, data: DataSet, to: Preprocessing, transfer: Transfer | None) -> None:
    """Try all changes on the network without memory or arithmetic.

    Raises:
        Misuse: one cannot be made, or batch norms are to be synchronised and there are none.
    """
    with torch.device("meta"):
        network = fresh(recipe, data, to, transfer)
        change(network, recipe, to, None)
    if recipe.sync_batch_norm and not any(isinstance(m, BATCH_NORMS) for m in network.modules()):
        raise Misuse(f"{recipe.model} has no batch norm for --sync-batch-norm to synchronise; leave it out")


def fresh(recipe: Recipe, data: DataSet, to: Preprocessing, transfer: Transfer | None) -> nn.Module:
    """The network as it is before the recipe changes it, with random weights."""
    network = create(str(recipe.model), **arguments(recipe, data, to, transfer))
    return replay(network, transfer.surgery if transfer else ())


def arguments(recipe: Recipe, data: DataSet, to: Preprocessing, transfer: Transfer | None) -> dict[str, Any]:
    """What the network is built with."""
    if transfer is not None:
        return transfer.arguments
    return {**(recipe.arguments or {}), "num_classes": len(data.classes), "in_channels": len(to.mean)}
