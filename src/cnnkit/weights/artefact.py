"""The artefact: one safetensors file that holds a trained network and all that is needed to use it.

The weights are ordinary safetensors entries; the metadata key `cnnkit` holds one JSON document, `Card`. What
preprocessing learned (a whitening matrix) is too much for a document and stands beside the weights, in
entries that begin with `preprocessing.`. Nothing in a file can run code: safetensors are plain numbers, and
the document is validated before anything is built from it.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import cnnkit
from cnnkit.errors import Failure
from cnnkit.models import spec as registered
from cnnkit.registry import Spec
from cnnkit.surgery.changes import replay
from cnnkit.weights.files import atomic
from cnnkit.weights.preprocessing import Preprocessing

SCHEMA = 2  # 2: preprocessing has a normalisation
KEY = "cnnkit"
PREPROCESSING = "cnnkit.preprocessing"
LEARNED = "preprocessing."


@dataclass(frozen=True, kw_only=True)
class Card:
    """The JSON document of an artefact.

    Attributes:
        schema: version of this document; a newer one than ours is refused.
        version: the cnnkit that wrote it.
        model: registry name.
        arguments: what the network was built with besides its name, JSON values only.
        surgery: the changes made to it after building, in order, replayed at load.
        task: what it does.
        classes: names, in the order of the logits.
        preprocessing: how an image becomes its input.
        recipe: how it was trained.
        metrics: what it reached, `part/metric`.
        provenance: data, seed, host software.
        licence: of the weights, where it is known.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: str
    task: Literal["classify", "segment", "detect", "pose", "vqa"]
    classes: list[str]
    preprocessing: Preprocessing
    arguments: dict[str, Any] = field(default_factory=dict)
    surgery: list[dict[str, Any]] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None
    schema: int = SCHEMA
    version: str = cnnkit.__version__


_card = TypeAdapter(Card)
_preprocessing = TypeAdapter(Preprocessing)


def save(path: Path, weights: dict[str, Tensor], card: Card) -> None:
    """Write an artefact, all or nothing. The same weights and card give the same bytes.

    Raises:
        Failure: the disk is full or cannot be written; what was there before stays.
    """
    document = _card.dump_json(card, exclude={"preprocessing": {"whitening"}}).decode()
    entries = weights | {LEARNED + name: tensor for name, tensor in card.preprocessing.tensors.items()}
    _write(path, entries, {KEY: document})


def save_preprocessing(path: Path, preprocessing: Preprocessing) -> None:
    """Write how images become the input by itself: what a run that is resumed must not learn anew.

    Raises:
        Failure: as `save`.
    """
    entries = {LEARNED + name: tensor for name, tensor in preprocessing.tensors.items()}
    _write(path, entries, {PREPROCESSING: json.dumps(preprocessing.to_dict())})


def load_preprocessing(path: Path) -> Preprocessing:
    """What `save_preprocessing` wrote.

    Raises:
        Failure: the file is missing, damaged, or holds something else.
    """
    with _opened(path) as file:
        try:
            stored = _preprocessing.validate_json((file.metadata() or {}).get(PREPROCESSING, ""))
        except ValidationError:
            raise Failure(f"{path} holds no preprocessing that was written by cnnkit") from None
        _compare(path, "its preprocessing", _learned(stored), _found(file))
        return _with_learned(stored, file)


def _write(path: Path, entries: dict[str, Tensor], metadata: dict[str, str]) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in entries.items()}
    try:
        with atomic(path) as scratch:
            save_file(tensors, scratch, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise Failure(f"{path} could not be written: {error}") from None


def read_card(path: Path) -> Card:
    """The document of an artefact, without its weights and without what preprocessing learned.

    Raises:
        Failure: the file is missing, damaged, no artefact, or from a newer cnnkit.
    """
    with _opened(path) as file:
        return _parse(path, file.metadata() or {})


def load(path: Path) -> tuple[nn.Module, Card]:
    """The network of an artefact, in evaluation mode on the CPU, and its document.

    The network is first built without memory and compared, name by name and shape by shape, with what the
    file holds, so that a lying document cannot make it allocate more than the file's own size.

    Raises:
        Failure: as `read_card`, or the weights do not fit the network that the document names.
    """
    with _opened(path) as file:
        card = _parse(path, file.metadata() or {})
        spec = _spec(path, card.model)
        with torch.device("meta"):
            expected = {name: tuple(t.shape) for name, t in _build(path, spec, card).state_dict().items()}
        _compare(path, card.model, expected | _learned(card.preprocessing), _found(file))
        weights = {name: file.get_tensor(name) for name in expected}
        card = replace(card, preprocessing=_with_learned(card.preprocessing, file))
    model = _build(path, spec, card)
    model.load_state_dict(weights)
    return model.eval(), card


def with_metrics(card: Card, part: str, metrics: dict[str, float]) -> Card:
    """The same document with what the network reached on one part, as far as that is a number."""
    reached = {f"{part}/{name}": value for name, value in metrics.items() if math.isfinite(value)}
    return replace(card, metrics={**card.metrics, **reached})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise Failure(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise Failure(f"{path} is damaged or no safetensors file: {error}") from None


def _parse(path: Path, metadata: dict[str, str]) -> Card:
    if KEY not in metadata:
        raise Failure(f"{path} holds weights but no cnnkit document; it was not written by cnnkit")
    try:
        schema = TypeAdapter(dict[str, Any]).validate_json(metadata[KEY]).get("schema")
        if not isinstance(schema, int) or schema > SCHEMA:
            raise Failure(
                f"{path} has document version {schema!r} and this cnnkit reads up to {SCHEMA}; upgrade cnnkit"
            )
        return _card.validate_json(metadata[KEY])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise Failure(f"{path} has a document that cannot be read: {where}: {first['msg']}") from None


def _spec(path: Path, name: str) -> Spec:
    try:
        return registered(name)
    except LookupError as error:
        raise Failure(f"{path} needs a network that this cnnkit does not have: {error}") from None


def _build(path: Path, spec: Spec, card: Card) -> nn.Module:
    try:
        network = spec.build(**card.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Failure(f"{path}: {card.model} cannot be built with {card.arguments}: {error}") from None
    try:
        return replay(network, card.surgery)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise Failure(f"{path}: {card.model} cannot be changed as its document says: {error}") from None


def _found(file: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _learned(preprocessing: Preprocessing) -> dict[str, tuple[int, ...]]:
    return {LEARNED + name: shape for name, shape in preprocessing.shapes.items()}


def _with_learned(preprocessing: Preprocessing, file: Any) -> Preprocessing:
    return preprocessing.with_tensors(
        {name: file.get_tensor(LEARNED + name) for name in preprocessing.shapes}
    )


def _compare(path: Path, model: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of it" for name in found if name not in expected]
    problems += [
        f"{name} is {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise Failure(f"{path} does not fit {model}: {'; '.join(problems[:3])}{more}")
