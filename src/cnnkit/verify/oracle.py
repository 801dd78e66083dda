"""What an oracle is: another implementation of one of our networks, and how its weights lie against ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from cnnkit.weights.definitions import other

#: Makes another network of one.
Change = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True, slots=True)
class Oracle:
    """Another implementation of one of our networks.

    Attributes:
        library: the distribution that has it, `torchvision`, `timm` or `pytorchcv`.
        name: its name there.
        kwargs: arguments that its builder takes besides.
        ours: arguments that our network is built with for this comparison.
        reorder: their state dict with its entries in the order and the shapes of ours, where these differ.
        size: side of the test image.
        make: builds it where the library has its blocks and no name for it.
        changes: made to it, one after the other; a finding names them.
    """

    library: str
    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    ours: Mapping[str, Any] = field(default_factory=dict)
    reorder: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    size: int = 64
    make: Callable[[], nn.Module] | None = None
    changes: tuple[Change, ...] = ()

    @property
    def title(self) -> str:
        """Its name there with the arguments, but for what they switch off, and what was changed."""
        given = {name: value for name, value in self.kwargs.items() if value is not False}
        arguments = ", ".join(f"{name}={value!r}" for name, value in given.items())
        name = f"{self.name}({arguments})" if arguments else self.name
        return ", ".join([name, *(change.__name__.replace("_", " ") for change in self.changes)])

    def build(self) -> nn.Module:
        """The other network with random weights.

        Raises:
            ModuleNotFoundError: the library is not installed.
        """
        network = self.make() if self.make else other(self.library, self.name, **self.kwargs)
        for change in self.changes:
            network = change(network)
        return network
