"""Modules that at least three papers share. Everything else lives in its paper's own file."""

from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Backbone(Protocol):
    """What a classifier keeps so that a decoder or a detector can stand on it.

    Attributes:
        feature_channels: channels of each map that `features` returns.
    """

    feature_channels: tuple[int, ...]

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> one map a stage, the finest first."""
        raise NotImplementedError


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


def bn_relu_conv(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """The pre-activation order: batch norm, ReLU, then the convolution without bias."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
    )


def global_pool_head(channels: int, num_classes: int) -> nn.Sequential:
    """Global average pool and one linear layer: (N, channels, H, W) -> (N, num_classes)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def he_init(model: nn.Module, *, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """He et al. 2015, arXiv:1502.01852: normal convolutions of variance 2 / fan; zero linear biases.

    Batch norm needs nothing: PyTorch already starts it at scale 1 and shift 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
