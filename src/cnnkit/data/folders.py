"""Image folders: `root/class/*` or `root/{train,val,test}/class/*`."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cnnkit.data.sets import DataSet, Part
from cnnkit.errors import Failure, Misuse

#: The names under which parts are found.
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SHAPES = "root/class/image.jpg or root/train/class/image.jpg (train, val, test)"


def read_folder(root: Path) -> DataSet:
    """The image folder at `root`, unsplit where it has one level.

    Every file counts as an image, save hidden ones and `Thumbs.db`; whether it is one is for the check to
    say.

    Raises:
        Misuse: there is no such folder.
        Failure: it is empty, or of another shape; the message shows what was found.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise Misuse(f"{root} {what}; give a folder of images, {SHAPES}, or digits, mnist, cifar10 ...")
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
