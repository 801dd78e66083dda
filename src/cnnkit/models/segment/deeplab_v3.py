"""DeepLab v3. Chen, Papandreou, Schroff & Adam, "Rethinking Atrous Convolution for Semantic Image
Segmentation", 2017, arXiv:1706.05587.

Atrous spatial pyramid pooling (section 3.3) looks at the map of a dilated ResNet through windows of several
sizes and at its mean, and mixes what they saw:

    y = project([1x1(x), 3x3_r1(x), 3x3_r2(x), 3x3_r3(x), mean(x)]),

each with batch norm and ReLU. The networks equal torchvision's `deeplabv3_resnet50` and
`deeplabv3_resnet101`, weights and outputs, with rates of 12, 24 and 36 for maps at stride 8.

Departures, all of them torchvision's: no multi-grid of rates in the last stage, dropout of 0.5 after the
projection, a 3x3 convolution before the scores, the auxiliary head of `aux=True`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.models.classify.resnet import DEEP
from cnnkit.models.segment.fcn_resnet import DilatedResNet
from cnnkit.registry import register


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """A dilated convolution that keeps the size, batch norm, ReLU."""
    layer = nn.Conv2d(
        in_channels, out_channels, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False
    )
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU())


class ASPP(nn.Module):
    """Windows of several sizes, and the mean of the map at every position.

    Shape: (N, in_channels, H, W) -> (N, channels, H, W)
    """

    def __init__(self, in_channels: int, channels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_bn_relu(in_channels, channels, 1)])
        self.branches.extend(conv_bn_relu(in_channels, channels, 3, rate) for rate in rates)
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn_relu(in_channels, channels, 1))
        self.project = conv_bn_relu((len(rates) + 2) * channels, channels, 1).append(nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        seen = [branch(x) for branch in self.branches]
        mean = functional.interpolate(self.mean(x), x.shape[2:], mode="bilinear")
        return self.project(torch.cat([*seen, mean], dim=1))


def aspp_head(channels: int, num_classes: int) -> nn.Sequential:
    """ASPP with an eighth of the channels, 256 of 2048. (N, channels, H, W) -> (N, num_classes, H, W)"""
    inner = channels // 8
    return nn.Sequential(
        ASPP(channels, inner, (12, 24, 36)), conv_bn_relu(inner, inner, 3), nn.Conv2d(inner, num_classes, 1)
    )


register(
    DilatedResNet,
    task="segment",
    canon="segmentation/deeplab_v3",
    variants={f"deeplabv3_resnet{n}": dict(depths=DEEP[n], head=aspp_head) for n in (50, 101)},
)
