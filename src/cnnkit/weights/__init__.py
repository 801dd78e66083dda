"""Weights and what must never be parted from them: artefacts, preprocessing, other people's formats.

`load` is the one way to weights. What is named here is loaded on first use: commands that need no torch
read records of preprocessing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnkit.weights.deep_compression import load_deep_compression as load_deep_compression
    from cnnkit.weights.sources import Loaded as Loaded
    from cnnkit.weights.sources import load as load

_WHERE = {
    "Loaded": "cnnkit.weights.sources",
    "load": "cnnkit.weights.sources",
    "load_deep_compression": "cnnkit.weights.deep_compression",
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'cnnkit.weights' has no attribute {name!r}")
