"""Image folders: `root/class/*` or `root/{train,val,test}/class/*`; and those that hold masks as well."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnnkit.data.class_map import Ignored
from cnnkit.data.listing import files, folders, left_out, parts
from cnnkit.data.mask_folders import IMAGES, MASKS, read_masks, refuse_class_map
from cnnkit.data.sets import DataSet, Part
from cnnkit.errors import Failure, Misuse

SHAPES = "root/class/image.jpg or root/train/class/image.jpg (train, val, test)"
MASK_SHAPES = "images/ + masks/, train/ + trainannot/, or JPEGImages/ + SegmentationClass/ for masks"

#: Names of folders that are no classes where there is one of both kinds.
LIKE_IMAGES = {"image", "images", "imgs", "img", "pictures", "photos", "inputs"}
LIKE_MASKS = {"mask", "masks", "label", "labels", "annotation", "annotations", "annots", "gt", "groundtruth"}


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
    tops, layout = _tops(root)
    classes = sorted({folder.name for top in tops.values() for folder in folders(top)})
    if not classes:
        _refuse(root)
    _refuse_masks(root, classes)
    labels = {name: i for i, name in enumerate(classes)}
    found = {}
    for part, top in tops.items():
        rows = [
            (file.relative_to(root).as_posix(), labels[folder.name])
            for folder in folders(top)
            for file in _images(root, folder)
        ]
        found[part] = Part([key for key, _ in rows], [label for _, label in rows], root)
    if not any(len(part) for part in found.values()):
        raise Failure(f"{root} holds folders but no image in them; expected {SHAPES}")
    return DataSet(root.resolve().name, str(root), layout, classes, found)


def _tops(root: Path) -> tuple[dict[str, Path], str]:
    """The folders that hold those of the classes, by part, and the layout in words.

    Raises:
        Failure: pictures of parts lie in no folder of a class.
    """
    named, inside = parts(root), list(folders(root))
    found = {part: top for part, top in named.items() if any(folders(top)) or not any(files(top))}
    flat = [top for part, top in named.items() if part not in found]
    if flat and "train" not in found and len(named) == len(inside):
        raise Failure(
            f"{flat[0]} holds pictures and no folder of a class; put those of each class into a folder of "
            f"its own, {SHAPES}"
        )
    if "train" in found or (found and len(found) == len(inside)):
        words = f"image folder with {', '.join(f'{top.name}/' for top in found.values())}"
        used = [(root, list(found.values())), *((top, list(folders(top))) for top in found.values())]
    else:
        words, used, found = "image folder of one level", [(root, inside)], {"all": root}
    gone = [said for top, taken in used if (said := left_out(top, taken))]
    return found, f"{words} ({'; '.join(gone)})" if gone else words


def _images(root: Path, folder: Path) -> Iterator[Path]:
    deeper = next((inner for inner in folders(folder) if any(p.is_file() for p in inner.rglob("*"))), None)
    if deeper is not None:
        raise Failure(
            f"{root} is nested deeper than an image folder; found\n{_found(root)}\nexpected {SHAPES}"
        )
    return files(folder)


def _refuse(root: Path) -> None:
    loose = sum(1 for _ in files(root))
    if loose:
        raise Failure(
            f"{root} holds {loose} files and no folder; put the images of each class into a folder of its own"
        )
    raise Failure(f"{root} is empty; expected {SHAPES}")


def _refuse_masks(root: Path, names: Sequence[str]) -> None:
    """Refuse folders that are called like pictures and labels, not like classes."""
    pictures = [name for name in names if name.lower() in LIKE_IMAGES]
    labels = [name for name in names if name.lower() in LIKE_MASKS]
    if pictures and labels:
        raise Failure(
            f"{root} has {pictures[0]}/ and {labels[0]}/, which are no classes; if these are pictures and "
            f"their masks, call the folders {IMAGES}/ and {MASKS}/"
        )


def _found(root: Path, most: int = 6) -> str:
    """The folders below `root` that hold files, with their number, to show in an error."""
    counts = Counter(path.parent for path in sorted(root.rglob("*")) if path.is_file())
    lines = [f"  {folder}/ ({count} files)" for folder, count in counts.most_common(most)]
    return "\n".join([*sorted(lines), *(["  ..."] if len(counts) > most else [])])
