"""A forward pass without memory or arithmetic: which layer ran when, on what, and behind which other."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: Channels, height and width of an image.
Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Step:
    """One layer's turn.

    Attributes:
        name: the layer's, in its network.
        module: the network's own.
        reads: shape of what it was given.
        makes: shape of what it returned.
        behind: name of the layer that made exactly what it was given, or nothing.
    """

    name: str
    module: nn.Module
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    behind: str


def shadow_of(network: nn.Module) -> nn.Module:
    """The same network without memory, in evaluation mode; everything in it can be differentiated."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta")) for p in network.parameters()}
    memo |= {id(b): b.to("meta") for b in network.buffers()}
    return copy.deepcopy(network, memo).eval()


def usual_image(network: nn.Module) -> Shape:
    """An image that the network takes: of its `smallest_image`, or of 224 x 224 pixels."""
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    side = getattr(network, "smallest_image", 224)
    return (3 if first is None else first.in_channels, side, side)


def rehearse(network: nn.Module, image: Shape | None = None) -> list[Step]:
    """The turns of all layers, which are modules without modules in them, in the order of one forward pass.

    Raises:
        ValueError: the network does not take such an image.
    """
    shape = image or usual_image(network)
    shadow = shadow_of(network)
    steps: list[Step] = []
    made: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, so that no two have one id

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...], returned: Any) -> None:
            if not given or not isinstance(given[0], Tensor) or not isinstance(returned, Tensor):
                return
            behind, _ = made.get(id(given[0]), ("", None))
            own = network.get_submodule(name)
            steps.append(Step(name, own, tuple(given[0].shape), tuple(returned.shape), behind))
            made[id(returned)] = (name, returned)

        return hook

    for name, module in shadow.named_modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(note(name))
    try:
        with torch.no_grad(), torch.device("meta"):
            shadow(torch.empty(2, *shape))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{type(network).__name__} does not take an image of {shape} ({reason})") from None
    return steps


def is_activation(step: Step) -> bool:
    """Whether a layer is a non-linearity: torch's own, or a weightless one of another kind behind weights."""
    if type(step.module).__module__ == "torch.nn.modules.activation":
        return not any(True for _ in step.module.parameters())
    if type(step.module).__module__.startswith("torch.nn") or step.reads != step.makes:
        return False
    return bool(step.behind) and not any(True for _ in step.module.parameters())


def then(network: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer behind another one. Where that has no weights, all names in the state dict stay."""
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, nn.Sequential(network.get_submodule(name), layer))


class Before:
    """A hook that lets a layer without weights change what a module is given; no name changes.

    `Before(layer).of(module)` puts it there. A deep copy of the module takes it along.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def of(self, module: nn.Module) -> None:
        """Change what this module is given from now on."""
        module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        self.layer.train(module.training)
        return (self.layer(given[0]), *given[1:])
