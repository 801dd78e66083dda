"""Starting from weights that were trained before: which part is new, which stays, which learns slowly."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from cnnkit.errors import Misuse
from cnnkit.models import create, spec
from cnnkit.models.segment.trunks import start_from, weighted_layers
from cnnkit.registry import Spec
from cnnkit.surgery.changes import replay
from cnnkit.surgery.head import freeze, head_of, names_of_stages, replace_head
from cnnkit.train.module import Training
from cnnkit.train.unfreezing import Unfreezing
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
        surgery: changes that the network has had since it was built.
        rows: for each new class the old one that its part of the head starts as, or nothing.
        alike: names of those old classes.
        filled: layers that were filled and are no head, where a network has no one layer for its head.
        whole: whether all layers were filled, those besides `filled` too.
    """

    source: str
    arguments: dict[str, Any]
    head: str
    classes: int
    provenance: dict[str, Any]
    licence: str
    surgery: list[dict[str, Any]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    alike: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    whole: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        return asdict(self)

    def told(self, model: str, freezing: str | None, factor: float) -> str:
        """What a person should know before the first step."""
        told = [f"weights of {model} from {self.source}"]
        if self.filled and not self.whole:
            filled = f"{self.filled[0]} to {self.filled[-1]}"
            told = [f"{len(self.filled)} layers of {model}, {filled}, from {self.source}"]
        if self.head:
            told.append(
                f"{self.head} is new ({self.classes} classes before, {self.arguments['num_classes']} now)"
            )
        if self.alike:
            told.append(f"it starts as the old {', '.join(self.alike)}")
        if freezing is not None:
            told.append(f"frozen: {'all but the head' if freezing == 'features' else f'{freezing} stages'}")
        if freezing != "features":
            told.append(f"the carried-over weights that learn do so at {factor:g} of the learning rate")
        return "; ".join(told)


def carry(
    loaded: Loaded, source: str, classes: Sequence[str], rows: Sequence[int] = ()
) -> tuple[nn.Module, Transfer]:
    """Put a new head on loaded weights where their classes are others, and say what was taken over.

    A network that labels pixels may have several layers with an output a class: all of them are new.

    Args:
        rows: for each new class the old one that its part of the head starts as; without them it is random.

    Raises:
        Misuse: the network has no head that can be replaced.
    """
    same = loaded.classes is not None and list(loaded.classes) == list(classes)
    rows = () if same else rows
    arguments = {**loaded.arguments, "num_classes": len(classes)}
    surgery = list(loaded.document.surgery) if loaded.document else []
    head, filled, network = "", list[str](), loaded.model
    if spec(loaded.name).task == "segment":
        network, filled = _refitted(loaded, arguments, surgery, same)
    elif not same:
        head = _new_head(loaded, arguments, surgery, rows)
    return network, Transfer(
        _absolute(source),
        arguments,
        head,
        loaded.arguments["num_classes"],
        loaded.provenance,
        loaded.licence or "",
        surgery,
        list(rows),
        [loaded.classes[row] if loaded.classes else f"class {row}" for row in rows],
        filled,
        whole=same and bool(filled),
    )


def begin(
    whole: Spec, arguments: Mapping[str, Any], classifier: Loaded, source: str
) -> tuple[nn.Module, Transfer]:
    """A segmentation network whose first layers have a classifier's weights, and what was taken over.

    Raises:
        Misuse: the network is not built on such a classifier.
    """
    network = whole.build(**arguments)
    filled = start_from(network, classifier.model)
    if 2 * len(filled) < (count := len(weighted_layers(classifier.model)) - 1):
        raise Misuse(
            f"{whole.name} does not begin as {classifier.name} does: --backbone-weights {source} fills "
            f"{len(filled)} layers with those of its {count}; `cnnkit models {whole.name}` names what it is "
            f"built on"
        )
    about = {"backbone": classifier.name, **classifier.provenance}
    return network, Transfer(
        _absolute(source), dict(arguments), "", 0, about, classifier.licence or "", filled=filled
    )


def _absolute(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else source


@torch.no_grad()
def _refitted(
    loaded: Loaded, arguments: Mapping[str, Any], surgery: Sequence[Mapping[str, Any]], same: bool
) -> tuple[nn.Module, list[str]]:
    """The network with all weights but those that score classes, and the layers that score none.

    Args:
        same: whether the classes are those of the weights, so that what scores them is carried over too.
    """
    network = replay(create(loaded.name, **arguments), surgery)
    theirs = loaded.model.state_dict()
    scores = _scores(loaded.name, arguments, surgery)
    layers: dict[str, bool] = {}
    for name, value in network.state_dict().items():
        layer = name.rpartition(".")[0]
        layers[layer] = layer not in scores
        if same or layers[layer]:
            value.copy_(theirs[name])
    return network, [layer for layer, kept in layers.items() if kept]


def _scores(name: str, arguments: Mapping[str, Any], surgery: Sequence[Mapping[str, Any]]) -> set[str]:
    """Layers that have other shapes where there is one class more."""
    with torch.device("meta"):
        own, other = (
            replay(create(name, **{**arguments, "num_classes": count}), surgery).state_dict()
            for count in (arguments["num_classes"], arguments["num_classes"] + 1)
        )
    return {key.rpartition(".")[0] for key, value in own.items() if other[key].shape != value.shape}


def _new_head(
    loaded: Loaded, arguments: Mapping[str, Any], surgery: Sequence[Mapping[str, Any]], rows: Sequence[int]
) -> str:
    with torch.device("meta"):
        network = replay(create(loaded.name, **arguments), surgery)
        wanted = {name: t.shape for name, t in network.state_dict().items()}
    try:
        old = head_of(loaded.model)[1]
        head = replace_head(loaded.model, arguments["num_classes"])
    except ValueError as error:
        raise Misuse(f"weights of {loaded.name} cannot be carried over: {error}") from None
    if {name: t.shape for name, t in loaded.model.state_dict().items()} != wanted:
        raise Misuse(
            f"weights of {loaded.name} cannot be carried over to {arguments['num_classes']} classes: "
            f"its logits are made by more than its layer {head}"
        )
    if rows:
        with torch.no_grad():
            for name, parameter in loaded.model.get_submodule(head).named_parameters():
                parameter.copy_(old.get_parameter(name)[list(rows)])
    return head


def nearest_classes(outputs: Iterable[tuple[Tensor, Tensor]], classes: int) -> list[int]:
    """For each new class the old one that answers to its images and not to the others'.

    That is the old class whose mean probability over the images of the class is the most above that over all
    other images; no old class is taken twice. A trained network so tells bees from ants before it has learnt
    to. The idea is the frequency label mapping of Chen et al. 2023, arXiv:2211.11635, which counts first
    places instead.

    Args:
        outputs: logits of the old classes and labels of the new, a batch at a time.
        classes: how many new ones there are.

    Raises:
        Misuse: there are fewer old classes than new ones.
    """
    columns = [(logits.softmax(dim=1).double().cpu(), labels.cpu()) for logits, labels in outputs]
    probabilities, labels = (torch.cat(column) for column in zip(*columns, strict=True))
    if probabilities.shape[1] < classes:
        raise Misuse(
            f"--head mapped needs an old class for each of the {classes} new ones, and the weights have "
            f"{probabilities.shape[1]}; use --head new"
        )
    above = torch.stack(
        [
            probabilities[labels == label].mean(0) - probabilities[labels != label].mean(0)
            for label in range(classes)
        ]
    )
    rows = [-1] * classes
    for _ in range(classes):  # the surest pair first
        new, old = divmod(int(above.argmax()), above.shape[1])
        rows[new] = old
        above[new], above[:, old] = -2.0, -2.0
    return rows


def levels(network: nn.Module, head: str = "", filled: Sequence[str] = ()) -> list[list[nn.Parameter]]:
    """All parameters from the logits down: the head, what is before it, then stage by stage to the first.

    Args:
        head: the layer that makes the logits, where it is known.
        filled: layers that were carried over and are no head, where there is no one layer for it; there are
            two levels then, the others and these.
    """
    parameters = dict(network.named_parameters())
    if filled:
        old = {id(p) for p in _of_layers(network, filled)}
        return [[p for p in parameters.values() if (id(p) in old) is kept] for kept in (False, True)]
    head = head or head_of(network)[0]
    top = {f"{head}.{name}" for name, _ in network.get_submodule(head).named_parameters()}
    count = len(getattr(network, "feature_channels", ()))
    reached: list[set[str]] = [set(), *(names_of_stages(network, k) for k in range(1, count + 1))]
    stages = [now - before for before, now in pairwise(reached)]
    between = set(parameters) - top - reached[-1]
    found = [top, between, *reversed(stages)]
    return [[p for n, p in parameters.items() if n in names] for names in found if names]


def _of_layers(network: nn.Module, layers: Iterable[str]) -> list[nn.Parameter]:
    return [p for layer in layers for p in network.get_submodule(layer).parameters(recurse=False)]


def shares(
    found: Sequence[Sequence[nn.Parameter]], backbone_factor: float, stage_factor: float
) -> dict[int, float]:
    """By the id of a parameter of these levels, the share of the learning rate at which it learns.

    1 for the head, `backbone_factor` for the level before it, and `stage_factor` less for each further one
    (discriminative fine-tuning: Howard & Ruder, ACL 2018, arXiv:1801.06146, section 3.2).
    """
    return {
        id(p): backbone_factor * stage_factor ** (depth - 1) if depth else 1.0
        for depth, level in enumerate(found)
        for p in level
    }


class Unfreezer(Callback):
    """Before each epoch, the levels of the network whose time has come begin to learn.

    The optimiser knows all of them from the start, so that its state can be resumed; one that has no gradient
    is left alone by it.

    Args:
        plan: which levels learn when.
        found: the levels, less what is frozen for good.
    """

    def __init__(self, plan: Unfreezing, found: Sequence[Sequence[nn.Parameter]]) -> None:
        learning = ([p for p in level if p.requires_grad] for level in found)
        self.plan, self.levels = plan, [level for level in learning if level]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wake the levels of this epoch."""
        if not isinstance(pl_module, Training):
            raise TypeError(f"Unfreezer changes Training, got {type(pl_module).__name__}")
        awake = self.plan.awake(trainer.current_epoch, len(self.levels))
        for depth, level in enumerate(self.levels):
            for parameter in level:
                parameter.requires_grad_(depth < awake)
        pl_module.hold()


def hold(network: nn.Module, part: str | None, filled: Sequence[str] = ()) -> None:
    """Freeze what the recipe says.

    Args:
        filled: layers that were carried over and are no head, where there is no one layer for it; `features`
            are these.

    Raises:
        Misuse: the network has no such part.
    """
    if part is None:
        return
    if part == "features" and filled:
        for parameter in _of_layers(network, filled):
            parameter.requires_grad_(False)
        return
    try:
        freeze(network, part)
    except ValueError as error:
        raise Misuse(f"--freeze: {error}") from None
    if not any(p.requires_grad for p in network.parameters()):
        raise Misuse(f"--freeze {part} leaves nothing of {type(network).__name__} to learn")
