"""Xception. Chollet, CVPR 2017, arXiv:1610.02357.

An inception block taken to its limit: every map is filtered in space by itself, and the maps are mixed by a
1x1 convolution, with nothing in between (section 3). Stacks of such separable convolutions are the residual
units of Fig. 5,

    y = F(x) + s(x),     F = [relu, separable, BN] x 2, pooling     or     [relu, separable, BN] x 3,

s being a 1x1 convolution of stride 2 with batch norm, or the identity where there is no pooling. The very
first ReLU of the first unit is left out.

Departures: the poolings pad both sides, and batch norm has PyTorch's eps = 1e-5, as in the PyTorch ports of
the published weights; the author's Keras code pads maps of an even size on the right and below alone, and has
eps = 1e-3.

Images are 299 x 299; any size from 32 x 32 on will do.
"""

from functools import partial

from torch import Tensor, nn

from cnnkit.layers import he_init, mixed
from cnnkit.layers.mixed import Part, chain, in_turn, keep
from cnnkit.registry import register

conv = partial(mixed.conv, valid=True, eps=1e-5)
RELU = keep(nn.ReLU)
POOL = keep(nn.MaxPool2d, 3, 2, 1)


def separable(out_channels: int) -> Part:
    """3x3 in each map by itself, 1x1 across the maps, batch norm."""

    def build(channels: int) -> tuple[nn.Module, int]:
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        pointwise = nn.Conv2d(channels, out_channels, 1, bias=False)
        return nn.Sequential(depthwise, pointwise, nn.BatchNorm2d(out_channels)), out_channels

    return build


class Residual(nn.Module):
    """y = F(x) + s(x). The shortcut is made first, as in the definition whose published weights fit."""

    def __init__(self, shortcut: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.shortcut, self.branch = shortcut, branch

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


def residual(*branch: Part) -> Part:
    """A residual unit; one that changes the number of maps also halves their size."""

    def build(channels: int) -> tuple[nn.Module, int]:
        module, width = chain(*branch)(channels)
        if width == channels:
            return Residual(nn.Identity(), module), width
        projection = nn.Conv2d(channels, width, 1, stride=2, bias=False)
        return Residual(nn.Sequential(projection, nn.BatchNorm2d(width)), module), width

    return build


class Xception(nn.Module):
    """Stages at strides 4, 8, 16 and 32, and a linear classifier."""

    smallest_image = 32

    def __init__(
        self,
        stages: tuple[Part, ...],
        *,
        dropout: float = 0.5,  # section 4.4
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.stages, self.feature_channels = in_turn(stages, in_channels)
        self.head = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)),
            nn.Linear(self.feature_channels[-1], num_classes),
        )
        separable_init(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> one map a stage, at strides 4, 8, 16 and 32."""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


def separable_init(model: nn.Module) -> None:
    """He's, with half the variance for depthwise filters, which no ReLU follows; the paper does not say."""
    he_init(model, mode="fan_in")
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")


MIDDLE = residual(*(RELU, separable(728)) * 3)

register(
    Xception,
    task="classify",
    canon="classification/xception",
    variants={
        "xception": dict(
            stages=(  # Fig. 5
                chain(
                    *(conv(32, 3, stride=2), conv(64, 3)),
                    residual(separable(128), RELU, separable(128), POOL),
                ),
                residual(*(RELU, separable(256)) * 2, POOL),
                chain(residual(*(RELU, separable(728)) * 2, POOL), *[MIDDLE] * 8),
                chain(
                    residual(RELU, separable(728), RELU, separable(1024), POOL),
                    *(separable(1536), RELU, separable(2048), RELU),
                ),
            )
        )
    },
)
