"""A training step of cnnkit against the loops that people use: torchvision's reference and timm's.

All train the same network on the same images from the same weights, in turns, in one process. cnnkit runs
through its own Trainer with normalisation, metrics and callbacks, at what `--precision auto --layout auto`
chose for this many threads. The peers run the steps of their scripts on images that are normalised already:

- torchvision: `references/classification/train.py` as it comes: float32, SGD with momentum, accuracy a step;
  its `--amp` is for CUDA only.
- timm: `train.py` as it comes, and with `--amp --amp-dtype bfloat16 --channels-last`, which its documentation
  advises.

Printed are milliseconds a step (median of the turns' fastest steps) and how many times as long as ours the
peer's step takes, with the lowest and highest ratio of a turn.

    python benchmarks/training.py --threads 1 --turns 5
"""

import argparse
import copy
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from cnnkit.data.batches import InMemory
from cnnkit.data.order import Order
from cnnkit.models import create
from cnnkit.tasks.classify import Classify
from cnnkit.train.directory import Directory
from cnnkit.train.measure import choose
from cnnkit.train.module import Training
from cnnkit.train.optimizers import Sgd
from cnnkit.train.recipe import Recipe
from cnnkit.train.schedules import Constant
from cnnkit.train.trainer import make_trainer
from cnnkit.weights.preprocessing import Preprocessing

#: Network, side of the images, images a step.
CASES = [
    ("resnet18", 64, 32),
    ("resnet18", 224, 8),
    ("resnet20_cifar10", 32, 128),
    ("mobilenet_v2", 224, 8),
    ("densenet121", 64, 32),
]

#: Steps of a turn; the first warms up.
STEPS = 4


class Steps(Callback):
    """Seconds of each step, from batch to batch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.since = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: object, index: int
    ) -> None:
        """The step before is over when the next one begins."""
        now = time.perf_counter()
        if index:
            self.seconds.append(now - self.since)
        self.since = now


def ours(network: nn.Module, recipe: Recipe, pixels: Tensor, labels: Tensor) -> Callable[[], list[float]]:
    """Our steps, on bytes."""
    to = Preprocessing(tuple(pixels.shape[2:]), mean=(0.5,) * 3, std=(0.25,) * 3)
    model = copy.deepcopy(network)

    def run() -> list[float]:
        training = Training(model, Classify([str(i) for i in range(10)]), to, recipe)
        count = STEPS + 1
        order = Order(len(pixels) * count, len(pixels), 0)
        feed = InMemory(pixels.repeat(count, 1, 1, 1), labels.repeat(count).tolist(), order, to)
        steps = Steps()
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(recipe, Directory(Path(folder)), [steps])
            trainer.fit(training, feed)
        return steps.seconds

    return run


def torchvision_loop(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], list[float]]:
    """The steps of torchvision's reference script."""
    model = copy.deepcopy(network).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()

    def step() -> None:
        output = model(images)
        loss = criterion(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.inference_mode():
            ranked = output.topk(5, 1, True, True).indices.t()
            right = ranked == labels[None]
            for k in (1, 5):
                right[:k].flatten().sum(dtype=torch.float32).item()
        loss.item()

    return lambda: timed(step)


def timm_loop(
    network: nn.Module, images: Tensor, labels: Tensor, *, tuned: bool
) -> Callable[[], list[float]]:
    """The steps of timm's script, as it comes or with what its documentation advises."""
    memory = torch.channels_last if tuned else torch.contiguous_format
    model = copy.deepcopy(network).to(memory_format=memory).train()
    images = images.contiguous(memory_format=memory)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    criterion = nn.CrossEntropyLoss()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return lambda: timed(step)


def timed(step: Callable[[], None]) -> list[float]:
    """Seconds of each step but the first."""
    seconds = []
    for _ in range(STEPS + 1):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def compare(name: str, side: int, batch: int, threads: int, turns: int) -> None:
    """One line of the table."""
    torch.manual_seed(0)
    network = create(name, num_classes=10)
    pixels = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8)
    labels = torch.randint(10, (batch,))
    images = (pixels.float() - 127.5) / 63.75
    recipe = Recipe(
        epochs=1, batch_size=batch, device="cpu", threads=threads,
        optimizer=Sgd(weight_decay=1e-4), schedule=Constant(),
    )  # fmt: skip
    task = Classify([str(i) for i in range(10)])
    recipe, _ = choose(recipe, network, images, lambda out: task.loss(out, labels[: len(out)]), 10_000)
    torch.set_num_threads(threads)
    ways = {
        "cnnkit": ours(network, recipe, pixels, labels),
        "torchvision": torchvision_loop(network, images, labels),
        "timm": timm_loop(network, images, labels, tuned=False),
        "timm, amp, channels last": timm_loop(network, images, labels, tuned=True),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, run in ways.items():
            found[way].append(min(run()))
    cells = [f"{statistics.median(found['cnnkit']) * 1000:,.0f} ms ({recipe.precision}, {recipe.layout})"]
    for way in list(ways)[1:]:
        ratios = [theirs / mine for theirs, mine in zip(found[way], found["cnnkit"], strict=True)]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"| {name}, {side} px, batch {batch} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", help="part of a network's name")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    print(
        f"{arguments.threads} thread(s), {arguments.turns} turns of {STEPS} steps, "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    print("| | cnnkit | torchvision | timm | timm, amp, channels last |\n|---|---|---|---|---|")
    for name, side, batch in CASES:
        if not arguments.only or arguments.only in name:
            compare(name, side, batch, arguments.threads, arguments.turns)


if __name__ == "__main__":
    main()
