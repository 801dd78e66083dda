"""What is minimised: parts of a recipe, one or several whose sum counts.

A loss takes logits (N, K) of images with labels (N,), or logits (N, K, ...) of pixels with labels (N, ...),
and gives a mean over what counts. Pixels whose label is `IGNORED` count nowhere; where nothing counts, a loss
is 0 and its gradient too. Whole images are never ignored: there 255 is a class like any other.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from cnnkit.errors import Failure, Misuse
from cnnkit.parts import Part, named, setting
from cnnkit.registry import unknown

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Loss(Part, ABC):
    """What is minimised.

    Attributes:
        of_pixels: whether it takes logits of pixels, and not of whole images alone.
    """

    of_pixels: ClassVar[bool] = True
    weight: float = setting(1.0, "What it counts where several are added up.", gt=0)

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean loss.

        Args:
            labels: class numbers of any integer type; for images also probabilities, as mixed ones have them.
            weights: what each pixel counts, where `weigh` makes such a map.

        Shape: (N, K, ...), (N, ...) or (N, K), (N, ...) -> ()
        """

    def check(self, classes: int) -> None:
        """Refuse settings that are not for so many classes.

        Raises:
            Misuse: naming the setting.
        """

    def resolved(self, frequencies: Callable[[], Sequence[float]]) -> Self:
        """The same with the numbers filled in that come from the data.

        Args:
            frequencies: gives how frequent each class is in the training part: its pixels over all pixels of
                the images that have it; 0 where no image has it.
        """
        return self

    def weigh(self, classes: Sequence[str]) -> Callable[[Tensor], Tensor] | None:
        """What makes a map of pixels' weights of their labels, or None where there is no need of one.

        Shape of the function: (N, H, W) -> (N, H, W) float32

        Raises:
            Misuse: a class that was named is none of these.
        """
        return None

    def __str__(self) -> str:
        settings = dataclasses.fields(self)
        changed = [(f.name, getattr(self, f.name)) for f in settings if getattr(self, f.name) != f.default]
        return f"{self.name} ({', '.join(f'{k} {v}' for k, v in changed)})" if changed else self.name


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Loss):
    """-log p of the right class; classes and the borders between cells may weigh more.

    Balance by median frequency is that of Eigen & Fergus 2015, 1411.4734, as SegNet has it (1511.00561): the
    median of the classes' frequencies over the class's own. A weighted mean is over the sum of the weights,
    as torch has it. The map of borders is U-Net's (`tasks/border.py`), with these weights of the classes in
    it; the mean is then over the number of pixels that count, where the paper's eq. 1 is a sum.
    """

    name: ClassVar[str] = "cross_entropy"
    balance: Literal["none", "median_frequency"] = setting("none", "How rare classes are made to count.")
    weights: tuple[float, ...] | None = setting(None, "What each class counts. [as balance says]", ge=0)
    border: float = setting(0.0, "w0: what pixels between two cells count more; 10 in U-Net.", ge=0)
    sigma: float = setting(5.0, "How far that reaches, in pixels.", gt=0)
    foreground: str = setting("", "The class whose connected pieces are the cells. [the last]")

    def __call__(
        self, logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, smoothing: float = 0.0
    ) -> Tensor:
        """The mean cross-entropy.

        Args:
            smoothing: share of the target that is spread over all classes.

        Raises:
            ValueError: the weights of the classes are not there yet, or not one a class.
        """
        from torch.nn.functional import cross_entropy

        from cnnkit.data.masks import IGNORED

        logits = logits if logits.ndim == 2 else _wide(logits)
        balance = self._of_classes(logits)
        if logits.ndim == 2:
            target = labels if labels.is_floating_point() else labels.long()
            loss = cross_entropy(logits, target, balance, label_smoothing=smoothing)
            if balance is not None and labels.is_floating_point():  # torch divides it by the images alone
                loss = loss * len(labels) / (labels @ balance).sum()
            return loss
        target, counted = labels.long(), labels != IGNORED
        if weights is not None:
            each = cross_entropy(
                logits, target, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing
            )
            return (each * weights).sum() / counted.sum().clamp(min=1)
        loss = cross_entropy(
            logits, target, balance, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
        )
        whole = counted.sum()
        if balance is not None:
            whole = balance[target.masked_fill(~counted, 0)].masked_fill(~counted, 0).sum()
        return loss / (whole + (whole == 0))

    def _of_classes(self, logits: Tensor) -> Tensor | None:
        if self.weights is None:
            if self.balance != "none":
                raise ValueError(f"cross_entropy has no weights yet: resolved finds the {self.balance}")
            return None
        if len(self.weights) != logits.shape[1]:
            raise ValueError(
                f"cross_entropy needs a weight for each of {logits.shape[1]} classes, got {len(self.weights)}"
            )
        return logits.new_tensor(self.weights)

    def check(self, classes: int) -> None:
        """Weights are one a class."""
        _require_one_each(self, "weights", self.weights, classes)

    def resolved(self, frequencies: Callable[[], Sequence[float]]) -> Self:
        """With the weights of the classes; those that were given stay. A class that no image has gets 1.

        Raises:
            Failure: no image has any class.
        """
        if self.balance == "none" or self.weights is not None:
            return self
        found = frequencies()
        if not any(found):
            raise Failure("the classes cannot be balanced: no pixel of the training part counts")
        middle = median([f for f in found if f > 0])
        return replace(self, weights=tuple(middle / f if f > 0 else 1.0 for f in found))

    def weigh(self, classes: Sequence[str]) -> Callable[[Tensor], Tensor] | None:
        """The map of borders, where they are to count more."""
        if not self.border:
            return None
        from cnnkit.tasks.border import border_weights

        foreground = self.foreground or classes[-1]
        if foreground not in classes:
            raise Misuse(f"loss cross_entropy: foreground: {unknown(foreground, list(classes), 'class')}")
        return partial(
            border_weights,
            cells=list(classes).index(foreground),
            classes=self.weights or (1.0,) * len(classes),
            border=self.border,
            sigma=self.sigma,
        )


@dataclass(frozen=True, kw_only=True)
class SquaredError(Loss):
    """Squared distance of the logits to targets +1 and -1, as the networks of the 1980s had it; of images."""

    name: ClassVar[str] = "squared_error"
    of_pixels: ClassVar[bool] = False

    def __call__(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean over images and classes.

        Raises:
            ValueError: the logits are those of pixels.
        """
        from torch.nn import functional

        if logits.ndim != 2:
            raise ValueError(f"squared_error is for whole images, got logits of shape {tuple(logits.shape)}")
        rows = labels if labels.ndim == 2 else functional.one_hot(labels.long(), logits.shape[1])
        return functional.mse_loss(logits, 2.0 * rows - 1.0)


@dataclass(frozen=True, kw_only=True)
class Dice(Loss):
    """1 - D, D the overlap of probabilities and labels, of all classes alike however few their pixels.

    D = 2 sum p g / (sum p^2 + sum g^2) is V-Net's, with squares below the line (Milletari et al. 2016,
    1606.04797). The sums are over all pixels of the batch that count, the mean is over the classes that its
    labels have. A map of weights changes nothing here.
    """

    name: ClassVar[str] = "dice"
    smooth: float = setting(1.0, "Added above and below the line: rare classes swing less.", ge=0)

    def __call__(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """1 - the mean of D."""
        import torch

        from cnnkit.data.masks import IGNORED

        p = _wide(logits).softmax(dim=1)
        if labels.is_floating_point():
            g = labels
        elif logits.ndim == 2:
            g = torch.zeros_like(p).scatter_(1, labels.long()[:, None], 1)
        else:
            counted = (labels != IGNORED)[:, None]
            target = labels.long()[:, None].masked_fill(~counted, 0)
            g = torch.zeros_like(p).scatter_(1, target, counted.to(p.dtype))
            p = p * counted
        over = [d for d in range(p.ndim) if d != 1]
        there = g.sum(over) > 0
        below = p.square().sum(over) + g.square().sum(over) + self.smooth
        overlap = (2 * (p * g).sum(over) + self.smooth) / below.masked_fill(~there, 1)
        return (1 - overlap).masked_fill(~there, 0).sum() / there.sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Focal(Loss):
    """-alpha (1 - p)^gamma log p of the right class: what is easy counts little.

    Lin et al. 2017, 1708.02002, eq. 4 and 5, with softmax in the place of sigmoids. The mean is over all
    pixels that count; the paper, whose examples are boxes, divides by the number of those with an object.
    """

    name: ClassVar[str] = "focal"
    gamma: float = setting(2.0, "How much less easy examples count; 0 is cross-entropy.", ge=0)
    alpha: tuple[float, ...] | None = setting(None, "What each class counts. [1]", ge=0)

    def check(self, classes: int) -> None:
        """Alpha is one number a class."""
        _require_one_each(self, "alpha", self.alpha, classes)

    def __call__(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean.

        Raises:
            ValueError: labels are probabilities, or alpha is not one number a class.
        """
        import torch
        from torch.nn.functional import cross_entropy

        from cnnkit.data.masks import IGNORED

        if labels.is_floating_point():
            raise ValueError("focal takes class numbers, not the probabilities that mixed images have")
        logits, target = _wide(logits), labels.long()
        counted = labels != IGNORED if logits.ndim > 2 else torch.ones_like(labels, dtype=torch.bool)
        surprise = cross_entropy(
            logits, target, ignore_index=IGNORED if logits.ndim > 2 else -1, reduction="none"
        )
        missing = -torch.expm1(-surprise)  # 1 - p
        each = missing.clamp(min=torch.finfo(missing.dtype).tiny) ** self.gamma * surprise
        if self.alpha is not None:
            if len(self.alpha) != logits.shape[1]:
                raise ValueError(
                    f"focal needs an alpha for each of the {logits.shape[1]} classes, got {len(self.alpha)}"
                )
            each = each * logits.new_tensor(self.alpha)[target.masked_fill(~counted, 0)]
        if weights is not None:
            each = each * weights
        return each.sum() / counted.sum().clamp(min=1)


def total(
    losses: Sequence[Loss],
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """The losses added up, each with its weight.

    Args:
        weights: what each pixel counts, where `weigh` of one of them makes such a map.
        smoothing: for cross-entropy, which alone has it.

    Shape: (N, K, ...), (N, ...) or (N, K), (N, ...) -> ()

    Raises:
        ValueError: there is no loss.
    """
    if not losses:
        raise ValueError("there is no loss to minimise")
    found = logits.new_zeros(())
    for loss in losses:
        extra = {"smoothing": smoothing} if isinstance(loss, CrossEntropy) else {}
        found = found + loss.weight * loss(logits, labels, weights, **extra)
    return found


def _require_one_each(loss: Loss, name: str, numbers: Sequence[float] | None, classes: int) -> None:
    if numbers is not None and len(numbers) != classes:
        raise Misuse(
            f"loss {loss.name}: {name} needs a number for each of {classes} classes, got {len(numbers)}"
        )


def _wide(logits: Tensor) -> Tensor:
    """Logits in which a sum over millions of pixels keeps its digits."""
    return logits if logits.dtype.itemsize >= 4 else logits.float()


LOSSES: dict[str, type[Loss]] = named(CrossEntropy, SquaredError, Dice, Focal)
