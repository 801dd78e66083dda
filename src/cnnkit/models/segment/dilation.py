"""Dilated convolutions and context. Yu & Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions",
ICLR 2016, arXiv:1511.07122.

The front end is VGG-16 without its last two poolings; the convolutions after a pooling that is gone are
dilated by what it would have halved (section 4). Nothing pads, so that a `margin` of 186 pixels is needed
around what is labelled.

The context module (section 3, Table 1) reads and writes maps of scores. Dilations of 1, 1, 2, 4, 8 and 16 let
a score see 67 x 67 others with no more than 3 x 3 weights a layer:

    F_{i+1} = relu(F_i *_{2^i} k_i).

It starts as the identity (Eqs. 4 and 5), so that it begins with what the front end knows. The nets for
CamVid, KITTI and Cityscapes have fewer or more rates.

Departures: the released nets answer with a map an eighth as large; here the answer is interpolated to the
pixels, by the frozen transposed convolution that the released net for Cityscapes ends with and the others do
outside the net, and cropped where the sides are none of 372 + 8 k. The authors reflect the image at its
border; that is the caller's.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from cnnkit.models.segment.fcn import Bilinear, hidden
from cnnkit.models.segment.trunks import convolutions, require_sides, vgg16_groups
from cnnkit.registry import register

#: Rates of the 3x3 convolutions between the first and the last but one of a context module.
RATES = (1, 2, 4, 8, 16)


class ContextModule(nn.Sequential):
    """Dilated convolutions of score maps, each but the last with a ReLU.

    Args:
        classes: C, the maps that come and go.
        widths: outputs of the layers in multiples of C, but of the last, which has C (Table 1).
        rates: dilations after the first layer, which has 1, and before the last 3x3 layer, which has 1 too.
        first_padding: all the padding that there is, at the first layer; without it each layer pads itself.

    Shape: (N, C, H, W) -> (N, C, H, W)
    """

    def __init__(
        self,
        classes: int,
        widths: tuple[int, ...],
        rates: tuple[int, ...] = RATES,
        *,
        first_padding: int | None = None,
    ) -> None:
        super().__init__()
        self.classes, arriving = classes, classes
        for i, (wide, rate) in enumerate(zip(widths, (1, *rates, 1), strict=True)):
            padding = rate if first_padding is None else first_padding if i == 0 else 0
            self.append(nn.Conv2d(arriving, wide * classes, 3, padding=padding, dilation=rate))
            self.append(nn.ReLU())
            arriving = wide * classes
        self.append(nn.Conv2d(arriving, classes, 1))
        self.start_as_identity()

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """The middle tap adds up the maps of a class and shares the sum out; the rest is small noise."""
        for layer in convolutions(self):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            arriving, leaving = layer.in_channels // self.classes, layer.out_channels // self.classes
            nn.init.normal_(layer.weight, std=0.01 / leaving)
            middle = layer.kernel_size[0] // 2
            to = torch.arange(layer.out_channels)[:, None] // leaving
            of = torch.arange(layer.in_channels)[None, :] // arriving
            layer.weight[:, :, middle, middle] = torch.where(
                to == of, 1 / leaving, layer.weight[:, :, middle, middle]
            )


def basic(classes: int, rates: tuple[int, ...] = RATES) -> ContextModule:
    """The module with C maps everywhere (Table 1, Basic)."""
    return ContextModule(classes, (1,) * (len(rates) + 2), rates)


def large(classes: int) -> ContextModule:
    """The module that widens to 32 C (Table 1, Large), padded once as in the release for VOC."""
    return ContextModule(classes, (2, 2, 4, 8, 16, 32, 32), first_padding=33)


def no_context(classes: int) -> nn.Module:
    """The front end alone."""
    return nn.Identity()


class Dilation(nn.Module):
    """The front end, a context module where there is one, and interpolation by 8.

    Args:
        context: builds the module from the number of classes.
        width: multiplies all channels but those of the scores.
    """

    margin, smallest_image = 186, 373

    def __init__(
        self,
        context: Callable[[int], nn.Module] = no_context,
        *,
        width: float = 1.0,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        groups = vgg16_groups(in_channels, width)
        self.front = nn.Sequential(
            *(part for group in groups[:3] for part in (group, nn.MaxPool2d(2, ceil_mode=True))),
            *groups[3:],
            hidden(int(width * 512), 7, width),
            nn.Conv2d(int(width * 4096), num_classes, 1),
        )
        for layer in convolutions(self.front):
            layer.padding = (0, 0)
        for layer in convolutions(groups[4]):
            layer.dilation = (2, 2)
        *_, first, _, score = convolutions(self.front)
        first.dilation = (4, 4)
        for layer in convolutions(self.front):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type] # all of them have one
        nn.init.normal_(score.weight, std=0.001)
        self.context = context(num_classes)
        self.upscore = Bilinear(num_classes, 16, 8, padding=4, groups=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes, H - 372, W - 372)

        Raises:
            ValueError: a side is shorter than 373.
        """
        require_sides(self, images)
        scores = self.upscore(self.context(self.front(images)))
        height, width = images.shape[2:]
        return scores[:, :, : height - 2 * self.margin, : width - 2 * self.margin]


register(
    Dilation,
    task="segment",
    canon="segmentation/dilated_context",
    variants={
        "dilation_front_end_voc": {},
        "dilation8_voc_basic": dict(context=basic),
        "dilation8_voc": dict(context=large),
        "dilation10_cityscapes": dict(context=partial(basic, rates=(*RATES, 32, 64)), num_classes=19),
        "dilation8_camvid": dict(context=basic, num_classes=11),
        "dilation7_kitti": dict(context=partial(basic, rates=RATES[:-1]), num_classes=11),
    },
)
