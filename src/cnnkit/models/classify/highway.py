"""Highway network. Srivastava, Greff & Schmidhuber, NIPS 2015, arXiv:1507.06228.

A layer mixes what it makes of its input with the input itself, as a gate of its own decides (Eq. 3),

    y = H(x) T(x) + x (1 - T(x)),     H = relu(W_H * x + b_H),     T = sigmoid(W_T * x + b_T).

b_T starts at -2, so that at first nearly all of x is carried through. A residual unit, y = F(x) + x, is the
same with both gates open for good. The convolutional network is the authors' Caffe definition for CIFAR:
where the number of maps changes there is a plain convolution instead of a highway layer.
"""

from torch import Tensor, nn

from cnnkit.layers import he_init
from cnnkit.registry import register


class Highway(nn.Module):
    """A highway layer of 3x3 convolutions. Shape: (N, C, H, W) -> (N, C, H, W)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
        self.gate = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        transform = self.gate(x)
        return self.block(x) * transform + x * (1 - transform)


class HighwayNet(nn.Module):
    """Stages of a plain convolution and highway layers with poolings between them, for 32 x 32 images.

    Args:
        channels: maps of each stage.
        depths: number of highway layers of each stage.
        width: factor of all channels.
    """

    smallest_image = 4

    def __init__(
        self,
        channels: tuple[int, ...] = (32, 80, 128),
        depths: tuple[int, ...] = (4, 5, 5),
        *,
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.feature_channels = tuple(int(width * c) for c in channels)
        self.feature_strides = tuple(2**i for i in range(len(channels)))
        self.stages = nn.ModuleList()
        arriving = in_channels
        for i, (leaving, depth) in enumerate(zip(self.feature_channels, depths, strict=True)):
            stage = nn.Sequential(nn.MaxPool2d(2)) if i > 0 else nn.Sequential()
            stage.extend([nn.Dropout(0.2), nn.Conv2d(arriving, leaving, 3, padding=1), nn.ReLU()])
            stage.extend(Highway(leaving) for _ in range(depth))
            self.stages.append(stage)
            arriving = leaving
        hidden = int(width * 100)
        pooled = (nn.Conv2d(arriving, hidden, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(*pooled, nn.Dropout(0.2), nn.Linear(hidden, num_classes))
        he_init(self, mode="fan_in")  # what the authors' Caffe calls "xavier"
        for module in self.modules():
            if isinstance(module, Highway):
                nn.init.constant_(module.gate.get_parameter("0.bias"), -2.0)

    def features(self, images: Tensor) -> list[Tensor]:
        """One map a stage: (N, feature_channels[i], H / 2**i, W / 2**i)."""
        x = images
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


register(
    HighwayNet,
    task="classify",
    canon="classification/highway",
    variants={f"highway19_cifar{classes}": dict(num_classes=classes) for classes in (10, 100)},
)
