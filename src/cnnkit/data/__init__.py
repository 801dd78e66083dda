"""Images and labels: recognising a layout, checking it, and feeding it to a network."""

from collections.abc import Collection
from pathlib import Path

from cnnkit.data.builtin import BUILTIN
from cnnkit.data.check import Examination, Finding, examine
from cnnkit.data.folders import read_folder
from cnnkit.data.sets import DataSet, Part
from cnnkit.errors import Misuse
from cnnkit.registry import unknown

__all__ = ["BUILTIN", "DataSet", "Examination", "Finding", "Part", "examine", "open"]


def open(source: str | Path, *, data_dir: Path = Path("data"), without: Collection[str] = ()) -> DataSet:
    """A data set before its split: a built-in name, or a folder whose layout is recognised.

    Args:
        source: `digits`, `mnist`, `fashion_mnist`, `cifar10`, or the path of an image folder.
        data_dir: where built-in sets are looked for and downloaded to.
        without: keys of images to leave out.

    Raises:
        Misuse: there is neither a built-in set nor a folder of that name.
        Failure: what is there is no layout that is known, or a download failed.
    """
    name = str(source)
    if name in BUILTIN:
        data = BUILTIN[name](data_dir)
    elif not Path(source).exists() and "/" not in name:
        raise Misuse(
            f"{unknown(name, BUILTIN, 'folder or data set')} A folder of images may be given as well."
        )
    else:
        data = read_folder(Path(source))
    return data.without(without) if without else data
