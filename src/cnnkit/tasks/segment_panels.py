"""What the report shows of a part that a segmenter was scored on: figures, classes, confusion, errors."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from cnnkit.data import Part
from cnnkit.data.masks import IGNORED
from cnnkit.draw.charts import confusion, percents
from cnnkit.draw.encode import thumbnail
from cnnkit.draw.masks import colours, indexed
from cnnkit.report import Panel, chart, heading, pictures, table
from cnnkit.tasks.pixels import PixelScores

#: How many images are shown: the worst, and from the middle of the order; and how large.
WORST, MIDDLE, SIDE = 8, 4, 248

WRONG, UNCOUNTED = (220, 38, 38), (123, 135, 148)

MEANINGS = {
    "miou": "mean IoU: a class's right pixels over those of it or called it, counted over all images, as in "
    "PASCAL VOC; the mean over the classes in truth or prediction",
    "accuracy": "share of the pixels that are right",
    "class_accuracy": "share of a class's pixels that are right; the mean over the classes",
    "fwiou": "IoU as above; the mean over the classes, each with its share of the pixels",
    "boundary_f1": "F1 of borders, which may be 0.75 % of the diagonal off (Csurka et al. 2013); the mean "
    "over the classes of an image, then over the images",
    "loss": "cross-entropy: the mean over the pixels of an image, then over the images",
}


def panels(where: str, part: Part, scores: PixelScores, predicted: Callable[[int], Tensor]) -> list[Panel]:
    """Figures, classes, confusion, and images with their errors: the worst, and some of the middle.

    Args:
        where: the part, in words.
        predicted: gives the mask predicted of an image, (H, W) uint8.
    """
    note = f"On {where}, {len(part):,} images."
    figures: list[dict[str, object]] = [
        {"figure": name, "value": value, "what it is": MEANINGS[name]}
        for name, value in scores.to_json().items()
    ]
    found = scores.image_miou()
    order = [i for i in found.argsort(stable=True).tolist() if not found[i].isnan()]
    middle = max(WORST, (len(order) - MIDDLE) // 2)
    shown = [
        _errors(
            "Worst images",
            "with the lowest mean IoU of their own classes, the worst first",
            order[:WORST],
            part,
            scores,
            predicted,
        ),
        _errors(
            "Images of middling score",
            "from the middle of the same order",
            order[middle : middle + MIDDLE],
            part,
            scores,
            predicted,
        ),
    ]
    return [
        Panel("Scores", table(figures), note),
        _classes(scores, note),
        _confusion(scores, note),
        *filter(None, shown),
    ]


def _classes(scores: PixelScores, note: str) -> Panel:
    """The classes that occur, each with the colour that it has in the pictures."""
    there = (scores.confusion.sum(0) + scores.confusion.sum(1) > 0).tolist()
    chip = Markup(
        '<span style="display: inline-block; width: .8em; height: .8em; background: rgb{}"></span> {}'
    )
    palette = map(tuple, colours(len(there)).tolist())
    rows: list[dict[str, object]] = [
        row | {"class": chip.format(str(colour), row["class"])}
        for row, colour, here in zip(scores.per_class(), palette, there, strict=True)
        if here
    ]
    if gone := [name for name, here in zip(scores.classes, there, strict=True) if not here]:
        note += f" In neither truth nor prediction: {', '.join(gone)}."
    return Panel("Classes", table(rows), note)


def _confusion(scores: PixelScores, note: str) -> Panel:
    drawn = confusion(scores.confusion, scores.classes, percents)
    note += " Pixels in percent of their true class."
    return Panel("Confusion matrix", chart(drawn), note)


def _errors(
    title: str,
    which: str,
    chosen: Sequence[int],
    part: Part,
    scores: PixelScores,
    predicted: Callable[[int], Tensor],
) -> Panel | None:
    """Each image as picture, truth, prediction and errors; nothing where none was chosen."""
    if not chosen:
        return None
    body, palette, means = Markup(), colours(len(scores.classes)), scores.image_miou()
    for i in chosen:
        picture, truth, mask = part.picture(i), part.mask(i), predicted(i).cpu()
        wrong = (mask != truth) & (truth != IGNORED)
        share = float(wrong.sum() / (truth != IGNORED).sum())
        body += heading(f"{part.keys[i]}: mean IoU {float(means[i]):.1%}, {_worst_class(scores, i)}")
        drawn = [
            (picture, "picture"),
            (indexed(truth, palette).convert("RGB"), "truth"),
            (indexed(mask, palette).convert("RGB"), "prediction"),
            (_error_map(picture, wrong, truth == IGNORED), f"errors: {share:.1%} of the pixels"),
        ]
        body += pictures([(thumbnail(one, SIDE), caption) for one, caption in drawn], SIDE)
    note = (
        f"{len(chosen)} of {len(part):,} images, {which}. Red pixels are wrong; grey ones, black in the "
        f"truth, count nowhere. Colours are those of the table of classes."
    )
    return Panel(title, body, note)


def _worst_class(scores: PixelScores, image: int) -> str:
    """The class that an image has with the lowest IoU, of several the one with the most pixels."""
    found, true = scores.image_iou()[image].tolist(), scores.pixels[image, :, 2].tolist()
    worst = min((k for k, n in enumerate(true) if n), key=lambda k: (found[k], -true[k]))
    return f"worst class {scores.classes[worst]} with {found[worst]:.1%}"


def _error_map(picture: Image.Image, wrong: Tensor, ignored: Tensor) -> Image.Image:
    """The picture, pale and without colours, with its wrong pixels and those that count nowhere."""
    pale = 128 + torch.from_numpy(np.array(picture.convert("L"))).int() // 2
    pixels = pale.byte()[:, :, None].repeat(1, 1, 3)
    pixels[ignored] = torch.tensor(UNCOUNTED, dtype=torch.uint8)
    pixels[wrong] = torch.tensor(WRONG, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
