"""Pre-activation ResNet ("ResNet-v2"). He, Zhang, Ren & Sun, ECCV 2016, arXiv:1603.05027.

Nothing follows the sum of a residual unit, so a unit adds to what all the units before it have made (Eqs.
3, 4),

    x_{l+1} = x_l + F(x_l),     x_L = x_l + sum_{i=l}^{L-1} F(x_i),

and the batch norm and ReLU that stood there move to the front of F (Fig. 4e). Those of the first unit stand
right behind the first convolution (appendix), in the ImageNet networks before the pooling. Where shapes
change, the shortcut starts behind them too, and a projection has no batch norm of its own.

Departures: the authors published code for CIFAR only, which halves the resolution in the first 1x1, and so
do those networks here. Those for ImageNet are fb.resnet.torch's, which halve it in the 3x3 convolution.
timm's pool before the first batch norm and not after it; where a scale of that norm is negative, its
networks compute something else, and `cnnkit.weights` refuses such weights.
"""

from typing import Literal

from torch import Tensor, nn

from cnnkit.layers import CifarStem, ImageNetStem, Residual, Stem, bn_relu_conv, global_pool_head, he_init
from cnnkit.models.classify.resnet import DEEP, Branch, Pad, Shortcut, stages
from cnnkit.registry import register


def conv(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Conv2d:
    """A centred convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)


class PreBasic:
    """F without its first batch norm and ReLU: two 3x3 convolutions.

    Args:
        dropout: fraction of the activations between them to drop (Wide ResNet, section 2.4).
    """

    expansion = 1

    def __init__(self, dropout: float = 0.0) -> None:
        self.dropout = dropout

    def __call__(self, in_channels: int, width: int, stride: int) -> nn.Sequential:
        between = (nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(self.dropout))
        return nn.Sequential(conv(in_channels, width, 3, stride), *between, conv(width, width, 3, 1))


class PreBottleneck:
    """F without its first batch norm and ReLU: 1x1 reduces, 3x3 works, 1x1 restores.

    Args:
        stride_in: the convolution that halves the resolution.
    """

    expansion = 4

    def __init__(self, stride_in: Literal["3x3", "1x1"] = "3x3") -> None:
        self.stride_in = stride_in

    def __call__(self, in_channels: int, width: int, stride: int) -> nn.Sequential:
        first, second = (1, stride) if self.stride_in == "3x3" else (stride, 1)
        return nn.Sequential(
            conv(in_channels, width, 1, first),
            bn_relu_conv(width, width, 3, stride=second),
            bn_relu_conv(width, self.expansion * width, 1),
        )


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A 1x1 convolution."""
    return conv(in_channels, out_channels, 1, stride)


def padding(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Zeros for the missing channels."""
    return Pad(out_channels - in_channels, stride)


class PreResNet(nn.Module):
    """A stem, stages of pre-activated units, each but the first at half the resolution, a linear classifier.

    Args:
        branch: the shape of F in every unit.
        depths: number of units in each stage.
        shortcut: the shortcut of units that change the shape; elsewhere it is the identity.
        stem: the layers before the first stage.
        stem_channels: maps that leave it.
        channels: width of F in the first stage; each further one doubles it.
        width: factor of all channels.
    """

    def __init__(
        self,
        branch: Branch,
        depths: tuple[int, ...],
        *,
        shortcut: Shortcut = projection,
        stem: Stem = ImageNetStem,
        stem_channels: int = 64,
        channels: int = 64,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        widths = tuple(int(width * channels) * 2**i for i in range(len(depths)))
        self.feature_channels = tuple(branch.expansion * w for w in widths)
        self.feature_strides = tuple(stem.stride * 2**i for i in range(len(depths)))
        self.smallest_image = self.feature_strides[-1]
        activated = stem.activated

        def unit(arriving: int, width: int, stride: int) -> nn.Module:
            nonlocal activated
            before = () if activated else (nn.BatchNorm2d(arriving), nn.ReLU())
            activated = False
            body, leaving = branch(arriving, width, stride), branch.expansion * width
            if stride == 1 and arriving == leaving:
                return Residual(nn.Sequential(*before, body), nn.Identity())
            return nn.Sequential(*before, Residual(body, shortcut(arriving, leaving, stride)))

        self.stem = stem(in_channels, int(width * stem_channels))
        self.stages = stages(unit, int(width * stem_channels), widths, branch.expansion, depths)
        self.norm = nn.Sequential(nn.BatchNorm2d(self.feature_channels[-1]), nn.ReLU())
        self.head = global_pool_head(self.feature_channels[-1], num_classes)
        he_init(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """One map a stage: (N, feature_channels[i], H / feature_strides[i], W / feature_strides[i])."""
        x = self.stem(images)
        maps = [x := stage(x) for stage in self.stages]
        return [*maps[:-1], self.norm(maps[-1])]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


CIFAR = dict(stem=CifarStem, stem_channels=16, channels=16)

register(
    PreResNet,
    task="classify",
    canon="classification/preresnet",
    variants={
        **{f"preresnet{n}": dict(branch=PreBottleneck(), depths=DEEP[n]) for n in DEEP},
        "preresnet200": dict(branch=PreBottleneck(), depths=(3, 24, 36, 3)),
        **{
            f"preresnet{depth}_cifar{classes}": dict(CIFAR, **row, num_classes=classes)
            for classes in (10, 100)
            for depth, row in {
                110: dict(branch=PreBasic(), depths=(18,) * 3, shortcut=padding),
                164: dict(branch=PreBottleneck("1x1"), depths=(18,) * 3),
                1001: dict(branch=PreBottleneck("1x1"), depths=(111,) * 3),
            }.items()
        },
    },
)
