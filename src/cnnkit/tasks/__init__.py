"""What a network is for: loss, score, prediction.

What is named here is loaded on first use: recipes read the losses, and need no torch for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnkit.tasks.classify import Classifier as Classifier
    from cnnkit.tasks.classify import Classify as Classify
    from cnnkit.tasks.loading import load as load
    from cnnkit.tasks.segment import Segment as Segment
    from cnnkit.tasks.segmenter import Segmenter as Segmenter

_WHERE = {
    "Classifier": "cnnkit.tasks.classify",
    "Classify": "cnnkit.tasks.classify",
    "Segment": "cnnkit.tasks.segment",
    "Segmenter": "cnnkit.tasks.segmenter",
    "load": "cnnkit.tasks.loading",
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'cnnkit.tasks' has no attribute {name!r}")
