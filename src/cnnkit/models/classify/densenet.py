"""DenseNet. Huang, Liu, van der Maaten & Weinberger, CVPR 2017, arXiv:1608.06993.

A layer reads the concatenation of all maps made before it in its block (Eq. 2) and adds k maps of its own,

    x_l = H_l([x_0, x_1, ..., x_{l-1}]),

k being the growth rate. H is BN-ReLU-Conv3x3(k), and with bottleneck layers (B) BN-ReLU-Conv1x1(4k)-BN-ReLU-
Conv3x3(k). Between blocks a transition halves the resolution; with compression (C) it keeps the fraction
theta = 0.5 of the maps. The networks for ImageNet are DenseNet-BC.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cnnkit.layers import ConvStem, ImageNetStem, Stem, bn_relu_conv, global_pool_head, he_init
from cnnkit.registry import register

#: How H is built, from channels, growth rate and the fraction of its results to drop.
Composite = Callable[[int, int, float], nn.Sequential]


def basic(channels: int, growth: int, dropout: float) -> nn.Sequential:
    """H of a plain DenseNet. Shape: (N, C, H, W) -> (N, k, H, W)"""
    return bn_relu_conv(channels, growth, 3).append(nn.Dropout(dropout))


def bottleneck(channels: int, growth: int, dropout: float) -> nn.Sequential:
    """H of a DenseNet-B. Shape: (N, C, H, W) -> (N, k, H, W)"""
    inner = 4 * growth  # section 3, bottleneck layers
    reduce = bn_relu_conv(channels, inner, 1).append(nn.Dropout(dropout))
    return nn.Sequential(reduce, basic(inner, growth, dropout))


class DenseLayer(nn.Module):
    """Append k new maps to the maps so far. Shape: (N, C, H, W) -> (N, C + k, H, W)"""

    def __init__(self, new_maps: nn.Module) -> None:
        super().__init__()
        self.new_maps = new_maps

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new_maps(x)], dim=1)


def transition(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    """Compress and halve. Shape: (N, C, H, W) -> (N, theta * C, H / 2, W / 2)"""
    return bn_relu_conv(in_channels, out_channels, 1).extend([nn.Dropout(dropout), nn.AvgPool2d(2)])


class DenseNet(nn.Module):
    """A stem, dense blocks with transitions between them, and a linear classifier.

    Args:
        depths: number of dense layers in each block (Table 1).
        growth: k, the number of maps that each layer adds.
        composite: H.
        compression: theta, the fraction of maps that a transition keeps.
        stem: the layers before the first block.
        channels: maps that leave the stem; 2k if not given (section 3, implementation details).
        dropout: fraction dropped after each convolution but the first.
        width: factor of k and of `channels`.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        growth: int,
        *,
        composite: Composite = bottleneck,
        compression: float = 0.5,
        stem: Stem = ImageNetStem,
        channels: int | None = None,
        dropout: float = 0.0,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        growth = int(width * growth)
        arriving = 2 * growth if channels is None else int(width * channels)
        self.stem = stem(in_channels, arriving)
        self.stages = nn.ModuleList()
        self.feature_channels: tuple[int, ...] = ()
        self.feature_strides = tuple(stem.stride * 2**i for i in range(len(depths)))
        self.smallest_image = self.feature_strides[-1]
        for i, depth in enumerate(depths):
            stage = nn.Sequential()
            if i > 0:
                kept = int(arriving * compression)
                stage.append(transition(arriving, kept, dropout))
                arriving = kept
            for _ in range(depth):
                stage.append(DenseLayer(composite(arriving, growth, dropout)))
                arriving += growth
            self.stages.append(stage)
            self.feature_channels += (arriving,)
        self.norm = nn.Sequential(nn.BatchNorm2d(arriving), nn.ReLU())
        self.head = global_pool_head(arriving, num_classes)
        he_init(self, mode="fan_in")

    def features(self, images: Tensor) -> list[Tensor]:
        """One map a stage: (N, feature_channels[i], H / feature_strides[i], W / feature_strides[i])."""
        x = self.stem(images)
        maps = [x := stage(x) for stage in self.stages]
        return [*maps[:-1], self.norm(maps[-1])]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


PLAIN = dict(composite=basic, compression=1.0, stem=ConvStem, channels=16)

register(
    DenseNet,
    task="classify",
    canon="classification/densenet",
    variants={
        "densenet121": dict(depths=(6, 12, 24, 16), growth=32),  # Table 1
        "densenet161": dict(depths=(6, 12, 36, 24), growth=48),
        "densenet169": dict(depths=(6, 12, 32, 32), growth=32),
        "densenet201": dict(depths=(6, 12, 48, 32), growth=32),
        "densenet264": dict(depths=(6, 12, 64, 48), growth=32),
        **{  # Table 2: L = 3n + 4 layers, and 6n + 4 with bottlenecks
            f"densenet_{depth}_{k}_cifar{classes}": dict(
                PLAIN, depths=(depth // 3 - 1,) * 3, growth=k, num_classes=classes
            )
            for depth, k in ((40, 12), (100, 12), (100, 24))
            for classes in (10, 100)
        },
        **{
            f"densenet_bc_{depth}_{k}_cifar{classes}": dict(
                stem=ConvStem, depths=(depth // 6,) * 3, growth=k, num_classes=classes
            )
            for depth, k in ((100, 12), (250, 24), (190, 40))
            for classes in (10, 100)
        },
    },
)
