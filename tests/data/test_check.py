"""The check finds what would spoil a run."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from cnnkit import data
from cnnkit.data import check, remembered
from cnnkit.errors import Failure

from ..conftest import MakeFolder


def kinds(found: data.Examination) -> list[str]:
    return [finding.kind for finding in found.findings]


def test_clean_data_have_no_findings(make_folder: MakeFolder) -> None:
    seen = data.examine(data.open(make_folder({"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})))
    assert seen.findings == ()
    assert seen.counts == {"train": {"a": 3, "b": 3}, "val": {"a": 2, "b": 2}}
    assert (seen.grey, seen.side, seen.one_size) == (False, 40, True)


def test_each_file_that_cannot_be_used_is_named(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    (root / "a" / "empty.jpg").write_bytes(b"")
    (root / "a" / "words.txt").write_text("no image")
    half = (root / "b" / "0.png").read_bytes()
    (root / "b" / "half.png").write_bytes(half[: len(half) // 2])
    Image.new("1", (20_000, 20_000)).save(root / "b" / "bomb.png")
    seen = data.examine(data.open(root))
    assert set(seen.unreadable) == {"a/empty.jpg", "a/words.txt", "b/half.png", "b/bomb.png"}
    for finding in seen.findings:
        assert Path(finding.keys[0]).name in finding.message


def test_the_same_picture_in_two_parts_is_found_whatever_its_format(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})
    Image.open(root / "train" / "a" / "1.png").save(root / "val" / "a" / "copy.bmp")
    seen = data.examine(data.open(root))
    assert kinds(seen) == ["twice"]
    assert set(seen.findings[0].keys) == {"train/a/1.png", "val/a/copy.bmp"}


def test_a_class_in_one_part_only_is_found(make_folder: MakeFolder) -> None:
    seen = data.examine(data.open(make_folder({"train/a": 3, "train/b": 3, "val/a": 1, "val/c": 2})))
    messages = [finding.message for finding in seen.findings]
    assert messages == ["train has no image of c", "val has no image of b"]


def test_a_single_class_is_found(make_folder: MakeFolder) -> None:
    assert kinds(data.examine(data.open(make_folder({"only": 5})))) == ["classes"]


def test_a_rare_class_is_found(make_folder: MakeFolder) -> None:
    seen = data.examine(data.open(make_folder({"a": 42, "b": 2}, size=4)))
    assert [f.message for f in seen.findings] == ["all has 2 images of b and 42 of another class"]


def test_results_are_remembered_until_a_file_changes(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"a": 3, "b": 3})
    first = data.examine(data.open(root))
    looked: list[Path] = []
    read = check.read

    def counted(path: Path) -> Image.Image:
        looked.append(path)
        return read(path)

    monkeypatch.setattr(check, "read", counted)
    assert data.examine(data.open(root)) == first
    assert looked == []
    shutil.copy(root / "a" / "0.png", root / "b" / "1.png")
    (root / "a" / "2.png").write_bytes(b"gone bad")
    again = data.examine(data.open(root))
    assert sorted(p.name for p in looked) == ["1.png", "2.png"]
    assert again.unreadable == ("a/2.png",)


def test_a_damaged_cache_is_ignored(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    first = data.examine(data.open(root))
    for store in (remembered.cache_folder() / "check").glob("*.json"):
        store.write_text("{ not json")
    assert data.examine(data.open(root)) == first


def test_grey_pictures_are_seen_as_grey(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (9, 5), 100).save(tmp_path / name / "x.png")
    seen = data.examine(data.open(tmp_path))
    assert (seen.grey, seen.side) == (True, 5)


def test_reading_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="there is no file"):
        check.read(tmp_path / "none.png")


def test_a_link_that_leads_nowhere_is_unreadable(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    (root / "a" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    seen = data.examine(data.open(root))
    assert seen.unreadable == ("a/gone.jpg",)
    assert "there is no file" in seen.findings[0].message


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"a": 1, "b": 1}, "too few images to set some aside for test and val"),
        ({"val/a": 3, "val/b": 3, "test/a": 3, "test/b": 3}, "no part to train on, only val and test"),
    ],
)
def test_data_that_no_run_can_start_with_are_found(
    make_folder: MakeFolder, counts: dict[str, int], said: str
) -> None:
    (finding,) = data.examine(data.open(make_folder(counts))).findings
    assert finding.kind == "classes"
    assert said in finding.message


@pytest.mark.parametrize(
    ("copy", "said"),
    [
        ("b/copy.png", "in two classes: train/a/0.png and train/b/copy.png"),
        ("a/copy.png", "learnt and tested on: train/a/0.png and train/a/copy.png"),
    ],
)
def test_the_same_picture_twice_in_one_part_is_found(make_folder: MakeFolder, copy: str, said: str) -> None:
    root = make_folder({"train/a": 3, "train/b": 3})
    shutil.copy(root / "train" / "a" / "0.png", root / "train" / copy)
    (finding,) = data.examine(data.open(root)).findings
    assert finding.kind == "twice"
    assert said in finding.message


def test_a_picture_twice_in_a_class_is_no_matter_where_nothing_is_set_aside(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1})
    shutil.copy(root / "train" / "a" / "0.png", root / "train" / "a" / "copy.png")
    assert data.examine(data.open(root)).findings == ()
