"""What segmentation networks take from classifiers: their convolutions, their dilation, their weights."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cnnkit.models.classify.resnet import Bottleneck, ResNet
from cnnkit.models.classify.vgg import STAGES, Unit, conv_relu

#: Channels of the five groups of VGG's convolutions.
VGG_CHANNELS = (64, 128, 256, 512, 512)


class WithClasses(NamedTuple):
    """What a network that also names the classes of the whole image returns in training.

    Attributes:
        logits: of every pixel, (N, num_classes, H, W).
        classes: of the image, each its own yes or no, (N, classes).
    """

    logits: Tensor
    classes: Tensor


def vgg16_groups(in_channels: int, width: float, unit: Unit = conv_relu) -> list[nn.Sequential]:
    """The five groups of VGG-16's convolutions, without the poolings between them."""
    groups, arriving = [], in_channels
    for channels, kernels in zip(VGG_CHANNELS, STAGES["D"], strict=True):
        group = nn.Sequential()
        for kernel in kernels:
            group.append(unit(arriving, int(width * channels), kernel))
            arriving = int(width * channels)
        groups.append(group)
    return groups


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """All its convolutions, in their order."""
    return [m for m in network.modules() if isinstance(m, nn.Conv2d)]


def dilate(layers: nn.Module, *rates: int) -> None:
    """Give each 3x3 convolution a dilation, the last rate to all that remain, with the padding that keeps
    the size; strides are taken away."""
    given = list(rates)
    for convolution in convolutions(layers):
        convolution.stride = (1, 1)
        if convolution.kernel_size == (3, 3):
            rate = given.pop(0) if len(given) > 1 else given[0]
            convolution.dilation = convolution.padding = (rate, rate)


def resnet_trunk(branch: Bottleneck, depths: tuple[int, ...], in_channels: int, width: float) -> ResNet:
    """A ResNet without its head, for its `features`."""
    trunk = ResNet(branch, depths, num_classes=1, in_channels=in_channels, width=width)
    del trunk.head
    return trunk


def require_sides(network: nn.Module, images: Tensor) -> None:
    """Look at the images' sides: `smallest_image` and any number of steps of `image_step`, else 1, more.

    Raises:
        ValueError: a side is none of these.
    """
    smallest, step = int(network.smallest_image), getattr(network, "image_step", 1)  # type: ignore[arg-type]
    height, width = images.shape[2:]
    if any(side < smallest or (side - smallest) % step for side in (height, width)):
        every = (
            ""
            if step == 1
            else f" and every {step} pixels more ({smallest + step}, {smallest + 2 * step}, ...)"
        )
        raise ValueError(
            f"{type(network).__name__} takes images with sides of {smallest}{every or ' or more'}, "
            f"got {height} x {width}"
        )


@torch.no_grad()
def start_from(network: nn.Module, classifier: nn.Module) -> list[str]:
    """Copy a classifier's weights into a segmentation network that was built on it.

    Convolutions, linear layers and batch norms are paired in their order until two do not fit; a linear layer
    over flattened maps becomes the convolution with the same numbers. Where the classifier has no batch norm,
    those of the network keep theirs. The classifier's last layer, which makes its logits, stays behind.

    Returns:
        The layers of the network that were filled, the first first; empty where nothing fits.
    """
    theirs = [m for _, m in weighted_layers(classifier)]
    ours = weighted_layers(network)
    if not any(isinstance(m, nn.BatchNorm2d) for m in theirs):
        ours = [(name, m) for name, m in ours if not isinstance(m, nn.BatchNorm2d)]
    filled = []
    for (name, target), source in zip(ours, theirs[:-1], strict=False):
        state = source.state_dict()
        if not _fits(target.state_dict(), state):
            break
        for key, value in target.state_dict().items():
            value.copy_(state[key].reshape(value.shape))
        filled.append(name)
    return filled


def weighted_layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Convolutions, linear layers and batch norms by name, in their order."""
    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    return [(name, m) for name, m in network.named_modules() if isinstance(m, kinds)]


def _fits(target: dict[str, Tensor], source: dict[str, Tensor]) -> bool:
    """The same entries with as many numbers; a filter of another shape is a linear layer's row."""
    return target.keys() == source.keys() and all(
        value.shape[:1] == source[key].shape[:1]
        and value.numel() == source[key].numel()
        and (value.shape == source[key].shape or source[key].ndim == 2)
        for key, value in target.items()
    )
