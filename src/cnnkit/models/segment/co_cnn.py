"""Co-CNN. Liang, Xu, Shen, Yang, Liu, Tang, Lin & Yan, "Human Parsing with Contextualized Convolutional
Neural Network", ICCV 2015.

Four kinds of context (abstract and project page):

- cross-layer: from local to global to local. Four scales down, and up again; coarse maps are enlarged and
  added to the early ones of the same size.
- global: at the deepest scale the classes of the whole image are predicted, with a loss of their own
  (`aux=True`), and their probabilities guide all that follows: they are put beside the maps at every pixel.
- within a superpixel: what the pixels of a patch believe is averaged.
- across superpixels: patches vote for their neighbours, the more alike they look, the more.

    p_s = mean_{i in s} p_i,     q_s = (1 - a) p_s + a sum_{t near s} w_st p_t,     w_st ∝ exp(-|c_s - c_t|^2)

Departures: neither a definition nor the paper's full text was at hand, so that this is the paper's idea and
not its network. Decided here: 128, 128, 192 and 192 maps, two convolutions of 5x5 a scale each way with batch
norm, bilinear enlargement; patches by SLIC inside the network (`cnnkit.ops.superpixels`) where the authors
segment outside it, c the mean colour of a patch in units of the image's spread, a = 0.5; the classes of the
image by a loss of yes or no each. Nothing is claimed to equal the authors' network.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.layers import he_init
from cnnkit.models.segment.trunks import WithClasses
from cnnkit.ops.superpixels import Superpixels, patch_means, spread, superpixels
from cnnkit.registry import register

CHANNELS = (128, 128, 192, 192)


def pair(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two convolutions of 5x5. Shape: (N, in_channels, H, W) -> (N, out_channels, H, W)"""
    layers = nn.Sequential()
    for arriving in (in_channels, out_channels):
        layers.append(nn.Conv2d(arriving, out_channels, 5, padding=2, bias=False))
        layers.append(nn.BatchNorm2d(out_channels)).append(nn.ReLU())
    return layers


class SuperpixelContext(nn.Module):
    """Smoothing within patches and voting across them.

    Args:
        step: side of a patch, about.
        share: a, what the neighbours' votes count.

    Shape: probabilities (N, classes, H, W) and images (N, C, H, W) -> probabilities (N, classes, H, W)
    """

    def __init__(self, step: int = 8, share: float = 0.5) -> None:
        super().__init__()
        self.step, self.share = step, share

    def forward(self, probabilities: Tensor, images: Tensor) -> Tensor:
        patches = superpixels(images, self.step)
        spread_of = images.flatten(1).std(1).clamp(min=1e-6)[:, None, None, None]
        colours = patch_means(images / spread_of, patches)
        believed = patch_means(probabilities, patches)
        return spread((1 - self.share) * believed + self.share * votes(believed, colours, patches), patches)


def votes(believed: Tensor, colours: Tensor, patches: Superpixels) -> Tensor:
    """sum_t w_st p_t over the eight patches around each. Shape: (N, classes, patches) -> the same"""

    def around(values: Tensor) -> Tensor:
        count, channels, _ = values.shape
        grid = values.reshape(count, channels, patches.rows, patches.columns)
        windows = functional.unfold(grid, 3, padding=1).reshape(count, channels, 9, -1)
        return torch.cat([windows[:, :, :4], windows[:, :, 5:]], dim=2)

    there = around(torch.ones_like(colours[:, :1]))
    alike = there * (-(around(colours) - colours[:, :, None]).square().sum(1, keepdim=True)).exp()
    weights = alike / alike.sum(2, keepdim=True).clamp(min=1e-6)
    heard = (weights * around(believed)).sum(2)
    return heard + (1 - weights.sum(2)) * believed  # a patch that resembles nobody hears itself


class CoCNN(nn.Module):
    """Local to global to local, with the classes of the image and of patches.

    Args:
        aux: whether the image's classes come with the logits in training.
        width: multiplies all channels but those of the scores.
    """

    smallest_image = 16

    def __init__(
        self, *, aux: bool = False, width: float = 1.0, num_classes: int = 18, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.aux = aux
        channels = [int(width * c) for c in CHANNELS]
        self.downs = nn.ModuleList(map(pair, [in_channels, *channels], channels))
        self.pool = nn.MaxPool2d(2)
        self.classes = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], num_classes)
        )
        self.guide = pair(channels[-1] + num_classes, channels[-1])
        arriving, leaving = channels[:0:-1], channels[-2::-1]
        self.laterals = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(arriving, leaving, strict=True))
        self.ups = nn.ModuleList(pair(b + num_classes, b) for b in leaving)
        self.score = nn.Conv2d(channels[0], num_classes, 1)
        self.context = SuperpixelContext()
        he_init(self, mode="fan_in")

    def forward(self, images: Tensor) -> Tensor | WithClasses:
        """(N, in_channels, H, W) -> logits (N, num_classes, H, W), in training with those of the classes"""
        x, finer = images, []
        for i, down in enumerate(self.downs):
            x = down(self.pool(x) if i else x)
            finer.append(x)
        classes = self.classes(finer.pop())
        x = self.guide(beside(x, classes))
        for lateral, up in zip(self.laterals, self.ups, strict=True):
            early = finer.pop()
            coarse = functional.interpolate(lateral(x), early.shape[2:], mode="bilinear")
            x = up(beside(early + coarse, classes))
        probabilities = self.context(self.score(x).softmax(1), images)
        logits = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
        return WithClasses(logits, classes) if self.aux and self.training else logits


def beside(maps: Tensor, classes: Tensor) -> Tensor:
    """Maps and, at every pixel, the image's class probabilities. (N, C, H, W) -> (N, C + classes, H, W)"""
    tiled = classes.sigmoid()[:, :, None, None].expand(-1, -1, *maps.shape[2:])
    return torch.cat([maps, tiled], dim=1)


register(CoCNN, task="segment", canon="segmentation/co_cnn", variants={"co_cnn_iccv2015": {}})
