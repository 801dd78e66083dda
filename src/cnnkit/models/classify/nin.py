"""Network in Network. Lin, Chen & Yan, ICLR 2014, arXiv:1312.4400.

A convolution whose kernel is a small network instead of a linear form (section 3.1, Eq. 2): two 1x1
convolutions with ReLUs follow each spatial one,

    mlpconv(x) = relu(W3 relu(W2 relu(W1 * x))).

The last 1x1 convolution makes one map a class, and its global average is the class's logit (section 3.2);
there is no linear layer. `nin_imagenet` is not in the paper: it is the authors' Caffe model.

Departures: none. Kernel sizes and widths, which the paper does not print, and the poolings that round up
(32, 16, 8) are those of the authors' cuda-convnet definitions. Their Caffe model for CIFAR-10 averages in
the second pooling, where these and the paper take the maximum.
"""

from typing import NamedTuple

from torch import Tensor, nn

from cnnkit.registry import register


class MLPConv(NamedTuple):
    """One mlpconv layer: the kernel, stride and padding of its convolution, and its three widths.

    Attributes:
        widths: the last is absent in the last layer, where the number of classes takes its place.
        dropout: the share of its input that is dropped, after the pooling.
    """

    kernel: int
    widths: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    dropout: float = 0.0


CIFAR = (
    MLPConv(5, (192, 160, 96), padding=2),
    MLPConv(5, (192, 192, 192), padding=2, dropout=0.5),
    MLPConv(3, (192, 192), padding=1, dropout=0.5),
)
IMAGENET = (
    MLPConv(11, (96, 96, 96), stride=4),
    MLPConv(5, (256, 256, 256), padding=2),
    MLPConv(3, (384, 384, 384), padding=1),
    MLPConv(3, (1024, 1024), padding=1, dropout=0.5),
)


class NIN(nn.Module):
    """mlpconv layers with poolings between them, and a global average of class maps.

    Args:
        layers: the rows of the table.
        width: multiplies all channels.
    """

    def __init__(
        self, layers: tuple[MLPConv, ...], *, width: float = 1.0, num_classes: int, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.feature_channels: tuple[int, ...] = ()
        self.feature_strides = tuple(layers[0].stride * 2**i for i in range(len(layers)))
        channels = in_channels
        for i, layer in enumerate(layers):
            stage = nn.Sequential()
            if i > 0:
                stage.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            if layer.dropout:
                stage.append(nn.Dropout(layer.dropout))
            kernel, stride, padding = layer.kernel, layer.stride, layer.padding
            for out_channels in (int(width * w) for w in layer.widths):
                stage.append(nn.Conv2d(channels, out_channels, kernel, stride, padding)).append(nn.ReLU())
                channels, kernel, stride, padding = out_channels, 1, 1, 0
            self.stages.append(stage)
            self.feature_channels += (channels,)
        shortest = 2 ** (len(layers) - 1)  # what the first convolution must leave for the poolings to halve
        self.smallest_image = layers[0].kernel - 2 * layers[0].padding + layers[0].stride * (shortest - 1)
        self.head = nn.Sequential(
            nn.Conv2d(channels, num_classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self._init()

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> maps of `feature_channels` at `feature_strides`"""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])

    def _init(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.05)  # the authors' definition for CIFAR-10
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


register(
    NIN,
    task="classify",
    canon="classification/nin",
    variants={
        "nin_cifar10": dict(layers=CIFAR, num_classes=10),
        "nin_cifar100": dict(layers=CIFAR, num_classes=100),
        "nin_imagenet": dict(layers=IMAGENET, num_classes=1000),
    },
)
