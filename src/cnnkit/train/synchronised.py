"""Batch norm over the whole batch where several processes share it.

PyTorch's own `SyncBatchNorm` computes on GPUs only. On a CPU the same sums are added up over the processes
here, first of the values and then of their squared distances from the common mean; gradients flow back
through both.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist


class _Summed(torch.autograd.Function):
    """A tensor added up over the processes; each one's gradient is the sum of all, as each used the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class OnCpu(nn.BatchNorm2d):
    """Batch norm over the images of all processes. Shape: (N, C, ...), kept"""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise by the mean and the variance over all processes; in evaluation by the running ones."""
        if not self.training:
            return super().forward(input)
        others = [0, *range(2, input.ndim)]
        shape = (1, -1, *(1 for _ in others[1:]))
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        here = x.new_full((1,), x.numel() / x.shape[1])
        total, count = _Summed.apply(torch.cat([x.sum(others), here])).split([x.shape[1], 1])
        mean = total / count
        centred = x - mean.view(shape)
        variance = _Summed.apply(centred.square().sum(others)) / count
        self._track(mean.detach(), (variance * count / (count - 1)).detach())
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.num_batches_tracked is None or self.running_mean is None or self.running_var is None:
            return  # made without running ones
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def synchronised(network: nn.Module, device: str) -> nn.Module:
    """The same network with synchronised batch norms for that device; names and weights stay."""
    if torch.device(device).type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.__class__ = OnCpu  # the state is the same
    return network
