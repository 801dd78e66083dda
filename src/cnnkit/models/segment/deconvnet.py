"""DeconvNet. Noh, Hong & Han, ICCV 2015, arXiv:1505.04366.

VGG-16 to a vector, and its mirror image back to a mask (Fig. 2): each pooling remembers where its maxima
stood, the unpooling on the other side puts values back there, and transposed convolutions fill in what lies
between. Batch norm follows every layer but the scores (section 3.3).

The paper shows the network object proposals, crops of 224 x 224, and merges their scores into the image; here
it labels an image of any size from 224 x 224 on, and what calls it decides what the image is.

Departures: statistics of batch norm are running averages, where the authors compute them in a pass of their
own after training. For one image of 224 x 224 the maps of fc6 and fc7 are 1 x 1, which batch norm cannot
normalise in training: take at least two images, or larger ones.
"""

from torch import Tensor, nn

from cnnkit.models.classify.vgg import conv_norm_relu, glorot_init
from cnnkit.models.segment.segnet import shifted_norms
from cnnkit.models.segment.trunks import require_sides, vgg16_groups
from cnnkit.registry import register

#: Outputs of the transposed convolutions after each unpooling.
DECODERS = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64, 64))


def conv(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """A convolution without padding, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


def deconv(in_channels: int, out_channels: int, kernel: int, padding: int = 0) -> nn.Sequential:
    """A transposed convolution at stride 1, batch norm, ReLU."""
    layer = nn.ConvTranspose2d(in_channels, out_channels, kernel, padding=padding)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU())


def deconvolutions(width: float) -> nn.ModuleList:
    """The groups of transposed convolutions that stand after the five unpoolings."""
    groups, arriving = nn.ModuleList(), int(width * 512)
    for row in DECODERS:
        group = nn.Sequential()
        for channels in row:
            group.append(deconv(arriving, int(width * channels), 3, padding=1))
            arriving = int(width * channels)
        groups.append(group)
    return groups


def init(new: nn.Module) -> None:
    """Weights normal with deviation 0.01 and biases zero, as the authors' definition draws what is new."""
    for module in new.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class DeconvNet(nn.Module):
    """Convolutions and poolings to a vector, unpoolings and transposed convolutions to a mask.

    Args:
        width: multiplies all channels but those of the scores.
    """

    smallest_image = 224

    def __init__(self, *, width: float = 1.0, num_classes: int = 21, in_channels: int = 3) -> None:
        super().__init__()
        channels, units = int(width * 512), int(width * 4096)
        self.encoders = nn.ModuleList(vgg16_groups(in_channels, width, conv_norm_relu))
        self.pools = nn.ModuleList(nn.MaxPool2d(2, return_indices=True) for _ in self.encoders)
        self.fc = nn.Sequential(conv(channels, units, 7), conv(units, units, 1), deconv(units, channels, 7))
        self.unpools = nn.ModuleList(nn.MaxUnpool2d(2) for _ in self.encoders)
        self.decoders = deconvolutions(width)
        self.score = nn.Conv2d(int(width * 64), num_classes, 1)
        glorot_init(self.encoders)
        for new in (self.fc, self.decoders, self.score):
            init(new)
        shifted_norms(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes, H, W)

        Raises:
            ValueError: a side is shorter than 224.
        """
        require_sides(self, images)
        x, kept = images, []
        for encoder, pool in zip(self.encoders, self.pools, strict=True):
            finer = encoder(x)
            x, switches = pool(finer)
            kept.append((switches, finer.shape[2:]))
        x = self.fc(x)
        for unpool, decoder in zip(self.unpools, self.decoders, strict=True):
            switches, size = kept.pop()
            x = decoder(unpool(x, switches, output_size=size))
        return self.score(x)


register(DeconvNet, task="segment", canon="segmentation/deconvnet", variants={"deconvnet": {}})
