"""Cutting a batch into pieces of work that stay in the cache, so that memory does not grow with the image."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import prod
from operator import itemgetter

from cnnkit.ops.shapes import Axis

#: Numbers that a piece may hold: four megabytes of float32, measured.
BUDGET = 2**20

#: The run of positions to which narrow images are brought, and the one that is long enough: measured.
RUN, WIDE = 256, 64


def pieces(count: int, rows: int, row: int, *, together: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Cut `count` images of `rows` rows into pieces of at most `BUDGET` numbers, or of one row.

    Args:
        row: how many numbers a row of one image needs.
        together: how many images at once; without it as many whole ones as fit.
    """
    together = together or max(1, min(count, BUDGET // (rows * row)))
    height = max(1, min(rows, BUDGET // (row * together)))
    for first in range(0, count, together):
        for top in range(0, rows, height):
            yield slice(first, min(first + together, count)), slice(top, min(top + height, rows))


def by_examples(
    count: int, axes: Sequence[Axis], row: int, *, run: int
) -> Iterator[tuple[slice, Iterator[tuple[slice, slice]]]]:
    """Pieces of rows of the output, those of the same images together; narrow images several at once.

    Args:
        row: how many numbers a row of one image's output needs.
        run: neighbouring positions that one image has.
    """
    together = 1 if run >= WIDE else min(count, -(-RUN // run))
    return groupby(pieces(count, axes[0].out, row, together=together), key=itemgetter(0))


def taps(axes: Sequence[Axis]) -> int:
    """Taps of one kernel."""
    return prod(a.kernel for a in axes)


def positions(axes: Sequence[Axis]) -> int:
    """Windows that an image has."""
    return prod(a.out for a in axes)
