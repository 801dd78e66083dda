"""FCN. Long, Shelhamer & Darrell, CVPR 2015, arXiv:1411.4038; extended in PAMI 2017, arXiv:1605.06211.

A classifier whose linear layers are convolutions gives a coarse map of scores for an image of any size; the
scores are brought to the image's size by transposed convolutions that start as bilinear interpolation, and
finer maps are scored too and added on the way (Fig. 3):

    32s: up32(score(fc7))
    16s: up16(up2(score(fc7)) + score(pool4))
    8s:  up8(up2(up2(score(fc7)) + score(pool4)) + score(pool3))

The first convolution pads by 100, so that fc6, 7x7 without padding, has something to read of an image of any
size; what that moves is cropped away at fixed offsets. All poolings round up. These numbers, the frozen
kernels and the zeros that scores start from are of the authors' definitions for Caffe, and so is the scaling
of the skips that lets `fcn8s_at_once_vgg16` be trained in one go.

`learned=True` lets the transposed convolutions learn, as the paper says and the released networks do not.

Departures: the classifier starts from Glorot's (VGG-16) and Krizhevsky's (AlexNet) initialisation where no
trained one is given to it (`trunks.start_from`); the paper starts from ImageNet always.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.layers import ResponseNorm
from cnnkit.models.classify.alexnet import WIDTHS_2012
from cnnkit.models.classify.vgg import glorot_init
from cnnkit.models.segment.trunks import convolutions, vgg16_groups
from cnnkit.registry import register


def bilinear_kernel(size: int) -> Tensor:
    """w(i) w(j) with w(i) = 1 - |i - centre| / factor, for a transposed convolution. Shape: (size, size)"""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    weights = 1 - (torch.arange(size) - centre).abs() / factor
    return weights[:, None] * weights[None, :]


class Bilinear(nn.ConvTranspose2d):
    """A transposed convolution that enlarges each map by itself until it has learned otherwise.

    Shape: (N, C, H, W) -> (N, C, stride * (H - 1) + kernel - 2 * padding, ...)
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int,
        *,
        padding: int = 0,
        groups: int = 1,
        bias: bool = False,
        learned: bool = False,
    ) -> None:
        super().__init__(channels, channels, kernel, stride, padding, groups=groups, bias=bias)
        with torch.no_grad():
            self.weight.zero_()
            places = torch.arange(channels)
            self.weight[places, places if groups == 1 else 0] = bilinear_kernel(kernel).to(self.weight)
            if self.bias is not None:
                self.bias.zero_()
        self.requires_grad_(learned)


def crop(maps: Tensor, offset: int, like: Tensor) -> Tensor:
    """As many rows and columns as `like` has, from an offset on. Shape: (N, C, ...) -> (N, C, h, w)"""
    height, width = like.shape[2:]
    return maps[:, :, offset : offset + height, offset : offset + width]


class Skip(nn.Module):
    """up2(x) + score(scale * finer), the scores cropped to what the first term covers.

    Shape: (N, classes, h, w), (N, C, H, W) -> (N, classes, 2 h + 2, 2 w + 2)
    """

    def __init__(self, upscore: Bilinear, channels: int, offset: int, scale: float) -> None:
        super().__init__()
        self.offset, self.scale = offset, scale
        self.upscore = upscore
        self.score = nn.Conv2d(channels, upscore.out_channels, 1)

    def forward(self, x: Tensor, finer: Tensor) -> Tensor:
        up = self.upscore(x)
        return up + crop(self.score(self.scale * finer), self.offset, up)


@dataclass(frozen=True, slots=True)
class Form:
    """A row of the authors' definitions.

    Attributes:
        kernel: of the last transposed convolution.
        stride: of it.
        offset: of the last crop.
        skips: the pooling that is scored, counted from 0, the offset of its crop and the factor of its maps.
        older: whether doublings learn and the first has a bias, as in the release that CRF-RNN stands on.
    """

    kernel: int
    stride: int
    offset: int
    skips: tuple[tuple[int, int, float], ...] = field(default=())
    older: bool = False


#: Stages that end in a pooling, and the last two hidden layers, from in_channels and width.
Trunk = Callable[[int, float], tuple[list[nn.Sequential], nn.Sequential]]


def hidden(channels: int, kernel: int, width: float) -> nn.Sequential:
    """fc6 and fc7 as convolutions, each with ReLU and dropout."""
    units = int(width * 4096)
    return nn.Sequential(
        *(nn.Conv2d(channels, units, kernel), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Conv2d(units, units, 1), nn.ReLU(), nn.Dropout(0.5)),
    )


def vgg16(in_channels: int, width: float) -> tuple[list[nn.Sequential], nn.Sequential]:
    """VGG-16 with a first padding of 100."""
    groups = vgg16_groups(in_channels, width)
    convolutions(groups[0])[0].padding = (100, 100)
    stages = [group.append(nn.MaxPool2d(2, ceil_mode=True)) for group in groups]
    fc = hidden(int(width * 512), 7, width)
    for part in (*stages, fc):
        glorot_init(part)
    return stages, fc


def caffenet(in_channels: int, width: float) -> tuple[list[nn.Sequential], nn.Sequential]:
    """AlexNet of two towers in Caffe's order, responses normalised after the pooling, padded by 100."""
    c1, c2, c3, c4, c5 = (int(width * c) for c in WIDTHS_2012)

    def pool() -> nn.MaxPool2d:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    def norm() -> ResponseNorm:
        return ResponseNorm(alpha=1e-4 / 5, k=1.0)

    stages = [
        nn.Sequential(nn.Conv2d(in_channels, c1, 11, 4, 100), nn.ReLU(), pool(), norm()),
        nn.Sequential(nn.Conv2d(c1, c2, 5, padding=2, groups=2), nn.ReLU(), pool(), norm()),
        nn.Sequential(
            *(nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(c3, c4, 3, padding=1, groups=2), nn.ReLU()),
            *(nn.Conv2d(c4, c5, 3, padding=1, groups=2), nn.ReLU()),
            pool(),
        ),
    ]
    fc = hidden(c5, 6, width)
    for layer in [c for part in (*stages, fc) for c in convolutions(part)]:
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type] # all of them have one
    return stages, fc


class FCN(nn.Module):
    """Scores of a classifier at every position, enlarged to the image.

    Args:
        trunk: the classifier.
        form: strides, crops and skips.
        learned: whether the transposed convolutions learn.
        width: multiplies all channels but those of the scores.
    """

    smallest_image = 1

    def __init__(
        self,
        trunk: Trunk,
        form: Form,
        *,
        learned: bool = False,
        width: float = 1.0,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        stages, fc = trunk(in_channels, width)
        self.stages, self.fc = nn.ModuleList(stages), fc
        self.form = form
        self.score = nn.Conv2d(convolutions(fc)[-1].out_channels, num_classes, 1)
        self.skips = nn.ModuleList()
        for place, offset, scale in form.skips:
            bias = form.older and not self.skips
            up = Bilinear(num_classes, 4, 2, bias=bias, learned=learned or form.older)
            self.skips.append(Skip(up, convolutions(stages[place])[-1].out_channels, offset, scale))
        self.upscore = Bilinear(num_classes, form.kernel, form.stride, learned=learned)
        for layer in (self.score, *(skip.get_submodule("score") for skip in self.skips)):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes, H, W)"""
        x, pooled = images, []
        for stage in self.stages:
            x = stage(x)
            pooled.append(x)
        x = self.score(self.fc(x))
        for skip, (place, *_) in zip(self.skips, self.form.skips, strict=True):
            x = skip(x, pooled[place])
        return crop(self.upscore(x), self.form.offset, images)


EIGHT: dict[str, Any] = dict(kernel=16, stride=8, offset=31)
VGG16: dict[str, Any] = dict(trunk=vgg16)

register(
    FCN,
    task="segment",
    canon="segmentation/fcn",
    variants={
        "fcn32s_vgg16": dict(VGG16, form=Form(kernel=64, stride=32, offset=19)),
        "fcn16s_vgg16": dict(VGG16, form=Form(kernel=32, stride=16, offset=27, skips=((3, 5, 1.0),))),
        "fcn8s_vgg16": dict(VGG16, form=Form(**EIGHT, skips=((3, 5, 1.0), (2, 9, 1.0)))),
        "fcn8s_at_once_vgg16": dict(VGG16, form=Form(**EIGHT, skips=((3, 5, 0.01), (2, 9, 0.0001)))),
        "fcn32s_alexnet": dict(trunk=caffenet, form=Form(kernel=63, stride=32, offset=18)),
    },
)
