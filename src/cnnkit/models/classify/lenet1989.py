"""The 1989 network of LeCun et al.: the first convolutional network trained by back-propagation.

    LeCun, Boser, Denker, Henderson, Howard, Hubbard & Jackel, "Backpropagation Applied to Handwritten
    Zip Code Recognition", Neural Computation 1(4), 1989.

A unit of a map is x = tanh(sum_maps w * x_below + b), where the kernel w is shared by the whole map and the
bias b is not: every unit has its own. Both convolutions halve the resolution; there is no pooling.

Departures: which 8 of the 12 H1 maps an H2 map reads was not published; here four H2 maps each read maps 0-7,
4-11 and 0-3 with 8-11. The nonlinearity is tanh. Initial weights span 2.4 / sqrt(F) instead of the printed
2.4 / F (F the fan-in), with which the deeper layers start as good as silent.
"""

import math

import torch
from torch import Tensor, nn

from cnnkit.registry import register

#: The H1 maps that each group of four H2 maps reads.
WIRING = ((0, 1, 2, 3, 4, 5, 6, 7), (4, 5, 6, 7, 8, 9, 10, 11), (0, 1, 2, 3, 8, 9, 10, 11))


class UnitBias(nn.Module):
    """A bias a unit, not a map. Shape: (N, C, H, W) -> (N, C, H, W)"""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, height, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class H1(nn.Sequential):
    """5x5 at stride 2 over a border of background. Shape: (N, C, 16, 16) -> (N, 12, 8, 8)"""

    def __init__(self, in_channels: int) -> None:
        super().__init__(
            nn.ConstantPad2d(2, -1.0),
            nn.Conv2d(in_channels, 12, 5, stride=2, bias=False),
            UnitBias(12, 8, 8),
            nn.Tanh(),
        )


class H2(nn.Module):
    """5x5 at stride 2, each map on 8 of the 12 below. Shape: (N, 12, 8, 8) -> (N, 12, 4, 4)"""

    def __init__(self) -> None:
        super().__init__()
        self.border = nn.ConstantPad2d(2, -1.0)
        self.groups = nn.ModuleList(nn.Conv2d(len(maps), 4, 5, stride=2, bias=False) for maps in WIRING)
        self.bias = UnitBias(12, 4, 4)
        self.tanh = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = self.border(x)
        groups = [conv(x[:, maps]) for conv, maps in zip(self.groups, WIRING, strict=True)]
        return self.tanh(self.bias(torch.cat(groups, dim=1)))


class LeNet1989(nn.Module):
    """Two convolutions and two layers of full connections, for 16 x 16 images in [-1, 1] (Fig. 3)."""

    feature_channels, feature_strides = (12, 12), (2, 4)

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.stages = nn.ModuleList([H1(in_channels), H2()])
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(12 * 4 * 4, 30), nn.Tanh(), nn.Linear(30, num_classes), nn.Tanh()
        )
        fan_in_init(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """H1 and H2: (N, 12, 8, 8) and (N, 12, 4, 4)."""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, 16, 16) -> outputs in (-1, 1), (N, num_classes)"""
        return self.head(self.features(images)[-1])


def fan_in_init(model: nn.Module) -> None:
    """Weights uniform in +-2.4 / sqrt(F), F the fan-in; biases zero (see Departures)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 2.4 / math.sqrt(math.prod(module.weight.shape[1:]))
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


register(LeNet1989, task="classify", canon="classification/lenet", variants={"lenet1989": {}})
