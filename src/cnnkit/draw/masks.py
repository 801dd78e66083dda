"""Pictures of masks: colours of classes, masks over photographs, index files, and what the colours mean."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

INK, PAPER, FRAME = "#1f2933", "white", "#9aa5b1"

#: The most classes that a mask of bytes holds beside the number of pixels without a class.
MOST = 255


def colours(count: int) -> Tensor:
    """One colour a class, the same whatever their number. Shape: (count, 3) uint8

    The first is blue; each after it is, among the colours of medium lightness and chroma, the farthest from
    all before it in OKLab (Ottosson 2020), where lengths are what the eye makes of them. Lightness counts
    half, since a photograph beneath changes it. The convention for index files is PASCAL VOC's colour map,
    whose colours are dark and whose first is black, a shadow over a photograph; what reads masks goes by the
    numbers and not by the colours.

    Raises:
        ValueError: there are more classes than a mask of bytes can hold.
    """
    if not 0 <= count <= MOST:
        raise ValueError(f"a mask has at most {MOST} classes, got {count}")
    steps = torch.arange(0, 256, 17)
    choice = torch.cartesian_prod(steps, steps, steps)
    seen = oklab(choice)
    light, vivid = seen[:, 0], seen[:, 1:].norm(dim=1)
    kept = (light > 0.58) & (light < 0.88) & (vivid > 0.11) & (vivid < 0.22)
    choice, seen = choice[kept], seen[kept] * torch.tensor([0.5, 1.0, 1.0])
    found = [int((choice - torch.tensor([68, 136, 255])).abs().sum(1).argmin())]
    apart = torch.full((len(seen),), torch.inf)
    while len(found) < count:
        apart = torch.minimum(apart, (seen - seen[found[-1]]).norm(dim=1))
        found.append(int(apart.argmax()))
    return choice[found[:count]].byte()


def oklab(colours: Tensor) -> Tensor:
    """Lightness, green to red and blue to yellow. Shape: (n, 3) of 0..255 -> (n, 3)"""
    values = colours.double() / 255
    linear = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    cones = linear @ torch.tensor(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ],
        dtype=torch.float64,
    )
    return cones ** (1 / 3) @ torch.tensor(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ],
        dtype=torch.float64,
    )


def indexed(mask: Tensor, colours: Tensor) -> Image.Image:
    """A mask as a picture of mode P: pixels are the classes' numbers, the palette has their colours.

    Saved as PNG, every program that reads numbers reads the mask, and one that shows pictures shows colours.
    Numbers that are no class are black.

    Shape: (H, W) uint8, (classes, 3) uint8
    """
    picture = Image.fromarray(mask.cpu().numpy())
    picture.putpalette(bytes(colours.flatten().tolist()).ljust(3 * 256, b"\0"))
    return picture


def overlay(picture: Image.Image, mask: Tensor, colours: Tensor, alpha: float = 0.5) -> Image.Image:
    """A mask laid over its picture, classes parted by thin lines of their full colours.

    Pixels whose number is no class stay as they are.

    Args:
        alpha: how much of a pixel is its class's colour.

    Shape: (H, W) uint8, (classes, 3) uint8

    Raises:
        ValueError: the picture has another size than the mask, or alpha is not in 0 to 1.
    """
    height, width = mask.shape
    if picture.size != (width, height):
        raise ValueError(
            f"a mask of {height} x {width} does not lie over a picture of {picture.height} x {picture.width}"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    numbers = indexed(mask, colours)
    colour, photo = numbers.convert("RGB"), picture.convert("RGB")
    mixed = Image.blend(photo, colour, alpha)
    mixed.paste(colour, mask=_borders(mask, max(1, round(min(picture.size) / 500))))
    outside = Image.fromarray(((mask >= len(colours)).byte() * 255).cpu().numpy())
    mixed.paste(photo, mask=outside)
    return mixed


def _borders(mask: Tensor, width: int) -> Image.Image:
    """White where a pixel's right or lower neighbour has another class."""
    edges = torch.zeros_like(mask)
    edges[:, :-1] |= (mask[:, :-1] != mask[:, 1:]).byte()
    edges[:-1] |= (mask[:-1] != mask[1:]).byte()
    picture = Image.fromarray((edges * 255).cpu().numpy())
    return picture.filter(ImageFilter.MaxFilter(2 * (width // 2) + 1)) if width > 1 else picture


def legend(classes: Sequence[str], colours: Tensor, size: int = 16) -> Image.Image:
    """The classes' names, each beside its colour, one below the other.

    Raises:
        ValueError: there is no class.
    """
    if not classes:
        raise ValueError("there is no class to explain")
    font = ImageFont.load_default(size)
    line, edge = round(1.6 * size), size // 2
    width = max(int(font.getlength(name)) + 1 for name in classes)
    sheet = Image.new("RGB", (width + size + 3 * edge, line * len(classes) + edge), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (name, colour) in enumerate(zip(classes, colours.tolist(), strict=True)):
        top = edge + place * line
        draw.rectangle((edge, top, edge + size, top + size), fill=tuple(colour), outline=FRAME)
        draw.text((2 * edge + size, top + size / 2), name, fill=INK, font=font, anchor="lm")
    return sheet
