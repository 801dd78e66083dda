"""AlexNet.

    Krizhevsky, Sutskever & Hinton, "ImageNet Classification with Deep Convolutional Neural
    Networks", NIPS 2012.
    Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, arXiv:1404.5997.

Five convolutions and three linear layers of ReLU units, with three novelties of 2012: pooling windows
that overlap (3x3 at stride 2, section 3.4), dropout, and two towers on two GPUs, so that the second,
fourth and fifth convolution read their own tower only (groups = 2, section 3.2). After the first two
layers a unit is inhibited by its neighbours, `ResponseNorm` (section 3.3). The network of 2014 has one
tower, is narrower, and has no response norm; it is the one that libraries call `alexnet`.
`alexnet_one_tower` is the network of 2012 without its split, as it is often taught.

Departures: images of the first network are 227 x 227, since the 224 of the text does not fit a kernel of
11 at stride 4. Before the linear layers the maps are averaged to 6 x 6, which changes nothing at the
published sizes and lets any image from 67 x 67 on through (63 x 63 for `alexnet`).
"""

from collections.abc import Callable

from torch import Tensor, nn

from cnnkit.layers import ResponseNorm
from cnnkit.registry import register

#: A hidden linear layer with its ReLU and its dropout: (in_features, out_features) -> module.
Hidden = Callable[[int, int], nn.Sequential]


def dropout_last(in_features: int, out_features: int) -> nn.Sequential:
    """A hidden layer of 2012: half of what it computes is dropped (section 4.2)."""
    return nn.Sequential(nn.Linear(in_features, out_features), nn.ReLU(), nn.Dropout(0.5))


def dropout_first(in_features: int, out_features: int) -> nn.Sequential:
    """A hidden layer of torchvision's form: half of what it reads is dropped."""
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(in_features, out_features), nn.ReLU())


def classifier(channels: int, num_classes: int, *, units: int, hidden: Hidden) -> nn.Sequential:
    """The last pooling and the three linear layers. Shape: (N, channels, H, W) -> (N, num_classes)"""
    return nn.Sequential(
        nn.MaxPool2d(3, 2),
        nn.AdaptiveAvgPool2d(6),
        nn.Flatten(),
        hidden(channels * 6 * 6, units),
        hidden(units, units),
        nn.Linear(units, num_classes),
    )


class AlexNet(nn.Module):
    """Maps at strides 4, 8 and 16: the outputs of the first, second and fifth convolution.

    Args:
        channels: of the five convolutions.
        hidden: how a hidden linear layer is built.
        towers: groups of the second, fourth and fifth convolution.
        padding: of the first convolution.
        norm: builds the normalisation after the first two layers, where there is one.
        width: multiplies all channels and hidden units.
    """

    feature_strides = (4, 8, 16)

    def __init__(
        self,
        channels: tuple[int, int, int, int, int],
        hidden: Hidden,
        *,
        towers: int = 1,
        padding: int = 0,
        norm: Callable[[], nn.Module] | None = None,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (int(width * c) for c in channels)
        first = nn.Sequential(nn.Conv2d(in_channels, c1, 11, 4, padding), nn.ReLU())
        second = nn.Sequential(nn.MaxPool2d(3, 2), nn.Conv2d(c1, c2, 5, padding=2, groups=towers), nn.ReLU())
        third = nn.Sequential(
            nn.MaxPool2d(3, 2),
            *(nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU()),  # the one that reads both towers
            *(nn.Conv2d(c3, c4, 3, padding=1, groups=towers), nn.ReLU()),
            *(nn.Conv2d(c4, c5, 3, padding=1, groups=towers), nn.ReLU()),
        )
        if norm is not None:
            first.append(norm())
            second.append(norm())
        self.stages = nn.ModuleList([first, second, third])
        self.feature_channels = (c1, c2, c5)
        self.smallest_image = 67 - 2 * padding
        self.head = classifier(c5, num_classes, units=int(width * 4096), hidden=hidden)
        krizhevsky_init(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> maps of `feature_channels` at strides 4, 8 and 16"""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


def krizhevsky_init(model: nn.Module) -> None:
    """Weights normal with deviation 0.01; biases zero, but one where ReLUs shall start active (section 5)."""
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer, bias in zip(layers, (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0), strict=True):
        nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, bias)


WIDTHS_2012 = (96, 256, 384, 384, 256)

register(
    AlexNet,
    task="classify",
    canon="classification/alexnet",
    variants={
        "alexnet_two_tower": dict(channels=WIDTHS_2012, hidden=dropout_last, towers=2, norm=ResponseNorm),
        "alexnet_one_tower": dict(channels=WIDTHS_2012, hidden=dropout_last, norm=ResponseNorm),
        "alexnet": dict(channels=(64, 192, 384, 256, 256), hidden=dropout_first, padding=2),
    },
)
