"""SqueezeNet. Iandola, Han, Moskewicz, Ashraf, Dally & Keutzer, 2016, arXiv:1602.07360.

AlexNet's accuracy with a fiftieth of its weights. A fire module (section 3.2) first squeezes the maps
with a 1x1 convolution, so that few of them reach the 3x3 one:

    fire(x) = [relu(E1 * s), relu(E3 * s)],     s = relu(S * x).

The last convolution makes one map a class, and its global average is the class's logit. A bypass (section
6) adds what a fire module read to what it made: `simple` where the widths agree, `complex` everywhere,
with a 1x1 convolution where they do not. Version 1.1 is the authors' cheaper release: a 3x3 first kernel
and earlier poolings.

Departures: `classifier_padding` is 0 as in Table 1 and in torchvision, and 1 in the authors' definition
of version 1.0, whose average then includes a border on which the last convolution sees only its bias.
Whether the 1x1 convolutions of the complex bypass have biases and ReLUs is not printed: here a bias and
no ReLU. Poolings round up, as Caffe's do. Images are 227 x 227 in the authors' code and 224 x 224 in
torchvision; any from 21 x 21 on are taken (17 x 17 by version 1.1).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cnnkit.layers import Residual
from cnnkit.registry import register


class Fire(nn.Module):
    """Squeeze, then expand with 1x1 and 3x3 kernels. Shape: (N, C, H, W) -> (N, 2 * expand, H, W)"""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(in_channels, squeeze, 1), nn.ReLU())
        self.expand1x1 = nn.Sequential(nn.Conv2d(squeeze, expand, 1), nn.ReLU())
        self.expand3x3 = nn.Sequential(nn.Conv2d(squeeze, expand, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1)


#: (in_channels, out_channels) of a fire module -> its shortcut s, or None where there is none.
Shortcut = Callable[[int, int], nn.Module | None]


def no_bypass(in_channels: int, out_channels: int) -> None:
    """Fig. 2, left."""


def simple_bypass(in_channels: int, out_channels: int) -> nn.Module | None:
    """Fig. 2, middle: the identity, around fire3, 5, 7 and 9."""
    return nn.Identity() if in_channels == out_channels else None


def complex_bypass(in_channels: int, out_channels: int) -> nn.Module | None:
    """Fig. 2, right: a 1x1 convolution besides, around fire2, 4, 6 and 8."""
    return simple_bypass(in_channels, out_channels) or nn.Conv2d(in_channels, out_channels, 1)


class SqueezeNet(nn.Module):
    """Maps at strides 2, 4, 8 and 16: the first convolution, then the fire modules after each pooling.

    Args:
        stem: channels and kernel of the first convolution.
        depths: number of fire modules after each pooling.
        bypass: the shortcut of each fire module.
        classifier_padding: of the last convolution.
        width: multiplies all channels.
    """

    feature_strides = (2, 4, 8, 16)

    def __init__(
        self,
        stem: tuple[int, int],
        depths: tuple[int, int, int],
        bypass: Shortcut = no_bypass,
        *,
        classifier_padding: int = 0,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        channels, kernel = int(width * stem[0]), stem[1]
        first = nn.Sequential(nn.Conv2d(in_channels, channels, kernel, stride=2), nn.ReLU())
        self.stages = nn.ModuleList([first])
        self.feature_channels: tuple[int, ...] = (channels,)
        self.smallest_image = kernel + 14  # the smallest that leaves each of the three poolings two pixels
        fires = 0
        for depth in depths:
            stage = nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True))
            for _ in range(depth):
                expand = int(width * 64 * (fires // 2 + 1))  # section 5.1: 128 maps more every second module,
                fire = Fire(channels, expand // 4, expand)  # squeezed to an eighth of them
                shortcut = bypass(channels, 2 * expand)
                stage.append(fire if shortcut is None else Residual(fire, shortcut))
                channels, fires = 2 * expand, fires + 1
            self.stages.append(stage)
            self.feature_channels += (channels,)
        classifier = nn.Conv2d(channels, num_classes, 1, padding=classifier_padding)
        self.head = nn.Sequential(
            nn.Dropout(0.5), classifier, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self._init(classifier)

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> maps of `feature_channels` at strides 2, 4, 8 and 16"""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])

    def _init(self, classifier: nn.Conv2d) -> None:
        """The authors' definition: Caffe's xavier, uniform with variance 1 / fan-in; biases zero."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.normal_(classifier.weight, std=0.01)


V1_0 = dict(stem=(96, 7), depths=(3, 4, 1))

register(
    SqueezeNet,
    task="classify",
    canon="classification/squeezenet",
    variants={
        "squeezenet1_0": V1_0,
        "squeezenet1_1": dict(stem=(64, 3), depths=(2, 2, 4)),
        "squeezenet1_0_simple_bypass": dict(**V1_0, bypass=simple_bypass),
        "squeezenet1_0_complex_bypass": dict(**V1_0, bypass=complex_bypass),
    },
)
