"""Data sets by name: scikit-learn's digits, and those that torchvision can download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cnnkit.data.sets import DataSet, Part
from cnnkit.errors import Failure


def digits() -> DataSet:
    """The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn (Alpaydin & Kaynak 1998), one
    part.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.from_numpy(found.images * (255 / 16)).round().to(torch.uint8)[:, None]
    part = _in_memory(pixels, found.target.tolist())
    return DataSet("digits", "digits", "1,797 digits in memory", tuple("0123456789"), {"all": part})


def _downloadable(
    name: str, dataset: str, classes: tuple[str, ...] | None = None
) -> Callable[[Path], DataSet]:
    def read(data_dir: Path) -> DataSet:
        from torchvision import datasets

        made = getattr(datasets, dataset)
        parts = {}
        try:
            for part in ("train", "test"):
                found = _find(made, data_dir, train=part == "train")
                pixels = torch.as_tensor(found.data)
                pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
                parts[part] = _in_memory(pixels, torch.as_tensor(found.targets).tolist())
        except (RuntimeError, OSError) as error:  # what torchvision raises when it cannot download
            reason = str(error).strip().splitlines()[0]
            raise Failure(
                f"{name} is not under {data_dir} and could not be downloaded ({reason}); "
                f"name the folder that has it with --data-dir, or connect to a network"
            ) from None
        layout = f"{sum(map(len, parts.values())):,} images in memory, from {data_dir}"
        return DataSet(name, name, layout, classes or tuple(found.classes), parts)

    return read


def _find(made: Callable[..., Any], data_dir: Path, *, train: bool) -> Any:
    """Read what is there; download only what is not."""
    try:
        return made(str(data_dir), train=train, download=False)
    except RuntimeError:
        return made(str(data_dir), train=train, download=True)


def _in_memory(pixels: torch.Tensor, labels: list[int]) -> Part:
    return Part([str(i) for i in range(len(labels))], labels, pixels=pixels)


#: Name -> how to read it, given the folder for downloads.
BUILTIN: dict[str, Callable[[Path], DataSet]] = {
    "digits": lambda _: digits(),
    "mnist": _downloadable("mnist", "MNIST", tuple("0123456789")),
    "fashion_mnist": _downloadable("fashion_mnist", "FashionMNIST"),
    "cifar10": _downloadable("cifar10", "CIFAR10"),
}
