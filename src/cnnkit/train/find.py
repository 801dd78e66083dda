"""Finding a learning rate and a batch size by trying some, before a run begins."""

import copy
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.data.batches import Batch, Batches
from cnnkit.errors import Failure
from cnnkit.surgery.head import frozen_norms
from cnnkit.train.measure import autocast
from cnnkit.train.module import MEMORY, parameter_groups, slowed
from cnnkit.train.recipe import Recipe
from cnnkit.weights.preprocessing import Preprocessing

#: Learning rates that are tried: from, to, and how many.
LOWEST, HIGHEST, TRIES = 1e-6, 10.0, 100

#: Memory of the smoothed loss, and how many times its lowest value ends the trial.
SMOOTH, DIVERGED = 0.95, 4.0

#: The chosen learning rate is that of the lowest loss divided by this.
BACK_OFF = 10.0

#: Share of the free memory that a step may take, and how much faster a doubled batch must be.
FREE, WORTH = 0.6, 1.05

#: The largest batch that is tried, and the fewest steps that an epoch of such batches must have.
LARGEST, FEWEST = 1024, 10

Loss = Callable[[Any, Batch], Tensor]


def settle(
    recipe: Recipe,
    network: nn.Module,
    feed: Callable[[Recipe], Batches],
    to: Preprocessing,
    loss: Loss,
    rates: Mapping[int, float],
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with what it says to `find`, and what was tried, in plain types.

    The batch size is found first: the learning rate is that of batches of this size.

    Args:
        recipe: resolved.
        network: as it will be trained; it is left as it was.
        feed: batches of the training part, as a recipe wants them.
        to: how they become the network's input.
        loss: of output and batch.
        rates: by the id of a parameter, the share of the learning rate at which it learns; 1 for the others.

    Raises:
        Failure: no learning rate lets the loss be finite.
    """
    tried: dict[str, Any] = {}
    if "batch_size" in recipe.find:
        found: Any = feed(recipe)
        batch, most = next(iter(found)), min(LARGEST, found.batch_sampler.count // FEWEST)
        size, speeds = batch_size(network, to.normalise(batch["images"]), batch, loss, recipe, most)
        recipe = replace(recipe, batch_size=size)
        tried["batch_size"] = {"chosen": size, "images_per_second": {str(k): v for k, v in speeds.items()}}
    if "lr" in recipe.find:
        sweep = learning_rate(network, Normalised(feed(recipe), to), loss, recipe, rates)
        recipe = replace(recipe, optimizer=replace(recipe.optimizer, lr=sweep.chosen))
        tried["lr"] = asdict(sweep)
    return replace(recipe, find=()), tried


class Normalised:
    """Images as the network reads them, with the batches they are of, as often as they are gone through."""

    def __init__(self, feed: Batches, to: Preprocessing) -> None:
        self.feed, self.to = feed, to

    def __iter__(self) -> Iterator[tuple[Tensor, Batch]]:
        for batch in self.feed:
            yield self.to.normalise(batch["images"]), batch


@dataclass(frozen=True, slots=True)
class Sweep:
    """Losses at rising learning rates.

    Attributes:
        rates: that were tried.
        losses: smoothed.
        chosen: a tenth of the rate with the lowest loss.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    chosen: float


def learning_rate(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Batch]],
    loss: Loss,
    recipe: Recipe,
    rates: Mapping[int, float] | None = None,
) -> Sweep:
    """The learning rate range test (Smith 2017, 1506.01186, section 3.3), on a copy of the network.

    The rate rises from 1e-6 to 10 by an equal factor a step until the loss is four times its lowest.

    Args:
        network: as it will be trained; it is left as it was.
        batches: normalised images, and the batches they are of; they are gone through again.
        loss: of output and batch.
        recipe: resolved.
        rates: by the id of a parameter, the share of the rate at which it learns; 1 for the others.

    Raises:
        Failure: the loss is not finite even at the lowest rates.
    """
    model, rule = _learning(network, recipe), recipe.optimizer
    shares = {
        id(own): (rates or {}).get(id(p), 1.0)
        for own, p in zip(model.parameters(), network.parameters(), strict=True)
    }
    groups = parameter_groups(model, rule.weight_decay, decay_all=rule.decay_all)
    optimizer = replace(rule, lr=1.0).build(slowed(groups, shares, 1.0), fused=False)
    parts = [group["lr"] for group in optimizer.param_groups]
    smoothed, tried, losses = 0.0, list[float](), list[float]()
    for step, (images, batch) in enumerate(islice(chain.from_iterable(repeat(batches)), TRIES)):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (TRIES - 1))
        for group, part in zip(optimizer.param_groups, parts, strict=True):
            group["lr"] = rate * part
        value = _step(model, optimizer, images, batch, loss, recipe)
        smoothed = SMOOTH * smoothed + (1 - SMOOTH) * value
        mean = smoothed / (1 - SMOOTH ** (step + 1))
        if not math.isfinite(mean) or (losses and mean > DIVERGED * min(losses)):
            break
        tried.append(rate)
        losses.append(mean)
    if len(losses) < 2:
        raise Failure(
            "the loss is not finite even at the lowest learning rates; "
            "look at the data, or use --precision 32"
        )
    lowest = tried[min(range(len(losses)), key=losses.__getitem__)]
    return Sweep(tuple(tried), tuple(losses), float(f"{lowest / BACK_OFF:.1e}"))


def batch_size(
    network: nn.Module, images: Tensor, batch: Batch, loss: Loss, recipe: Recipe, most: int = LARGEST
) -> tuple[int, dict[int, float]]:
    """The smallest batch beyond which doubling it brings less than a twentieth more images a second.

    Args:
        network: as it will be trained; it is left as it was.
        images: normalised, as many as there are; they are repeated. Shape: (N, C, H, W)
        batch: of which they are.
        loss: of output and batch.
        recipe: resolved but for the batch size.
        most: the largest that is tried, if it is above the first.

    Returns:
        The size, and images a second of each size that was tried.
    """
    room, each = FREE * _free(recipe.device), _bytes_an_image(network, images[:2], beginning(batch, 2), loss)
    speeds: dict[int, float] = {}
    size = 8
    while size == 8 or (size <= most and size * each < room):
        repeats = math.ceil(size / len(images))
        many = {name: torch.cat([tensor] * repeats)[:size] for name, tensor in batch.items()}
        repeated = images.repeat(repeats, 1, 1, 1)[:size]
        model = _learning(network, recipe)
        optimizer = recipe.optimizer.build(parameter_groups(model, 0.0), fused=False)
        seconds = []
        try:
            for _ in range(3):
                began = time.perf_counter()
                _step(model, optimizer, repeated, many, loss, recipe)
                seconds.append(time.perf_counter() - began)
        except torch.OutOfMemoryError:
            break
        speeds[size] = size / min(seconds[1:])
        size *= 2
    return fewest(speeds), speeds


def fewest(speeds: dict[int, float]) -> int:
    """The smallest size from which on no doubling is worth it."""
    sizes = sorted(speeds)
    best = sizes[0]
    for size in sizes[1:]:
        if speeds[size] > WORTH * speeds[best]:
            best = size
    return best


def _learning(network: nn.Module, recipe: Recipe) -> nn.Module:
    """A copy of the network as the Trainer would have it: frozen batch norms stay as they are."""
    model = copy.deepcopy(network).to(recipe.device).to(memory_format=MEMORY[recipe.layout]).train()
    for norm in frozen_norms(model):
        norm.eval()
    return model


def beginning(batch: Batch, count: int) -> Batch:
    """The first images of a batch, and all that goes with them."""
    return {name: tensor[:count] for name, tensor in batch.items()}


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    batch: Batch,
    loss: Loss,
    recipe: Recipe,
) -> float:
    """One step; its loss."""
    images = images.to(recipe.device).contiguous(memory_format=MEMORY[recipe.layout])
    optimizer.zero_grad()
    with autocast(recipe.device, recipe.precision):
        value = loss(model(images), {name: tensor.to(recipe.device) for name, tensor in batch.items()})
    torch.autograd.backward(value)
    optimizer.step()
    return float(value.detach())


def _bytes_an_image(network: nn.Module, images: Tensor, batch: Batch, loss: Loss) -> float:
    """What one image adds to a step's memory: all that is kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model = copy.deepcopy(network).train()
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(model(images), batch)
    return 2 * sum(size for place, size in kept.items() if place not in own) / len(images)  # and gradients


def _free(device: str) -> float:
    """Bytes that are free where the network will be."""
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        words = dict(line.split(":", 1) for line in meminfo.read_text("utf-8").splitlines())
        return 1024.0 * int(words["MemAvailable"].split()[0])
    return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
