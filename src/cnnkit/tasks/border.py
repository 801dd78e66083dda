"""U-Net's map of weights, which makes a network learn the thin borders between cells.

    w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2))

Ronneberger, Fischer & Brox, MICCAI 2015, arXiv:1505.04597, eq. 2: w_c balances the classes, d1 and d2 are the
distances to the nearest and the second nearest cell.

Departures: cells are the connected pieces of one class, corners do not connect; the paper has masks of every
cell. The second term is for pixels outside of cells, which eq. 2 does not say. In a mask that was cut, a
cell whose pieces are apart counts as several.
"""

from collections.abc import Sequence
from math import log, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects, label
from torch import Tensor

from cnnkit.data.masks import IGNORED

#: What is smaller is left out: beside a weight of 1 it is less than half of float32's last digit.
NOTHING = 2**-25


def border_weights(
    labels: Tensor, *, cells: int, classes: Sequence[float], border: float, sigma: float
) -> Tensor:
    """What each pixel counts; 0 where it is ignored.

    Args:
        cells: the class whose connected pieces are the cells.
        classes: w_c, one a class.
        border: w0.
        sigma: of the second term, in pixels.

    Shape: (N, H, W) -> (N, H, W) float32
    """
    table = torch.zeros(IGNORED + 1)
    table[: len(classes)] = torch.tensor(classes)
    weights = table[labels.long()]
    for mask, found in zip(labels.numpy(), weights.numpy(), strict=True):
        apart = _sum_of_distances(mask == cells, sigma * sqrt(2 * log(max(1.0, border / NOTHING))))
        found += np.where(mask == IGNORED, 0, border * np.exp(-np.square(apart) / (2 * sigma**2)))
    return weights


def _sum_of_distances(cells: NDArray[np.bool_], reach: float) -> NDArray[np.float32]:
    """d1 + d2 outside of cells where it is at most `reach`, elsewhere more or infinite. Shape: (H, W), kept

    d1 + d2 <= reach needs d2 <= reach, so that a cell matters no further from its box than that.
    """
    nearest = np.full(cells.shape, np.inf, np.float32)
    second = nearest.copy()
    pieces, _ = label(cells)
    rim = int(reach)
    for number, (rows, columns) in enumerate(find_objects(pieces), 1):
        box = (
            slice(max(0, rows.start - rim), rows.stop + rim),
            slice(max(0, columns.start - rim), columns.stop + rim),
        )
        away = distance_transform_edt(pieces[box] != number).astype(np.float32)
        first, next_ = nearest[box], second[box]
        np.minimum(next_, np.maximum(first, away), out=next_)
        np.minimum(first, away, out=first)
    return np.where(cells, np.float32(np.inf), nearest + second)
