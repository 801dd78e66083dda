"""Activations y = f(z) and how a residual passes them.

The residual of a layer is delta = dL/dy. Below the activation it is, by the chain rule,

    dL/dz = delta * f'(z),

entry by entry. Where f' can be said in terms of y, as for the sigmoid (f' = y (1 - y)), the backward function
takes the values y, so that a network need not keep z as well. All take and return tensors of any one shape.
"""

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float


def sigmoid(z: Tensor) -> Tensor:
    """1 / (1 + exp(-z)).

    Raises:
        ValueError: z is not of floating point, as everywhere in this file.
    """
    require_float(z=z)
    return 1 / (1 + torch.exp(-z))


def sigmoid_backward(residual: Tensor, values: Tensor) -> Tensor:
    """delta * y (1 - y), y being the sigmoid's values."""
    require_float(residual=residual, values=values)
    return residual * values * (1 - values)


def tanh(z: Tensor) -> Tensor:
    """(1 - exp(-2z)) / (1 + exp(-2z)), which is 2 sigmoid(2z) - 1.

    It is computed for |z| and given z's sign: the exponential then cannot overflow, and `expm1` keeps the
    digits that the subtraction from 1 would lose near zero.
    """
    require_float(z=z)
    less_one = torch.expm1(-2 * z.abs())  # exp(-2|z|) - 1
    return torch.copysign(-less_one / (2 + less_one), z)


def tanh_backward(residual: Tensor, values: Tensor) -> Tensor:
    """delta * (1 - y^2), y being tanh's values."""
    require_float(residual=residual, values=values)
    return residual * (1 - values * values)


def scaled_tanh(z: Tensor, *, amplitude: float = 1.7159, slope: float = 2 / 3) -> Tensor:
    """A tanh(S z), LeCun et al. 1998, Eq. 6 and appendix A; with their constants f(1) = 1 and f(-1) = -1."""
    require_float(z=z)
    return amplitude * tanh(slope * z)


def scaled_tanh_backward(
    residual: Tensor, values: Tensor, *, amplitude: float = 1.7159, slope: float = 2 / 3
) -> Tensor:
    """delta * A S (1 - (y / A)^2), y being the scaled tanh's values."""
    return amplitude * slope * tanh_backward(residual, values / amplitude)


def relu(z: Tensor, *, ceiling: float = float("inf")) -> Tensor:
    """min(max(0, z), ceiling): the rectifier, and with `ceiling=6` the ReLU6 of the MobileNets."""
    require_float(z=z)
    return z.clamp(min=0, max=ceiling)


def relu_backward(residual: Tensor, values: Tensor, *, ceiling: float = float("inf")) -> Tensor:
    """delta [0 < y < ceiling]; at the two corners, where f has no derivative, 0 is taken."""
    require_float(residual=residual, values=values)
    return residual * ((values > 0) & (values < ceiling))


def silu(z: Tensor) -> Tensor:
    """z sigmoid(z), also called swish: the activation of EfficientNet."""
    require_float(z=z)
    return z * sigmoid(z)


def silu_backward(residual: Tensor, z: Tensor) -> Tensor:
    """delta * s (1 + z (1 - s)), s = sigmoid(z). Several z have one y, so this one takes z."""
    require_float(residual=residual)
    slope = sigmoid(z)
    return residual * slope * (1 + z * (1 - slope))
