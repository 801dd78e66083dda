"""Modules that at least three papers share. Everything else lives in its paper's own file."""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from cnnkit.ops.normalisation import local_response_norm


@runtime_checkable
class Backbone(Protocol):
    """What a classifier keeps so that a decoder or a detector can stand on it.

    A network whose maps are not at strides 4, 8, 16, 32 states theirs in `feature_strides`. One that takes
    images of every size from some side on, odd ones too, states that side in `smallest_image`; one without
    it takes its canon entry's size alone.

    Attributes:
        feature_channels: channels of each map that `features` returns.
    """

    feature_channels: tuple[int, ...]

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> one map a stage, the finest first."""


def feature_strides(network: Backbone) -> tuple[int, ...]:
    """The stride of each map: as the network states, else 4, 8, 16, 32."""
    return getattr(network, "feature_strides", tuple(4 * 2**i for i in range(len(network.feature_channels))))


class Residual(nn.Module):
    """branch(x) + shortcut(x), the unit of every residual network; what follows the sum is its own."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


def conv_bn(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, then batch norm; odd kernels keep the size at stride 1.

    Shape: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: the kernel is even.
    """
    if kernel % 2 == 0:
        raise ValueError(f"kernel must be odd to be centred, got {kernel}")
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """`conv_bn` followed by a ReLU of its own (never shared, never in place: hooks rely on it)."""
    return conv_bn(in_channels, out_channels, kernel, stride=stride, groups=groups).append(nn.ReLU())


def bn_relu_conv(in_channels: int, out_channels: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """The pre-activation order: batch norm, ReLU, then the convolution without bias."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
    )


class Stem(Protocol):
    """What comes before the first stage of a residual or dense network, built from and to so many channels.

    Attributes:
        stride: how much smaller the map is that leaves it.
        activated: whether it comes from a ReLU.
    """

    stride: int
    activated: bool

    def __call__(self, in_channels: int, out_channels: int) -> nn.Module: ...


class ImageNetStem(nn.Sequential):
    """A 7x7 convolution with batch norm and ReLU and a 3x3 max pooling, each at stride 2."""

    stride, activated = 4, True

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(conv_bn_relu(in_channels, out_channels, 7, stride=2), nn.MaxPool2d(3, 2, 1))


class CifarStem(nn.Sequential):
    """A 3x3 convolution with batch norm and ReLU."""

    stride, activated = 1, True

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(*conv_bn_relu(in_channels, out_channels, 3))


class ConvStem(nn.Sequential):
    """A 3x3 convolution alone."""

    stride, activated = 1, False

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False))


def global_pool_head(channels: int, num_classes: int) -> nn.Sequential:
    """Global average pool and one linear layer: (N, channels, H, W) -> (N, num_classes)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class ResponseNorm(nn.Module):
    """AlexNet's normalisation across channels, `ops.normalisation.local_response_norm`, with its constants.

    PyTorch's own computes no bfloat16 on a CPU, and divides its alpha by the 5 channels of the window.
    """

    def __init__(self, *, alpha: float = 1e-4, k: float = 2.0) -> None:
        super().__init__()
        self.alpha, self.k = alpha, k

    def forward(self, x: Tensor) -> Tensor:
        return local_response_norm(x, alpha=self.alpha, k=self.k)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, k={self.k}"


def he_init(model: nn.Module, *, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """He et al. 2015, arXiv:1502.01852: normal convolutions of variance 2 / fan; zero biases.

    Batch norm needs nothing: PyTorch already starts it at scale 1 and shift 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class WithAux(NamedTuple):
    """What a network made with `aux=True` returns.

    Attributes:
        logits: those of the network itself.
        aux: those of its auxiliary heads, the shallowest first.
        weight: what the loss of each of those counts in training, as published for the network.
    """

    logits: Tensor
    aux: tuple[Tensor, ...]
    weight: float
