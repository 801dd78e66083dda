"""Image folders: `root/class/*` or `root/{train,val,test}/class/*`; and those that hold masks as well."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnnkit.data.class_map import Ignored
from cnnkit.data.mask_folders import PARTS, read_masks, refuse_class_map
from cnnkit.data.sets import DataSet, Part
from cnnkit.errors import Failure, Misuse

SHAPES = "root/class/image.jpg or root/train/class/image.jpg (train, val, test)"
MASK_SHAPES = "images/ + masks/, train/ + trainannot/, or JPEGImages/ + SegmentationClass/ for masks"


def read_folder(root: Path, classes: Sequence[str] | None = None, ignore: Ignored = ()) -> DataSet:
    """The images at `root`, unsplit where they have one level; with masks where its folders say so.

    Every file counts as an image, save hidden ones and `Thumbs.db`; whether it is one is for the check to
    say.

    Args:
        root: the folder.
        classes: the masks' class map.
        ignore: classes or values of masks that count nowhere.

    Raises:
        Misuse: there is no such folder, or a class map makes no sense.
        Failure: it is empty, or of another shape; the message shows what was found.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise Misuse(f"{root} {what}; give a folder of images, {SHAPES}, or digits, mnist, cifar10 ...")
    if (masked := read_masks(root, classes, ignore)) is not None:
        return masked
    refuse_class_map(str(root), classes, ignore)
    found = {
        part: root / name
        for part, names in PARTS.items()
        for name in names
        if (root / name).is_dir() and not any(_files(root / name))
    }
    if "train" in found or (found and len(found) == len(list(_folders(root)))):
        layout = f"image folder with {', '.join(f'{path.name}/' for path in found.values())}"
        tops = found
    else:
        layout, tops = "image folder of one level", {"all": root}
    classes = sorted({folder.name for top in tops.values() for folder in _folders(top)})
    if not classes:
        _refuse(root)
    labels = {name: i for i, name in enumerate(classes)}
    parts = {}
    for part, top in tops.items():
        rows = [
            (file.relative_to(root).as_posix(), labels[folder.name])
            for folder in _folders(top)
            for file in _images(root, folder)
        ]
        parts[part] = Part([key for key, _ in rows], [label for _, label in rows], root)
    if not any(len(part) for part in parts.values()):
        raise Failure(f"{root} holds folders but no image in them; expected {SHAPES}")
    return DataSet(root.resolve().name, str(root), layout, classes, parts)


def _folders(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    for p in sorted(folder.iterdir()):
        if p.is_file() and not p.name.startswith(".") and p.name != "Thumbs.db":
            yield p


def _images(root: Path, folder: Path) -> Iterator[Path]:
    deeper = next((inner for inner in _folders(folder) if any(p.is_file() for p in inner.rglob("*"))), None)
    if deeper is not None:
        raise Failure(
            f"{root} is nested deeper than an image folder; found\n{_found(root)}\nexpected {SHAPES}"
        )
    return _files(folder)


def _refuse(root: Path) -> None:
    loose = sum(1 for _ in _files(root))
    if loose:
        raise Failure(
            f"{root} holds {loose} files and no folder; put the images of each class into a folder of its own"
        )
    raise Failure(f"{root} is empty; expected {SHAPES}")


def _found(root: Path, most: int = 6) -> str:
    """The folders below `root` that hold files, with their number, to show in an error."""
    counts = Counter(path.parent for path in sorted(root.rglob("*")) if path.is_file())
    lines = [f"  {folder}/ ({count} files)" for folder, count in counts.most_common(most)]
    return "\n".join([*sorted(lines), *(["  ..."] if len(counts) > most else [])])
