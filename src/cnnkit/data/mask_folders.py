"""Folders of pictures and masks: `images/` + `masks/`, SegNet's `train/` + `trainannot/`, Pascal VOC's."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cnnkit.data import class_map
from cnnkit.data.listing import PARTS, child, files, left_out, parts
from cnnkit.data.masks import IGNORED, Coding, Masks, tallies
from cnnkit.data.sets import DataSet, Part
from cnnkit.errors import Failure, Misuse

IMAGES, MASKS = "images", "masks"
VOC_IMAGES, VOC_MASKS, VOC_LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
ANNOT = "annot"

#: A picture's file and its mask's.
Pair = tuple[Path, Path]


@dataclass(frozen=True, slots=True)
class Found:
    """Pictures and masks of a folder.

    Attributes:
        layout: what was recognised, in words.
        parts: pairs of files by part.
    """

    layout: str
    parts: dict[str, list[Pair]]


def read_masks(
    root: Path, classes: Sequence[str] | None = None, ignore: class_map.Ignored = ()
) -> DataSet | None:
    """The pictures and masks in a folder; None where it holds no masks that are recognised.

    Args:
        root: the folder.
        classes: the class map; without one a file in the folder says it, or the values in the masks.
        ignore: names and values of classes that count nowhere.

    Raises:
        Misuse: the class map makes no sense.
        Failure: a picture has no mask, or a mask no picture.
    """
    found = _segnet(root) or _images(root) or _voc(root)
    if found is None:
        return None
    if not any(found.parts.values()):
        raise Failure(
            f"{root} ({found.layout}) holds no picture; they lie in the folders themselves, in none deeper"
        )
    coding, words = _coding(root, found, classes, ignore)
    gone = [coding.shown(value) for value, label in sorted(coding.values.items()) if label == IGNORED]
    layout = "; ".join([found.layout, words, *([f"{', '.join(gone)} ignored"] if gone else [])])
    made = {name: _part(root, pairs, coding) for name, pairs in found.parts.items()}
    return DataSet(root.resolve().name, str(root), layout, coding.classes, made, task="segment")


def _part(root: Path, pairs: Sequence[Pair], coding: Coding) -> Part:
    pictures, masks = ([path.relative_to(root).as_posix() for path in files] for files in _columns(pairs))
    return Part(pictures, [0] * len(pictures), root, masks=Masks(masks, root, coding))


def _columns(pairs: Sequence[Pair]) -> tuple[list[Path], list[Path]]:
    return [picture for picture, _ in pairs], [mask for _, mask in pairs]


def _coding(
    root: Path, found: Found, classes: Sequence[str] | None, ignore: class_map.Ignored
) -> tuple[Coding, str]:
    """What the masks' values stand for, and where that was learned."""
    if classes is not None:
        return class_map.given(
            classes, ignore, "the class map"
        ), f"{class_map.counted(len(classes))} as given"
    if (stored := class_map.stored(root)) is not None:
        lines, name = stored
        return class_map.given(lines, ignore, str(root / name)), f"classes of {name}"
    pairs = found.parts.get("train") or list(chain.from_iterable(found.parts.values()))
    keys = [mask.relative_to(root).as_posix() for _, mask in pairs]
    return class_map.found(tallies(root, keys), ignore, str(root))


def _images(root: Path) -> Found | None:
    """`images/` + `masks/`, in the root, in each part, or with the parts in them."""
    images, masks = child(root, IMAGES), child(root, MASKS)
    if images.is_dir() and masks.is_dir():
        words, inner = f"{images.name}/ and {masks.name}/", parts(images)
        if not inner:
            return Found(words, _paired(root, {"all": (images, masks)}))
        tops = {part: (top, child(masks, top.name)) for part, top in inner.items()}
        words += f" with {_listed(inner)}"
        gone = left_out(images, inner.values())
        return Found(f"{words} ({gone})" if gone else words, _paired(root, tops))
    outer = {part: top for part, top in parts(root).items() if child(top, MASKS).is_dir()}
    if not outer or not all(child(top, IMAGES).is_dir() for top in outer.values()):
        return None
    tops = {part: (child(top, IMAGES), child(top, MASKS)) for part, top in outer.items()}
    words = f"{_listed(outer)} with {IMAGES}/ and {MASKS}/ each{_without_masks(root, tops)}"
    return Found(words, _paired(root, tops))


def _segnet(root: Path) -> Found | None:
    """`train/` + `trainannot/`, and so for the other parts."""
    tops = {
        part: (top, annot)
        for part, top in parts(root).items()
        if (annot := child(root, top.name + ANNOT)).is_dir()
    }
    if not tops:
        return None
    words = _listed({part: top for part, (top, _) in tops.items()})
    words += f" with masks in {', '.join(f'{m.name}/' for _, m in tops.values())}"
    return Found(words + _without_masks(root, tops), _paired(root, tops))


def _voc(root: Path) -> Found | None:
    """`JPEGImages/` + `SegmentationClass/`, in the parts that lists of names say, where there are lists."""
    images, masks, lists = root / VOC_IMAGES, root / VOC_MASKS, root / VOC_LISTS
    if not (images.is_dir() and masks.is_dir()):
        return None
    pictures, labelled = _by_stem(images), _by_stem(masks)
    named = {
        part: _names(file)
        for part, names in PARTS.items()
        for name in names
        if (file := lists / f"{name}.txt").is_file()
    }
    words = f"Pascal VOC, {VOC_IMAGES}/ and {VOC_MASKS}/"
    if named:
        words += f" by {VOC_LISTS}/ of {', '.join(named)}"
        for part, stems in named.items():
            _require(root, f"listed in {part}.txt", stems, pictures, f"in {VOC_IMAGES}/")
            _require(root, f"listed in {part}.txt", stems, labelled, f"in {VOC_MASKS}/")
    else:
        named = {"all": [stem for stem in pictures if stem in labelled]}
        _require(root, f"in {VOC_MASKS}/", labelled, pictures, f"in {VOC_IMAGES}/")
    used = set(chain.from_iterable(named.values()))
    if left := len(set(pictures) - used):
        words += f" ({left:,} pictures {'in no list' if 'all' not in named else 'without a mask'} left out)"
    return Found(words, {p: [(pictures[s], labelled[s]) for s in stems] for p, stems in named.items()})


def _names(file: Path) -> list[str]:
    """The names that a list holds, each once.

    Raises:
        Failure: it is no text.
    """
    try:
        return list(dict.fromkeys(file.read_text("utf-8-sig").split()))
    except UnicodeDecodeError as error:
        raise Failure(f"{file} is no list of names: {error}") from None


def _without_masks(root: Path, tops: Container[str]) -> str:
    """What is said of folders that are named like parts and have no masks."""
    left = {part: top for part, top in parts(root).items() if part not in tops}
    return f" ({_listed(left)} without masks left out)" if left else ""


def _listed(tops: dict[str, Path]) -> str:
    return ", ".join(f"{path.name}/" for path in tops.values())


def _paired(root: Path, tops: dict[str, tuple[Path, Path]]) -> dict[str, list[Pair]]:
    """Pictures with the masks that have their stems.

    Raises:
        Failure: one has no other.
    """
    found = {}
    for part, (images, masks) in tops.items():
        pictures, labelled = _by_stem(images), _by_stem(masks)
        here, there = (f"in {folder.relative_to(root).as_posix()}/" for folder in (images, masks))
        _require(root, here, pictures, labelled, there)
        _require(root, there, labelled, pictures, here)
        found[part] = [(picture, labelled[stem]) for stem, picture in pictures.items()]
    return found


def _by_stem(folder: Path) -> dict[str, Path]:
    """The files of a folder, save hidden ones and `Thumbs.db`, by name without ending.

    Raises:
        Failure: there is no such folder, or two files share a stem.
    """
    if not folder.is_dir():
        raise Failure(f"there is no folder {folder}, though there is its counterpart; add it")
    found: dict[str, Path] = {}
    for path in files(folder):
        if path.stem in found:
            raise Failure(f"{found[path.stem]} and {path.name} share a name; a mask belongs to one picture")
        found[path.stem] = path
    return found


def _require(root: Path, here: str, stems: Iterable[str], others: dict[str, Path], there: str) -> None:
    missing = [stem for stem in stems if stem not in others]
    if missing:
        raise Failure(
            f"{root}: {len(missing):,} of the files {here} have no counterpart {there}, the first is "
            f"{missing[0]!r}; a picture and its mask have the same name"
        )


def refuse_class_map(source: str, classes: Sequence[str] | None, ignore: class_map.Ignored) -> None:
    """Refuse a class map for data that have no masks.

    Raises:
        Misuse: there is one.
    """
    if classes is not None or ignore:
        raise Misuse(
            f"{source} has no masks; a class map and values to ignore are about masks, leave them out"
        )
