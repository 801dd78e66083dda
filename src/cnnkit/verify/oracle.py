"""What an oracle is: another implementation of one of our networks, and how its weights lie against ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Oracle:
    """Another implementation of one of our networks.

    Attributes:
        library: the distribution that has it, `torchvision` or `timm`.
        name: its name there.
        kwargs: arguments that its builder takes besides.
        ours: arguments that our network is built with for this comparison.
        reorder: their state dict with its entries in the order of ours, where the order differs.
        size: side of the test image.
        make: builds it where the library has its blocks and no name for it.
    """

    library: str
    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    ours: Mapping[str, Any] = field(default_factory=dict)
    reorder: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    size: int = 64
    make: Callable[[], nn.Module] | None = None

    def build(self) -> nn.Module:
        """The other network with random weights.

        Raises:
            ModuleNotFoundError: the library is not installed.
        """
        if self.make is not None:
            return self.make()
        if self.library == "torchvision":
            return import_module("torchvision.models").get_model(self.name, weights=None, **self.kwargs)
        return import_module("timm").create_model(self.name, pretrained=False, **self.kwargs)
