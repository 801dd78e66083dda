"""VGG. Simonyan & Zisserman, ICLR 2015, arXiv:1409.1556.

3x3 convolutions and nothing else: two of them see as far as one of 5x5 and three as far as one of 7x7,
with fewer weights and more non-linearities (section 2.3). Five groups of them, each followed by a 2x2 max
pooling, then three linear layers. Table 1 is `STAGES`.

Configuration C (`vgg16_c`) makes the third convolution of a group 1x1; A-LRN (`vgg11_lrn`) normalises
responses as AlexNet does after the first. The `_bn` forms are torchvision's: batch norm after each
convolution, whose bias stays.

Departures: before the linear layers the maps are averaged to 7 x 7, which changes nothing at 224 x 224
and lets any image from 32 x 32 on through. All depths start from Glorot's initialisation; the paper
started the deeper ones from a trained A and found afterwards that this is not needed (section 3.1).
"""

from collections.abc import Callable

from torch import Tensor, nn

from cnnkit.layers import ResponseNorm
from cnnkit.registry import register

#: The kernels of the convolutions of each group (Table 1).
STAGES = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}

#: (in_channels, out_channels, kernel) -> a convolution and what follows it.
Unit = Callable[[int, int, int], nn.Sequential]


def conv_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """The unit of the paper. Shape: (N, in_channels, H, W) -> (N, out_channels, H, W)"""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2), nn.ReLU())


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """The unit of the `_bn` forms, of the same shape."""
    conv, relu = conv_relu(in_channels, out_channels, kernel)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), relu)


class VGG(nn.Module):
    """Maps at strides 1, 2, 4, 8 and 16, each before the pooling that ends its group.

    Args:
        kernels: those of each group (Table 1).
        unit: a convolution and what follows it.
        lrn: whether responses are normalised after the first group, which is one convolution in A-LRN.
        width: multiplies all channels and hidden units.
    """

    feature_strides = (1, 2, 4, 8, 16)
    smallest_image = 32

    def __init__(
        self,
        kernels: tuple[tuple[int, ...], ...],
        unit: Unit = conv_relu,
        *,
        lrn: bool = False,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.feature_channels = tuple(int(width * c) for c in (64, 128, 256, 512, 512))
        self.stages = nn.ModuleList()
        channels = in_channels
        for out_channels, group in zip(self.feature_channels, kernels, strict=True):
            stage = nn.Sequential(nn.MaxPool2d(2)) if self.stages else nn.Sequential()
            for kernel in group:
                stage.append(unit(channels, out_channels, kernel))
                channels = out_channels
            if lrn and not self.stages:
                stage.append(ResponseNorm())
            self.stages.append(stage)
        units = int(width * 4096)
        self.head = nn.Sequential(
            *(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(7), nn.Flatten()),
            *(nn.Linear(channels * 7 * 7, units), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(units, units), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(units, num_classes),
        )
        glorot_init(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> maps of `feature_channels` at strides 1, 2, 4, 8 and 16"""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


def glorot_init(model: nn.Module) -> None:
    """Glorot & Bengio 2010: weights uniform with variance 2 / (fan-in + fan-out); biases zero."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


register(
    VGG,
    task="classify",
    canon="classification/vgg",
    variants={
        "vgg11": dict(kernels=STAGES["A"]),
        "vgg11_lrn": dict(kernels=STAGES["A"], lrn=True),
        "vgg13": dict(kernels=STAGES["B"]),
        "vgg16_c": dict(kernels=STAGES["C"]),
        "vgg16": dict(kernels=STAGES["D"]),
        "vgg19": dict(kernels=STAGES["E"]),
        "vgg11_bn": dict(kernels=STAGES["A"], unit=conv_norm_relu),
        "vgg13_bn": dict(kernels=STAGES["B"], unit=conv_norm_relu),
        "vgg16_bn": dict(kernels=STAGES["D"], unit=conv_norm_relu),
        "vgg19_bn": dict(kernels=STAGES["E"], unit=conv_norm_relu),
    },
)
