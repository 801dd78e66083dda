"""LeNet-5 trained on MNIST twice in step: on PyTorch's arithmetic, and by `surgery.use` on `cnnkit.ops`.

    python benchmarks/arithmetic_training.py --data ../shared/data --epochs 2 --threads 2

Both begin with the same weights and see the same batches in the same order. In every step each of the two is
timed, PyTorch's first in one step and second in the next, and the ratio is taken within a hundred steps;
printed are the median and the quartiles. `--double` computes in float64, where the two losses stay together
to rounding; in float32 they part as any two orders of addition do.
"""

import argparse
import copy
import os
import statistics
import time
from typing import get_args

import torch
from torch import Tensor, nn
from torchvision.datasets import MNIST

import cnnkit
from cnnkit.ops.convolution import AlgorithmName
from cnnkit.surgery import use

#: Steps over which one ratio of times is taken.
CHUNK = 100


class Run:
    """A network with its optimiser, and what it has cost so far."""

    def __init__(self, network: nn.Module, criterion: nn.Module, lr: float) -> None:
        self.network, self.criterion = network, criterion
        self.optimiser = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, images: Tensor, labels: Tensor) -> None:
        start = time.perf_counter()
        self.optimiser.zero_grad()
        loss = self.criterion(self.network(images), labels)
        loss.backward()
        self.optimiser.step()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        self.network.eval()
        right = [
            self.network(x).argmax(1) == y for x, y in zip(images.split(500), labels.split(500), strict=True)
        ]
        self.network.train()
        return float(torch.cat(right).double().mean())


def digits(folder: str, *, train: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """All images (N, 1, 28, 28) with mean 0 and deviation 1, and their labels."""
    data = MNIST(folder, train=train)
    return ((data.data[:, None].to(dtype) / 255) - 0.1307) / 0.3081, data.targets


def train(options: argparse.Namespace) -> tuple[Run, Run]:
    """PyTorch's run and ours."""
    torch.manual_seed(options.seed)
    dtype = torch.float64 if options.double else torch.float32
    images, labels = digits(options.data, train=True, dtype=dtype)
    network = cnnkit.create("lenet5_relu").to(dtype)
    ours = use(copy.deepcopy(network), convolution=options.convolution)
    runs = (
        Run(network, nn.CrossEntropyLoss(), options.lr),
        Run(ours, use(nn.CrossEntropyLoss()), options.lr),
    )
    for epoch in range(options.epochs):
        for number, batch in enumerate(torch.randperm(len(images)).split(options.batch_size)):
            for run in runs if number % 2 == 0 else reversed(runs):
                run.step(images[batch], labels[batch])
        tail = [statistics.fmean(run.losses[-CHUNK:]) for run in runs]
        print(f"epoch {epoch + 1}: loss of the last {CHUNK} steps {tail[0]:.5f} and {tail[1]:.5f}")
    return runs


def main() -> None:
    """Train both and print what they reached and what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="the folder that holds MNIST/raw")
    parser.add_argument("--convolution", default="im2col", choices=get_args(AlgorithmName))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--double", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {options.threads} threads, load {load:.1f}, {options.convolution}")
    theirs, ours = train(options)
    images, labels = digits(options.data, train=False, dtype=next(ours.network.parameters()).dtype)
    apart = max(abs(a - b) for a, b in zip(theirs.losses, ours.losses, strict=True))
    print(f"largest difference between the losses of a step: {apart:.3g}")
    for name, run in (("PyTorch", theirs), ("cnnkit.ops", ours)):
        accuracy = run.accuracy(images, labels)
        print(
            f"{name:<11} test accuracy {accuracy:.2%}, {statistics.median(run.seconds) * 1e3:.2f} ms a step"
        )
    chunks = range(0, len(ours.seconds) - CHUNK + 1, CHUNK)
    ratios = [sum(ours.seconds[i : i + CHUNK]) / sum(theirs.seconds[i : i + CHUNK]) for i in chunks]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"time of ours over PyTorch's: {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
