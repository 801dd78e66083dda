"""Labels of images of any size in bounded memory: the image whole, or tile by tile.

Tiles overlap and each owns a region; the regions are disjoint and cover the image. What a tile sees beyond
its region is context: `margin` pixels for a network that pads nothing, mirrored where the image ends (the
overlap-tile strategy of Ronneberger et al., arXiv:1505.04597, section 2), else `overlap` pixels, and none
beyond the image's border, where the network pads as it does for the whole image. Tiles start at multiples of
`GRID`, so that poolings take together what they take together in the whole. So a tile's region has the values
of the whole image wherever the network sees no further than its context; the tests hold it to 1e-5.

A network whose answer depends on the whole image answers for a tile instead: DeepLab v3's pooled image
features, the classes of the image in Co-CNN and DecoupledNet, a mean field, maps that are enlarged corner on
corner (DeepLab v1 and v2). For those, scores of tiles are not scores of the image.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Pixels that go through a network at once. `unet_padded_bn`, the hungriest of those that were measured,
#: takes 1,960 bytes for each, which is 0.97 GB.
BUDGET = 704**2

#: What tiles start at multiples of: a multiple of the stride of every network's coarsest map.
GRID = 32

#: What a tile sees around its region unless more is asked for: a little more than the radius of U-Net, 92.
CONTEXT = 96

#: From which row to which, and from which column to which; the second of each is the first that is outside.
Tile = tuple[tuple[int, int], tuple[int, int]]

#: Images as they are given, (N, C, h, w), and probabilities, (N, K, h, w) -> better probabilities.
Refine = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Windows:
    """How a network looks at an image.

    Attributes:
        size: longest side of what it sees at once, before scaling. None: the whole image where that has no
            more than `BUDGET` pixels at the largest scale, else tiles of about so many.
        overlap: context on each side of a tile's region, for networks without a margin of their own; rounded
            up to a multiple of `GRID`. None: a quarter of the window, but no more than `CONTEXT`.
        flip: whether probabilities are averaged with those of the mirrored image.
        scales: sizes of the image whose probabilities are averaged.
        refine: what is done to the probabilities of a tile, like `tasks.refine.Crf`.

    Raises:
        ValueError: a value makes no sense.
    """

    size: int | None = None
    overlap: int | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    refine: Refine | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"a window has a side of at least 1 pixel, got {self.size}")
        if self.overlap is not None and self.overlap < 0:
            raise ValueError(f"windows overlap by 0 pixels or more, got {self.overlap}")
        if not self.scales or not all(0 < scale <= 8 for scale in self.scales):
            raise ValueError(f"scales are one or more numbers above 0 and up to 8, got {self.scales}")

    @property
    def views(self) -> list[tuple[float, bool]]:
        """Scale, and whether mirrored, of all that is averaged."""
        return [(scale, way) for scale in self.scales for way in ((False, True) if self.flip else (False,))]

    def side(self, height: int, width: int) -> int:
        """Longest side of a tile for an image of this size, the network's margins included."""
        if self.size is not None:
            return self.size
        largest = max(1.0, *self.scales)
        if height * width * largest**2 <= BUDGET:
            return max(height, width)
        return max(GRID, int(isqrt(BUDGET) / largest) // GRID * GRID)


class Span(NamedTuple):
    """One tile along one side: what it covers, and the part of it that it owns."""

    start: int
    stop: int
    first: int
    last: int


class Needs(NamedTuple):
    """Which sides a network takes, and what it loses of them, as its attributes of these names say."""

    margin: int
    smallest_image: int
    image_step: int

    @classmethod
    def of(cls, network: nn.Module) -> "Needs":
        defaults = {"margin": 0, "smallest_image": 1, "image_step": 1}
        return cls(**{name: int(getattr(network, name, value)) for name, value in defaults.items()})

    def allowed(self, side: int) -> int:
        """The least side that it takes and that is no less than this one."""
        return (
            self.smallest_image + -(-max(0, side - self.smallest_image) // self.image_step) * self.image_step
        )


def spans(side: int, window: int, overlap: int, smallest: int = 1) -> list[Span]:
    """Tiles along one side of an image, none shorter than `smallest` where the image is not.

    Raises:
        ValueError: windows are so small that they own nothing.
    """
    if side <= window:
        return [Span(0, side, 0, side)]
    overlap = -(-overlap // GRID) * GRID
    hop = (window - 2 * overlap) // GRID * GRID
    if hop < GRID:
        raise ValueError(
            f"windows of {window} pixels with {overlap} of context on each side label nothing; they must "
            f"have {2 * overlap + GRID} or more, or overlap less"
        )
    last = min(-(-(side - window) // GRID), (side - smallest) // GRID) * GRID
    starts = sorted({*range(0, side - window, hop), last})
    edges = [0, *(start + overlap for start in starts[1:]), side]
    stops = [*(start + window for start in starts[:-1]), side]
    return [Span(*row) for row in zip(starts, stops, edges[:-1], edges[1:], strict=True)]


@torch.inference_mode()
def regions(
    network: nn.Module,
    images: Tensor,
    windows: Windows,
    *,
    prepare: Callable[[Tensor], Tensor] | None = None,
    shown: Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Log-probabilities of images, region by region: rows, columns, and (N, K, h, w) of them.

    Of a network that returns more than logits the logits count. A side that it does not take
    (`smallest_image`, `image_step`) is lengthened by mirroring on the right or at the bottom.

    Args:
        network: in evaluation mode, where the images are.
        images: as the network reads them, or as `prepare` does. Shape: (N, C, H, W)
        windows: how it looks at them.
        prepare: what makes a tile the network's input, point by point, so that a large image need not be
            prepared as a whole.
        shown: the same images as `windows.refine` reads them, where that is not as they are. (N, any, H, W)
        size: height and width of what is asked for, where these are not the images' own; probabilities are
            interpolated.

    Raises:
        ValueError: windows are too small for the network, or its answer has not the size of the image.
    """
    shown = images if shown is None else shown
    parts = _regions(network, images, windows, prepare or _as_it_is, shown)
    yield from parts if size in (None, tuple(images.shape[2:])) else _resized(parts, images, size)


def _as_it_is(tile: Tensor) -> Tensor:
    return tile


def _regions(
    network: nn.Module,
    images: Tensor,
    windows: Windows,
    prepare: Callable[[Tensor], Tensor],
    shown: Tensor,
) -> Iterator[tuple[slice, slice, Tensor]]:
    needs = Needs.of(network)
    height, width = images.shape[2:]
    lost = 2 * needs.margin
    least = needs.allowed(lost + GRID) if lost else needs.smallest_image
    window = max(least, windows.side(height + lost, width + lost)) - lost
    overlap = min(CONTEXT, window // 4 // GRID * GRID) if windows.overlap is None else windows.overlap
    down, across = (
        spans(side, window, 0 if lost else overlap, needs.smallest_image - lost) for side in (height, width)
    )
    tile = (min(height, window) + lost) * (min(width, window) + lost)
    at_once = max(1, int(BUDGET / (tile * max(1.0, *windows.scales) ** 2)))
    for rows in down:
        for columns in across:
            found = [
                _answer(network, *some, windows, prepare, rows, columns)
                for some in zip(torch.split(images, at_once), torch.split(shown, at_once), strict=True)
            ]
            yield slice(rows.first, rows.last), slice(columns.first, columns.last), torch.cat(found)


def _answer(
    network: nn.Module,
    images: Tensor,
    shown: Tensor,
    windows: Windows,
    prepare: Callable[[Tensor], Tensor],
    rows: Span,
    columns: Span,
) -> Tensor:
    """Log-probabilities of the region that a tile owns."""
    tile = (rows.start, rows.stop), (columns.start, columns.stop)
    if windows.views == [(1.0, False)]:
        logs = _logits(network, images, prepare, tile, mirrored=False).log_softmax(dim=1)
    else:
        seen = (_view(network, images, prepare, tile, *view) for view in windows.views)
        total = next(seen)
        for view in seen:
            total += view
        logs = _log(total / len(windows.views))
    if windows.refine is not None:
        logs = _log(windows.refine(_cut(shown, *tile), logs.exp()))
    (top, bottom), (left, right) = (
        (span.first - span.start, span.last - span.start) for span in (rows, columns)
    )
    return logs[:, :, top:bottom, left:right]


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def _view(
    network: nn.Module,
    images: Tensor,
    prepare: Callable[[Tensor], Tensor],
    tile: Tile,
    scale: float,
    mirrored: bool,
) -> Tensor:
    """Probabilities of a tile that is looked at mirrored or at another scale, at its own size."""
    if scale == 1:
        return _logits(network, images, prepare, tile, mirrored).softmax(dim=1)
    margin = Needs.of(network).margin
    context = ceil(margin / scale) + 1 if margin else 0
    seen = prepare(_cut(images, *((start - context, stop + context) for start, stop in tile)))
    sides = [max(1 + 2 * margin, round(scale * side)) for side in seen.shape[2:]]
    scaled = functional.interpolate(seen, sides, mode="bilinear", align_corners=False, antialias=True)
    whole = (margin, sides[0] - margin), (margin, sides[1] - margin)
    found = _logits(network, scaled, _as_it_is, whole, mirrored).softmax(dim=1)
    rows, columns = (
        (torch.arange(stop - start, device=found.device) + context + 0.5) * (to / side) - 0.5 - margin
        for (start, stop), side, to in zip(tile, seen.shape[2:], sides, strict=True)
    )
    return between(found, rows, columns)


def _logits(
    network: nn.Module,
    images: Tensor,
    prepare: Callable[[Tensor], Tensor],
    tile: Tile,
    mirrored: bool,
) -> Tensor:
    """Logits of a tile, which the network sees with its margin and at a size that it takes."""
    needs = Needs.of(network)
    lost = 2 * needs.margin
    taken = [needs.allowed(stop - start + lost) for start, stop in tile]
    places = [start - needs.margin for start, _ in tile]
    seen = prepare(_cut(images, *((at, at + side) for at, side in zip(places, taken, strict=True))))
    answer: Any = network(seen.flip(-1) if mirrored else seen)
    logits: Tensor = answer if isinstance(answer, Tensor) else answer[0]
    height, width = (side - lost for side in taken)
    if logits.ndim != 4 or logits.shape[2:] != (height, width):
        raise ValueError(
            f"{type(network).__name__} gives {tuple(logits.shape)} for images of {taken[0]} x {taken[1]}; "
            f"one that labels pixels gives (N, classes, {height}, {width})"
        )
    logits = (logits.flip(-1) if mirrored else logits).to(torch.promote_types(logits.dtype, torch.float32))
    (top, bottom), (left, right) = tile
    return logits[:, :, : bottom - top, : right - left]


def _cut(images: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """A rectangle, mirrored where it leaves the image, as often as it must be."""
    for axis, (start, stop) in ((2, rows), (3, columns)):
        side = images.shape[axis]
        if start >= 0 and stop <= side:
            images = images.narrow(axis, start, stop - start)
        else:
            images = images.index_select(axis, mirrored_places(start, stop, side).to(images.device))
    return images


def mirrored_places(start: int, stop: int, side: int) -> Tensor:
    """Where a pixel from `start` on lies in an image that is mirrored at its first and last pixels."""
    period = max(1, 2 * (side - 1))
    places = torch.arange(start, stop) % period
    return torch.minimum(places, period - places)


def between(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear interpolation at places that need be no pixels; beyond the border the border's value.

    Shape: (N, K, H, W), (h,), (w,) -> (N, K, h, w)
    """
    for axis, places in ((2, rows), (3, columns)):
        last = maps.shape[axis] - 1
        places = places.clamp(0, last).to(maps.dtype)
        low = places.long()
        share = (places - low).view(-1, *[1] * (3 - axis))
        maps = torch.lerp(
            maps.index_select(axis, low), maps.index_select(axis, (low + 1).clamp(max=last)), share
        )
    return maps


def _resized(
    parts: Iterator[tuple[slice, slice, Tensor]], images: Tensor, size: tuple[int, int]
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The same at another size, some rows at a time."""
    height, width = images.shape[2:]
    found = list(parts)
    whole = found[0][2].new_empty(*found[0][2].shape[:2], height, width)
    for down, across, logs in found:
        whole[:, :, down, across] = logs.exp()
    rows, columns = (
        (torch.arange(to, device=whole.device) + 0.5) * (of / to) - 0.5
        for of, to in zip((height, width), size, strict=True)
    )
    step = max(1, BUDGET // size[1])
    for first, last in pairwise([*range(0, size[0], step), size[0]]):
        yield slice(first, last), slice(0, size[1]), _log(between(whole, rows[first:last], columns))
