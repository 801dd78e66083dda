"""Inception-ResNet v1 and v2. Szegedy, Ioffe, Vanhoucke & Alemi, AAAI 2017, arXiv:1602.07261, whose other
half is `inception_v4.py`.

A mixed block M without pooling, brought back to the width of its input by a linear 1x1 convolution L, is the
branch of a residual unit, scaled down before the addition (section 3.3; without it wide networks die),

    y = relu(x + s L(M(x))),     s = 0.17, 0.1 and 0.2 on the 35, 17 and 8 grids.

Departures: the paper says of s only "between 0.1 and 0.3"; these are the values of the authors' code. The
drawings of v2 and that code disagree. `inception_resnet_v2` is the code: the stem of Inception v3, a mixed
block without residual, 10, 20 and 10 blocks, no ReLU and s = 1 in the last, a 1x1 convolution to 1536.
`inception_resnet_v2_as_drawn` is Fig. 15 to 19, with the widths 1152 and 2144 to which the reductions add up
instead of the printed 1154 and 2048. `aux=True` adds the auxiliary head of the code.

Images are 299 x 299; any size from 75 x 75 on will do, and with `aux=True` any from 299 x 299 on.
"""

from torch import Tensor, nn

from cnnkit.layers.mixed import Part, chain, conv, mixed
from cnnkit.models.classify.inception_v3 import MAX, STEM, Inception
from cnnkit.models.classify.inception_v4 import AVERAGE, TO_GRID35, reduction_a
from cnnkit.models.classify.inception_v4 import STEM as STEM_V4
from cnnkit.registry import register


class ScaledResidual(nn.Module):
    """y = activation(x + s F(x)). Shape: (N, C, H, W) -> (N, C, H, W)"""

    def __init__(self, branch: nn.Module, scale: float, activation: nn.Module) -> None:
        super().__init__()
        self.branch, self.scale, self.activation = branch, scale, activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.scale * self.branch(x))


def residual(branches: Part, scale: float, *, activation: type[nn.Module] = nn.ReLU) -> Part:
    """A residual unit around mixed branches; the linear 1x1 has a bias and no batch norm (section 3.2)."""

    def build(channels: int) -> tuple[nn.Module, int]:
        module, width = branches(channels)
        branch = nn.Sequential(module, nn.Conv2d(width, channels, 1))
        return ScaledResidual(branch, scale, activation()), channels

    return build


def grid35(second: int, third: int) -> Part:
    """Fig. 10 and 16."""
    return mixed(
        one=conv(32, 1),
        three=chain(conv(32, 1), conv(32, 3)),
        threes=chain(conv(32, 1), conv(second, 3), conv(third, 3)),
    )


def factorised(one: int, first: int, second: int, third: int, n: int) -> Part:
    """1x1 beside 1x1, 1xn, nx1: Fig. 11 and 17 with n = 7, Fig. 13 and 19 with n = 3."""
    return mixed(one=conv(one, 1), long=chain(conv(first, 1), conv(second, (1, n)), conv(third, (n, 1))))


def reduction_b(second: int, third: int, last: int) -> Part:
    """From the 17 x 17 to the 8 x 8 grid (Fig. 12 and 18)."""
    return mixed(
        three=chain(conv(256, 1), conv(384, 3, stride=2, valid=True)),
        narrow=chain(conv(256, 1), conv(second, 3, stride=2, valid=True)),
        threes=chain(conv(256, 1), conv(third, 3), conv(last, 3, stride=2, valid=True)),
        pool=MAX,
    )


A1 = residual(grid35(32, 32), 0.17)
B1 = residual(factorised(128, 128, 128, 128, 7), 0.1)
C1 = residual(factorised(192, 192, 192, 192, 3), 0.2)
A2 = residual(grid35(48, 64), 0.17)
B2 = residual(factorised(192, 128, 160, 192, 7), 0.1)
C2_BRANCHES = factorised(192, 192, 224, 256, 3)
C2 = residual(C2_BRANCHES, 0.2)
C2_LAST = residual(C2_BRANCHES, 1.0, activation=nn.Identity)

#: Mixed_5b of the authors' code: the last block without a shortcut.
MIXED_35 = mixed(
    one=conv(96, 1),
    five=chain(conv(48, 1), conv(64, 5)),
    threes=chain(conv(64, 1), conv(96, 3), conv(96, 3)),
    pool=chain(AVERAGE, conv(64, 1)),
)

register(
    Inception,
    task="classify",
    canon="classification/inception",
    variants={
        "inception_resnet_v1": dict(  # Fig. 10 to 15
            stages=(
                STEM,
                chain(conv(256, 3, stride=2, valid=True), *[A1] * 5),
                chain(reduction_a(192, 192, 256, 384), *[B1] * 10),
                chain(reduction_b(256, 256, 256), *[C1] * 5),
            ),
            dropout=0.2,
        ),
        "inception_resnet_v2": dict(
            stages=(
                STEM,
                chain(MAX, MIXED_35, *[A2] * 10),
                chain(reduction_a(256, 256, 384, 384), *[B2] * 20),
                chain(reduction_b(288, 288, 320), *[C2] * 9, C2_LAST, conv(1536, 1)),
            ),
            dropout=0.2,
        ),
        "inception_resnet_v2_as_drawn": dict(  # Fig. 15 to 19
            stages=(
                STEM_V4,
                chain(TO_GRID35, *[A2] * 5),
                chain(reduction_a(256, 256, 384, 384), *[B2] * 10),
                chain(reduction_b(288, 288, 320), *[C2] * 5),
            ),
            dropout=0.2,
        ),
    },
)
