"""What an augmentation is: a part of a recipe, and a random change to a batch of images.

Nothing in the declarations of the classes needs torch, so that a recipe is read and checked without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from cnnkit.parts import Part

if TYPE_CHECKING:
    from torch import Generator, Tensor

#: What is drawn from: least and most.
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Augmentation(Part, ABC):
    """A random change to training images; every image of a batch has draws of its own.

    Attributes:
        channels: numbers of channels that it takes.
        for_masks: whether masks can follow it.
    """

    channels: ClassVar[tuple[int, ...]] = (1, 3)
    for_masks: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Changed images; all that is random is drawn from the generator.

        Shape: (N, C, H, W) uint8, kept; colours in the order RGB.
        """

    def pair(self, images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Images and their masks changed by the same draws: masks follow where images move, and only there.

        Shape: (N, C, H, W) and (N, H, W) uint8, kept. What comes into a mask from outside is IGNORED where
        the image turns black there.
        """
        return self(images, generator), masks

    def resolved(self, pixels: Callable[[], Tensor], mean: Sequence[float]) -> Self:
        """The same with the numbers filled in that come from the data.

        Args:
            pixels: gives images of the training part at the network's size, (N, C, H, W) uint8, in RGB.
            mean: the preprocessing's mean of each channel in [0, 1], in RGB.
        """
        return self

    def __str__(self) -> str:
        given = [f"{name} {_words(value)}" for name, value in self.plain().items() if name != "name"]
        return f"{self.name} ({', '.join(given)})" if given else self.name


def replaced(images: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """A copy in which the chosen images, (N,) bool, are changed. Shape: (N, ...), kept

    The images go back through NumPy, which copies them whole; torch's indexing does so value by value, ten
    times as slowly.
    """
    which = chosen.nonzero()[:, 0]
    made = images.clone()
    made.numpy()[which.numpy()] = change(images.index_select(0, which)).numpy()
    return made


def _words(value: Any) -> str:
    if isinstance(value, tuple | list):
        return (" to " if len(value) == 2 else " ").join(map(_words, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
