"""Weights that torchvision and timm publish: their records, their files, and what was trained with them.

The libraries' own records are read when they are asked for. Files go to the caches that those libraries use
as well, and are checked against the SHA-256 that is published with them each time they are read.
"""

import hashlib
import logging
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cnnkit.errors import Failure, Misuse
from cnnkit.registry import unknown
from cnnkit.weights.definitions import Definition
from cnnkit.weights.preprocessing import Preprocessing

#: torchvision states no licence of its weights but for those whose records carry one.
NO_LICENCE = "none stated; the code of torchvision is BSD-3-Clause, and terms of the data may apply"


@dataclass(frozen=True, slots=True)
class Record:
    """What a library says of weights that it publishes.

    Attributes:
        name: library, network and tag.
        library: its name and version.
        preprocessing: what the network was trained on.
        classes: names, where they are known.
        licence: of the weights, as far as it is stated.
        url: of the file, which names the start of its hash; or nothing.
        repository: on the Hugging Face hub; or nothing.
    """

    name: str
    library: str
    preprocessing: Preprocessing
    classes: list[str] | None
    licence: str
    url: str = ""
    repository: str = ""


def imagenet_classes() -> list[str]:
    """The 1,000 classes of ILSVRC 2012, in the order of their synset numbers, as everybody has them."""
    models: Any = import_module("torchvision.models")
    return list(models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def record(definition: Definition, tag: str | None = None) -> Record:
    """The record of one of a network's published weights, by default of those that the library prefers.

    Raises:
        Misuse: there are none of that tag.
        Failure: timm is not installed.
    """
    return (_of_torchvision if definition.library == "torchvision" else _of_timm)(definition, tag)


def record_of_file(definition: Definition, digest: str) -> Record:
    """The record of the published file with that SHA-256; else of what the library prefers."""
    if definition.library == "torchvision":
        for member in _members(definition):
            found = record(definition, member)
            if digest.startswith(_hash_of(found.url)):
                return found
    return record(definition)


def _members(definition: Definition) -> dict[str, Any]:
    models: Any = import_module("torchvision.models")
    return dict(models.get_model_weights(definition.name).__members__)


def _of_torchvision(definition: Definition, tag: str | None) -> Record:
    models: Any = import_module("torchvision.models")
    members = _members(definition)
    if tag is not None and tag not in members:
        raise Misuse(f"torchvision: {unknown(tag, members, f'weights of {definition.name}')}")
    if not members:
        raise Misuse(f"torchvision publishes no weights of {definition.name}")
    member = members[tag] if tag else models.get_model_weights(definition.name).DEFAULT
    how = member.transforms()
    (short,) = how.resize_size
    (side,) = getattr(how, "crop_size", how.resize_size)  # networks that label pixels see the whole picture
    half = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing(
        size=(side, side),
        keep=side / short,
        interpolation=how.interpolation.value,
        mean=half if definition.rescales else tuple(how.mean),
        std=half if definition.rescales else tuple(how.std),
    )
    return Record(
        f"torchvision {definition.name} {member.name}",
        f"torchvision {version('torchvision')}",
        preprocessing,
        list(member.meta["categories"]),
        member.meta.get("license", NO_LICENCE),
        url=member.url,
    )


def _of_timm(definition: Definition, tag: str | None) -> Record:
    try:
        timm: Any = import_module("timm")
    except ModuleNotFoundError:
        raise Failure("weights of timm need timm; install it with: pip install timm") from None
    if tag is not None:
        known = [name.partition(".")[2] for name in timm.list_pretrained(f"{definition.name}.*")]
        if tag not in known:
            raise Misuse(f"timm: {unknown(tag, known, f'weights of {definition.name}')}")
    about = timm.get_pretrained_cfg(f"{definition.name}.{tag}" if tag else definition.name)
    size = (about.input_size[1], about.input_size[2])
    preprocessing = Preprocessing(
        size=size,
        fit="squash" if about.crop_mode == "squash" else "crop",
        keep=about.crop_pct,
        interpolation=about.interpolation,
        mean=tuple(about.mean),
        std=tuple(about.std),
    )
    return Record(
        f"timm {definition.name}.{about.tag}",
        f"timm {version('timm')}",
        preprocessing,
        imagenet_classes() if about.num_classes == 1000 else None,
        about.license or "none stated",
        url=about.url or "",
        repository=about.hf_hub_id or "",
    )


def download(found: Record) -> Path:
    """The file of published weights, from the cache or the network, its hash checked.

    Raises:
        Failure: there is no network and no copy in the cache, or the file is not what was published.
    """
    path = _from_hub(found) if found.repository else _from_url(found)
    promised = path.resolve().name if found.repository else _hash_of(found.url)
    if re.fullmatch("[0-9a-f]{8,64}", promised) is None:
        raise Failure(f"{found.name} is published without a hash, so {path} cannot be checked")
    if not digest(path).startswith(promised):
        raise Failure(f"{path} is not what {found.name} published (its hash differs); remove it and retry")
    return path


def _from_url(found: Record) -> Path:
    hub: Any = import_module("torch.hub")
    path = Path(hub.get_dir()) / "checkpoints" / found.url.rpartition("/")[2]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            hub.download_url_to_file(found.url, str(path), _hash_of(found.url), progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: the hash differs
            raise _unreachable(found, found.url, str(error).strip("<>.")) from None
    return path


def _from_hub(found: Record) -> Path:
    hub: Any = import_module("huggingface_hub")
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells of each attempt
    try:
        return Path(hub.hf_hub_download(found.repository, "model.safetensors"))
    except Exception as error:  # the hub lets through what the libraries below it raise
        raise _unreachable(found, f"huggingface.co/{found.repository}", type(error).__name__) from None
    finally:
        logger.setLevel(level)


def _unreachable(found: Record, where: str, reason: str) -> Failure:
    return Failure(
        f"{found.name} is not in the cache and could not be downloaded from {where} ({reason}); "
        f"with no network, give a file that you have"
    )


def _hash_of(url: str) -> str:
    """The start of the SHA-256 that torchvision writes into the name of a file."""
    found = re.search(r"-([0-9a-f]{8,64})\.", url.rpartition("/")[2])
    return found.group(1) if found else "none"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
