"""ZFNet. Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014,
arXiv:1311.2901.

AlexNet after its authors had looked inside (section 4.1): the first kernels shrink from 11x11 at stride 4
to 7x7 at stride 2, because aliasing showed in the second layer and dead filters in the first. No towers;
the contrast is normalised after the pooling and not before it (Fig. 3). `zfnet_wide` doubles the middle
convolutions (Table 3).

Departures: neither paddings nor the constants of the normalisation are printed. The paddings here give
the map sizes of Fig. 3 (110, 55, 26, 13, 6), and the normalisation is that of AlexNet. "All weights 0.01"
is read as a deviation of 0.01. The rescaling of kernels whose root mean square exceeds 0.1 belongs to
training and is left out. Images are 224 x 224; any from 53 x 53 on are taken.
"""

from torch import Tensor, nn

from cnnkit.layers import ResponseNorm
from cnnkit.models.classify.alexnet import classifier, dropout_last
from cnnkit.registry import register


class ZFNet(nn.Module):
    """Maps at strides 2, 8 and 16: the outputs of the first, second and fifth convolution.

    Args:
        channels: of the five convolutions.
        width: multiplies all channels and hidden units.
    """

    feature_strides = (2, 8, 16)
    smallest_image = 53

    def __init__(
        self,
        channels: tuple[int, int, int, int, int],
        *,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (int(width * c) for c in channels)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(in_channels, c1, 7, stride=2, padding=1), nn.ReLU()),
                nn.Sequential(
                    *(nn.MaxPool2d(3, 2, padding=1), ResponseNorm()),
                    *(nn.Conv2d(c1, c2, 5, stride=2), nn.ReLU()),
                ),
                nn.Sequential(
                    *(nn.MaxPool2d(3, 2, padding=1), ResponseNorm()),
                    *(nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU()),
                    *(nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU()),
                    *(nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU()),
                ),
            ]
        )
        self.feature_channels = (c1, c2, c5)
        self.head = classifier(c5, num_classes, units=int(width * 4096), hidden=dropout_last)
        small_normal_init(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> maps of `feature_channels` at strides 2, 8 and 16"""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


def small_normal_init(model: nn.Module) -> None:
    """Weights normal with deviation 0.01, biases zero (section 3)."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


register(
    ZFNet,
    task="classify",
    canon="classification/zfnet",
    variants={
        "zfnet": dict(channels=(96, 256, 384, 384, 256)),
        "zfnet_wide": dict(channels=(96, 256, 512, 1024, 512)),
    },
)
