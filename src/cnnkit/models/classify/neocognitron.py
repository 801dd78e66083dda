"""Neocognitron. Fukushima, Biological Cybernetics 36(4), 1980, doi:10.1007/BF00344251.

An S-cell looks for one feature in a window of the C-cells before it; all cells of its plane look for the same
one, each at its own place. What it is given is weighed against its length v, so that it measures likeness,
and r says how much likeness it asks for,

    u_S = r phi[(1 + sum a u_C) / (1 + 2r / (1 + r) b v) - 1],     v = sqrt(sum c u_C^2),     phi = relu.

A C-cell fires where its feature is anywhere near, and more so than the mean v_S of all planes,

    u_C = psi[(1 + sum d u_S) / (1 + v_S) - 1],     psi[x] = phi[x] / (alpha + phi[x]).

Only a and b learn, without a teacher or gradients. Of each S-column (all S-cells with nearly the same
window) the cell that fires most is a candidate; of each plane the strongest candidate is its representative,
and what the representative saw is added to its plane,

    a += q c u_C,     b += q / 2 v.

A feature that no plane knows yet falls to one that has learned nothing. After many such steps u_S depends on
the cosine s between what is seen and what was learned alone: it is phi[(1 + r) s - r].

Departures, where the paper is silent. Its sizes 16-16-10-8-6-2-1 come out if C-cells stand two S-cells apart
and one of them beyond each border, n -> n / 2 + 2, and do so here. c falls off as 0.9^|v| and adds up to one
over all that it weighs; d is 0.7^|v|. At first a is random and tiny, without the paper's weak preference for
an orientation. Columns overlap, one around each cell. One layer learns after the other. psi takes phi first,
since x / (alpha + x) turns positive again below -alpha. The paper knows no classes: `name` finds out what a
cell has come to stand for by showing it labelled pictures after learning, and changes no synapse.

Images are 16 x 16; any size from there on will do.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.registry import register

COLUMN = 5  # side of an S-column


def fading(side: int, base: float) -> Tensor:
    """`base` to the power of the distance from the middle. Shape: (side, side)"""
    offset = torch.arange(side) - (side - 1) / 2
    return base ** torch.hypot(offset[:, None], offset)


class SimpleCells(nn.Module):
    """Planes of S-cells with 5x5 windows. Shape: (N, C, H, W) -> (N, planes, H + 2 padding - 4, ...)

    Args:
        selectivity: r; from r / (1 + r) on a cosine counts as likeness. It may be lowered after learning.
        rate: q.
    """

    c: Tensor
    selectivity: Tensor

    def __init__(self, in_planes: int, planes: int, *, padding: int, selectivity: float, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.pad = nn.ZeroPad2d(padding)
        c = fading(5, 0.9).expand(1, in_planes, 5, 5)
        self.register_buffer("c", c / c.sum())
        self.register_buffer("selectivity", torch.tensor(selectivity))
        self.a = nn.Parameter(1e-3 * torch.rand(planes, in_planes, 5, 5), requires_grad=False)
        self.b = nn.Parameter(torch.zeros(planes, 1, 1), requires_grad=False)
        self.phi = nn.ReLU()

    def inhibition(self, padded: Tensor) -> Tensor:
        """v, of which there is one plane."""
        return functional.conv2d(padded.square(), self.c).sqrt()

    def forward(self, maps: Tensor) -> Tensor:
        padded, r = self.pad(maps), self.selectivity
        excited = 1 + functional.conv2d(padded, self.a)
        inhibited = 1 + 2 * r / (1 + r) * self.b * self.inhibition(padded)
        return r * self.phi(excited / inhibited - 1)

    @torch.no_grad()
    def learn(self, maps: Tensor) -> None:
        """Present one pattern after the other. Shape: (N, C, H, W)"""
        for i in range(len(maps)):
            pattern = maps[i : i + 1]
            padded = self.pad(pattern)
            v = self.inhibition(padded)[0, 0]
            for plane, row, column in representatives(self(pattern)[0]):
                seen = padded[0, :, row : row + 5, column : column + 5]
                self.a[plane] += self.rate * self.c[0] * seen
                self.b[plane] += self.rate / 2 * v[row, column]


def representatives(responses: Tensor) -> list[tuple[int, int, int]]:
    """Plane, row and column of the cells that learn: of each plane one at most. Shape: (planes, H, W)"""
    strongest, plane = responses.max(dim=0)
    _, candidates = functional.max_pool2d(
        strongest[None], COLUMN, stride=1, padding=COLUMN // 2, return_indices=True
    )
    places = torch.unique(candidates)
    strength, order = strongest.flatten()[places].sort(descending=True)
    chosen: dict[int, int] = {}
    for place, fires in zip(places[order].tolist(), strength > 0, strict=True):
        if fires:
            chosen.setdefault(int(plane.flatten()[place]), place)
    return [(k, *divmod(place, responses.shape[2])) for k, place in chosen.items()]


class ComplexCells(nn.Module):
    """Planes of C-cells, one for each of S-cells. Shape: (N, C, H, W) -> (N, C, ...)

    Args:
        side: of the window.
        spacing: S-cells from one C-cell to the next.
        padding: zeros to the left, right, top and bottom.
        saturation: alpha.
    """

    d: Tensor

    def __init__(
        self, side: int, *, spacing: int, padding: tuple[int, int, int, int], saturation: float
    ) -> None:
        super().__init__()
        self.spacing, self.saturation = spacing, saturation
        self.pad = nn.ZeroPad2d(padding)
        self.register_buffer("d", fading(side, 0.7)[None, None])
        self.phi = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        planes = self.pad(maps).flatten(0, 1).unsqueeze(1)
        near = functional.conv2d(planes, self.d, stride=self.spacing)
        near = near.reshape(*maps.shape[:2], *near.shape[2:])
        x = self.phi((1 + near) / (1 + near.mean(dim=1, keepdim=True)) - 1)
        return x / (self.saturation + x)


class CellNames(nn.Module):
    """Which class each cell of the last layer stands for; a class is as likely as its strongest cell.

    Until they are named, the first cells stand for one class each.

    Shape: (N, cells, H, W) -> (N, num_classes)
    """

    names: Tensor

    def __init__(self, cells: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("names", torch.eye(cells, num_classes))

    def forward(self, maps: Tensor) -> Tensor:
        return (maps.amax(dim=(2, 3)).unsqueeze(2) * self.names).amax(dim=1)

    def name(self, maps: Tensor, labels: Tensor) -> None:
        """Give each cell the class that it wins most often for, and no class where it never wins."""
        strength, winner = maps.amax(dim=(2, 3)).max(dim=1)
        won = torch.zeros_like(self.names)
        won.index_put_((winner, labels), (strength > 0).to(won.dtype), accumulate=True)
        is_most = functional.one_hot(won.argmax(dim=1), won.shape[1])
        self.names.copy_(is_most * won.amax(dim=1, keepdim=True).clamp(max=1))


class Neocognitron(nn.Module):
    """U_S1, U_C1, U_S2, U_C2, U_S3, U_C3 and the names of the last cells.

    Args:
        planes: S-planes, and as many C-planes, of each layer.
        selectivity: r of each layer.
        rates: q of each layer.
        saturation: alpha of all C-cells.
    """

    feature_strides = (2, 4, 4)
    smallest_image = 16

    def __init__(
        self,
        planes: tuple[int, int, int] = (24, 24, 24),
        *,
        selectivity: tuple[float, float, float] = (4.0, 1.5, 1.5),
        rates: tuple[float, float, float] = (1.0, 16.0, 16.0),
        saturation: float = 0.5,
        num_classes: int = 24,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        self.feature_channels = planes
        self.stages = nn.ModuleList()
        arriving = in_channels
        for i, (leaving, padding) in enumerate(zip(planes, (2, 1, 0), strict=True)):
            simple = SimpleCells(
                arriving, leaving, padding=padding, selectivity=selectivity[i], rate=rates[i]
            )
            side, spacing, border = (5, 2, (3, 4, 3, 4)) if i < 2 else (2, 1, (0, 0, 0, 0))
            complex_ = ComplexCells(side, spacing=spacing, padding=border, saturation=saturation)
            self.stages.append(nn.Sequential(simple, complex_))
            arriving = leaving
        self.head = CellNames(arriving, num_classes)

    @property
    def simple_cells(self) -> list[SimpleCells]:
        """The layers that learn, in their order."""
        return [module for module in self.modules() if isinstance(module, SimpleCells)]

    def features(self, images: Tensor) -> list[Tensor]:
        """U_C1, U_C2 and U_C3: for 16 x 16 images 10 x 10, 6 x 6 and 1 x 1."""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> how strongly each class is seen (N, num_classes), 0 for not at all."""
        return self.head(self.features(images)[-1])

    @torch.no_grad()
    def learn(self, images: Tensor, presentations: int = 20) -> None:
        """Self-organise by the paper's rule, one layer after the other. Shape: (N, in_channels, H, W)

        Raises:
            ValueError: there are negative values.
        """
        if images.min() < 0:
            raise ValueError(
                f"U_0 takes brightness from 0 on, got {images.min():.3g}; leave out subtracting the mean"
            )
        maps = images
        for cells, stage in zip(self.simple_cells, self.stages, strict=True):
            for _ in range(presentations):
                cells.learn(maps)
            maps = stage(maps)

    @torch.no_grad()
    def name(self, images: Tensor, labels: Tensor) -> None:
        """Find out which class each cell has come to stand for. Shape: (N, in_channels, H, W) and (N,)"""
        self.head.name(self.features(images)[-1], labels)


register(Neocognitron, task="classify", canon="classification/neocognitron", variants={"neocognitron": {}})
