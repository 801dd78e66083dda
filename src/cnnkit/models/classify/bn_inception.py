"""BN-Inception, also called Inception v2. Ioffe & Szegedy, ICML 2015, arXiv:1502.03167.

GoogLeNet with batch normalisation before every non-linearity (section 3.2), z = relu(BN(W u + b)); its 5x5
convolutions become two 3x3, and blocks of stride 2 take the place of two of its poolings (appendix, Fig. 5).

Departures: widths and poolings are those of the published Caffe weights and of their ports, which keep the
bias b although the shift of BN cancels it (section 3.2 drops it); 4c and 4d have 608 maps where the authors'
later code has 576, and their separable 7x7 convolution is a plain one.

Images are 224 x 224; any size from 31 x 31 on will do.
"""

from functools import partial

from torch import Tensor, nn

from cnnkit.layers import global_pool_head, he_init, mixed
from cnnkit.layers.mixed import Part, chain, in_turn, keep
from cnnkit.registry import register

conv = partial(mixed.conv, bias=True, eps=1e-5)
HALVE = keep(nn.MaxPool2d, 3, 2, ceil_mode=True)  # Caffe's poolings round up
#: For maps that a ReLU made, so that zeros never win: odd sizes are halved as a convolution halves them.
HALVE_ODD_TOO = chain(keep(nn.ZeroPad2d, (0, 1, 0, 1)), HALVE)
AVERAGE = keep(nn.AvgPool2d, 3, 1, 1)
MAX = keep(nn.MaxPool2d, 3, 1, 1)


def block(one: int, reduce3: int, three: int, reduce33: int, threes: int, pool: Part, projected: int) -> Part:
    """A row of Fig. 5 with stride 1."""
    return mixed.mixed(
        one=conv(one, 1),
        three=chain(conv(reduce3, 1), conv(three, 3)),
        threes=chain(conv(reduce33, 1), conv(threes, 3), conv(threes, 3)),
        pool=chain(pool, conv(projected, 1)),
    )


def reduction(reduce3: int, three: int, reduce33: int, threes: int) -> Part:
    """A row of Fig. 5 with stride 2: no 1x1 branch, and the pooling passes its maps through."""
    return mixed.mixed(
        three=chain(conv(reduce3, 1), conv(three, 3, stride=2)),
        threes=chain(conv(reduce33, 1), conv(threes, 3), conv(threes, 3, stride=2)),
        pool=HALVE_ODD_TOO,
    )


class BNInception(nn.Module):
    """Stages at strides 4, 8, 16 and 32, and a linear classifier without dropout (section 4.2.1)."""

    smallest_image = 31

    def __init__(self, stages: tuple[Part, ...], *, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.stages, self.feature_channels = in_turn(stages, in_channels)
        self.head = global_pool_head(self.feature_channels[-1], num_classes)
        he_init(self, mode="fan_in")  # the paper does not say

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> one map a stage, at strides 4, 8, 16 and 32."""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


register(
    BNInception,
    task="classify",
    canon="classification/inception",
    variants={
        "bn_inception": dict(
            stages=(  # Fig. 5
                chain(conv(64, 7, stride=2), HALVE, conv(64, 1), conv(192, 3)),
                chain(
                    HALVE,
                    block(64, 64, 64, 64, 96, AVERAGE, 32),  # 3a
                    block(64, 64, 96, 64, 96, AVERAGE, 64),  # 3b
                ),
                chain(
                    reduction(128, 160, 64, 96),  # 3c
                    block(224, 64, 96, 96, 128, AVERAGE, 128),  # 4a
                    block(192, 96, 128, 96, 128, AVERAGE, 128),  # 4b
                    block(160, 128, 160, 128, 160, AVERAGE, 128),  # 4c
                    block(96, 128, 192, 160, 192, AVERAGE, 128),  # 4d
                ),
                chain(
                    reduction(128, 192, 192, 256),  # 4e
                    block(352, 192, 320, 160, 224, AVERAGE, 128),  # 5a
                    block(352, 192, 320, 192, 224, MAX, 128),  # 5b
                ),
            )
        )
    },
)
