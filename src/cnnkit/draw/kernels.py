"""Banks of convolution kernels as pictures: grey for one channel, RGB for three, mid-grey for zero."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

INK, FRAME, PAPER = "#1f2933", "#9aa5b1", "white"


def kernel_grid(
    kernels: Tensor,
    cell: int = 48,
    gap: int = 4,
    *,
    columns: int | None = None,
    scale: Literal["kernel", "bank"] = "kernel",
) -> Image.Image:
    """A bank of kernels in a grid, a cell each, so wide that it is about half as high.

    The scale is symmetric: zero is mid-grey, and black and white are minus and plus the largest magnitude.
    Kernels of one channel are grey, of three red, green and blue; of any other number there is a row a kernel
    with a grey cell a channel. Nothing is smoothed.

    Args:
        cell: pixels of a cell's longer side; a multiple of the kernel's size is taken, so that all taps are
        equal. gap: pixels between cells. columns: cells in a row, instead of a choice by their number. scale:
        whether each kernel has the whole range from black to white, or the bank as a whole, so that weak
            kernels look weak.

    Shape: (out_channels, in_channels, H, W)

    Raises:
        ValueError: the bank is not of that shape, is empty, or holds what is not a finite number.
    """
    kernels = _checked(kernels)
    channels = kernels.shape[1]
    if channels not in (1, 3):
        columns = columns or channels
    span = kernels.abs().amax(dim=(1, 2, 3) if scale == "kernel" else (0, 1, 2, 3), keepdim=True)
    pixels = ((kernels / span.clamp(min=1e-12) + 1) * 127.5).round().to(torch.uint8)
    if channels != 3:
        pixels = pixels.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
    columns = min(len(pixels), columns or math.ceil(math.sqrt(len(pixels) * 2)))
    taps = max(1, cell // max(pixels.shape[2:]))
    return _sheet(pixels.repeat_interleave(taps, 2).repeat_interleave(taps, 3), columns, gap)


def side_by_side(pictures: Mapping[str, Image.Image], *, gap: int = 32, size: int = 16) -> Image.Image:
    """Pictures in a row on white, each under its caption: hand-set kernels beside learned ones.

    Args:
        pictures: caption to picture, from left to right.
        gap: pixels between them, and half of it around.
        size: height of the captions' letters.

    Raises:
        ValueError: there is no picture.
    """
    if not pictures:
        raise ValueError("there is no picture to set beside another")
    font = ImageFont.load_default(size)
    widths = [max(p.width, math.ceil(font.getlength(c))) for c, p in pictures.items()]
    head = round(1.8 * size)
    height = max(p.height for p in pictures.values())
    sheet = Image.new("RGB", (sum(widths) + gap * len(widths), head + height + gap), PAPER)
    draw, left = ImageDraw.Draw(sheet), gap // 2
    for (caption, picture), width in zip(pictures.items(), widths, strict=True):
        draw.text((left, gap // 2), caption, fill=INK, font=font)
        sheet.paste(picture, (left, gap // 2 + head))
        left += width + gap
    return sheet


def _checked(kernels: Tensor) -> Tensor:
    kernels = kernels.detach().float().cpu()
    if kernels.dim() != 4 or not kernels.numel():
        raise ValueError(f"kernels must be (out, in, H, W) and not empty, got shape {tuple(kernels.shape)}")
    if not kernels.isfinite().all():
        raise ValueError("kernels must be finite numbers to be drawn")
    return kernels


def _sheet(tiles: Tensor, columns: int, gap: int) -> Image.Image:
    """Tiles (K, 3, H, W) of bytes row by row on white, framed, so that a tile's own white has an end."""
    height, width = (side + 2 for side in tiles.shape[2:])
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), PAPER)
    for place, tile in enumerate(tiles):
        left, top = place % columns * (width + gap), place // columns * (height + gap)
        sheet.paste(FRAME, (left, top, left + width, top + height))
        sheet.paste(Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy()), (left + 1, top + 1))
    return sheet
