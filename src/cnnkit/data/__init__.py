"""Images and labels: recognising a layout, checking it, and feeding it to a network.

`open` is the way to a data set. What is named here is loaded on first use: commands that need no torch read
recipes, and those name augmentations.
"""

from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnkit.data.builtin import BUILTIN as BUILTIN
    from cnnkit.data.check import Examination as Examination
    from cnnkit.data.check import Finding as Finding
    from cnnkit.data.check import examine as examine
    from cnnkit.data.sets import DataSet as DataSet
    from cnnkit.data.sets import Part as Part

_WHERE = {
    "BUILTIN": "cnnkit.data.builtin",
    "DataSet": "cnnkit.data.sets",
    "Examination": "cnnkit.data.check",
    "Finding": "cnnkit.data.check",
    "Part": "cnnkit.data.sets",
    "examine": "cnnkit.data.check",
}

__all__ = [*_WHERE, "open"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'cnnkit.data' has no attribute {name!r}")


def open(
    source: str | Path,
    *,
    data_dir: Path = Path("data"),
    classes: Sequence[str] | None = None,
    ignore: Sequence[str | int] | None = None,
    without: Collection[str] = (),
    share: float | None = None,
) -> "DataSet":
    """A data set before its split: a built-in name, or a folder whose layout is recognised.

    Args:
        source: `digits`, `mnist`, `fashion_mnist`, `cifar10`, or the path of a folder of images, with or
            without masks.
        data_dir: where built-in sets are looked for and downloaded to.
        classes: what the values of masks stand for: names in their order (`sky`, `road`), `membrane=0`, or
            `road=#804080`. Without it the folder's `classes.txt`, `class_dict.csv` or `labelmap.txt` says it,
            else every value in the training masks is a class of its own.
        ignore: names or values of classes that count nowhere, beside 255.
        without: keys of images to leave out.
        share: of each class, the part of the images to keep; those of a test part all stay.

    Raises:
        Misuse: there is neither a built-in set nor a folder of that name, or a class map makes no sense.
        Failure: what is there is no layout that is known, or a download failed.
    """
    from cnnkit.data.builtin import BUILTIN
    from cnnkit.data.folders import read_folder
    from cnnkit.data.mask_folders import refuse_class_map
    from cnnkit.errors import Misuse
    from cnnkit.registry import unknown

    name = str(source)
    if name in BUILTIN:
        refuse_class_map(name, classes, ignore or ())
        data = BUILTIN[name](data_dir)
    elif not Path(source).exists() and "/" not in name:
        raise Misuse(
            f"{unknown(name, BUILTIN, 'folder or data set')} A folder of images may be given as well."
        )
    else:
        data = read_folder(Path(source), classes, ignore or ())
    data = data.without(without) if without else data
    return data.share(share) if share is not None else data
