"""What lies in a folder of data: files, folders, those that are named like parts, and what is left out."""

from collections.abc import Collection, Iterator
from pathlib import Path

from PIL import Image

from cnnkit.errors import Failure

#: The names under which parts are found, in small or capital letters.
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def folders(top: Path) -> Iterator[Path]:
    """The folders in a folder, save hidden ones."""
    return (p for p in sorted(top.iterdir()) if p.is_dir() and not p.name.startswith("."))


def files(top: Path) -> Iterator[Path]:
    """The files in a folder, save hidden ones and `Thumbs.db`; links that lead nowhere are among them."""
    for p in sorted(top.iterdir()):
        counts = p.is_file() or (p.is_symlink() and not p.exists())
        if counts and not p.name.startswith(".") and p.name != "Thumbs.db":
            yield p


def child(top: Path, name: str) -> Path:
    """The folder of that name, whatever its capitals; of several the one that is written so."""
    exact = top / name
    if exact.is_dir() or not top.is_dir():
        return exact
    return next((p for p in folders(top) if p.name.lower() == name.lower()), exact)


def parts(root: Path) -> dict[str, Path]:
    """Folders that are named like parts.

    Raises:
        Failure: two are named like the same part.
    """
    found: dict[str, Path] = {}
    for folder in folders(root):
        part = next((part for part, names in PARTS.items() if folder.name.lower() in names), None)
        if part is None:
            continue
        if part in found:
            raise Failure(
                f"{found[part]} and {folder} are both named like the part {part}; put them together, or give "
                f"one another name"
            )
        found[part] = folder
    return {part: found[part] for part in PARTS if part in found}


def left_out(top: Path, used: Collection[Path]) -> str:
    """What is said of the folders of a folder that are not used, and of its loose pictures; nothing where
    there are none.
    """
    names = [f"{p.name}/" for p in folders(top) if p not in used]
    loose = sum(p.suffix.lower() in Image.registered_extensions() for p in files(top))
    if loose:
        names.append(f"{loose:,} loose {'picture' if loose == 1 else 'pictures'}")
    return f"{', '.join(names)} in {top.name}/ left out" if names else ""
