"""How far two tensors are apart, and whether a derived gradient is the derivative."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def assert_equal(ours: Tensor, theirs: Tensor, tolerance: float = 1e-10) -> None:
    """Same shape, and the largest difference at most `tolerance` of the largest magnitude."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    if ours.numel():
        difference, magnitude = (ours - theirs).abs().max(), theirs.abs().max()
        assert difference <= tolerance * magnitude, f"{difference:.3g} apart, at magnitude {magnitude:.3g}"


def by_autograd(f: Callable[..., Tensor], inputs: Sequence[Tensor], residual: Tensor) -> tuple[Tensor, ...]:
    """The gradients of `f` by PyTorch, for the residual of its value."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(f(*leaves), leaves, residual)


class _Derived(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Any, gradients: Any, *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        ctx.save_for_backward(*inputs)
        return value(*inputs)

    @staticmethod
    def backward(ctx: Any, residual: Tensor) -> tuple[Any, ...]:
        gradients = ctx.gradients(residual, *ctx.saved_tensors)
        return None, None, *(gradients if isinstance(gradients, tuple) else (gradients,))


def gradcheck(
    value: Callable[..., Tensor], gradients: Callable[..., Tensor | tuple[Tensor, ...]], *inputs: Tensor
) -> bool:
    """Whether `gradients(residual, *inputs)` are those of `value(*inputs)`, by differences of `value`."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.gradcheck(lambda *xs: _Derived.apply(value, gradients, *xs), leaves)
