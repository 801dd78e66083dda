"""Inception v3. Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, CVPR 2016, arXiv:1512.00567.

A mixed block stacks the maps of its branches, y = [b_1(x), b_2(x), ...], and its convolutions are factorised:
5x5 into two 3x3 (Fig. 5), n x n into 1 x n and n x 1 (Fig. 6), and on the coarsest grid 3x3 into 1x3 and 3x1
side by side (Fig. 7). A reduction halves the grid by convolutions and a pooling at once (Fig. 10).

Departures: this is the network of the authors' code, which is also torchvision's, and not the one of Table 1
(its stem, the 288 maps on the 35 x 35 grid and the number of blocks differ). As in torchvision's, the average
pooling counts the zeros of its padding.

Images are 299 x 299; any size from 75 x 75 on will do, and with `aux=True` any from 299 x 299 on.
"""

from torch import Tensor, nn

from cnnkit.layers import WithAux, he_init
from cnnkit.layers.mixed import Part, chain, conv, in_turn, keep, mixed
from cnnkit.registry import register

MAX = keep(nn.MaxPool2d, 3, 2)
AVERAGE = keep(nn.AvgPool2d, 3, 1, 1)


def grid35(pool: int) -> Part:
    """Fig. 5, with one of its 5x5 convolutions kept."""
    return mixed(
        one=conv(64, 1),
        five=chain(conv(48, 1), conv(64, 5)),
        threes=chain(conv(64, 1), conv(96, 3), conv(96, 3)),
        pool=chain(AVERAGE, conv(pool, 1)),
    )


def grid17(width: int) -> Part:
    """Fig. 6 with n = 7."""
    return mixed(
        one=conv(192, 1),
        seven=chain(conv(width, 1), conv(width, (1, 7)), conv(192, (7, 1))),
        sevens=chain(
            conv(width, 1),
            *(conv(width, kernel) for kernel in ((7, 1), (1, 7), (7, 1))),
            conv(192, (1, 7)),
        ),
        pool=chain(AVERAGE, conv(192, 1)),
    )


def fork(width: int) -> Part:
    """1x3 and 3x1 side by side (Fig. 7)."""
    return mixed(row=conv(width, (1, 3)), column=conv(width, (3, 1)))


GRID8 = mixed(
    one=conv(320, 1),
    three=chain(conv(384, 1), fork(384)),
    threes=chain(conv(448, 1), conv(384, 3), fork(384)),
    pool=chain(AVERAGE, conv(192, 1)),
)
TO_GRID17 = mixed(
    three=conv(384, 3, stride=2, valid=True),
    threes=chain(conv(64, 1), conv(96, 3), conv(96, 3, stride=2, valid=True)),
    pool=MAX,
)
TO_GRID8 = mixed(
    three=chain(conv(192, 1), conv(320, 3, stride=2, valid=True)),
    seven=chain(conv(192, 1), conv(192, (1, 7)), conv(192, (7, 1)), conv(192, 3, stride=2, valid=True)),
    pool=MAX,
)
#: Up to the first 192 maps; Inception-ResNet begins with it too.
STEM = chain(
    *(conv(32, 3, stride=2, valid=True), conv(32, 3, valid=True), conv(64, 3)),
    *(MAX, conv(80, 1), conv(192, 3, valid=True)),
)


class Inception(nn.Module):
    """Stages at strides 4, 8, 16 and 32, and a linear classifier; Inception v4 and its kin are this too.

    Args:
        stages: one part a stage.
        aux: whether there is an auxiliary classifier on the last map but one.
        dropout: fraction of the pooled features that is dropped in training.
    """

    def __init__(
        self,
        stages: tuple[Part, ...],
        *,
        aux: bool = False,
        dropout: float = 0.5,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.stages, self.feature_channels = in_turn(stages, in_channels)
        self.smallest_image = 299 if aux else 75
        *_, coarse, coarsest = self.feature_channels
        self.aux = auxiliary_head(coarse, num_classes) if aux else None
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(coarsest, num_classes)
        )
        he_init(self, mode="fan_in")  # variance scaling, as the authors' code; the paper does not say

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> one map a stage, at strides 4, 8, 16 and 32."""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor | WithAux:
        """(N, in_channels, H, W) -> logits (N, num_classes), and with `aux=True` those of the second head."""
        maps = self.features(images)
        logits = self.head(maps[-1])
        if self.aux is None:
            return logits
        return WithAux(logits, (self.aux(maps[-2]),), weight=0.4)  # the authors' code; the paper names none


def auxiliary_head(channels: int, num_classes: int) -> nn.Sequential:
    """The batch-normalised auxiliary classifier (section 4). Shape: (N, C, 17, 17) -> (N, num_classes)"""
    body, width = chain(keep(nn.AvgPool2d, 5, 3), conv(128, 1), conv(768, 5, valid=True))(channels)
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


register(
    Inception,
    task="classify",
    canon="classification/inception",
    variants={
        "inception_v3": dict(
            stages=(
                STEM,
                chain(MAX, grid35(32), grid35(64), grid35(64)),
                chain(TO_GRID17, grid17(128), grid17(160), grid17(160), grid17(192)),
                chain(TO_GRID8, GRID8, GRID8),
            )
        )
    },
)
