"""Superpixels: patches of pixels that lie together and look alike.

Achanta, Shaji, Smith, Lucchi, Fua & Süsstrunk, "SLIC Superpixels Compared to State-of-the-art Superpixel
Methods", TPAMI 2012. Centres start on a grid, `step` pixels apart; each pixel goes to the nearest of the nine
centres around it by colour and place, and centres move to the mean of their pixels:

    D^2 = d_colour^2 / m^2 + d_place^2 / step^2.

Patches stay in the order of the grid, so that neighbours on the grid are neighbours in the image.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float


class Superpixels(NamedTuple):
    """Which patch each pixel belongs to, (N, H, W), row by row of a grid of `rows` x `columns` patches."""

    labels: Tensor
    rows: int
    columns: int


@torch.no_grad()
def superpixels(
    images: Tensor, step: int = 8, *, compactness: float = 0.3, iterations: int = 4
) -> Superpixels:
    """Patches of about step x step pixels.

    Args:
        images: (N, C, H, W).
        compactness: m, in standard deviations of the image's colours; large ones make squares.

    Raises:
        ValueError: images are not of floating point, or step is less than 1.
    """
    require_float(images=images)
    if step < 1:
        raise ValueError(f"step must be at least 1, got {step}")
    count, _, height, width = images.shape
    rows, columns = -(-height // step), -(-width // step)
    y = torch.arange(height, device=images.device)[:, None].expand(height, width)
    x = torch.arange(width, device=images.device)[None, :].expand(height, width)
    spread = images.flatten(1).std(1).clamp(min=1e-6)[:, None, None, None]
    places = torch.stack([y, x]).to(images).expand(count, 2, height, width) / step
    described = torch.cat([images / (spread * compactness), places], dim=1)
    home = torch.stack([y // step, x // step])
    labels = (home[0] * columns + home[1]).expand(count, height, width)
    for _ in range(iterations):
        centres = patch_means(described, Superpixels(labels, rows, columns))
        best = torch.full_like(places[:, 0], torch.inf)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                row, column = home[0] + down, home[1] + right
                there = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
                label = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
                away = (described - centres[:, :, label]).square().sum(1)
                nearer = there & (away < best)
                best, labels = torch.where(nearer, away, best), torch.where(nearer, label, labels)
    return Superpixels(labels, rows, columns)


def patch_means(values: Tensor, patches: Superpixels) -> Tensor:
    """The mean of each patch; 0 of one that no pixel belongs to. Shape: (N, C, H, W) -> (N, C, patches)"""
    count, channels = values.shape[:2]
    index = patches.labels.reshape(count, 1, -1).expand(count, channels, -1)
    total = values.new_zeros(count, channels, patches.rows * patches.columns)
    sums = total.scatter_add(2, index, values.flatten(2))
    sizes = total[:, :1].scatter_add(2, index[:, :1], torch.ones_like(values.flatten(2)[:, :1]))
    return sums / sizes.clamp(min=1)


def spread(means: Tensor, patches: Superpixels) -> Tensor:
    """Each pixel has what its patch has. Shape: (N, C, patches) -> (N, C, H, W)"""
    count, height, width = patches.labels.shape
    index = patches.labels.reshape(count, 1, -1).expand(count, means.shape[1], -1)
    return means.gather(2, index).reshape(count, -1, height, width)
