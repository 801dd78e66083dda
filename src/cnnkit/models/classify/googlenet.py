"""GoogLeNet, or Inception v1. Szegedy et al., CVPR 2015, arXiv:1409.4842.

An inception block looks at its input through four windows at once and stacks what they see (Fig. 2b),

    y = [1x1(x), 3x3(1x1(x)), 5x5(1x1(x)), 1x1(pool(x))],

each convolution followed by a ReLU; the 1x1 before a larger one makes it affordable. Two auxiliary
classifiers (section 5) carry a gradient to the middle of the network in training; their losses count 0.3.

Departures: none known, but the paper leaves open what its replication in Caffe, made with the authors'
advice, settles: the place and the constants of the local response normalisation, poolings that round up, the
initialisation. `googlenet_bn` is torchvision's network: batch norm instead of biases and of response
normalisation, a 3x3 convolution where Table 1 has 5x5 (a known mistake there), a last pooling of 2x2, and
less dropout.

Images are 224 x 224; any size from 31 x 31 on will do, with `aux=True` from 79 x 79 on.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from cnnkit.layers import ResponseNorm, WithAux
from cnnkit.layers.mixed import Part, chain, conv, in_turn, keep, mixed
from cnnkit.registry import register

#: Table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
TABLE = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def conv_relu(out_channels: int, kernel: int, *, stride: int = 1) -> Part:
    """Convolution with a bias, then ReLU."""

    def build(channels: int) -> tuple[nn.Module, int]:
        convolution = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2)
        return nn.Sequential(convolution, nn.ReLU()), out_channels

    return build


@dataclass(frozen=True, slots=True)
class Form:
    """In what the paper's network and torchvision's differ.

    Attributes:
        conv: what a convolution of Table 1 is.
        norm: what follows the first pooling and the third convolution.
        five: side of the kernels that Table 1 calls 5x5.
        last_pool: side of the window of the last pooling.
        aux_pool: how an auxiliary head comes to a 4 x 4 grid; from 14 x 14 the second pooling does nothing.
        dropout: fraction dropped before the classifier.
    """

    conv: Callable[..., Part]
    norm: Part
    five: int
    last_pool: int
    aux_pool: Part
    dropout: float

    def block(self, row: str) -> Part:
        """An inception block of Table 1."""
        one, reduce3, three, reduce5, five, projected = TABLE[row]
        return mixed(
            one=self.conv(one, 1),
            three=chain(self.conv(reduce3, 1), self.conv(three, 3)),
            five=chain(self.conv(reduce5, 1), self.conv(five, self.five)),
            pool=chain(keep(nn.MaxPool2d, 3, 1, 1), self.conv(projected, 1)),
        )

    def segments(self) -> tuple[Part, ...]:
        """The network cut where it is pooled and after 4a and 4d, where the auxiliary heads sit."""
        pool, last_pool = (keep(nn.MaxPool2d, side, 2, ceil_mode=True) for side in (3, self.last_pool))
        return (
            chain(
                self.conv(64, 7, stride=2), pool, self.norm, self.conv(64, 1), self.conv(192, 3), self.norm
            ),
            chain(pool, self.block("3a"), self.block("3b")),
            chain(pool, self.block("4a")),
            chain(self.block("4b"), self.block("4c"), self.block("4d")),
            self.block("4e"),
            chain(last_pool, self.block("5a"), self.block("5b")),
        )

    def auxiliary_head(self, channels: int, num_classes: int) -> nn.Sequential:
        """The auxiliary classifier of section 5. Shape: (N, C, 14, 14) -> (N, num_classes)"""
        body, width = chain(self.aux_pool, self.conv(128, 1))(channels)
        return nn.Sequential(
            *(body, nn.Flatten(), nn.Linear(4 * 4 * width, 1024), nn.ReLU()),
            *(nn.Dropout(0.7), nn.Linear(1024, num_classes)),
        )


class GoogLeNet(nn.Module):
    """Table 1: features at strides 4, 8, 16 and 32, a linear classifier, and two more with `aux=True`."""

    #: The segments that end a stage, and those that an auxiliary head reads.
    STAGES, HEADS = (0, 1, 4, 5), (2, 3)

    def __init__(
        self, form: Form, *, aux: bool = False, num_classes: int = 1000, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.segments, widths = in_turn(form.segments(), in_channels)
        self.feature_channels = tuple(widths[i] for i in self.STAGES)
        self.smallest_image = 79 if aux else 31
        heads = (form.auxiliary_head(widths[i], num_classes) for i in self.HEADS if aux)
        self.aux = nn.ModuleList(heads)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(form.dropout),
            nn.Linear(widths[-1], num_classes),
        )
        caffe_init(self)

    def _maps(self, images: Tensor) -> list[Tensor]:
        x = images
        return [x := segment(x) for segment in self.segments]

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> one map a stage, at strides 4, 8, 16 and 32."""
        maps = self._maps(images)
        return [maps[i] for i in self.STAGES]

    def forward(self, images: Tensor) -> Tensor | WithAux:
        """(N, in_channels, H, W) -> logits (N, num_classes), and with `aux=True` those of 4a and 4d."""
        maps = self._maps(images)
        logits = self.head(maps[-1])
        if not self.aux:
            return logits
        aux = tuple(head(maps[i]) for head, i in zip(self.aux, self.HEADS, strict=True))
        return WithAux(logits, aux, weight=0.3)  # section 5


def caffe_init(model: nn.Module) -> None:
    """The Caffe replication's: uniform weights of variance 1 / fan_in; biases 0.2, those of classifiers 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.constant_(module.bias, 0.2)
        if isinstance(module, nn.Sequential) and isinstance(module[-1], nn.Linear):
            nn.init.zeros_(module[-1].bias)


register(
    GoogLeNet,
    task="classify",
    canon="classification/inception",
    variants={
        "googlenet": dict(
            form=Form(
                conv_relu,
                norm=keep(ResponseNorm, alpha=1e-4 / 5, k=1.0),  # Caffe's alpha is divided by the window
                five=5,
                last_pool=3,
                aux_pool=chain(keep(nn.AvgPool2d, 5, 3), keep(nn.AdaptiveAvgPool2d, 4)),
                dropout=0.4,
            )
        ),
        "googlenet_bn": dict(
            form=Form(
                conv,
                norm=keep(nn.Identity),
                five=3,
                last_pool=2,
                aux_pool=keep(nn.AdaptiveAvgPool2d, 4),
                dropout=0.2,
            )
        ),
    },
)
