"""When carried-over weights begin to learn, as parts of a recipe.

Weights stand in levels: the layer that makes the logits, what is between it and the last stage, then stage by
stage down to the first.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from cnnkit.parts import Part, named, setting


@dataclass(frozen=True, kw_only=True)
class Unfreezing(Part):
    """Which levels learn in which epoch."""

    @abstractmethod
    def awake(self, epoch: int, levels: int) -> int:
        """How many of the levels, counted from the head, learn in an epoch, counted from 0."""


@dataclass(frozen=True, kw_only=True)
class HeadFirst(Unfreezing):
    """The head alone learns first, then everything."""

    name: ClassVar[str] = "head_first"
    epochs: int = setting(3, "Epochs of the head alone.", ge=1)

    def awake(self, epoch: int, levels: int) -> int:
        """1, then all."""
        return 1 if epoch < self.epochs else levels


@dataclass(frozen=True, kw_only=True)
class Gradual(Unfreezing):
    """The head learns first, and one more level from the top after every few epochs (ULMFiT, 1801.06146)."""

    name: ClassVar[str] = "gradual"
    every: int = setting(1, "Epochs between two levels.", ge=1)

    def awake(self, epoch: int, levels: int) -> int:
        """1 more every so many epochs."""
        return min(levels, 1 + epoch // self.every)


UNFREEZINGS: dict[str, type[Unfreezing]] = named(HeadFirst, Gradual)
