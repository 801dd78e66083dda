"""RoI max pooling. Girshick, "Fast R-CNN", ICCV 2015, arXiv:1504.08083, section 2.1.

A region of interest is a box in image pixels, both corners inclusive. On a map of 1 / s of the image's size
it covers

    x1' = round(x1 s) .. x2' = round(x2 s),     w = max(x2' - x1' + 1, 1)     (rows likewise),

halves rounded away from zero, and its bins are those of a spatial pyramid of one level, moved to x1' and
clipped to the map. A bin outside the map is empty: it gives 0, and no residual.

The bins' edges are whole numbers here; torchvision and Caffe compute them in floating point, which at 7 x 7
bins is the same, and at 14 bins on 62 cells (float32) reads a cell more.

RoIAlign, which does not round, is torchvision's (`torchvision.ops.roi_align`).
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float, require_shape
from cnnkit.ops.pooling import Pooled
from cnnkit.ops.pyramid import bins, first_maximum
from cnnkit.ops.shapes import per_axis


def roi_max_pool(maps: Tensor, rois: Tensor, counts: int | Sequence[int], *, scale: float) -> Pooled:
    """The largest cell of each bin of each region, and its switch within the map; -1 for an empty bin.

    Args:
        rois: a row a region: number of the image in the batch, x1, y1, x2, y2.
        counts: bins along the height and the width; 7 x 7 for VGG-16, 6 x 6 for CaffeNet.
        scale: s, the map's size over the image's: 1/16 for both.

    Shape: maps (N, C, H, W), rois (K, 5) -> values and switches (K, C, *counts)

    Raises:
        ValueError: shapes do not fit, tensors are not of floating point, a region names an image that is not
            in the batch, or a count or the scale is not positive.
    """
    high, wide = per_axis(counts, 2, "bins")
    _require_regions(maps.shape, maps, rois)
    if min(high, wide) < 1 or scale <= 0:
        raise ValueError(f"bins and scale must be positive, got {high} x {wide} and {scale}")
    height, width = maps.shape[2:]
    numbers = torch.arange(height * width, device=maps.device).reshape(height, width)
    values = maps.new_zeros(len(rois), maps.shape[1], high, wide)
    switches = torch.full_like(values, -1, dtype=torch.long)
    for k, (image, x1, y1, x2, y2) in enumerate(_on_map(rois, scale)):
        for i, rows in enumerate(_clipped(y1, y2, high, height)):
            for j, columns in enumerate(_clipped(x1, x2, wide, width)):
                cells = maps[image : image + 1, :, rows, columns]
                if cells.numel():
                    value, switch = first_maximum(cells, numbers[rows, columns])
                    values[k, :, i, j], switches[k, :, i, j] = value[0], switch[0]
    return Pooled(values, switches)


def roi_max_pool_backward(residual: Tensor, switches: Tensor, rois: Tensor, shape: Sequence[int]) -> Tensor:
    """dL/dx_i = the sum of delta over all regions and all bins that cell i won (section 2.3, Eq. 4).

    Boxes get no gradient: rounding has none.

    Shape: residual and switches (K, C, *counts), rois (K, 5) -> (N, C, H, W), which is `shape`
    """
    _require_regions(shape, residual, rois)
    require_shape("switches", switches, residual.shape)
    cells = prod(shape[2:])
    taken = switches >= 0
    maps = rois[:, 0].long()[:, None] * shape[1] + torch.arange(shape[1], device=rois.device)  # (K, C)
    chosen = (maps[:, :, None, None] * cells + switches)[taken]
    below = residual.new_zeros(prod(shape))
    below.scatter_add_(0, chosen, residual[taken])
    return below.reshape(*shape)


def _on_map(rois: Tensor, scale: float) -> list[list[int]]:
    """Every region's image and corners in cells of the map."""
    corners = rois[:, 1:] * scale
    whole = corners.trunc()
    rounded = whole + corners.sign() * ((corners - whole).abs() >= 0.5)
    return torch.cat([rois[:, :1], rounded], dim=1).long().tolist()


def _clipped(first: int, last: int, count: int, size: int) -> list[slice]:
    """The bins of the region first..last, as far as they lie on 0..size - 1."""
    moved = [(start + first, end + first) for start, end in bins(max(last - first + 1, 1), count)]
    return [slice(min(max(start, 0), size), min(max(end, 0), size)) for start, end in moved]


def _require_regions(shape: Sequence[int], values: Tensor, rois: Tensor) -> None:
    require_float(values=values, rois=rois)
    if len(shape) != 4:
        raise ValueError(f"maps must be (N, C, H, W), got shape {tuple(shape)}")
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois must be (K, 5), image, x1, y1, x2, y2, got shape {tuple(rois.shape)}")
    images = rois[:, 0]
    if len(rois) and not ((images >= 0) & (images < shape[0]) & (images == images.floor())).all():
        raise ValueError(
            f"the first column of rois must number the {shape[0]} images from 0, got {images.tolist()}"
        )
    if not rois.isfinite().all():
        raise ValueError("rois must be finite numbers")
