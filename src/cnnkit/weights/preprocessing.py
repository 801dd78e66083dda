"""How an image becomes the tensor that a network was trained on: facts, kept beside the weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Fit = Literal["crop", "squash", "pad"]
Channels = Literal["L", "RGB", "BGR"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What happens to an image before the first layer.

    Attributes:
        size: height and width of the network's input.
        fit: how an image of another shape gets there. `crop` scales its short side to size / keep and takes
            the centre; `squash` scales both sides; `pad` centres it on black, scaling it down only where it
            is larger.
        keep: the share of the scaled short side that `crop` keeps.
        interpolation: `bilinear`, `bicubic` or `nearest`, as Pillow computes them (with antialiasing).
        mean: a value a channel, of pixels in [0, 1], that is subtracted.
        std: a value a channel that is divided by.
        channels: the order of the channels; `L` is grey.
    """

    size: tuple[int, int]
    fit: Fit = "crop"
    keep: float = 0.875
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels: Channels = "RGB"

    def __post_init__(self) -> None:
        count = 1 if self.channels == "L" else 3
        if not len(self.mean) == len(self.std) == count:
            raise ValueError(
                f"{self.channels} has {count} channel(s), got mean {self.mean} and deviation {self.std}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The record that `to_dict` was made of, whether it went through TOML or JSON."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Bytes to what the network reads: (N, C, H, W) uint8 -> the same shape, float32."""
        import torch  # late: a record of preprocessing is read by commands that need no torch

        mean, std = (
            torch.tensor(values, device=pixels.device).view(-1, 1, 1) for values in (self.mean, self.std)
        )
        return (pixels.float() - 255 * mean) / (255 * std)
