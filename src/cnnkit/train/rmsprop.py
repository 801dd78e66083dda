"""RMSprop in TensorFlow's form."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class RMSpropTensorFlow(Optimizer):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5) as `tf.compat.v1.train.RMSPropOptimizer` computes it.

    s = alpha s + (1 - alpha) g^2, s_0 = 1;  v = momentum v + lr g / sqrt(s + eps);  w = w - v.

    Differs from `torch.optim.RMSprop` in the place of eps, in s_0 = 1, and in the learning rate inside the
    momentum, which matters where a schedule changes it. `weight_decay` adds to the gradient.

    Args:
        groups: parameters, or groups of them.
        lr: learning rate.
        alpha: memory of the mean square.
        momentum: memory of the step.
        eps: inside the root.
    """

    def __init__(
        self, groups: Iterable[Any], *, lr: float, alpha: float, momentum: float, eps: float
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "momentum": momentum, "eps": eps, "weight_decay": 0.0}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the closure's loss, where there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] = {"square": torch.ones_like(weight), "step": torch.zeros_like(weight)}
            squares = [self.state[w]["square"] for w in weights]
            steps = [self.state[w]["step"] for w in weights]
            gradients = [w.grad for w in weights]
            if group["weight_decay"]:
                gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
            torch._foreach_mul_(squares, group["alpha"])
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["alpha"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(steps, group["momentum"])
            torch._foreach_addcdiv_(steps, gradients, roots, value=group["lr"])
            torch._foreach_sub_(weights, steps)
        return loss
