"""The one way to weights: whatever holds them, network and preprocessing come back together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from cnnkit.errors import Failure, Misuse
from cnnkit.models import create, spec
from cnnkit.weights import artefact
from cnnkit.weights.artefact import Card
from cnnkit.weights.carry import Carried, carry, recognise
from cnnkit.weights.deep_compression import load_deep_compression
from cnnkit.weights.definitions import definitions
from cnnkit.weights.entries import read
from cnnkit.weights.preprocessing import Preprocessing
from cnnkit.weights.published import Record, digest, download, imagenet_classes, record, record_of_file


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
            task="segment" if spec(self.name).task == "segment" else "classify",
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
    return _loaded(source, digest(path), carry(path, name, definition, read(path)), found)


def _of_state_dict(path: Path, model: str | None) -> Loaded:
    carried, hashed = recognise(path, read(path), model), digest(path)
    found = record_of_file(carried.definition, hashed) if carried.definition else None
    return _loaded(str(path), hashed, carried, found)


def _loaded(source: str, hashed: str, carried: Carried, found: Record | None) -> Loaded:
    """What was carried over, with what the library says of these weights."""
    model, name, arguments, _, origin = carried
    about = {"source": source, "sha256": hashed, "origin": origin}
    if found is None:
        return Loaded(model, name, arguments, None, None, about)
    about["preprocessing"] = f"as {found.name} ({found.library})"
    fit = found.classes is not None and len(found.classes) == arguments["num_classes"]
    classes = found.classes if fit else None
    return Loaded(model, name, arguments, found.preprocessing, classes, about, found.licence)


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
