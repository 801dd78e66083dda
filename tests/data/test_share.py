"""A share of a data set: of each class as many, always the same, tests whole; runs remember it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cnnkit.data import open as open_data
from cnnkit.errors import Failure
from cnnkit.train.evaluate import evaluate
from cnnkit.train.fit import fit

from ..conftest import MakeFolder


def test_each_class_keeps_its_share_and_the_test_part_all(make_folder: MakeFolder) -> None:
    counts = {"train/red": 20, "train/green": 10, "test/red": 4, "test/green": 4}
    root = make_folder(counts, size=8)
    some, again = (open_data(root, share=0.5) for _ in range(2))
    assert sorted(Counter(some.parts["train"].labels).values()) == [5, 10]
    assert len(some.parts["test"]) == 8
    assert list(some.parts["train"].keys) == list(again.parts["train"].keys)
    assert set(some.parts["train"].keys) < set(open_data(root).parts["train"].keys)


def test_a_run_on_a_share_is_resumed_and_evaluated_on_it(
    make_folder: MakeFolder, tmp_path: Path, silent: Console
) -> None:
    root = make_folder({"red": 40, "green": 40}, size=28)
    settings: dict[str, Any] = {
        "model": "lenet5_relu",
        "precision": "32",
        "layout": "channels_first",
        "threads": 1,
    }
    run = fit(root, output=tmp_path / "run", console=silent, share=0.5, epochs=1, batch_size=8, **settings)
    parts = run.config["data"]["parts"]
    assert sum(parts.values()) == 40
    fit(resume=True, output=tmp_path / "run", epochs=2, console=silent)
    assert run.summary["epochs"] == 2
    assert evaluate(tmp_path / "run", root, split="train").images == parts["train"]


def test_a_share_that_leaves_none_to_set_aside_is_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(Failure, match=r"the test part of .*photos has no image; raise --share"):
        open_data(make_folder({"a": 10, "b": 10}), share=0.05)
