"""High-dimensional Gaussian filtering on a permutohedral lattice.

Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010. The
lattice fills d dimensions with simplices of d + 1 corners; only corners of simplices that hold a point are
kept. A point gives its value to the corners of its simplex by barycentric weights (splat), values are blurred
along each of the d + 1 axes by (1, 2, 1), and each point collects from its corners what it gave (slice). The
three together are close to a Gaussian of standard deviation 1 (section 3), up to a factor.
"""

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float


class Lattice:
    """The lattice around given points.

    Args:
        points: (P, d).

    Attributes:
        corners: for each point and each of its d + 1 corners, the corner's row among `count`. (P, d + 1)
        barycentric: the weights of the corners. (P, d + 1)
        neighbours: for each axis, the rows before and after; `count` where there is none. (d + 1, 2, count)
        count: how many corners there are.

    Raises:
        ValueError: points are not of floating point, or spread so far that corners cannot be numbered.
    """

    @torch.no_grad()
    def __init__(self, points: Tensor) -> None:
        require_float(points=points)
        corners, self.barycentric = _simplices(_elevate(points))
        keys, steps = _numbers(corners)
        ordered, order = keys.flatten().sort()
        new = torch.ones_like(ordered)
        new[1:] = (ordered[1:] != ordered[:-1]).long()
        rows = new.cumsum(0) - 1
        # on the meta device nothing has a value, so that all corners count as different ones
        self.count = len(ordered) if points.is_meta else int(rows[-1]) + 1
        self.corners = torch.empty_like(rows).scatter_(0, order, rows).reshape(keys.shape)
        kept = ordered.new_empty(self.count).scatter_(0, rows, ordered)
        sought = kept + torch.stack([-steps, steps], dim=1)[:, :, None]
        found = torch.searchsorted(kept, sought).clamp(max=self.count - 1)
        self.neighbours = torch.where(kept[found] == sought, found, self.count)

    def filter(self, values: Tensor) -> Tensor:
        """Splat, blur and slice. Shape: (P, C) -> (P, C)"""
        x = values.new_zeros(self.count, values.shape[1])
        shares = list(zip(self.corners.unbind(1), self.barycentric.to(values).unbind(1), strict=True))
        for rows, weight in shares:
            x = x.index_add(0, rows, weight[:, None] * values)
        nobody = values.new_zeros(1, values.shape[1])
        for before, after in self.neighbours:
            around = torch.cat([x, nobody])
            x = x + (around[before] + around[after]) / 2
        return torch.stack([weight[:, None] * x[rows] for rows, weight in shares]).sum(0)


def _elevate(points: Tensor) -> Tensor:
    """Onto the plane of d + 1 coordinates that sum to 0, scaled so that (1, 2, 1) blurs by 1 (section 3.1).

    Shape: (P, d) -> (P, d + 1)
    """
    d = points.shape[1]
    place = torch.arange(1, d + 1, device=points.device, dtype=points.dtype)
    scaled = points * (d + 1) * (2 / 3) ** 0.5 / (place * (place + 1)).sqrt()
    above = scaled.flip(1).cumsum(1).flip(1)  # sum of this coordinate and all after it
    lifted = above.new_zeros(len(points), d + 1)
    lifted[:, :d] = above
    lifted[:, 1:] -= place * scaled
    return lifted


def _simplices(lifted: Tensor) -> tuple[Tensor, Tensor]:
    """The corners of the simplex that each point lies in, and its barycentric weights (section 3.2).

    Shape: (P, d + 1) -> corners (P, d + 1 corners, d + 1 coordinates) and weights (P, d + 1)
    """
    side = lifted.shape[1]
    nearest = (lifted / side).round() * side
    excess = (nearest.sum(1, keepdim=True) / side).long()
    # rank of each coordinate by how far it lies above the nearest point of remainder 0
    rank = (lifted - nearest).argsort(dim=1, descending=True, stable=True).argsort(dim=1) + excess
    nearest = nearest + side * ((rank < 0).to(lifted) - (rank >= side).to(lifted))
    rank = rank + side * ((rank < 0).long() - (rank >= side).long())
    delta = (lifted - nearest) / side
    weights = lifted.new_zeros(len(lifted), side + 1)
    weights.scatter_add_(1, side - 1 - rank, delta)
    weights.scatter_add_(1, side - rank, -delta)
    weights[:, 0] += 1 + weights[:, side]
    remainder = torch.arange(side, device=lifted.device)
    canonical = torch.where(
        remainder[None, :] < side - remainder[:, None], remainder[:, None], remainder[:, None] - side
    )  # (remainder, rank): what is added to a coordinate of that rank
    corners = nearest.long()[:, None, :] + canonical[:, rank].transpose(0, 1)
    return corners, weights[:, :side]


def _numbers(corners: Tensor) -> tuple[Tensor, Tensor]:
    """A number for each corner, and what one step along each axis adds to it.

    The last coordinate follows from the others, which are the digits; their bases leave room for a step.

    Shape: (P, corners, d + 1) -> (P, corners) and (d + 1)
    """
    digits, d = corners[..., :-1], corners.shape[-1] - 1
    lowest = digits.amin((0, 1)) - d
    bases = digits.amax((0, 1)) + d + 1 - lowest
    if not corners.is_meta and float(bases.double().log2().sum()) >= 63:
        raise ValueError(
            f"the points spread over {bases.tolist()} lattice steps, too many to number; raise the deviations"
        )
    values = torch.cat([bases.new_ones(1), bases[:-1].cumprod(0)])
    steps = torch.ones(d + 1, d, device=corners.device, dtype=torch.long)
    steps.diagonal().sub_(d + 1)
    return ((digits - lowest) * values).sum(-1), (steps * values).sum(1)
