"""What every operator asks of its tensors before it computes: floating point, and shapes that fit."""

from collections.abc import Sequence

from torch import Tensor


def require_float(**tensors: Tensor | None) -> None:
    """Refuse integers and booleans: the arithmetic divides and rounds as real numbers do.

    Raises:
        ValueError: one of the named tensors is not of floating point.
    """
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(
                f"{name} must be of floating point, got {tensor.dtype}; convert with .to(torch.float32)"
            )


def require_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """Refuse a tensor of another shape, so that nothing is broadcast by accident.

    Raises:
        ValueError: the shape differs.
    """
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
