"""MobileNet v1. Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto & Adam, 2017, arXiv:1704.04861.

A 3x3 convolution from M to N maps is taken apart (section 3.1) into a depthwise one, a kernel a map, and
a 1x1 one that mixes the maps: D_K^2 M + M N multiplications a pixel instead of D_K^2 M N. Two numbers
trade accuracy for cost: `width` (alpha) multiplies the channels of all layers, and rho the side of the
images, which is no property of the network. So the rows that end in 192, 160 and 128 are those of 224 on
smaller images.

Departures: the last depthwise convolution has stride 1, where Table 1 prints 2 and goes on at the same
size. The authors' code pads images of even size at the right and below only; here both sides are padded,
as in Caffe's and PyTorch's ports. Its ReLUs are cut off at 6, the paper's are not.
"""

from torch import Tensor, nn

from cnnkit.layers import conv_bn_relu, global_pool_head
from cnnkit.registry import register

#: Table 1 from the first halving after the stem on: channels and number of layers of each stage.
STAGES = ((128, 2), (256, 2), (512, 6), (1024, 2))


def separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Depthwise, then 1x1 convolution (Fig. 3). Shape: (N, C, H, W) -> (N, out, H / stride, W / stride)"""
    return nn.Sequential(
        conv_bn_relu(in_channels, in_channels, 3, stride=stride, groups=in_channels),
        conv_bn_relu(in_channels, out_channels, 1),
    )


class MobileNetV1(nn.Module):
    """A stem at stride 2, separable convolutions at strides 4, 8, 16 and 32, a linear classifier.

    Args:
        width: alpha, multiplies all channels; none falls below 8.
    """

    smallest_image = 32

    def __init__(self, *, width: float = 1.0, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        first, channels = (max(8, int(width * c)) for c in (32, 64))
        self.stem = nn.Sequential(
            conv_bn_relu(in_channels, first, 3, stride=2), separable(first, channels, stride=1)
        )
        self.feature_channels = tuple(max(8, int(width * c)) for c, _ in STAGES)
        self.stages = nn.ModuleList()
        for out_channels, (_, depth) in zip(self.feature_channels, STAGES, strict=True):
            stage = nn.Sequential(separable(channels, out_channels, stride=2))
            stage.extend(separable(out_channels, out_channels, stride=1) for _ in range(depth - 1))
            self.stages.append(stage)
            channels = out_channels
        self.head = global_pool_head(channels, num_classes)
        slim_init(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> maps of `feature_channels` at strides 4, 8, 16 and 32"""
        x = self.stem(images)
        return [x := stage(x) for stage in self.stages]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)"""
        return self.head(self.features(images)[-1])


def slim_init(model: nn.Module) -> None:
    """The authors' code: weights normal with deviation 0.09, redrawn beyond two deviations; biases zero."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.09, a=-0.18, b=0.18)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


register(
    MobileNetV1,
    task="classify",
    canon="classification/mobilenet",
    variants={
        "mobilenet_v1": dict(width=1.0),
        "mobilenet_v1_1_0_192": dict(width=1.0),
        "mobilenet_v1_1_0_160": dict(width=1.0),
        "mobilenet_v1_1_0_128": dict(width=1.0),
        "mobilenet_v1_0_75_224": dict(width=0.75),
        "mobilenet_v1_0_75_192": dict(width=0.75),
        "mobilenet_v1_0_75_160": dict(width=0.75),
        "mobilenet_v1_0_75_128": dict(width=0.75),
        "mobilenet_v1_0_5_224": dict(width=0.5),
        "mobilenet_v1_0_5_192": dict(width=0.5),
        "mobilenet_v1_0_5_160": dict(width=0.5),
        "mobilenet_v1_0_5_128": dict(width=0.5),
        "mobilenet_v1_0_25_224": dict(width=0.25),
        "mobilenet_v1_0_25_192": dict(width=0.25),
        "mobilenet_v1_0_25_160": dict(width=0.25),
        "mobilenet_v1_0_25_128": dict(width=0.25),
    },
)
