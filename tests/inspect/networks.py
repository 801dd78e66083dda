"""Every registered network with inputs that fit it, and networks made of functions."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit import canon
from cnnkit.inspect.failure import TraceError
from cnnkit.inspect.table import Table
from cnnkit.inspect.trace import trace
from cnnkit.models import specs
from cnnkit.registry import Spec

SPECS = {spec.name: spec for spec in specs()}


class Chain(nn.Module):
    """Functions one after another."""

    def __init__(self, *functions: Callable[..., Tensor], uses: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.functions = functions
        self.parts = nn.ModuleList([*(f for f in functions if isinstance(f, nn.Module)), *uses])

    def forward(self, x: Tensor) -> Tensor:
        for function in self.functions:
            x = function(x)
        return x


def example(spec: Spec, *, batch: int = 1, device: str = "meta") -> tuple[Any, ...]:
    """Inputs of the published size."""
    return (torch.zeros(batch, *canon.entry(spec.canon, spec.name).input, device=device),)


def built(spec: Spec, **overrides: Any) -> nn.Module:
    """The network on the meta device."""
    with torch.device("meta"):
        return spec.build(**overrides)


def smallest(spec: Spec) -> tuple[nn.Module, Tensor]:
    """The network, as narrow as changes nothing but its channels, and the smallest image that it takes."""
    model, (channels, side, _) = built(spec), canon.entry(spec.canon, spec.name).input
    for size in sorted({min(n, side) for n in (64, 96, 188, 256, 384, side)}):
        images = torch.zeros(1, channels, size, size, device="meta")
        try:
            shape = anatomy(model, images)
        except TraceError:
            continue
        for width in (1 / 16, 1 / 8, 1 / 4):
            try:
                narrow = built(spec, width=width)
                if anatomy(narrow, images) == shape:
                    return narrow, images
            except (TypeError, ValueError, RuntimeError, UserWarning):  # it has no width, or not this one
                continue
        return model, images
    raise AssertionError(f"{spec.name} takes no image")


def anatomy(model: nn.Module, images: Tensor) -> tuple[Any, ...]:
    """What decides the receptive fields; numbers of channels do not."""
    return tuple(
        (node.op, str(node.args[3:7]) if "conv" in node.op else "", *(v.shape[2:] for v in node.data))
        for node in trace(model, images).nodes
    )


def figures(made: Table) -> list[tuple[Any, ...]]:
    """All that a table says."""
    return [
        (
            *(
                row.path,
                row.kind,
                row.level,
                [tuple(out.shape) for out in row.outs],
                row.params,
                row.trainable,
            ),
            *(row.macs, row.other, row.activations, row.moved, row.spans, row.local, row.note),
        )
        for row in made.rows
    ]
