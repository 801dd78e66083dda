"""The one way to weights: whatever holds them, network and preprocessing come back together."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cnnkit.errors import Failure, Misuse
from cnnkit.models import create, spec
from cnnkit.weights import artefact
from cnnkit.weights.artefact import Card
from cnnkit.weights.deep_compression import load_deep_compression
from cnnkit.weights.definitions import Definition, Entries, definitions
from cnnkit.weights.preprocessing import Preprocessing
from cnnkit.weights.published import Record, digest, download, imagenet_classes, record, record_of_file

#: Where people put a state dict that they store with other things.
WRAPPERS = ("state_dict", "model_state_dict", "model")

#: How many misfits an error's sentence names.
NAMED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A network with weights, and what is known of them.

    Attributes:
        model: in evaluation mode on the CPU.
        name: its registry name.
        arguments: what it was built with besides.
        preprocessing: what it was trained on, or None where the file does not tell.
        classes: names in the order of the logits, or None where the file does not tell.
        provenance: where the weights come from and how they were recognised.
        licence: of the weights, as far as it is stated.
        document: what stands in the artefact, where the weights come from one.
    """

    model: nn.Module
    name: str
    arguments: dict[str, Any]
    preprocessing: Preprocessing | None
    classes: list[str] | None
    provenance: dict[str, Any]
    licence: str | None = None
    document: Card | None = None

    @property
    def card(self) -> Card:
        """The document that an artefact of these weights has.

        Raises:
            Failure: it is not known how images become its input.
        """
        if self.document is not None:
            return self.document
        if self.preprocessing is None:
            raise Failure(
                f"{self.provenance['source']} does not tell how images become its input, so {self.name} "
                f"cannot predict with it; fine-tune it with cnnkit train, or use published weights"
            )
        count = self.arguments["num_classes"]
        return Card(
            model=self.name,
            task="classify",
            classes=self.classes or [f"class {i}" for i in range(count)],
            preprocessing=self.preprocessing,
            arguments=self.arguments,
            provenance=self.provenance,
            licence=self.licence,
        )


def load(source: str | Path, model: str | None = None) -> Loaded:
    """Weights from wherever they are: `load("torchvision", "resnet50")`, `load("best.safetensors")`.

    Args:
        source: an artefact or a run's folder; a state dict of torchvision, timm or a network's authors
            (`.safetensors`, `.pth`, `.pt`, `.bin`); the published Deep-Compression SqueezeNet (`.net`);
            `torchvision`, `torchvision:IMAGENET1K_V1`, `timm`, `timm:a1_in1k` or `timm:resnet50.a1_in1k`.
        model: registry name of the network; needed for `torchvision` and `timm`, and else recognised.

    Raises:
        Misuse: a name is not known, or the source holds another network.
        Failure: the file is missing, damaged, not safe to load or does not fit; there is no network.
    """
    if model is not None:
        try:
            spec(model)
        except LookupError as error:
            raise Misuse(str(error)) from None
    library, _, tag = str(source).partition(":")
    if library in ("torchvision", "timm"):
        return _published(str(source), library, tag, model)
    path = artefact_of(Path(source))
    if not path.is_file():
        raise Failure(f"there is no file {path}; weights are a file, torchvision, or timm:TAG")
    if path.suffix == ".net":
        return _of_deep_compression(path, model)
    if path.suffix == ".safetensors" and _is_artefact(path):
        network, card = artefact.load(path)
        _agree(str(path), card.model, model)
        about = {"source": str(path), **card.provenance}
        arguments = {"num_classes": len(card.classes), **card.arguments}
        return Loaded(
            network, card.model, arguments, card.preprocessing, card.classes, about, card.licence, card
        )
    return _of_state_dict(path, model)


def artefact_of(path: Path) -> Path:
    """The artefact that is meant by a file or by a run's folder.

    Raises:
        Failure: the folder holds no `best.safetensors`.
    """
    if not path.is_dir():
        return path
    if not (path / "best.safetensors").is_file():
        raise Failure(f"{path} holds no best.safetensors; give a run's folder or an artefact")
    return path / "best.safetensors"


def _agree(source: str, found: str, asked: str | None) -> None:
    if asked not in (None, found):
        raise Misuse(f"{source} holds weights of {found}, not of {asked}")


def _published(source: str, library: str, tag: str, model: str | None) -> Loaded:
    rows = [(name, row) for name, row in definitions(model) if row.library == library]
    if library == "timm" and "." in tag:
        architecture, _, tag = tag.partition(".")
        rows = [(name, row) for name, row in rows if row.name == architecture]
    elif model is None:
        raise Misuse(f"{source} has many networks; name one with --model")
    if not rows:
        raise Misuse(f"{source} has no weights that fit {model or 'a network of ours'}")
    name, definition = rows[0]
    found = record(definition, tag or None)
    path = download(found)
    return _carried(source, path, name, definition, _theirs(definition, _read(path)), found)


def _of_deep_compression(path: Path, model: str | None) -> Loaded:
    found = load_deep_compression(path)
    _agree(str(path), found.model, model)
    network = create(found.model, **found.arguments)
    network.load_state_dict(found.weights)
    about = {"source": str(path), "sha256": digest(path), "origin": "songhan/SqueezeNet-Deep-Compression"}
    return Loaded(
        network.eval(),
        found.model,
        {"num_classes": 1000, "in_channels": 3, **found.arguments},
        found.preprocessing,
        imagenet_classes(),
        about,
        "none stated by songhan/SqueezeNet-Deep-Compression",
    )


def _is_artefact(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return artefact.KEY in (file.metadata() or {})
    except SafetensorError as error:
        raise Failure(f"{path} is damaged or no safetensors file: {error}") from None


def _read(path: Path) -> Entries:
    """The entries of a state dict, prefixes of parallel training and old spellings taken away.

    Raises:
        Failure: the file is damaged, carries more than numbers and names, or holds no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                found: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise whatever the damaged bytes lead to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Failure(f"{path} is damaged or not safe to load: {reason}") from None
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise Failure(f"{path} holds no state dict, which would be tensors by name")
    return {_modern(name): value for name, value in found.items() if not _is_counter(name)}


def _modern(name: str) -> str:
    """Published DenseNets were stored when `norm1` was still called `norm.1`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name.removeprefix("module."))


def _is_counter(name: str) -> bool:
    """Batch norm's count of batches: older files lack it, and nothing reads it where momentum is fixed."""
    return name.endswith("num_batches_tracked")


def _of_state_dict(path: Path, model: str | None) -> Loaded:
    entries = _read(path)
    misfits: list[tuple[int, str, list[str]]] = []  # names in common, network, what does not fit
    for name, definition in definitions(model):
        try:
            theirs = _theirs(definition, entries)
        except ModuleNotFoundError:
            continue  # a library that is not there recognises nothing
        problems = _problems(name, definition, theirs)
        if not problems:
            if definition.twin:
                raise Failure(
                    f"the entries of {path} are those of timm's {definition.name} and of "
                    f"{definition.twin}; name the weights, as in timm:{definition.name}.TAG"
                )
            found = record_of_file(definition, digest(path))
            return _carried(str(path), path, name, definition, theirs, found)
        common = sum(theirs.values.get(key) is not None for key in theirs.order)
        misfits.append((common, name, problems))
    if model is not None and (ours := _ours(path, model, entries)) is not None:
        return ours
    common, name, problems = max(misfits, key=lambda row: (row[0], -len(row[2])), default=(0, "", []))
    if not common:
        first = ", ".join(list(entries)[:NAMED])
        named = f"fit {model} neither by name nor by order" if model else "are those of no known network"
        raise Failure(f"the entries of {path} ({first}, ...) {named}" + ("" if model else "; try --model"))
    raise Failure(f"{path} does not fit {name}: {_told(problems)}")


def _told(problems: list[str]) -> str:
    more = f" (and {len(problems) - NAMED} more)" if len(problems) > NAMED else ""
    return "; ".join(problems[:NAMED]) + more


@dataclass(frozen=True, slots=True)
class _Theirs:
    """Entries held against another library's definition.

    Attributes:
        order: names that the definition has, in its order.
        values: entries in the order and shapes of ours, as far as they are there.
        strange: names that the definition does not have.
    """

    order: list[str]
    values: Entries
    strange: list[str]


def _theirs(definition: Definition, entries: Entries) -> _Theirs:
    with torch.device("meta"):
        order = [name for name in definition.build().state_dict() if not _is_counter(name)]
    known = set(order)
    strange = [n for n in entries if n not in known and not n.startswith(definition.auxiliary or ("\0",))]
    there = {name: entries[name] for name in order if name in entries}
    return _Theirs(order, definition.reorder(there), strange)


def _problems(model: str, definition: Definition, theirs: _Theirs) -> list[str]:
    """What keeps the entries from being those of one of our networks, entry by entry."""
    problems = [f"{name} is missing" for name in theirs.order if name not in theirs.values]
    problems += [f"{name} is not part of it" for name in theirs.strange]
    if problems:
        return problems
    expected = _shapes(model, _arguments(theirs.values))
    problems = [
        f"{name} is {tuple(entry.shape)} instead of {shape}"
        for (name, entry), shape in zip(theirs.values.items(), expected.values(), strict=True)
        if tuple(entry.shape) != shape
    ]
    scale = definition.not_negative
    if scale and (count := int((theirs.values[scale] < 0).sum())):
        problems.append(f"{scale} is negative in {count} places, where {definition.name} computes another")
    return problems


def _arguments(values: Entries) -> dict[str, Any]:
    """How many classes and channels the entries are for: what the last and the first of them say."""
    first, *_, last = values.values()
    return {
        "num_classes": last.shape[0] if last.ndim else 1,
        "in_channels": first.shape[1] if first.ndim > 1 else 1,
    }


def _shapes(model: str, arguments: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of our network's entries, without memory."""
    with torch.device("meta"):
        entries = create(model, **arguments).state_dict()
    return {name: tuple(entry.shape) for name, entry in entries.items() if not _is_counter(name)}


def _filled(model: str, arguments: dict[str, Any], values: Entries) -> nn.Module:
    """Our network with entries that were found to fit, in our order."""
    network = create(model, **arguments)
    entries = network.state_dict()
    names = [name for name in entries if not _is_counter(name)]
    network.load_state_dict(entries | dict(zip(names, values.values(), strict=True)))
    return network.eval()


def _carried(
    source: str, path: Path, name: str, definition: Definition, theirs: _Theirs, found: Record
) -> Loaded:
    if problems := _problems(name, definition, theirs):
        raise Failure(f"{path} does not fit {name}: {_told(problems)}")
    arguments = _arguments(theirs.values)
    classes = found.classes
    if classes is not None and len(classes) != arguments["num_classes"]:
        classes = None
    about = {
        "source": source,
        "sha256": digest(path),
        "origin": f"{definition.library} {definition.name}",
        "preprocessing": f"as {found.name} ({found.library})",
    }
    network = _filled(name, arguments, theirs.values)
    return Loaded(network, name, arguments, found.preprocessing, classes, about, found.licence)


def _ours(path: Path, model: str, entries: Entries) -> Loaded | None:
    """Entries under our own names, or under unknown ones in our order, where every shape fits."""
    if not entries:
        return None
    about = {"source": str(path), "sha256": digest(path)}
    named = _named_as_ours(model, entries)
    if named is None and path.suffix == ".safetensors":  # it keeps no order
        return None
    values = named or entries
    try:
        arguments = _arguments(values)
        expected = list(_shapes(model, arguments).values())
    except (ValueError, RuntimeError):  # nothing is built with such numbers
        return None
    if [tuple(entry.shape) for entry in values.values()] != expected:
        return None
    about["origin"] = "cnnkit" if named else "unknown; its entries are in the order of ours"
    return Loaded(_filled(model, arguments, values), model, arguments, None, None, about)


def _named_as_ours(model: str, entries: Entries) -> Entries | None:
    with torch.device("meta"):
        names = [name for name in create(model).state_dict() if not _is_counter(name)]
    return {name: entries[name] for name in names} if set(names) == set(entries) else None
