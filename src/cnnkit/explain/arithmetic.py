"""One number of a network with its whole computation: an output value, or one entry of a kernel's gradient.

    y[o, i]     = b[o] + sum_c sum_u w[o, c, u] x[c, s i + d u - p]        products of a window and a kernel
    dw[o, c, u] = sum_i r[o, i] x[c, s i + d u - p]                        of the residual and what tap u read

Any convolution or linear layer of any network will do (a linear layer has no axes: its window is one number a
channel). Windows are those of `ops`, products are taken in float64 of what the layer read; beside their sum
stands what the network, or PyTorch's autograd, gave.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.ops.shapes import Axis, axes
from cnnkit.ops.windows import pad, windows
from cnnkit.registry import unknown

#: Columns of a terminal that three tables side by side may take, and those of one number.
WIDTH, NUMBER = 100, 10


@dataclass(frozen=True, slots=True)
class OutputValue:
    """How a layer's output at one position came about. `dataclasses.asdict` of it is ready for JSON.

    Attributes:
        layer: its dotted name.
        kind: its class.
        at: the position, one index an axis.
        channel: o, the output channel.
        corner: where in the image the window begins; negative in the padding.
        reads: the input channels of the window, in the order of the tables.
        window, kernel, products: a table (*kernel) for each of them, nested lists.
        sums: of each table of products.
        bias: b[o], or None.
        total: bias and sums.
        given: what the layer itself gave.
    """

    layer: str
    kind: str
    at: list[int]
    channel: int
    corner: list[int]
    reads: list[int]
    window: list[Any]
    kernel: list[Any]
    products: list[Any]
    sums: list[float]
    bias: float | None
    total: float
    given: float

    def text(self, most: int = 3) -> str:
        """For a terminal; of many channels the `most` that weigh most are shown, the others as one sum."""
        order = sorted(range(len(self.reads)), key=lambda c: -abs(self.sums[c]))
        shown = sorted(order[:most])
        lines = [f"{self.layer} ({self.kind}), output channel {self.channel} at {tuple(self.at)}"]
        for c in shown:
            tables = {"window": self.window[c], "kernel": self.kernel[c], "products": self.products[c]}
            lines += [
                "",
                f"input channel {self.reads[c]}, window from {tuple(self.corner)}",
                *_tables(tables),
            ]
            lines += [f"  sum {self.sums[c]:.6g}"]
        rest = [self.sums[c] for c in order[most:]]
        lines += [""] + [f"{'channel ' + str(self.reads[c]):>24} {self.sums[c]:>14.6g}" for c in shown]
        lines += [f"{f'{len(rest)} other channels':>24} {sum(rest):>14.6g}"] if rest else []
        lines += [f"{'bias':>24} {self.bias:>14.6g}"] if self.bias is not None else []
        return "\n".join([*lines, *_ending(self.total, self.given, "the layer gave")])


@dataclass(frozen=True, slots=True)
class GradientEntry:
    """How one entry of a kernel's gradient came about. `dataclasses.asdict` of it is ready for JSON.

    Attributes:
        layer: its dotted name.
        kind: its class.
        entry: [o, c, *u], the entry of the layer's weight.
        residual: dL/dy of output channel o, a table (*out), nested lists.
        read: what tap u of input channel c read at each position; zero in the padding.
        products: of the two, position by position.
        total: their sum.
        given: what autograd gave.
    """

    layer: str
    kind: str
    entry: list[int]
    residual: Any
    read: Any
    products: Any
    total: float
    given: float

    def text(self, most: int = 8) -> str:
        """For a terminal; of many positions the `most` that weigh most are shown, the others as one sum."""
        lines = [f"{self.layer} ({self.kind}), gradient of kernel entry {tuple(self.entry)}", ""]
        products = torch.tensor(self.products, dtype=torch.float64)
        if products.numel() <= 64:
            tables = {"residual": self.residual, "read": self.read, "products": self.products}
            lines += _tables(tables)
        else:
            lines += self._largest(products, most)
        return "\n".join([*lines, "", *_ending(self.total, self.given, "autograd gave")])

    def _largest(self, products: Tensor, most: int) -> Iterator[str]:
        residual, read = (torch.tensor(t, dtype=torch.float64).flatten() for t in (self.residual, self.read))
        order = products.abs().flatten().argsort(descending=True, stable=True)
        yield f"{'position':>14} {'residual':>12} {'read':>12} {'product':>12}"
        for i in order[:most].tolist():
            position = tuple(int(j) for j in torch.unravel_index(torch.tensor(i), products.shape))
            yield f"{position!s:>14} {residual[i]:>12.4g} {read[i]:>12.4g} {products.flatten()[i]:>12.4g}"
        rest = products.flatten()[order[most:]]
        yield f"{f'{len(rest)} others':>14} {'':>25} {rest.sum():>12.4g}"


def output_value(
    model: nn.Module, layer: str, image: Tensor, *, at: Sequence[int], channel: int = 0
) -> OutputValue:
    """The computation of one output value of a convolution or linear layer.

    Args:
        model: any network; it is run once, in evaluation mode.
        layer: dotted name of the layer.
        image: what the network reads, without the axis of examples.
        at: position in the layer's output, one index an axis; empty for a linear layer.
        channel: output channel.

    Raises:
        LookupError: no such layer, or it is neither a convolution nor linear.
        ValueError: a position or channel that the layer does not have, or a layer that does not run once.
    """
    with _watching(model, layer) as runs, torch.no_grad():
        model(image[None])
    run = _only(runs, layer)
    _require_inside("channel", [channel], [len(run.kernels)])
    _require_inside("at", at, [a.out for a in run.axes])
    first = channel // (len(run.kernels) // run.groups) * run.kernels.shape[1]
    reads = list(range(first, first + run.kernels.shape[1]))
    window = _select(run.windows()[reads], at, 1)
    kernel = run.kernels[channel]
    products = window * kernel
    sums = products.flatten(1).sum(1) if products.ndim > 1 else products
    bias = None if run.bias is None else run.bias[channel].item()
    return OutputValue(
        layer,
        run.kind,
        list(at),
        channel,
        [i * a.stride - a.before for i, a in zip(at, run.axes, strict=True)],
        reads,
        window.tolist(),
        kernel.tolist(),
        products.tolist(),
        sums.tolist(),
        bias,
        sums.sum().item() + (bias or 0.0),
        _select(run.output[0, channel], at, 0).item(),
    )


def gradient_entry(
    model: nn.Module, layer: str, image: Tensor, loss: Callable[[Any], Tensor], *, entry: Sequence[int]
) -> GradientEntry:
    """The computation of one entry of the gradient of a layer's kernel.

    Args:
        model, layer, image: as in `output_value`.
        loss: what the network gave to the number that is differentiated.
        entry: which entry of the layer's weight: [o, c, *u].

    Raises:
        LookupError, ValueError: as `output_value` does, or the weight has no such entry.
    """
    with torch.enable_grad(), _watching(model, layer) as runs, _wanting(model.get_submodule(layer)):
        value = loss(model(image[None]))
        run = _only(runs, layer)
        residual, gradient = torch.autograd.grad(value, [run.output, run.weight])
    _require_inside("entry", entry, list(run.weight.shape))
    output, channel, *tap = entry
    reads = output // (len(run.kernels) // run.groups) * run.kernels.shape[1] + channel
    view = run.windows()[reads]
    read = _select(view, tap, view.ndim - len(tap))
    own = residual[0, output].double()
    products = own * read
    return GradientEntry(
        layer,
        run.kind,
        list(entry),
        own.tolist(),
        read.tolist(),
        products.tolist(),
        products.sum().item(),
        _select(gradient, entry, 0).item(),
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """A layer's run on one image: what it read and gave, and how its window slides."""

    kind: str
    image: Tensor  # (1, C, *spatial), float64
    output: Tensor  # (1, O, *out), with its graph
    weight: Tensor  # the layer's own
    bias: Tensor | None
    axes: tuple[Axis, ...]
    groups: int

    @property
    def kernels(self) -> Tensor:
        return self.weight.detach().double()

    def windows(self) -> Tensor:
        """(C, *out, *kernel)"""
        return windows(pad(self.image, [(a.before, a.after) for a in self.axes]), self.axes)[0]


@contextmanager
def _watching(model: nn.Module, layer: str) -> Iterator[list[_Run]]:
    """Collects the runs of a layer; the network is in evaluation mode meanwhile."""
    runs: list[_Run] = []
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    able = {name: part for name, part in model.named_modules() if isinstance(part, kinds)}
    if layer not in able:
        raise LookupError(unknown(layer, able, "convolution or linear layer"))

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        runs.append(_run(module, inputs[0], output))
        return output.clone()  # an activation in place would change what was kept

    training = [part for part in model.modules() if part.training]
    handle = able[layer].register_forward_hook(keep)
    model.eval()
    try:
        yield runs
    finally:
        handle.remove()
        for part in training:
            part.training = True


@contextmanager
def _wanting(module: nn.Module) -> Iterator[None]:
    """The layer's parameters want gradients, frozen or not, while the block runs."""
    frozen = [p for p in module.parameters() if not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _run(module: Any, image: Tensor, output: Tensor) -> _Run:
    kind = type(module).__name__
    weight, bias = module.weight, module.bias
    if image.shape[0] != 1 or image.ndim != weight.ndim:
        raise ValueError(f"a {kind} that reads {tuple(image.shape)} is not explained: one image is wanted")
    if isinstance(module, nn.Linear):
        return _Run(kind, image.detach().double(), output, weight, bias, (), 1)
    if module.padding_mode != "zeros":
        raise ValueError(f"padding_mode must be zeros to be explained, got {module.padding_mode!r}")
    sliding = axes(
        image.shape[2:],
        module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
    )
    return _Run(
        kind, image.detach().to(torch.float64, copy=True), output, weight, bias, sliding, module.groups
    )


def _only(runs: list[_Run], layer: str) -> _Run:
    if len(runs) != 1:
        raise ValueError(
            f"layer {layer!r} must run once for an image to be explained, it ran {len(runs)} times"
        )
    return runs[0]


def _require_inside(name: str, index: Sequence[int], sizes: Sequence[int]) -> None:
    if len(index) != len(sizes) or not all(0 <= i < n for i, n in zip(index, sizes, strict=True)):
        inside = ", ".join(f"0..{n - 1}" for n in sizes)
        got = f"got ({', '.join(map(str, index))})" if index else "and none is given"
        raise ValueError(f"{name} must lie in ({inside}), {got}")


def _select(values: Tensor, index: Sequence[int], axis: int) -> Tensor:
    for i in index:
        values = values.select(axis, i)
    return values


def _tables(tables: dict[str, Any]) -> list[str]:
    """Tables of numbers under their names, side by side where the terminal is wide enough."""
    printed = {name: _rows(table) for name, table in tables.items()}
    width = len(printed["products"][0])
    if width * len(tables) > WIDTH:
        return [line for name, rows in printed.items() for line in (f"  {name}", *rows)]
    heads = "".join(f"  {name:<{width}}" for name in printed)
    return [heads.rstrip(), *("  ".join(rows) for rows in zip(*printed.values(), strict=True))]


def _rows(table: Any) -> list[str]:
    if not isinstance(table, list):
        return [f"{table + 0.0:>{NUMBER}.3g}"]  # -0.0 reads as 0
    if table and isinstance(table[0], list):
        return [row for part in table for row in _rows(part)]
    return ["".join(row for value in table for row in _rows(value))]


def _ending(total: float, given: float, who: str) -> list[str]:
    lines = [f"{'total':>24} {total:>14.6g}", f"{who:>24} {given:>14.6g}"]
    return [*lines, f"{'apart by':>24} {abs(total - given):>14.2g}"]
