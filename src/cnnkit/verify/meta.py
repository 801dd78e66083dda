"""Networks on the meta device: built, run and counted without memory or arithmetic."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from cnnkit import inspect
from cnnkit.registry import Spec

aten = torch.ops.aten
ACTIVATIONS = {aten.relu.default, aten.hardtanh.default, aten.silu.default, aten.sigmoid.default}
NORMS = {aten.native_batch_norm.default}


class SameShape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers activations and batch norms by the shape that they read.

    PyTorch has checked their arguments by then; its own answers take longer than those of all the rest.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ACTIVATIONS:
            return torch.empty_like(args[0])
        if func in NORMS:
            return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        return func(*args, **(kwargs or {}))


def on_meta(spec: Spec) -> nn.Module:
    """The network in evaluation mode on the meta device."""
    with torch.device("meta"):
        return spec.build().eval()


def torch_macs(network: nn.Module, images: Tensor) -> int:
    """Multiply-adds of convolutions and matrix products in one forward, by torch's own counter."""
    with FlopCounterMode(display=False) as counter, SameShape():
        network(images)
    return counter.get_total_flops() // 2


#: Independent ways to count, which must agree.
MAC_COUNTERS: dict[str, Callable[[nn.Module, Tensor], int]] = {
    "torch's flop counter": torch_macs,
    "cnnkit inspect": inspect.macs,
}
