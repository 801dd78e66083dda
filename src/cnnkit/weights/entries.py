"""The entries of a state dict, read from a file of somebody's."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from cnnkit.errors import Failure
from cnnkit.weights.definitions import Entries

#: Where people put a state dict that they store with other things.
WRAPPERS = ("state_dict", "model_state_dict", "model")


def read(path: Path) -> Entries:
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
    return {_modern(name): value for name, value in found.items() if not is_counter(name)}


def _modern(name: str) -> str:
    """Published DenseNets were stored when `norm1` was still called `norm.1`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name.removeprefix("module."))


def is_counter(name: str) -> bool:
    """Batch norm's count of batches: older files lack it, and nothing reads it where momentum is fixed."""
    return name.endswith("num_batches_tracked")
