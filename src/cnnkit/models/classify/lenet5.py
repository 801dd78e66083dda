"""LeNet-5.

    LeCun, Bottou, Bengio & Haffner, "Gradient-Based Learning Applied to Document Recognition",
    Proceedings of the IEEE 86(11), 1998.

A unit is x = A tanh(S a) of its weighted sum a, A = 1.7159 and S = 2/3 (Eq. 6 and appendix A). A sub-sampling
unit adds its four inputs, multiplies by a coefficient and adds a bias, both trainable and shared by the map.
The output of class i is the distance to its code (Eq. 7),

    y_i = sum_j (x_j - w_ij)^2,

so the smallest wins; `forward` returns -y as logits, and cross-entropy of them is the criterion of Eq. 9
without the constant exp(-j) of the "rubbish" class.

Departures: the codes are 7 x 12 pictures of the digits as in the paper, which shows them and does not list
them, so these are drawn anew; classes beyond ten get random codes. Initial weights as in `lenet1989`.
`lenet5_relu` is the network that teaching code calls LeNet-5: a dense C3, plain average pooling, ReLU and a
linear output.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.models.classify.lenet1989 import fan_in_init
from cnnkit.registry import register

#: Table I: the S2 maps that each C3 map reads.
C3_READS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

GLYPHS = """
.#####. ...#... .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
##...## ..##... ##...## ##...## ...###. ##..... .##.... .....## ##...## ##...##
##...## .###... .....## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## ...#... .....## .....## .##.##. ##..... ##..... ....##. ##...## ##...##
##...## ...#... ....##. .....## ##..##. ######. ######. ....##. .#####. ##...##
##...## ...#... ...##.. ..####. ##..##. .....## ##...## ...##.. .#####. .######
##...## ...#... ..##... .....## ####### .....## ##...## ...##.. ##...## .....##
##...## ...#... .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...#... ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...#... ##..... ##...## ....##. ##...## ##...## .##.... ##...## ....##.
.#####. .#####. ####### .#####. ....##. .#####. .#####. .##.... .#####. ..###..
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
"""


def codes(num_classes: int) -> Tensor:
    """The targets of F6: +1 for ink and -1 for paper. Shape: (num_classes, 84)"""
    rows = [line.split() for line in GLYPHS.split("\n") if line]
    digits = [[1.0 if dot == "#" else -1.0 for row in rows for dot in row[digit]] for digit in range(10)]
    drawn = torch.tensor(digits)[:num_classes]
    bits = torch.randint(2, (max(0, num_classes - 10), 84), generator=torch.Generator().manual_seed(0))
    return torch.cat([drawn, 2.0 * bits - 1.0])


class ScaledTanh(nn.Module):
    """A tanh(S a) with f(1) = 1 and f(-1) = -1 (appendix A)."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2 / 3 * x)


class Subsampling(nn.Module):
    """Add each 2 x 2 block, scale, shift, squash. Shape: (N, C, H, W) -> (N, C, H / 2, W / 2)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.add = nn.AvgPool2d(2, divisor_override=1)
        self.coefficient = nn.Parameter(torch.full((channels, 1, 1), 0.25))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.squash = ScaledTanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.squash(self.add(x) * self.coefficient + self.bias)


class TableConv(nn.Module):
    """5x5 convolution in which output map i reads the input maps reads[i] alone: 60 kernels instead of 96.

    The kernels that there are are laid into a dense one and the rest left zero: convolving the zeros too is
    ten times faster on a CPU than a grouped convolution without them.

    Shape: (N, 6, H, W) -> (N, 16, H - 4, W - 4)
    """

    def __init__(self, in_channels: int, reads: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, len(reads)
        self.inputs = [i for maps in reads for i in maps]
        self.outputs = [o for o, maps in enumerate(reads) for _ in maps]
        self.kernels = nn.Parameter(torch.empty(len(self.inputs), 5, 5))
        self.bias = nn.Parameter(torch.zeros(self.out_channels))
        for kernel, output in zip(self.kernels, self.outputs, strict=True):
            bound = 2.4 / math.sqrt(25 * len(reads[output]))
            nn.init.uniform_(kernel, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        dense = self.kernels.new_zeros(self.out_channels, self.in_channels, 5, 5)
        dense[self.outputs, self.inputs] = self.kernels
        return functional.conv2d(x, dense, self.bias)


class Distance(nn.Module):
    """Minus the squared distance to each class's code (Eq. 7). Shape: (N, 84) -> (N, num_classes)"""

    codes: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("codes", codes(num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.codes).square().sum(dim=2)


class LeNet5(nn.Module):
    """C1-S2-C3-S4-C5-F6-output, for 32 x 32 images (Fig. 2)."""

    feature_channels, feature_strides = (6, 16), (2, 4)

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(in_channels, 6, 5), ScaledTanh(), Subsampling(6)),
                nn.Sequential(TableConv(6, C3_READS), ScaledTanh(), Subsampling(16)),
            ]
        )
        self.head = nn.Sequential(
            nn.Conv2d(16, 120, 5),
            ScaledTanh(),
            nn.Flatten(),
            nn.Linear(120, 84),
            ScaledTanh(),
            Distance(num_classes),
        )
        fan_in_init(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """S2 and S4: (N, 6, 14, 14) and (N, 16, 5, 5)."""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, 32, 32) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


class LeNet5ReLU(nn.Module):
    """Two convolutions and three linear layers, for 28 x 28 images: the form of today's teaching code.

    Args:
        width: multiplies all channels and hidden units.
    """

    feature_strides = (2, 4)

    def __init__(self, *, width: float = 1.0, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        first, second, *units = (int(width * count) for count in (6, 16, 120, 84))
        self.feature_channels = (first, second)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(in_channels, first, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
                nn.Sequential(nn.Conv2d(first, second, 5), nn.ReLU(), nn.AvgPool2d(2)),
            ]
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(second * 5 * 5, units[0]),
            nn.ReLU(),
            nn.Linear(units[0], units[1]),
            nn.ReLU(),
            nn.Linear(units[1], num_classes),
        )

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, 6, 14, 14) and (N, 16, 5, 5)."""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, 28, 28) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


register(LeNet5, task="classify", canon="classification/lenet", variants={"lenet5": {}})
register(LeNet5ReLU, task="classify", canon="classification/lenet", variants={"lenet5_relu": {}})
