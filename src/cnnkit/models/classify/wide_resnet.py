"""Wide ResNet. Zagoruyko & Komodakis, BMVC 2016, arXiv:1605.07146.

    x_{l+1} = x_l + F(x_l),     F = BN-ReLU-Conv3x3(w)-BN-ReLU-dropout-Conv3x3(w)

with w = 16k, 32k, 64k in three groups of n units, k being the widening factor (Table 1): WRN-d-k has d = 6n
+ 4 layers. It is a pre-activation ResNet but for its stem, a convolution alone, and for the dropout between
the convolutions (section 2.4), which the authors use at 0.3 on CIFAR. For ImageNet they widen
`resnet18` and `resnet34` behind their stem, and the 3x3 convolutions of `resnet50`; `wide_resnet101_2` is
torchvision's.
"""

from cnnkit.layers import ConvStem, he_init
from cnnkit.models.classify.preresnet import PreBasic, PreResNet
from cnnkit.models.classify.resnet import BASIC, DEEP, Basic, Bottleneck, ResNet
from cnnkit.registry import register


def wide_resnet(
    depth: int, width: float, *, dropout: float = 0.0, num_classes: int = 10, in_channels: int = 3
) -> PreResNet:
    """WRN-depth-width for small images.

    Args:
        depth: d = 6n + 4.
        width: k, the widening factor.
        dropout: fraction of the activations between the convolutions of a unit to drop.

    Raises:
        ValueError: depth is not 6n + 4.
    """
    if depth < 10 or depth % 6 != 4:
        raise ValueError(f"the depth of a wide ResNet is 6n + 4, such as 16, 28 or 40, got {depth}")
    network = PreResNet(
        PreBasic(dropout),
        (depth // 6,) * 3,
        stem=ConvStem,
        stem_channels=16,
        channels=int(16 * width),
        num_classes=num_classes,
        in_channels=in_channels,
    )
    he_init(network, mode="fan_in")  # as the authors' code, unlike other residual networks
    return network


register(
    wide_resnet,
    task="classify",
    canon="classification/wideresnet",
    variants={
        f"wrn_{depth}_{k}_cifar{classes}": dict(depth=depth, width=k, num_classes=classes)
        for depth, factors in {16: (4, 8, 10), 22: (8, 10), 28: (10, 12), 40: (1, 2, 4, 8, 10)}.items()
        for k in factors
        for classes in (10, 100)
    },
)
register(
    ResNet,
    task="classify",
    canon="classification/wideresnet",
    variants={
        **{  # Table 7
            f"wrn_{n}_w{name}": dict(branch=Basic(), depths=BASIC[n], channels=channels)
            for n, widths in {18: {"1_5": 96, "2": 128, "3": 192}, 34: {"1_5": 96, "2": 128}}.items()
            for name, channels in widths.items()
        },
        **{f"wide_resnet{n}_2": dict(branch=Bottleneck(1, 128), depths=DEEP[n]) for n in (50, 101)},
    },
)
