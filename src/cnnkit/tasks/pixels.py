"""How well a segmenter did: pixels counted by their true and predicted class, and borders matched.

Pixels whose label is `IGNORED` count nowhere, and where they touch another pixel there is no border.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnkit.data.masks import IGNORED
from cnnkit.errors import Failure

#: How far a border may be from where it should be, as a share of the image's diagonal.
TOLERANCE = 0.0075

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class PixelScores:
    """How well a segmenter did on one part.

    With n_ij pixels of class i that were called j, t_i of class i and p_i called i, all counted over the
    whole part, class i has the IoU n_ii / (t_i + p_i - n_ii), as PASCAL VOC and Long et al. 2015, 1411.4038,
    section 5, have it. A figure that would be divided by nothing is 0.

    Attributes:
        classes: class names.
        loss: mean over the images in which a pixel counts.
        confusion: n, (true class, predicted class).
        pixels: of each image and class: n_ii, p_i, t_i. Shape: (N, K, 3)
        borders: of each image and class, pixels on the predicted border, those of them that are right, pixels
            on the true border, those of them that were found. Shape: (N, K, 4)
    """

    classes: Sequence[str]
    loss: float
    confusion: Tensor
    pixels: Tensor
    borders: Tensor

    @property
    def accuracy(self) -> float:
        """Share of the pixels that are right."""
        return int(self.confusion.trace()) / int(self.confusion.sum())

    @property
    def class_accuracy(self) -> float:
        """Share of a class's pixels that are right, the mean over the classes that occur."""
        right, _, true = self._counts()
        return _mean(right / true, true > 0)

    @property
    def miou(self) -> float:
        """IoU from the pixels of the whole part: the mean over the classes in truth or prediction."""
        right, predicted, true = self._counts()
        return _mean(_iou(right, predicted, true), predicted + true > 0)

    @property
    def fwiou(self) -> float:
        """IoU, the mean over the classes weighted with the true pixels of each."""
        right, predicted, true = self._counts()
        return float((true * _iou(right, predicted, true)).nansum() / true.sum())

    @property
    def boundary_f1(self) -> float:
        """F1 of the borders: of an image the mean over its classes, then the mean over the images.

        Csurka et al., BMVC 2013: a border pixel is right where the same class has a border pixel in the
        other mask less than 0.75 % of the diagonal away (strictly, which is ours). A class
        counts in an image where it has a border in truth or prediction.
        """
        found, there = _border_f1(self.borders)
        each = (found * there).sum(1) / there.sum(1)
        return _mean(each, there.any(1))

    def _counts(self) -> tuple[Tensor, Tensor, Tensor]:
        n = self.confusion.double()
        return n.diagonal(), n.sum(0), n.sum(1)

    def image_iou(self) -> Tensor:
        """IoU of each class in each image; NaN where the class is in neither truth nor prediction.

        Shape: (N, K) float64
        """
        return _iou(*self.pixels.double().unbind(2))

    def image_miou(self) -> Tensor:
        """The mean of them in each image; NaN where no pixel counts. Shape: (N,) float64"""
        return self.image_iou().nanmean(1)

    def per_class(self) -> list[dict[str, Any]]:
        """True pixels, precision, recall (which is the class's accuracy), F1, IoU, F1 of its borders."""
        right, predicted, true = self._counts()
        borders, there = _border_f1(self.borders)
        columns = [
            right / predicted,
            right / true,
            2 * right / (predicted + true),
            _iou(right, predicted, true),
            (borders * there).sum(0) / there.sum(0),
        ]
        names = ("precision", "recall", "f1", "iou", "boundary_f1")
        values = torch.stack(columns, 1).nan_to_num(0).tolist()
        return [
            {"class": name, "pixels": int(n), **dict(zip(names, row, strict=True))}
            for name, n, row in zip(self.classes, true.tolist(), values, strict=True)
        ]

    def to_json(self) -> dict[str, float]:
        """The summary that is stored and printed: mIoU first."""
        names = ("miou", "accuracy", "class_accuracy", "fwiou", "boundary_f1", "loss")
        return {name: getattr(self, name) for name in names}


def rows(predicted: Tensor, labels: Tensor, loss: Tensor, classes: int) -> tuple[Tensor, ...]:
    """What is counted of images, a row an image.

    Args:
        loss: mean loss of each image.
        classes: K, how many there are.

    Returns:
        Confusion (N, K, K), loss (N,), and borders (N, K, 4) as `PixelScores` has them.

    Shape: (N, H, W) uint8, twice

    Raises:
        ValueError: a pixel that counts has a label, or was called something, that is none of the classes.
    """
    predicted, labels = predicted.cpu(), labels.cpu()
    counted = labels != IGNORED
    for what, values in (("label", labels[counted]), ("prediction", predicted[counted])):
        if len(values) and int(values.max()) >= classes:
            raise ValueError(f"a pixel has the {what} {int(values.max())}, but there are {classes} classes")
    predicted = predicted.where(counted, IGNORED)
    places = torch.arange(len(labels))[:, None, None] * classes + labels
    cells = (places * classes + predicted)[counted]
    confusion = cells.bincount(minlength=len(labels) * classes**2).view(-1, classes, classes)
    borders = [
        _matches(ours, theirs, classes)
        for ours, theirs in zip(predicted.numpy(), labels.numpy(), strict=True)
    ]
    return confusion, loss.cpu(), torch.from_numpy(np.stack(borders))


def score(classes: Sequence[str], rows: Iterable[tuple[Tensor, ...]]) -> PixelScores:
    """Score what `rows` counted, in the order of the part.

    Raises:
        Failure: there is no pixel that counts.
    """
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    losses, pixels, borders = [], [], []
    for found, loss, matched in rows:
        confusion += found.sum(0)
        counts = [found.diagonal(dim1=1, dim2=2), found.sum(1), found.sum(2)]
        pixels.append(torch.stack(counts, 2))
        losses.append(loss)
        borders.append(matched)
    if not int(confusion.sum()):
        raise Failure("there is no pixel to score: there are no images, or all of their pixels are ignored")
    counts_, each = torch.cat(pixels), torch.cat(losses).double()
    here = counts_[:, :, 2].sum(1) > 0
    return PixelScores(classes, float(each[here].mean()), confusion, counts_, torch.cat(borders))


def _iou(right: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    return right / (predicted + true - right)


def _mean(values: Tensor, there: Tensor) -> float:
    return float(values[there].mean()) if there.any() else 0.0


def _border_f1(borders: Tensor) -> tuple[Tensor, Tensor]:
    """F1 of the borders of a class in an image, and whether it has any. Shape: (N, K, 4) -> (N, K), twice"""
    predicted, right, true, found = borders.double().unbind(2)
    precision, recall = right / predicted.clamp(min=1), found / true.clamp(min=1)
    below = precision + recall
    return 2 * precision * recall / (below + (below == 0)), predicted + true > 0


def _matches(predicted: Bytes, labels: Bytes, classes: int) -> NDArray[np.int64]:
    """Pixels on the borders of each class, and how many of them have their like. Shape: (H, W) -> (K, 4)"""
    height, width = labels.shape
    ours, theirs = _borders(predicted), _borders(labels)
    reach = TOLERANCE**2 * (height**2 + width**2)
    return np.stack([*_near(ours, theirs, reach, classes), *_near(theirs, ours, reach, classes)], 1)


def _borders(classes: Bytes) -> Bytes:
    """The class of a pixel that has a neighbour of another one above, below, left or right, else IGNORED."""
    on = np.zeros(classes.shape, bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        a, b = classes[one], classes[other]
        differ = (a != b) & (a != IGNORED) & (b != IGNORED)
        on[one] |= differ
        on[other] |= differ
    return np.where(on, classes, np.uint8(IGNORED))


def _near(
    borders: Bytes, others: Bytes, reach: float, classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each class, its border pixels and those that have a pixel of the other border within reach.

    The other border is looked at from every pixel in the order of the distance, until its like is found: most
    find it at once, and what it takes does not grow with the number of classes.
    """
    offsets = _offsets(reach)
    rim = int(np.abs(offsets).max())
    framed = np.pad(others, rim, constant_values=IGNORED)
    down, across = (borders != IGNORED).nonzero()
    kinds = borders[down, across]
    whole = np.bincount(kinds, minlength=classes)
    places = (down + rim) * framed.shape[1] + across + rim
    around = framed.ravel()
    for step in (offsets @ [framed.shape[1], 1]).tolist():
        alone = around.take(places + step) != kinds
        places, kinds = places[alone], kinds[alone]
        if not len(places):
            break
    return whole, whole - np.bincount(kinds, minlength=classes)


@cache
def _offsets(reach: float) -> NDArray[np.int64]:
    """Steps (down, across) whose squared length is below `reach`, the shortest first; none at least."""
    side = int(reach**0.5)
    steps = np.mgrid[-side : side + 1, -side : side + 1].reshape(2, -1).T
    squared = np.square(steps).sum(1)
    order = squared.argsort(kind="stable")
    return steps[order][(squared[order] < reach) | (squared[order] == 0)]
