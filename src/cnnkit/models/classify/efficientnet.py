"""EfficientNet. Tan & Le, ICML 2019, arXiv:1905.11946.

A network grows best in depth, width and resolution together (section 3.3, Eq. 3): with a coefficient phi,

    depth = alpha^phi,   width = beta^phi,   resolution = gamma^phi,   alpha beta^2 gamma^2 = 2 or nearly,

so that the cost grows as 2^phi; a grid search around B0 gave alpha = 1.2, beta = 1.1, gamma = 1.15. B0
(Table 1) is a table of MBConv blocks: the inverted residual of MobileNet v2 with a squeeze-and-excitation
before its projection (Hu et al. 2018) and SiLU for its ReLU6.

`EfficientNet(2.2, 3.6, dropout=0.5)` is B8, `scaled(0.5)` what the rule makes of phi = 0.5.

Departures: the widths, depths and resolutions of B1 to B7 are those of the authors' code, which rounded
them by hand: B1 is not the phi = 1 of the rule. Their code pads images of even size at the right and
below only, and its batch norm has eps 1e-3 and a momentum of 0.01; here, as in torchvision and timm, both
sides are padded, and B0 to B4 keep PyTorch's eps and momentum, which their published PyTorch weights
want.
"""

import math
from itertools import chain, count
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from cnnkit.layers import Residual, conv_bn
from cnnkit.models.classify.mobilenet_v2 import round_channels
from cnnkit.registry import register


class Row(NamedTuple):
    """A row of Table 1: `depth` blocks, the first at `stride`, with `kernel`, expanding `expansion`-fold."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    depth: int


STEM = Row(1, 3, 1, 16, 1)
STAGES = (
    (Row(6, 3, 2, 24, 2),),
    (Row(6, 5, 2, 40, 2),),
    (Row(6, 3, 2, 80, 3), Row(6, 5, 1, 112, 3)),
    (Row(6, 5, 2, 192, 4), Row(6, 3, 1, 320, 1)),
)


class Scaling(NamedTuple):
    """What a coefficient phi makes of B0.

    Attributes:
        width: multiplies its channels.
        depth: multiplies its blocks.
        resolution: side of the images.
    """

    width: float
    depth: float
    resolution: int


def compound_scaling(
    phi: float, *, alpha: float = 1.2, beta: float = 1.1, gamma: float = 1.15, resolution: int = 224
) -> Scaling:
    """Eq. 3: how a network grows when 2^phi times its cost can be spent."""
    return Scaling(width=beta**phi, depth=alpha**phi, resolution=round(resolution * gamma**phi))


def conv_bn_silu(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm and SiLU, of the shape of `conv_bn`."""
    return conv_bn(in_channels, out_channels, kernel, stride=stride, groups=groups).append(nn.SiLU())


class SqueezeExcitation(nn.Module):
    """Weigh each map by a number in (0, 1) that the means of all maps decide. Shape: as it was"""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), nn.SiLU()),
            *(nn.Conv2d(squeezed, channels, 1), nn.Sigmoid()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x)


class DropConnect(nn.Module):
    """The stochastic depth of the authors' code. In training a branch is left out, image by image, with
    probability p, and divided by 1 - p where it stays. Shape: as it was
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x * functional.dropout(x.new_ones(len(x), 1, 1, 1), self.p) if self.training else x

    def extra_repr(self) -> str:
        return f"p={self.p:.4g}"


def mbconv(in_channels: int, out_channels: int, stride: int, row: Row, drop: float) -> nn.Module:
    """y = x + F(x), F left out with probability `drop` in training; or F(x) where it changes the shape.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)
    """
    inner = row.expansion * in_channels
    branch = nn.Sequential()
    if row.expansion > 1:
        branch.append(conv_bn_silu(in_channels, inner, 1))
    branch.append(conv_bn_silu(inner, inner, row.kernel, stride=stride, groups=inner))
    branch.append(SqueezeExcitation(inner, max(1, in_channels // 4)))  # a quarter of what the block reads
    branch.append(conv_bn(inner, out_channels, 1))
    if stride > 1 or in_channels != out_channels:
        return branch
    return Residual(branch.append(DropConnect(drop)), nn.Identity())


class EfficientNet(nn.Module):
    """A stem at stride 2, MBConv blocks at strides 4, 8, 16 and 32; the last 1x1 convolution is the head's.

    Args:
        width: multiplies the channels of B0, which are then rounded to multiples of 8.
        depth: multiplies the blocks of each row of B0, rounded up.
        dropout: before the classifier.
        stochastic_depth: probability of leaving out the last block, growing from 0 at the first.
        eps: of batch norm.
        momentum: of batch norm.
    """

    smallest_image = 32

    def __init__(
        self,
        width: float = 1.0,
        depth: float = 1.0,
        *,
        dropout: float = 0.2,
        stochastic_depth: float = 0.2,
        eps: float = 1e-5,
        momentum: float = 0.1,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        total = sum(math.ceil(depth * row.depth) for row in (STEM, *chain(*STAGES)))
        drops = (stochastic_depth * i / total for i in count())

        def append(stage: nn.Sequential, row: Row, channels: int) -> int:
            """Append a row's blocks; returns the channels that leave them."""
            out_channels = round_channels(row.channels * width)
            for i in range(math.ceil(depth * row.depth)):
                stride = row.stride if i == 0 else 1
                stage.append(mbconv(channels, out_channels, stride, row, next(drops)))
                channels = out_channels
            return channels

        channels = round_channels(32 * width)
        self.stem = nn.Sequential(conv_bn_silu(in_channels, channels, 3, stride=2))
        channels = append(self.stem, STEM, channels)
        self.stages = nn.ModuleList()
        self.feature_channels: tuple[int, ...] = ()
        for rows in STAGES:
            stage = nn.Sequential()
            for row in rows:
                channels = append(stage, row, channels)
            self.stages.append(stage)
            self.feature_channels += (channels,)
        last = round_channels(1280 * width)
        self.head = nn.Sequential(
            *(conv_bn_silu(channels, last, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            *(nn.Dropout(dropout), nn.Linear(last, num_classes)),
        )
        authors_init(self, eps, momentum)

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> maps of `feature_channels` at strides 4, 8, 16 and 32"""
        x = self.stem(images)
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


def authors_init(model: nn.Module, eps: float, momentum: float) -> None:
    """The authors' code: convolutions normal with variance 2 / fan-out, the last layer uniform in
    +-1 / sqrt(classes), biases zero. The fan-out of a depthwise convolution is its kernel's area.
    """
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps, layer.momentum = eps, momentum
        elif isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.out_features)
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)


def scaled(phi: float, **overrides: Any) -> tuple[EfficientNet, int]:
    """The network that compound scaling by phi makes of B0, and the side of its images."""
    width, depth, resolution = compound_scaling(phi)
    return EfficientNet(width, depth, **overrides), resolution


AUTHORS_NORM = dict(eps=1e-3, momentum=0.01)

register(
    EfficientNet,
    task="classify",
    canon="classification/efficientnet",
    variants={
        "efficientnet_b0": dict(width=1.0, depth=1.0, dropout=0.2),
        "efficientnet_b1": dict(width=1.0, depth=1.1, dropout=0.2),
        "efficientnet_b2": dict(width=1.1, depth=1.2, dropout=0.3),
        "efficientnet_b3": dict(width=1.2, depth=1.4, dropout=0.3),
        "efficientnet_b4": dict(width=1.4, depth=1.8, dropout=0.4),
        "efficientnet_b5": dict(width=1.6, depth=2.2, dropout=0.4, **AUTHORS_NORM),
        "efficientnet_b6": dict(width=1.8, depth=2.6, dropout=0.5, **AUTHORS_NORM),
        "efficientnet_b7": dict(width=2.0, depth=3.1, dropout=0.5, **AUTHORS_NORM),
    },
)
