"""Image files as a person would see them, and as a network wants them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cnnkit.errors import Failure
from cnnkit.weights.preprocessing import Preprocessing

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


#: EXIF orientations that lay a picture on its side.
_LYING = (5, 6, 7, 8)

#: Endings of pictures that phones make and Pillow does not read.
PHONES = (".heic", ".heif")


def read(path: Path, draft: tuple[int, int] | None = None) -> Image.Image:
    """A picture in mode L or RGB, turned upright as its EXIF tag says, transparency laid on white.

    Args:
        path: the file.
        draft: a width and height that suffice; a JPEG is then decoded at a fraction of its size.

    Raises:
        Failure: the file is missing, empty, no image, truncated, or has too many pixels.
    """
    with opened(path) as image:
        if draft is not None:
            image.draft(None, draft[::-1] if _lies(image) else draft)
        return seen(image)


def size(path: Path) -> tuple[int, int]:
    """Width and height of the upright picture, from its header.

    Raises:
        Failure: the file is missing, empty, or no image.
    """
    with opened(path) as image:
        return image.size[::-1] if _lies(image) else image.size


def _lies(image: Image.Image) -> bool:
    return image.getexif().get(ExifTags.Base.Orientation) in _LYING


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file, with what Pillow raises turned into one sentence."""
    try:
        if path.stat().st_size == 0:
            raise Failure(f"{path} is empty")
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError:
        advice = "; save it as JPEG or PNG" if path.suffix.lower() in PHONES else ""
        raise Failure(f"{path} is no image that can be read{advice}") from None
    except FileNotFoundError:
        raise Failure(f"there is no file {path}") from None
    except Failure:
        raise
    except Image.DecompressionBombError:
        raise Failure(
            f"{path} has more pixels than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} allowed"
        ) from None
    except (
        OSError,
        SyntaxError,
        EOFError,
        ValueError,
        OverflowError,
    ) as error:  # what Pillow's decoders raise
        reason = str(error).rstrip(".") or type(error).__name__
        raise Failure(f"{path} cannot be decoded: {reason}") from None


def seen(image: Image.Image) -> Image.Image:
    """A picture upright, of any Pillow mode, in L or RGB: palettes looked up, 16 bits brought to 8, alpha on
    white.
    """
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in {"L", "RGB"}:
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_wide(image)
    if image.mode in {"LA", "La", "RGBA", "RGBa", "PA"} or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        flat = Image.alpha_composite(canvas, image).convert("RGB")
        return flat.convert("L") if _is_grey(flat) else flat
    flat = image.convert("RGB")
    return flat.convert("L") if image.mode == "P" and _is_grey(flat) else flat


def _from_wide(image: Image.Image) -> Image.Image:
    """16-bit integers span 0..65535; other integers and floats span what they hold."""
    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I") and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scaled = (values - low) / ((high - low) or 1.0) * 255
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = image.split()
    return bool(red.tobytes() == green.tobytes() == blue.tobytes())


def fit(image: Image.Image, to: Preprocessing) -> Image.Image:
    """The picture at the network's size and number of channels, without augmentation."""
    height, width = to.size
    if image.size == (width, height):
        return image.convert(_mode(to))
    made = scaled(image, scaled_size(image.size, to), to)
    left, top = round((made.width - width) / 2), round((made.height - height) / 2)
    if to.fit == "pad":
        canvas = Image.new(made.mode, (width, height))
        canvas.paste(made, ((width - made.width) // 2, (height - made.height) // 2))
        return canvas
    return made if made.size == (width, height) else made.crop((left, top, left + width, top + height))


def scaled_size(size: tuple[int, int], to: Preprocessing) -> tuple[int, int]:
    """Width and height that `fit` gives a picture of another width and height before it cuts or pads it."""
    height, width = to.size
    if to.fit == "squash":
        return width, height
    across, down = width / size[0], height / size[1]
    scale = min(1.0, across, down) if to.fit == "pad" else max(across, down) / to.keep
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def scaled(image: Image.Image, size: tuple[int, int], to: Preprocessing) -> Image.Image:
    """The picture at a width and height, with the network's number of channels."""
    image = image.convert(_mode(to))
    return image if image.size == size else image.resize(size, _RESAMPLING[to.interpolation])


def _mode(to: Preprocessing) -> str:
    return "L" if to.channels == "L" else "RGB"


def to_tensor(image: Image.Image, to: Preprocessing) -> Tensor:
    """A fitted picture as bytes in the network's channel order. Shape: (C, H, W) uint8"""
    pixels = to_bytes(image)
    return (pixels.flip(0) if to.channels == "BGR" else pixels).contiguous()


def to_bytes(image: Image.Image) -> Tensor:
    """A picture's bytes as they lie in memory, the channels of a pixel together. Shape: (C, H, W) uint8"""
    array: Any = np.array(image, dtype=np.uint8)
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)


def to_picture(pixels: Tensor) -> Image.Image:
    """Bytes as a picture. Shape: (1 or 3, H, W) uint8"""
    array = pixels.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
