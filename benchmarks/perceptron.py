"""A convolutional network against multilayer perceptrons of the same accuracy: parameters and multiply-adds.

    python benchmarks/perceptron.py --seeds 5

Data: the digits of `cnnkit train digits`, 8x8, with its split: a fifth tests, and a tenth of the rest, by
which others choose, is left out. Both kinds are trained alike: AdamW, one cycle up to 0.01, weight decay
0.05, 60 epochs, batches of 64; nothing is chosen by looking at the test part. Counts are those of `cnnkit
inspect`. They are tested on the digits as they are, and moved by one pixel in each of the eight directions,
which none has seen. Below the table stands, for every convolutional network, the smallest perceptron that
is as accurate: the mean over the seeds, rounded to a tenth.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit import data
from cnnkit.data import Part
from cnnkit.inspect.table import table
from cnnkit.inspect.trace import trace

EPOCHS, BATCH, RATE, DECAY = 60, 64, 0.01, 0.05


def convolutional(width: int) -> nn.Module:
    """Two convolutions of 3x3, each with a pooling, and a classifier."""
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(8 * width, 10)),
    )


def perceptron(width: int) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def deeper(width: int) -> nn.Module:
    """Two hidden layers."""
    hidden = (nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10))


KINDS: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {
    "convolutional": (convolutional, (2, 4, 8, 16, 32)),
    "1 hidden layer": (perceptron, (16, 32, 64, 128, 256, 512, 1024, 2048)),
    "2 hidden layers": (deeper, (16, 32, 64, 128, 256, 512, 1024)),
}


@dataclass(frozen=True)
class Result:
    """One network and its accuracies in percent, a seed each."""

    kind: str
    width: int
    params: int
    macs: int
    still: list[float]
    moved: list[float]

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.width}"


def pixels(part: Part) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels."""
    if part.pixels is None:
        raise SystemExit("the digits are expected in memory")
    return part.pixels.float() / 255, torch.tensor(part.labels)


def moved(images: Tensor) -> list[Tensor]:
    """The images a pixel further in each of eight directions, zeros behind."""
    padded = functional.pad(images, (1, 1, 1, 1))
    places = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return [padded[:, :, y : y + 8, x : x + 8] for y, x in places]


def trained(make: Callable[[], nn.Module], images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """The network after all epochs."""
    torch.manual_seed(seed)
    model = make()
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=DECAY)
    steps = -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, epochs=EPOCHS, steps_per_epoch=steps)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(images)).split(BATCH):
            optimiser.zero_grad()
            functional.cross_entropy(model(images[index]), labels[index]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, sets: list[Tensor], labels: Tensor) -> float:
    """Percent that are right, over all sets."""
    right = sum(int((model(images).argmax(1) == labels).sum()) for images in sets)
    return 100 * right / (len(sets) * len(labels))


def measured(
    kind: str, width: int, seeds: int, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> Result:
    """One width, all seeds."""
    make, _ = KINDS[kind]
    with torch.device("meta"):
        total = table(trace(make(width), torch.zeros(1, 1, 8, 8))).total
    models = [trained(lambda: make(width), *train, seed) for seed in range(seeds)]
    still = [accuracy(model, [test[0]], test[1]) for model in models]
    shifted = [accuracy(model, moved(test[0]), test[1]) for model in models]
    return Result(kind, width, total.params, total.macs, still, shifted)


def told(values: list[float]) -> str:
    """Mean and deviation."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def matches(results: list[Result]) -> list[str]:
    """For every convolutional network the smallest perceptron of its accuracy, in sentences."""
    lines = []
    for what, word in (("still", "digits"), ("moved", "moved digits")):
        for ours in (r for r in results if r.kind == "convolutional"):
            goal = round(statistics.mean(getattr(ours, what)), 1)
            others = [r for r in results if r.kind != "convolutional"]
            reach = [r for r in others if round(statistics.mean(getattr(r, what)), 1) >= goal]
            line = f"{word}: {ours.name} ({goal}) is reached by "
            if reach:
                best = min(reach, key=lambda r: r.params)
                params, macs = best.params / ours.params, best.macs / ours.macs
                line += f"{best.name}: {params:.1f} times the parameters, {macs:.2f} times the MACs"
            else:
                best = max(others, key=lambda r: statistics.mean(getattr(r, what)))
                line += f"none; the best is {best.name} with {told(getattr(best, what))}"
            lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    parts = data.open("digits").split().parts
    train, test = pixels(parts["train"]), pixels(parts["test"])
    print(f"{len(train[1])} training and {len(test[1])} test digits, {asked.seeds} seeds\n")
    print(
        "| network | parameters | MACs | accuracy, % | moved by a pixel, % |\n| --- | --: | --: | --: | --: |"
    )
    results = []
    for kind, (_, widths) in KINDS.items():
        for width in widths:
            results.append(found := measured(kind, width, asked.seeds, train, test))
            figures = f"{found.params:,} | {found.macs:,} | {told(found.still)} | {told(found.moved)}"
            print(f"| {found.name} | {figures} |", flush=True)
    print()
    for line in matches(results):
        print(line)


if __name__ == "__main__":
    main()
