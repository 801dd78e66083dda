"""SegNet. Badrinarayanan, Kendall & Cipolla, TPAMI 2017, arXiv:1511.00561; and its Bayesian form, Kendall,
Badrinarayanan & Cipolla, BMVC 2017, arXiv:1511.02680.

The encoder is VGG-16's convolutions, each followed by batch norm; the decoder mirrors it. A decoder knows
where the maxima of its encoder's pooling stood, puts its values back there, and convolves the sparse map
(section 3):

    y = convolve(unpool(x, switches)),     unpool(x, s)[s_o] = x_o, zero elsewhere.

SegNet-Basic has four convolutions of 7x7 a side, a decoder without ReLUs, and normalises the image's
responses first. The Bayesian form drops half of the maps after the three deepest encoders and decoders, and
goes on doing so to predict: `sampled` averages several passes, and their variance says how sure it is.

Departures: convolutions keep the biases that the released definitions have before batch norm and the paper
does not mention; statistics of batch norm are running averages, where the authors compute them in a pass of
their own after training. Poolings round up and sizes are remembered, so that images of any size pass, as
those of 360 x 480 do in the authors' definition by sizes written out.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cnnkit.layers import ResponseNorm, he_init
from cnnkit.models.classify.vgg import conv_norm_relu
from cnnkit.models.segment.trunks import VGG_CHANNELS, vgg16_groups
from cnnkit.registry import register

#: Outputs of each decoder's convolutions, the deepest decoder first; the last one makes the scores besides.
DECODERS = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,))


def shifted_norms(network: nn.Module) -> None:
    """Start the shifts of batch norm at 0.001, as the released definitions do."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.001)


def pooling() -> nn.MaxPool2d:
    """2x2 maxima with their switches; a last odd row or column has a window of its own."""
    return nn.MaxPool2d(2, ceil_mode=True, return_indices=True)


class SegNet(nn.Module):
    """Encoders and decoders that share switches.

    Args:
        encoders: each group of convolutions before a pooling.
        decoders: each group after an unpooling, the deepest first.
        before: what is done to the image.
        score: makes the logits of the last decoder's maps.
        dropped: how many of the deepest encoders and decoders are followed by dropout.
    """

    smallest_image = 32

    def __init__(
        self,
        encoders: list[nn.Sequential],
        decoders: list[nn.Sequential],
        score: nn.Conv2d,
        *,
        before: nn.Module | None = None,
        dropped: int = 0,
    ) -> None:
        super().__init__()
        self.before = nn.Identity() if before is None else before
        self.encoders, self.decoders = nn.ModuleList(encoders), nn.ModuleList(decoders)
        self.pools = nn.ModuleList(pooling() for _ in encoders)
        self.unpools = nn.ModuleList(nn.MaxUnpool2d(2) for _ in decoders)
        kept = len(encoders) - dropped
        self.drops = nn.ModuleList(
            nn.Dropout(0.5) if i >= kept else nn.Identity() for i in range(kept + dropped)
        )
        self.undrops = nn.ModuleList(
            nn.Dropout(0.5) if i < dropped else nn.Identity() for i in range(kept + dropped)
        )
        self.score = score
        he_init(self, mode="fan_in")
        shifted_norms(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes, H, W)"""
        x, kept = self.before(images), []
        for encoder, pool, drop in zip(self.encoders, self.pools, self.drops, strict=True):
            finer = encoder(x)
            x, switches = pool(finer)
            x = drop(x)
            kept.append((switches, finer.shape[2:]))
        for decoder, unpool, drop in zip(self.decoders, self.unpools, self.undrops, strict=True):
            switches, size = kept.pop()
            x = drop(decoder(unpool(x, switches, output_size=size)))
        return self.score(x)


def segnet(*, dropped: int = 0, width: float = 1.0, num_classes: int = 11, in_channels: int = 3) -> SegNet:
    """The network on VGG-16. Args: see `SegNet`; width multiplies all channels."""
    arriving = int(width * VGG_CHANNELS[-1])
    decoders = []
    for row in DECODERS[:-1]:
        decoder = nn.Sequential()
        for channels in row:
            decoder.append(conv_norm_relu(arriving, int(width * channels), 3))
            arriving = int(width * channels)
        decoders.append(decoder)
    (last,) = DECODERS[-1]
    decoders.append(nn.Sequential(conv_norm_relu(arriving, int(width * last), 3)))
    score = nn.Conv2d(int(width * last), num_classes, 3, padding=1)
    return SegNet(vgg16_groups(in_channels, width, conv_norm_relu), decoders, score, dropped=dropped)


def segnet_basic(*, width: float = 1.0, num_classes: int = 11, in_channels: int = 3) -> SegNet:
    """The small network: four convolutions of 7x7 to 64 maps down and four up."""
    channels = int(width * 64)

    def unit(arriving: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(arriving, channels, 7, padding=3), nn.BatchNorm2d(channels))

    return SegNet(
        [unit(in_channels if i == 0 else channels).append(nn.ReLU()) for i in range(4)],
        [unit(channels) for _ in range(4)],
        nn.Conv2d(channels, num_classes, 1),
        before=ResponseNorm(alpha=1e-4 / 5, k=1.0),
    )


class Sampled(NamedTuple):
    """Mean and variance of the class probabilities over several passes, both (N, num_classes, H, W)."""

    probabilities: Tensor
    variance: Tensor


@torch.no_grad()
def sampled(network: nn.Module, images: Tensor, samples: int = 4) -> Sampled:
    """Predict with dropout at work, as often as told (4 in the authors' definition).

    Raises:
        ValueError: fewer than two samples, which have no variance.
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2 to have a variance, got {samples}")
    drops = [m for m in network.modules() if isinstance(m, nn.Dropout)]
    were = [drop.training for drop in drops]
    try:
        for drop in drops:
            drop.train()
        found = torch.stack([network(images).softmax(1) for _ in range(samples)])
    finally:
        for drop, training in zip(drops, were, strict=True):
            drop.train(training)
    return Sampled(found.mean(0), found.var(0))


register(
    segnet,
    task="segment",
    canon="segmentation/segnet",
    variants={
        "segnet": {},
        "segnet_sunrgbd": dict(num_classes=38),
        "segnet_voc": dict(num_classes=21),
        "bayesian_segnet_camvid": dict(dropped=3),
    },
)
register(segnet_basic, task="segment", canon="segmentation/segnet", variants={"segnet_basic": {}})
