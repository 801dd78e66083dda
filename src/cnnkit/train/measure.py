"""Chosen by measurement: number type, memory layout and threads, by timing steps on this machine."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cnnkit.train.distributed import cores
from cnnkit.train.recipe import Layout, Precision, Recipe

#: Forward multiply-adds of a batch below which a step is over before several threads have met: one thread,
#: float32 and nothing measured.
SMALL_STEP = 200_000_000

#: Seconds that all measuring may take, as a share of the run, and at most.
SHARE, MOST = 0.03, 30.0

#: The loss of a 16-bit type must stay this close to that of float32, relatively and absolutely.
CLOSE, NEAR = 0.05, 0.05

#: Steps that are timed; the fastest counts. One more comes first.
TIMED = 2

#: How much faster a choice must be than the plainer one before it.
WORTH = 1.03


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a step."""

    precision: Precision
    layout: Layout
    threads: int

    def __str__(self) -> str:
        kind = "float32" if self.precision == "32" else self.precision
        return f"{kind}, {self.layout.replace('_', ' ')}, {self.threads} thread{'s' * (self.threads > 1)}"


@dataclass(frozen=True, slots=True)
class Trial:
    """What one way took: seconds an image of its fastest step, and the loss after all of them."""

    seconds: float
    loss: float


def choose(
    recipe: Recipe, network: nn.Module, images: Tensor, loss: Callable[[Any], Tensor], steps: int
) -> tuple[Recipe, str]:
    """The recipe without open choices of arithmetic, and what was chosen and why.

    Args:
        recipe: with a device and a batch size.
        network: as it will be trained; it is left as it was.
        images: normalised, of the training part. Shape: (N, C, H, W)
        loss: of the network's output for the first of these images, however many.
        steps: of the run.
    """
    wanted = _open(recipe)
    small = _macs(network, images) * (recipe.batch_size or 1) < SMALL_STEP
    if len(wanted) == 1 or (small and recipe.device == "cpu"):
        return _settled(recipe, wanted[0]), ""
    run = _Runner(network, images.to(recipe.device), loss, recipe.device)
    with _kept_threads():
        first = wanted[0]
        images_a_step = run.fitting(first, _budget(run, first, recipe, steps) / (len(wanted) * (TIMED + 1)))
        trials: dict[Way, Trial] = {}
        best = first
        for way in wanted:
            if way.threads > first.threads and (way.precision, way.layout) != (best.precision, best.layout):
                continue  # threads are tried with the fastest arithmetic only
            trials[way] = run.time(way, images_a_step)
            if _sound(trials[way], trials[first]) and trials[best].seconds > WORTH * trials[way].seconds:
                best = way
            elif way.threads > best.threads:
                break  # more threads only get slower from here
    told = "; ".join(
        f"{way} {trial.seconds / trials[first].seconds:.2f}"
        + ("" if _sound(trial, trials[first]) else " (its loss strays)")
        for way, trial in trials.items()
    )
    return _settled(recipe, best), f"chosen by timing: {best}  (time an image: {told})"


def _open(recipe: Recipe) -> list[Way]:
    """All ways that the recipe leaves open, the plainest first, threads last and rising."""
    precisions: list[Precision] = ["32", "bf16"] if recipe.precision == "auto" else [recipe.precision]
    layouts: list[Layout] = (
        ["channels_first", "channels_last"] if recipe.layout == "auto" else [recipe.layout]
    )
    counts = [recipe.threads] if recipe.threads else _thread_counts(recipe.device)
    kinds = [(p, m) for p in precisions for m in layouts]
    if len(kinds) == 4:
        kinds.remove(("bf16", "channels_first"))
    return [Way(p, m, counts[0]) for p, m in kinds] + [Way(p, m, n) for n in counts[1:] for p, m in kinds]


def _thread_counts(device: str) -> list[int]:
    if device != "cpu":
        return [torch.get_num_threads()]
    most, counts = cores(), [1]
    while counts[-1] * 2 < most:
        counts.append(counts[-1] * 2)
    return counts + ([most] if most > 1 else [])


def _settled(recipe: Recipe, way: Way) -> Recipe:
    return replace(recipe, precision=way.precision, layout=way.layout, threads=way.threads)


def _sound(trial: Trial, plain: Trial) -> bool:
    return math.isfinite(trial.loss) and abs(trial.loss - plain.loss) <= CLOSE * abs(plain.loss) + NEAR


def _macs(network: nn.Module, images: Tensor) -> int:
    """Forward multiply-adds of one image, counted without computing."""
    meta = copy.deepcopy(network).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        meta(torch.empty_like(images[:1], device="meta"))
    return int(counter.get_total_flops() // 2)


def _budget(run: "_Runner", way: Way, recipe: Recipe, steps: int) -> float:
    """Seconds that measuring may take."""
    one = run.time(way, min(4, len(run.images))).seconds * (recipe.batch_size or 1)
    return min(MOST, SHARE * one * steps)


def autocast(device: str, precision: Precision) -> torch.autocast:
    """The context in which a step of that precision is computed."""
    kind = {"bf16": torch.bfloat16, "16": torch.float16}.get(precision)
    return torch.autocast(torch.device(device).type, kind, enabled=kind is not None)


@contextmanager
def _kept_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Runner:
    """Training steps of copies of one network on the same images."""

    def __init__(
        self, network: nn.Module, images: Tensor, loss: Callable[[Any], Tensor], device: str
    ) -> None:
        self.network, self.images, self.loss, self.device = network, images, loss, device

    def fitting(self, way: Way, seconds: float) -> int:
        """How many images a step may have so that it takes at most that long: 2 to all there are."""
        few = min(4, len(self.images))
        return max(2, min(len(self.images), int(seconds / self.time(way, few).seconds)))

    def time(self, way: Way, count: int) -> Trial:
        """One step to warm up and some that are timed, from the same weights and random state."""
        from cnnkit.train.module import MEMORY

        torch.set_num_threads(way.threads)
        memory = MEMORY[way.layout]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = copy.deepcopy(self.network).to(self.device).to(memory_format=memory).train()
            for part in model.modules():  # its draws depend on the layout, and would part the losses
                if isinstance(part, nn.modules.dropout._DropoutNd):
                    part.eval()
            weights = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.SGD(weights, lr=1e-3)
            images = self.images[:count].contiguous(memory_format=memory)
            seconds, loss = [], math.nan
            for _ in range(1 + TIMED):
                began = time.perf_counter()
                optimizer.zero_grad()
                with autocast(self.device, way.precision):
                    value = self.loss(model(images))
                torch.autograd.backward(value)
                optimizer.step()
                loss = float(value.detach())  # waits for the device
                seconds.append(time.perf_counter() - began)
        return Trial(min(seconds[1:]) / count, loss)
