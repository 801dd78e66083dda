"""The folders of the package form a ladder; an import may only go down it.

The ladder is the architecture. This test is its only definition, so the two cannot disagree.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

#: A part may import those on the lines below its own, and itself; never a neighbour on its line.
LADDER = [
    {"__init__", "__main__"},
    {"cli"},
    {"serve", "reproduce"},
    {"search"},
    {"compress"},
    {"export", "verify"},
    {"train"},
    {"tasks"},
    {"explain", "report"},
    {"inspect"},
    {"data"},
    {"weights"},
    {"models"},
    {"surgery"},
    {"layers"},
    {"draw", "canon", "parts"},
    {"ops", "registry", "errors"},
]
RUNG = {name: i for i, rung in enumerate(LADDER) for name in rung}
PACKAGE = Path(__file__).parents[1] / "src" / "cnnkit"


def imported_parts(source: str, package: str, inside: tuple[str, ...]) -> Iterator[str]:
    """Yield the first-level parts of `package` that a module in the sub-folder `inside` imports."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (package, *inside)[: len(inside) + 2 - node.level] if node.level else ()
            stem = [*base, *(node.module or "").split(".")] if node.module else list(base)
            names = [".".join([*stem, alias.name]) for alias in node.names]
        for name in names:
            head, *rest = name.split(".")
            if head == package and rest:
                yield rest[0]


def violations(root: Path) -> list[str]:
    """All imports under `root` that do not go down the ladder, as 'file: a -> b'."""
    found = []
    for file in sorted(root.rglob("*.py")):
        inside = file.relative_to(root).parent.parts
        part = inside[0] if inside else file.stem
        if part not in RUNG:
            found.append(f"{file.relative_to(root)}: {part} stands on no rung")
            continue
        for target in imported_parts(file.read_text(), root.name, inside):
            if target != part and target in RUNG and RUNG[target] <= RUNG[part]:
                found.append(f"{file.relative_to(root)}: {part} -> {target}")
    return found


def test_imports_only_go_down_the_ladder() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("models/vgg.py", "from ..layers import conv_bn", []),
        ("models/vgg.py", "from .lenet import LeNet", []),
        ("models/vgg.py", "from cnnkit.train.loop import fit", ["models/vgg.py: models -> train"]),
        ("layers/conv.py", "from ..models import vgg", ["layers/conv.py: layers -> models"]),
        ("report/page.py", "from cnnkit.explain import kernels", ["report/page.py: report -> explain"]),
        ("explain/cam.py", "from cnnkit import inspect", []),
        ("cli/main.py", "import cnnkit.train", []),
        ("misc/x.py", "import os", ["misc/x.py: misc stands on no rung"]),
    ],
)
def test_the_check_itself(tmp_path: Path, file: str, line: str, expected: list[str]) -> None:
    path = tmp_path / "cnnkit" / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert violations(tmp_path / "cnnkit") == expected
