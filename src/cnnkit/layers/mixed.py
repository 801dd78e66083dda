"""Mixed blocks, and parts that are told how many channels arrive only when they are put together.

A network of the Inception family is a table of mixed blocks, and a row of it says what each branch makes, not
what it is given. A `Part` is such an entry: given the channels that arrive, it builds its module and says how
many channels leave it. So a width is written once, where the paper writes it.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

#: Channels that arrive -> the module and the channels that leave it.
Part = Callable[[int], tuple[nn.Module, int]]


class Mixed(nn.Module):
    """Named branches side by side, their maps stacked in the order of the names.

    Shape: (N, C, H, W) -> (N, sum of the branches' channels, H', W')
    """

    def __init__(self, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches.values()], dim=1)


def mixed(**branches: Part) -> Part:
    """A `Mixed` block whose branches all read what arrives."""

    def build(channels: int) -> tuple[nn.Module, int]:
        built = {name: branch(channels) for name, branch in branches.items()}
        modules = {name: module for name, (module, _) in built.items()}
        return Mixed(modules), sum(width for _, width in built.values())

    return build


def in_turn(parts: Iterable[Part], channels: int) -> tuple[nn.ModuleList, tuple[int, ...]]:
    """Build each part on the channels that the one before it leaves: the modules, and what leaves each."""
    modules, widths = nn.ModuleList(), []
    for part in parts:
        module, channels = part(channels)
        modules.append(module)
        widths.append(channels)
    return modules, tuple(widths)


def chain(*parts: Part) -> Part:
    """Parts one after the other, as one."""

    def build(channels: int) -> tuple[nn.Module, int]:
        modules, widths = in_turn(parts, channels)
        return nn.Sequential(*modules), widths[-1]

    return build


def keep(layer: Callable[..., nn.Module], *args: object, **kwargs: object) -> Part:
    """A layer that leaves the number of channels as it is, such as a pooling."""
    return lambda channels: (layer(*args, **kwargs), channels)


def conv(
    out_channels: int,
    kernel: int | tuple[int, int],
    *,
    stride: int = 1,
    valid: bool = False,
    bias: bool = False,
    eps: float = 1e-3,
) -> Part:
    """Convolution, batch norm, ReLU; zeros around it keep it centred unless it is `valid`."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (0, 0) if valid else (height // 2, width // 2)

    def build(channels: int) -> tuple[nn.Module, int]:
        convolution = nn.Conv2d(channels, out_channels, (height, width), stride, padding, bias=bias)
        return nn.Sequential(convolution, nn.BatchNorm2d(out_channels, eps=eps), nn.ReLU()), out_channels

    return build
