"""What membranes are without a network: Sobel edges, or darkness, above a threshold.

    CNNKIT_REALDATA=... python benchmarks/membrane_baseline.py

The images and the parts are those of `cnnkit train membrane --recipe unet_membrane`: the threshold that gives
the highest F1 of the membrane class on the 24 images that a run trains on and chooses by is scored on the 6
that it is tested on.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cnnkit import data
from cnnkit.data import Part
from cnnkit.train.recipes import find

#: Standard deviations of the blur before, in pixels, and how many thresholds are tried.
BLURS, THRESHOLDS = (0.0, 1.0, 2.0, 3.0), 200

Maps = NDArray[np.float64]


def sobel(picture: Maps) -> Maps:
    """The length of the gradient."""
    return np.hypot(ndimage.sobel(picture, 0), ndimage.sobel(picture, 1))


def darkness(picture: Maps) -> Maps:
    """The darker, the more."""
    return -picture


def maps(parts: list[Part], measure: Callable[[Maps], Maps], blur: float) -> tuple[Maps, NDArray[np.bool_]]:
    """What is measured of all pixels, and which of them are membrane."""
    found, truth = [], []
    for part in parts:
        for index in range(len(part)):
            picture = np.asarray(part.picture(index).convert("L"), dtype=np.float64)
            found.append(measure(ndimage.gaussian_filter(picture, blur)).ravel())
            truth.append((part.mask(index) == 0).numpy().ravel())
    return np.concatenate(found), np.concatenate(truth)


def f1(called: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Of the membrane."""
    return float(2 * (called & truth).sum() / (called.sum() + truth.sum()))


def main() -> None:
    """Print a row a measure and blur."""
    classes = find("unet_membrane")["classes"]
    whole = data.open(Path(os.environ["CNNKIT_REALDATA"]) / "membrane", classes=classes).split()
    learnt, tested = [whole.parts["train"], whole.parts["val"]], [whole.parts["test"]]
    print(f"{'measure':10}{'blur':>6}{'F1 on ' + str(sum(map(len, learnt))):>12}{'F1 on 6':>10}")
    for measure in (sobel, darkness):
        for blur in BLURS:
            values, truth = maps(learnt, measure, blur)
            levels = np.quantile(values, np.linspace(0, 1, THRESHOLDS))
            best = max(levels, key=lambda level: f1(values >= level, truth))
            other, right = maps(tested, measure, blur)
            row = f1(values >= best, truth), f1(other >= best, right)
            print(f"{measure.__name__:10}{blur:6.0f}{row[0]:12.3f}{row[1]:10.3f}")
    print(f"{'everything':16}{f1(truth | True, truth):12.3f}{f1(right | True, right):10.3f}")


if __name__ == "__main__":
    main()
