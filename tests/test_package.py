"""The wheel holds all that is needed, outside the checkout too."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("cnnkit-*.whl"))


def test_everything_under_src_is_in_the_wheel(wheel: Path) -> None:
    there = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("cnnkit/")}
    here = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "cnnkit").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert there == here
    assert "cnnkit/py.typed" in there


def test_the_wheel_names_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))
        assert "License-Expression: Apache-2.0" in archive.read(metadata).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


def test_an_installed_wheel_trains_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = (
        "import cnnkit\n"
        "run = cnnkit.fit('digits', model='lenet5_relu', epochs=1, output='run')\n"
        "print(cnnkit.__file__, run.report.stat().st_size > 10_000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "site" / "cnnkit" / "__init__.py"), "True"]
