"""One process trains a run."""

from pathlib import Path

import pytest
from filelock import Timeout

from cnnkit.errors import Misuse
from cnnkit.train import directory as directories
from cnnkit.train.directory import Directory


def test_a_run_that_another_process_trains_is_neither_resumed_nor_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "PATIENCE", 0)
    directory = Directory(tmp_path / "run")
    directory.begin()
    directory.write_config({})
    directory.write_json("split.json", {})
    with directory.held():
        with pytest.raises(Misuse, match="is being trained by another process"):
            directory.require()
        with pytest.raises(Misuse, match="is being trained by another process"):
            directory.check(overwrite=True)
    directory.require()
    directory.check(overwrite=True)


def test_another_lock_that_is_waited_for_in_vain_is_not_taken_for_the_runs(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "run")
    directory.begin()
    with pytest.raises(Timeout), directory.held():
        raise Timeout("the lock of a cache")
    with directory.held():
        directory.write("free.txt", "again")
