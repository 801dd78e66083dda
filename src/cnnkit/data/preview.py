"""A picture of what augmentation does: a row a change, and a row of all together, made as in training."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cnnkit.data import class_map
from cnnkit.data.augment import Augmentation, resolve
from cnnkit.data.batches import batches
from cnnkit.data.masks import Masks, tally
from cnnkit.data.pictures import fit, read, to_picture
from cnnkit.data.sets import Part
from cnnkit.draw.masks import colours, overlay
from cnnkit.weights.preprocessing import Preprocessing

CELL, GAP, MARGIN, LABEL = 160, 8, 28, 210
INK, SOFT, RULE, TINT = "#1f2933", "#69778a", "#dfe4ea", "#f3f6f9"
NAME, TEXT, TITLE = 19, 14, 26
TOGETHER = "all together"


def preview(
    path: Path,
    to: Preprocessing,
    changes: Sequence[Augmentation],
    *,
    mask: Path | None = None,
    title: str = "",
    versions: int = 6,
    seed: int = 0,
    together: bool = True,
) -> Image.Image:
    """One picture: the image as the network sees it, then each change alone in some versions, then all.

    Args:
        path: the image.
        to: the network's input.
        changes: what may happen to it. Numbers that come from the data come from this image.
        mask: its mask, which is laid over it and changed along with it.
        title: what stands beside the image.
        versions: of each row.
        seed: where what is random comes from.
        together: whether there is a row of all changes.

    Raises:
        Failure: the image or its mask cannot be read, or they have two sizes.
        Misuse: a change makes no sense for it.
    """
    part = Part([path.name] * versions, [0] * versions, path.parent, masks=_masks(mask, versions))
    rows = [(change.name, _settings(change), [change]) for change in changes]
    if together and len(changes) > 1:
        rows.append((TOGETHER, "", list(changes)))
    drawn = [
        (name, settings, _versions(part, to, resolve(some, part.select([0]), to), seed))
        for name, settings, some in rows
    ]
    original = fit(read(path), to) if mask is None else _versions(part.select([0]), to, [], seed)[0]
    scale = _scale(to)
    width, height = (round(side * scale) for side in original.size)
    sheet = Image.new(
        "RGB",
        (
            2 * MARGIN + LABEL + versions * (width + GAP) - GAP,
            2 * MARGIN + height + GAP + TITLE + len(drawn) * (height + GAP),
        ),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    sheet.paste(_shown(original, scale), (MARGIN, MARGIN))
    about = f"{to.size[1]} x {to.size[0]} pixels, seed {seed}"
    _write(draw, (MARGIN + max(width + 3 * GAP, LABEL), MARGIN), path.name, title, about)
    top = MARGIN + height + GAP + TITLE
    draw.line([(MARGIN, top - TITLE // 2), (sheet.width - MARGIN, top - TITLE // 2)], RULE)
    for name, settings, images in drawn:
        if name == TOGETHER:
            draw.rectangle([(0, top - GAP // 2), (sheet.width, top + height + GAP // 2)], TINT)
        _label(draw, (MARGIN, top), name, settings)
        for place, image in enumerate(images):
            sheet.paste(_shown(image, scale), (MARGIN + LABEL + place * (width + GAP), top))
        top += height + GAP
    return sheet


def _masks(path: Path | None, versions: int) -> Masks | None:
    """One mask over and over; every value in it is a class."""
    if path is None:
        return None
    coding, _ = class_map.found([tally(path)], (), str(path))
    return Masks([path.name] * versions, path.parent, coding)


def _versions(part: Part, to: Preprocessing, changes: Sequence[Augmentation], seed: int) -> list[Image.Image]:
    """What training sees of the images, with the masks laid over them that it is taught."""
    feed = batches(part, to, len(part), seed=seed, augmentation=changes)
    (batch,) = feed
    pictures = [to_picture(image) for image in batch["images"]]
    if part.masks is None:
        return pictures
    paint = colours(len(part.masks.coding.classes))
    return [
        overlay(picture.convert("RGB"), mask, paint)
        for picture, mask in zip(pictures, batch["labels"], strict=True)
    ]


def _scale(to: Preprocessing) -> float:
    """Small images by a whole number, so that their pixels stay squares; large ones to the cell."""
    share = CELL / max(to.size)
    return round(share) if share > 1.5 else min(1.0, share)


def _shown(image: Image.Image, scale: float) -> Image.Image:
    size = round(image.width * scale), round(image.height * scale)
    return image.convert("RGB").resize(
        size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    )


def _settings(change: Augmentation) -> str:
    return str(change)[len(change.name) :].strip(" ()")


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], *lines: str) -> None:
    """A title and what stands below it."""
    x, y = at
    for line, size, ink in zip(lines, (TITLE, NAME, TEXT), (INK, INK, SOFT), strict=False):
        if line:
            draw.text((x, y), line, ink, ImageFont.load_default(size))
            y += round(1.5 * size)


def _label(draw: ImageDraw.ImageDraw, at: tuple[int, int], name: str, settings: str) -> None:
    """A row's name and, in lines that fit, its settings."""
    x, y = at
    draw.text((x, y), name, INK, ImageFont.load_default(NAME))
    y += round(1.5 * NAME)
    font = ImageFont.load_default(TEXT)
    for line in _wrapped(settings.split(", "), font):
        draw.text((x, y), line, SOFT, font)
        y += round(1.3 * TEXT)


def _wrapped(words: Iterable[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Settings joined by commas to lines that are no wider than their column."""
    lines: list[str] = []
    for word in words:
        joined = f"{lines[-1]}, {word}" if lines else word
        if lines and font.getlength(joined) < LABEL - 2 * GAP:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
