"""What each algorithm of `cnnkit.ops` costs beside PyTorch's own convolution.

    python benchmarks/convolution.py --threads 2 --rounds 15

Six layers of real networks, float32, forward alone and with all three gradients. All candidates run in turn
in every round, and a ratio is taken within its round, so that a busy spell hits numerator and denominator
alike; printed are the median ratio and the quartiles. `product` is the bare matrix product of im2col's size
by `torch.mm`, nothing copied: what im2col can at best reach on this machine. The last table finds the kernel
size from which fft overtakes. `--cpu-time` counts the time that the process had instead of the clock's, for
machines that others use too.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from cnnkit import ops
from cnnkit.ops.convolution import ALGORITHMS


@dataclass(frozen=True)
class Layer:
    """A convolution as it stands in a network, and a batch for it."""

    name: str
    batch: int
    in_channels: int
    size: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def tensors(self) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, self.in_channels, self.size, self.size, generator=draw)
        kernels = torch.randn(self.out_channels, self.in_channels, self.kernel, self.kernel, generator=draw)
        return images, kernels

    def able(self) -> Iterator[str]:
        """The algorithms that can compute it."""
        for name in ALGORITHMS:
            if "winograd" not in name or (self.kernel, self.stride) == (3, 1):
                yield name


LAYERS = (
    Layer("LeNet-5 C3, 5x5, 6 to 16 at 14", 64, 6, 14, 16, 5),
    Layer("AlexNet conv2, 5x5, 64 to 192 at 27", 16, 64, 27, 192, 5, padding=2),
    Layer("VGG conv2_1, 3x3, 64 to 128 at 112", 4, 64, 112, 128, 3, padding=1),
    Layer("ResNet stem, 7x7 / 2, 3 to 64 at 224", 8, 3, 224, 64, 7, stride=2, padding=3),
    Layer("ResNet conv4, 3x3, 256 to 256 at 14", 16, 256, 14, 256, 3, padding=1),
    Layer("ResNet 1x1, 256 to 64 at 56", 8, 256, 56, 64, 1),
)
KERNELS = tuple(
    Layer(f"{k}x{k}, 32 to 32 at 64", 4, 32, 64, 32, k, padding=k // 2) for k in (3, 5, 7, 11, 15)
)


def forward(layer: Layer) -> dict[str, Callable[[], object]]:
    """The candidates, PyTorch's first."""
    images, kernels = layer.tensors()
    options = dict(stride=layer.stride, padding=layer.padding)
    found: dict[str, Callable[[], object]] = {
        "conv2d": lambda: functional.conv2d(images, kernels, **options),
        "product": _product(layer, images, kernels),
    }
    for name in layer.able():
        found[name] = partial(ops.correlate, images, kernels, **options, algorithm=name)
    return found


def _product(layer: Layer, images: Tensor, kernels: Tensor) -> Callable[[], object]:
    out = functional.conv2d(images[:1], kernels, stride=layer.stride, padding=layer.padding)
    weights = kernels.flatten(1)
    columns = torch.randn(weights.shape[1], out[0, 0].numel())
    return lambda: [torch.mm(weights, columns) for _ in range(layer.batch)]


def both_ways(layer: Layer) -> dict[str, Callable[[], object]]:
    """Forward, then the gradients of images, kernels and bias."""
    images, kernels = layer.tensors()
    bias = torch.zeros(layer.out_channels)
    options = dict(stride=layer.stride, padding=layer.padding)
    residual = torch.ones_like(functional.conv2d(images, kernels, **options))
    leaves = [t.clone().requires_grad_() for t in (images, kernels, bias)]

    def theirs() -> object:
        return torch.autograd.grad(functional.conv2d(*leaves, **options), leaves, residual)

    def ours(name: str) -> object:
        ops.correlate(images, kernels, bias, **options, algorithm=name)
        return ops.correlate_backward(residual, images, kernels, **options, algorithm=name)

    return {"conv2d": theirs, **{name: partial(ours, name) for name in layer.able()}}


def measured(
    candidates: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each, one a round, after one round of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(rounds + 1):
        for name, run in candidates.items():
            began = clock()
            run()
            if i:
                seconds[name].append(clock() - began)
    return seconds


def report(
    title: str,
    layers: tuple[Layer, ...],
    rounds: int,
    clock: Callable[[], float],
    way: Callable[[Layer], dict[str, Callable[[], object]]],
) -> None:
    """A table of ratios to PyTorch's time, in Markdown."""
    columns = ["product", *ALGORITHMS] if way is forward else list(ALGORITHMS)
    print(f"\n{title}\n\n| layer | conv2d ms | {' | '.join(columns)} |")
    print("| --- " * (2 + len(columns)) + "|")
    for layer in layers:
        seconds = measured(way(layer), rounds, clock)
        theirs = seconds["conv2d"]
        cells = [f"{1e3 * statistics.median(theirs):.2f}"]
        for name in columns:
            ratios = [a / b for a, b in zip(seconds.get(name, []), theirs, strict=False)]
            cells.append(_spread(ratios) if ratios else "-")
        print(f"| {layer.name} | {' | '.join(cells)} |", flush=True)


def _spread(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    began, used = time.perf_counter(), time.process_time()
    for title, layers, way in (
        ("Forward, over F.conv2d", LAYERS, forward),
        ("Forward and backward, over F.conv2d with autograd", LAYERS, both_ways),
        ("By kernel size: forward, over F.conv2d", KERNELS, forward),
    ):
        report(title, layers, arguments.rounds, clock, way)
    share = (time.process_time() - used) / (time.perf_counter() - began)
    kind = "CPU" if arguments.cpu_time else "wall"
    print(
        f"\nPyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, threads: "
        f"{arguments.threads} of {os.cpu_count()} processors, {arguments.rounds} rounds of {kind} time. Load "
        f"average {load:.1f} before, {os.getloadavg()[0]:.1f} after; this process had {share:.2f} processors."
    )


if __name__ == "__main__":
    main()
