"""A trained network that predicts on pictures, whatever its task."""

from pathlib import Path

import torch

from cnnkit.errors import Misuse
from cnnkit.tasks.classify import Classifier
from cnnkit.tasks.segmenter import Segmenter
from cnnkit.weights.sources import load as load_weights


def load(source: str | Path, device: str = "cpu", *, model: str | None = None) -> Classifier | Segmenter:
    """A trained network from an artefact, a run's folder, or any weights that `cnnkit.weights.load` takes.

    Raises:
        Misuse: there is no such device here.
        Failure: there is none, or it cannot be trusted; see `cnnkit.weights.load`.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # what torch raises, an assertion where it has no CUDA
        raise Misuse(f"--device {device} is not there on this machine; use --device cpu") from None
    loaded = load_weights(source, model)
    kind = Segmenter if loaded.card.task == "segment" else Classifier
    return kind(loaded.model, loaded.card, device)
