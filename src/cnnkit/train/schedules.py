"""Schedules: the learning rate over a run, as a factor of its highest value.

A schedule is stretched to the run's length: what happens when is said as a share of the run, so that a recipe
made for 160 epochs keeps its form with 40. Only `exponential` counts epochs, as its papers do.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from cnnkit.parts import Part, named, setting


@dataclass(frozen=True, kw_only=True)
class Schedule(Part):
    """A learning rate over the run."""

    warmup: float = setting(0.0, "Share of the run in which it first rises linearly.", ge=0, lt=1)

    def factor(self, step: int, total: int, epochs: int) -> float:
        """The factor of the highest learning rate.

        Args:
            step: of the optimiser, from 0.
            total: steps of the run.
            epochs: of the run.
        """
        rise = round(self.warmup * total)
        if step < rise:
            return (step + 1) / rise
        done = min(1.0, (step - rise) / max(1, total - rise))
        return self.shape(done, epochs * (1 - rise / max(1, total)))

    @abstractmethod
    def shape(self, done: float, epochs: float) -> float:
        """The factor after the warm-up.

        Args:
            done: share of the steps after it that is over, 0 to 1.
            epochs: after it.
        """

    def over(self, total: int, epochs: int) -> Callable[[int], float]:
        """The factor as a function of the step."""
        return lambda step: self.factor(step, total, epochs)


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The same learning rate throughout."""

    name: ClassVar[str] = "constant"

    def shape(self, done: float, epochs: float) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    """Multiplied by gamma after every so many equal parts of the run, as the torchvision reference has it."""

    name: ClassVar[str] = "step"
    every: float = setting(1 / 3, "Share of the run between two drops.", gt=0, lt=1)
    gamma: float = setting(0.1, "What it is multiplied by.", gt=0, lt=1)

    def shape(self, done: float, epochs: float) -> float:
        """gamma to the number of drops so far."""
        return self.gamma ** int(min(done, 1 - 1e-9) / self.every + 1e-9)


@dataclass(frozen=True, kw_only=True)
class MultiStep(Schedule):
    """Multiplied by gamma at the milestones: a half and three quarters for He et al. 2016 on CIFAR."""

    name: ClassVar[str] = "multi_step"
    milestones: tuple[float, ...] = setting((0.5, 0.75), "Shares of the run.", gt=0, lt=1)
    gamma: float = setting(0.1, "What it is multiplied by.", gt=0, lt=1)

    def shape(self, done: float, epochs: float) -> float:
        """gamma to the number of milestones passed."""
        return self.gamma ** sum(done >= milestone for milestone in self.milestones)


@dataclass(frozen=True, kw_only=True)
class Polynomial(Schedule):
    """Down to 0 as (1 - t)^power; a straight line with power 1 (Chen et al. 2018 use 0.9)."""

    name: ClassVar[str] = "polynomial"
    power: float = setting(1.0, "Exponent.", gt=0)

    def shape(self, done: float, epochs: float) -> float:
        """(1 - done)^power"""
        return float((1 - done) ** self.power)


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Down along half a cosine (Loshchilov & Hutter 2017, 1608.03983, without restarts)."""

    name: ClassVar[str] = "cosine"
    final: float = setting(0.0, "Factor at the end.", ge=0, lt=1)

    def shape(self, done: float, epochs: float) -> float:
        """From 1 to `final`."""
        return self.final + (1 - self.final) * _half_cosine(done)


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """Up over the first part of the run and down to almost 0, along cosines (Smith 2018, 1803.09820)."""

    name: ClassVar[str] = "one_cycle"
    start: float = setting(0.04, "Factor at the start.", ge=0, le=1)
    rise: float = setting(0.3, "Share of the run in which it rises.", gt=0, lt=1)
    final: float = setting(0.0, "Factor at the end.", ge=0, lt=1)

    def shape(self, done: float, epochs: float) -> float:
        """From `start` to 1 to `final`."""
        if done < self.rise:
            return self.start + (1 - self.start) * _half_cosine(1 - done / self.rise)
        return self.final + (1 - self.final) * _half_cosine((done - self.rise) / (1 - self.rise))


@dataclass(frozen=True, kw_only=True)
class Triangle(Schedule):
    """Up and down along straight lines, as fast recipes for CIFAR-10 have it."""

    name: ClassVar[str] = "triangle"
    start: float = setting(0.2, "Factor at the start.", ge=0, le=1)
    rise: float = setting(0.23, "Share of the run in which it rises.", gt=0, lt=1)
    final: float = setting(0.07, "Factor at the end.", ge=0, lt=1)

    def shape(self, done: float, epochs: float) -> float:
        """From `start` to 1 to `final`."""
        if done < self.rise:
            return self.start + (1 - self.start) * done / self.rise
        return 1 + (self.final - 1) * (done - self.rise) / (1 - self.rise)


@dataclass(frozen=True, kw_only=True)
class Exponential(Schedule):
    """Multiplied by gamma after every so many epochs (0.97 and 2.4 in MnasNet and EfficientNet)."""

    name: ClassVar[str] = "exponential"
    gamma: float = setting(0.97, "What it is multiplied by.", gt=0, lt=1)
    every: float = setting(2.4, "Epochs between two drops.", gt=0)

    def shape(self, done: float, epochs: float) -> float:
        """gamma to the number of drops so far."""
        return self.gamma ** int(done * epochs / self.every)


def _half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


SCHEDULES: dict[str, type[Schedule]] = named(
    OneCycle, Cosine, Constant, Step, MultiStep, Polynomial, Triangle, Exponential
)
