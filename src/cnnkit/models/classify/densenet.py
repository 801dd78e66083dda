"""DenseNet-BC. Huang, Liu, van der Maaten & Weinberger, CVPR 2017, arXiv:1608.06993.

A layer reads the concatenation of all maps made before it in its block (Eq. 2),

    x_l = H_l([x_0, x_1, ..., x_{l-1}]),     H_l = BN-ReLU-Conv1x1(4k)-BN-ReLU-Conv3x3(k),

and adds k maps of its own, k being the growth rate. Between blocks a transition keeps the
fraction theta = 0.5 of the maps and halves the resolution.
"""

import torch
from torch import Tensor, nn

from cnnkit.layers import bn_relu_conv, conv_bn_relu, global_pool_head, he_init
from cnnkit.registry import register


class DenseLayer(nn.Module):
    """Append k new maps to the maps so far. Shape: (N, C, H, W) -> (N, C + k, H, W)"""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        bottleneck = 4 * growth  # section 3, bottleneck layers
        self.new_maps = nn.Sequential(
            bn_relu_conv(channels, bottleneck, 1), bn_relu_conv(bottleneck, growth, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new_maps(x)], dim=1)


def dense_block(channels: int, depth: int, growth: int) -> nn.Sequential:
    """`depth` dense layers. Shape: (N, C, H, W) -> (N, C + depth * k, H, W)"""
    return nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(depth)))


def transition(in_channels: int, out_channels: int) -> nn.Sequential:
    """Compress and halve. Shape: (N, C, H, W) -> (N, theta * C, H / 2, W / 2)"""
    return nn.Sequential(bn_relu_conv(in_channels, out_channels, 1), nn.AvgPool2d(2))


class DenseNet(nn.Module):
    """A stem at stride 4, dense blocks at strides 4, 8, 16 and 32, and a linear classifier.

    Args:
        depths: number of dense layers in each block (Table 1).
        growth: k, the number of maps that each layer adds.
        compression: theta, the fraction of maps that a transition keeps.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        growth: int,
        *,
        compression: float = 0.5,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        channels = 2 * growth  # section 3, implementation details: 2k filters in the first convolution
        self.stem = nn.Sequential(conv_bn_relu(in_channels, channels, 7, stride=2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList()
        self.feature_channels: tuple[int, ...] = ()
        for i, depth in enumerate(depths):
            stage = nn.Sequential()
            if i > 0:
                compressed = int(channels * compression)
                stage.append(transition(channels, compressed))
                channels = compressed
            stage.append(dense_block(channels, depth, growth))
            channels += depth * growth
            self.stages.append(stage)
            self.feature_channels += (channels,)
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.head = global_pool_head(channels, num_classes)
        he_init(self, mode="fan_in")

    def features(self, x: Tensor) -> list[Tensor]:
        """One map per stage: (N, feature_channels[i], H / 2**(i+2), W / 2**(i+2))."""
        x = self.stem(x)
        maps = [x := stage(x) for stage in self.stages]
        return [*maps[:-1], self.norm(maps[-1])]

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(x)[-1])


register(
    DenseNet,
    task="classify",
    canon="classification/densenet",
    variants={  # Table 1
        "densenet121": dict(depths=(6, 12, 24, 16), growth=32),
        "densenet161": dict(depths=(6, 12, 36, 24), growth=48),
        "densenet169": dict(depths=(6, 12, 32, 32), growth=32),
        "densenet201": dict(depths=(6, 12, 48, 32), growth=32),
    },
)
