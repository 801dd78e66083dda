"""Draws the pictures of docs/pooling-and-kernels.md beside this file: `python docs/pictures/kernels.py`.

The learned kernels are those of SqueezeNet 1.0, trained on ImageNet; they are drawn where CNNKIT_REALDATA
names a folder that holds `squeezenet_deep_compression/compressed_SqueezeNet.net`, the file of
songhan/SqueezeNet-Deep-Compression.
"""

import math
import os
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor

from cnnkit.draw.kernels import kernel_grid, side_by_side
from cnnkit.ops.kernels import edge_kernels, edges, gabor, gaussian, matched_filter
from cnnkit.weights.deep_compression import load_deep_compression

HERE = Path(__file__).parent
ZOOM = 4


def main() -> None:
    """Draw them all."""
    matched().save(HERE / "matched_filter.png", optimize=True)
    detectors().convert("L").save(HERE / "edges.png", optimize=True)
    folder = os.environ.get("CNNKIT_REALDATA")
    if folder:
        hand_set_and_learned(Path(folder)).save(HERE / "hand_set_and_learned.png", optimize=True)
    else:
        print("CNNKIT_REALDATA names no folder: the learned kernels are not drawn")


def matched() -> Image.Image:
    """Fifty handwritten digits, one of them as the kernel, and where the response says that it is."""
    digits = torch.from_numpy(load_digits().images[:50]) / 16
    placed = torch.nn.functional.pad(digits, (2, 2, 2, 2))
    picture = placed.reshape(5, 10, 12, 12).transpose(1, 2).reshape(60, 120)
    pattern = picture[24:36, 72:84]  # the sixth digit of the third row
    response = matched_filter(picture, pattern)
    row, column = divmod(int(response.argmax()), response.shape[1])
    print(f"largest response {response.max():.6f} at row {row}, column {column}; cut out at 24, 72")
    elsewhere = response.clone()
    elsewhere[row - 6 : row + 7, column - 6 : column + 7] = 0
    print(f"largest response elsewhere {elsewhere.max():.3f}")
    return side_by_side(
        {
            "fifty digits": _boxed(_grey(picture), column, row, 12),
            "the kernel": _grey(pattern),
            "the response, 1 where it is white": _boxed(_grey(response.clamp(min=0)), column, row, 1),
        }
    )


def detectors() -> Image.Image:
    """Three edge detectors on a photograph."""
    photo = torch.from_numpy(load_sample_image("china.jpg").copy()).double().mean(2)[70:190, 180:340] / 255
    pictures = {"photograph": _grey(photo, 1)}
    for name in ("sobel", "roberts", "laplacian4"):
        strength = edges(photo, name)
        pictures[name] = _grey(strength / strength.quantile(0.995), 1)
    return side_by_side(pictures, gap=16)


def hand_set_and_learned(folder: Path) -> Image.Image:
    """What people set by hand, and the 96 kernels of 7 x 7 that ImageNet taught SqueezeNet's first layer."""
    names = ("sobel", "prewitt", "scharr", "laplacian4", "laplacian8")
    small = torch.cat([*(edge_kernels(name) for name in names), gaussian(0.8, 3)[None, None]])
    waves = [
        gabor(wavelength, angle * math.pi / 6, phase=phase, size=7)
        for wavelength, phase in ((4.0, 0.0), (4.0, math.pi / 2), (6.0, math.pi / 2))
        for angle in range(6)
    ]
    oriented = torch.stack(waves)[:, None]
    file = load_deep_compression(folder / "squeezenet_deep_compression" / "compressed_SqueezeNet.net")
    first = next(weight for name, weight in file.weights.items() if name.endswith("weight"))
    learned = first.flip(1) if file.preprocessing.channels == "BGR" else first
    return side_by_side(
        {
            "differences, a Gaussian": kernel_grid(small, 42, columns=3),
            "Gabors": kernel_grid(oriented, 42, columns=6),
            "learned from ImageNet: SqueezeNet, conv1": kernel_grid(learned, 42, columns=12),
        }
    )


def _grey(values: Tensor, zoom: int = ZOOM) -> Image.Image:
    """0 black, 1 white."""
    picture = Image.fromarray((values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).convert("RGB")
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def _boxed(picture: Image.Image, column: int, row: int, size: int) -> Image.Image:
    box = [column * ZOOM - 3, row * ZOOM - 3, (column + size) * ZOOM + 2, (row + size) * ZOOM + 2]
    ImageDraw.Draw(picture).rectangle(box, outline="#dc2626", width=3)
    return picture


if __name__ == "__main__":
    main()
