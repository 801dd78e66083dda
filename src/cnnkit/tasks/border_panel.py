"""What the report shows of borders: ways to look at the pictures, and a magnified border under each."""

from collections.abc import Sequence
from math import prod

import torch
from markupsafe import Markup
from torch import Tensor
from torch.nn import functional

from cnnkit.data import Part
from cnnkit.data.masks import IGNORED
from cnnkit.draw.encode import thumbnail
from cnnkit.draw.masks import colours, indexed
from cnnkit.report import Panel, heading, pictures, table
from cnnkit.tasks.borders import MOST, Seen, looked, looks, spread
from cnnkit.tasks.pixels import PixelScores
from cnnkit.tasks.segmenter import Segmenter

#: Pixels times classes that the panel may look at. A dense CRF takes a microsecond for each on one core,
#: which is 1.9 s for a picture of 360 x 480 with 11 classes; two of the ways have one.
BUDGET = 8_000_000

#: How many images are magnified, and how large.
MAGNIFIED, SIDE = 2, 136

MEANINGS = {
    "center": "the picture once, as it is",
    "flip": "mirrored too: the mean of both probabilities",
    "multi_scale": "three scales, each mirrored too: the mean of the six",
    "crf": "a dense CRF moves labels to where colours change (Krähenbühl & Koltun 2011)",
    "multi_scale, crf": "the CRF on the mean of the six",
}


def panel(where: str, part: Part, scores: PixelScores, network: Segmenter) -> Panel:
    """The ways beside each other, on as many images as the budget lets.

    Args:
        where: the part, in words.
        scores: of the part, by which images in which no pixel counts are left out.
    """
    chosen = _affordable(part, scores)
    more = (
        "cnnkit evaluate RUN DATA --borders takes more images, and several networks, as with and without "
        "skip connections, beside each other."
    )
    if not chosen:
        told = Markup("<p>The images are too large to be looked at in all ways while a report is made.</p>")
        return Panel("Borders", told, more)
    some = f"{len(part):,} images"
    if len(chosen) < len(part):
        some = f"{len(chosen)} of {some}, evenly spread, so that the run is not long"
    seen = list(looked(network, part, chosen))
    shown: list[dict[str, object]] = [
        {
            "looked at": one.way,
            "mIoU": one.miou,
            "boundary F1": one.boundary_f1,
            "seconds a picture": one.seconds,
            "what it is": MEANINGS[one.way],
        }
        for one in looks(scores.classes, seen)
    ]
    body = table(shown)
    for one in sorted(seen, key=lambda one: -int(_moved(one).sum()))[:MAGNIFIED]:
        if _moved(one).any():
            body += heading(f"{part.keys[one.image]}, where the ways differ most") + _magnified(
                one, part, scores.classes
            )
    return Panel("Borders", body, f"On {where}, {some}. F1 of borders as above. {more}")


def _affordable(part: Part, scores: PixelScores) -> list[int]:
    """As many images in which pixels count as the budget lets, evenly spread."""
    counting = (scores.pixels[:, :, 2].sum(1) > 0).nonzero().flatten().tolist()
    for most in range(MOST, 0, -1):
        chosen = [counting[place] for place in spread(len(counting), most)]
        if sum(prod(part.size(i)) for i in chosen) * len(scores.classes) <= BUDGET:
            return chosen
    return []


def _moved(seen: Seen) -> Tensor:
    """Where not all ways agree on a pixel that counts. Shape: (H, W) bool"""
    masks = torch.stack([mask.cpu() for mask in seen.masks.values()])
    return (masks != masks[0]).any(0) & (seen.truth != IGNORED)


def _magnified(seen: Seen, part: Part, classes: Sequence[str]) -> Markup:
    """The square of a third of the image in which the ways differ most: picture, truth, and each way."""
    moved = _moved(seen).float()
    side = max(min(moved.shape) // 3, min(24, *moved.shape))
    sums = functional.avg_pool2d(moved[None, None], side, stride=1)[0, 0]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    palette = colours(len(classes))
    masks = {"truth": seen.truth} | dict(seen.masks)
    cut = [(part.picture(seen.image).crop((left, top, left + side, top + side)), "picture")]
    for name, mask in masks.items():
        square = mask[top : top + side, left : left + side]
        cut.append((indexed(square, palette).convert("RGB"), name))
    return pictures([(thumbnail(one, SIDE), caption) for one, caption in cut], SIDE)
