"""Training a head on stored features: each image goes through the frozen part of the network once.

The frozen part runs in evaluation mode, so without dropout. Where all but the head is frozen, what is stored
is what the network makes before the first layer of its head that learns or draws random numbers: the head's
fixed layers before that, such as a global pooling, are part of what runs once. Where the first N stages are
frozen it is the map of the last of them. Features are float32, in memory while they are small, else in a
file of the run directory that is read through the page cache. They are made again when a run is resumed: the
same images, weights and machine give the same features.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnkit.data.batches import Batch, Batches, Order
from cnnkit.errors import Misuse
from cnnkit.layers import Backbone
from cnnkit.surgery.stochastic_depth import Survival
from cnnkit.tasks.task import first
from cnnkit.weights.preprocessing import Preprocessing

#: Features of a part up to this size are kept in memory.
MEMORY_BYTES = 2**30

#: Layers that draw random numbers in training.
RANDOM = (nn.modules.dropout._DropoutNd, Survival)


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a network is parted: `tail(network)(body(network)(images))` is what the network gives.

    Attributes:
        stage: how many stages belong to the part that is run once.
        fixed: how many layers of the head do, where all stages are frozen.
    """

    stage: int
    fixed: int = 0

    def body(self, network: nn.Module) -> nn.Module:
        """The frozen part: images to features."""
        return Body(network, self.stage, _layers(network)[: self.fixed])

    def tail(self, network: nn.Module) -> nn.Module:
        """The part that learns: features to logits."""
        stages = [] if self.stage == _count(network) else list(network.get_submodule("stages").children())
        return nn.Sequential(*stages[self.stage :], *_layers(network)[self.fixed :])


class Body(nn.Module):
    """A network up to the last frozen stage, and fixed layers of its head. Shape: (N, C, H, W) -> (N, ...)"""

    def __init__(self, network: Any, stage: int, fixed: Sequence[nn.Module]) -> None:
        super().__init__()
        self.network, self.stage, self.fixed = network, stage, nn.Sequential(*fixed)

    def forward(self, images: Tensor) -> Tensor:
        return self.fixed(self.network.features(images)[self.stage - 1])


def _layers(network: nn.Module) -> list[nn.Module]:
    head = network.get_submodule("head")
    return list(head) if isinstance(head, nn.Sequential) else [head]


def _count(network: Any) -> int:
    return len(network.feature_channels)


def cut(network: nn.Module, frozen: str, images: Tensor) -> Cut:
    """Where to part a network: behind its frozen stages, or before what learns or draws in its head.

    Args:
        frozen: `features`, or the number of the stages that are.
        images: a few normalised ones, on which both parts together are compared with the whole.

    Raises:
        Misuse: the network has no such parts, or is not what they are one after the other.
    """
    kind = type(network).__name__
    if not isinstance(network, Backbone) or not hasattr(network, "head"):
        raise Misuse(f"cached features need a network of features and a head, and {kind} has no such parts")
    if frozen == "features":
        fixed = next((i for i, layer in enumerate(_layers(network)) if _changes(layer)), 0)
        found = Cut(_count(network), fixed)
    else:
        found = Cut(int(frozen))
    if not _in_turn(network, found, images):
        raise Misuse(
            f"cached features need a network that is its stages and its head in turn, and frozen as far as "
            f"they reach; {kind} is not"
        )
    return found


def _in_turn(network: nn.Module, found: Cut, images: Tensor) -> bool:
    """Whether the parts one after the other are the network, and all that learns is in the second."""
    if found.stage < _count(network) and not hasattr(network, "stages"):
        return False
    body, tail = found.body(network), found.tail(network)
    after = {id(p) for p in tail.parameters()}
    if any(p.requires_grad and id(p) not in after for p in network.parameters()):
        return False
    was_training = network.training
    with torch.no_grad():
        whole = first(network.eval()(images))
        same = torch.allclose(tail(body(images)), whole, rtol=1e-3, atol=1e-4)
    network.train(was_training)
    return same


def _changes(layer: nn.Module) -> bool:
    """Whether a layer learns or draws random numbers."""
    return any(p.requires_grad for p in layer.parameters()) or any(
        isinstance(module, RANDOM) for module in layer.modules()
    )


class Features:
    """Batches of stored features, in the order and with the labels of the batches that they were made of.

    Args:
        stored: (V, N, ...), V views of N images.
        labels: of the images.
        order: which images make which batch.
    """

    def __init__(self, stored: Tensor, labels: Tensor, order: Order) -> None:
        self.stored, self.labels, self.batch_sampler = stored, labels, order

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        views = self.stored[self.batch_sampler.epoch % len(self.stored)]
        for index in self.batch_sampler.mine():
            yield {"features": views[index], "labels": self.labels[index], "index": index}


@torch.no_grad()
def run_once(
    body: nn.Module, feed: Batches, to: Preprocessing, views: int, device: str, folder: Path
) -> Features:
    """All images of a feed through the frozen part, as many times as there are views.

    View v is what the feed gives in epoch v: with augmentation another one each time.

    Args:
        folder: where features go that are too many for the memory, in a file without a name.
    """
    order: Any = feed.batch_sampler
    body.eval().to(device)
    stored: Tensor | None = None
    labels = torch.zeros(order.count, dtype=torch.int64)
    for view in range(views):
        order.set_epoch(view)
        for batch in feed:
            found = body(to.normalise(batch["images"].to(device))).float().cpu()
            if stored is None:
                stored = room((views, order.count, *found.shape[1:]), folder)
            stored[view, batch["index"]] = found
            labels[batch["index"]] = batch["labels"]
    if stored is None:
        raise ValueError("there is no image to take features of")
    return Features(stored, labels, order)


def room(shape: tuple[int, ...], folder: Path, most: int = MEMORY_BYTES) -> Tensor:
    """Zeros of that shape, in memory up to so many bytes, else in a file that vanishes with the process."""
    if 4 * prod(shape) <= most:
        return torch.zeros(shape)
    with tempfile.TemporaryFile(dir=folder) as file:
        return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))
