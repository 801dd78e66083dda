"""Starting from weights that were trained before: which part is new, which stays, which learns slowly."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnnkit.errors import Misuse
from cnnkit.models import create
from cnnkit.surgery.head import freeze, replace_head
from cnnkit.weights.sources import Loaded


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a run took over. It is stored with the run, so that resuming needs the source no more.

    Attributes:
        source: where the weights came from; a file as an absolute path.
        arguments: what our network is built with for the new classes.
        head: the layer that was replaced because the classes differ, or nothing.
        classes: how many the weights were for.
        provenance: what is known of the weights.
        licence: of the weights, or nothing where none is known.
    """

    source: str
    arguments: dict[str, Any]
    head: str
    classes: int
    provenance: dict[str, Any]
    licence: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        return asdict(self)

    def told(self, model: str, freezing: str | None, factor: float) -> str:
        """What a person should know before the first step."""
        told = [f"weights of {model} from {self.source}"]
        if self.head:
            told.append(
                f"{self.head} is new ({self.classes} classes before, {self.arguments['num_classes']} now)"
            )
        if freezing is not None:
            told.append(f"frozen: {'all but the head' if freezing == 'features' else f'{freezing} stages'}")
        if freezing != "features":
            told.append(f"the carried-over weights that learn do so at {factor:g} of the learning rate")
        return "; ".join(told)


def carry(loaded: Loaded, source: str, classes: Sequence[str]) -> Transfer:
    """Put a new head on loaded weights where their classes are others, and say what was taken over.

    Raises:
        Misuse: the network has no head that can be replaced.
    """
    same = loaded.classes is not None and list(loaded.classes) == list(classes)
    arguments = {**loaded.arguments, "num_classes": len(classes)}
    head = "" if same else _new_head(loaded, arguments)
    return Transfer(
        str(Path(source).resolve()) if Path(source).exists() else source,
        arguments,
        head,
        loaded.arguments["num_classes"],
        loaded.provenance,
        loaded.licence or "",
    )


def _new_head(loaded: Loaded, arguments: Mapping[str, Any]) -> str:
    with torch.device("meta"):
        wanted = {name: t.shape for name, t in create(loaded.name, **arguments).state_dict().items()}
    try:
        head = replace_head(loaded.model, arguments["num_classes"])
    except ValueError as error:
        raise Misuse(f"weights of {loaded.name} cannot be carried over: {error}") from None
    if {name: t.shape for name, t in loaded.model.state_dict().items()} != wanted:
        raise Misuse(
            f"weights of {loaded.name} cannot be carried over to {arguments['num_classes']} classes: "
            f"its logits are made by more than its layer {head}"
        )
    return head


def carried_over(network: nn.Module, head: str) -> list[nn.Parameter]:
    """Parameters that are not new: all but those of the replaced layer."""
    new = {id(p) for p in network.get_submodule(head).parameters()} if head else set()
    return [p for p in network.parameters() if id(p) not in new]


def hold(network: nn.Module, part: str | None) -> None:
    """Freeze what the recipe says.

    Raises:
        Misuse: the network has no such part.
    """
    if part is None:
        return
    try:
        freeze(network, part)
    except ValueError as error:
        raise Misuse(f"--freeze: {error}") from None
    if not any(p.requires_grad for p in network.parameters()):
        raise Misuse(f"--freeze {part} leaves nothing of {type(network).__name__} to learn")
