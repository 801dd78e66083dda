"""Layouts are recognised, and what is none is shown."""

from pathlib import Path

import pytest

from cnnkit import data
from cnnkit.errors import Failure, Misuse

from ..conftest import MakeFolder


def sizes(found: data.DataSet) -> dict[str, int]:
    return {name: len(part) for name, part in found.parts.items()}


def test_train_val_and_test_folders_are_parts(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 3, "train/b": 2, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 2})
    found = data.open(root).split()
    assert sizes(found) == {"train": 5, "val": 2, "test": 3}
    assert found.set_aside == {}
    assert found.parts["train"].keys[0] == "train/a/0.png"
    assert list(found.parts["train"].labels) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("name", ["valid", "validation", "val"])
def test_validation_goes_by_several_names(make_folder: MakeFolder, name: str) -> None:
    root = make_folder({"train/a": 2, "train/b": 2, f"{name}/a": 1, f"{name}/b": 1})
    assert sizes(data.open(root).split()) == {"train": 4, "val": 2}


def test_one_level_is_split_the_same_way_every_time(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 20, "b": 30})
    first, second = data.open(root).split(), data.open(root).split()
    assert sizes(first) == {"train": 36, "val": 4, "test": 10}
    assert first.set_aside == second.set_aside
    keys = [set(part.keys) for part in first.parts.values()]
    assert set.union(*keys) == {f"{c}/{i}.png" for c, n in (("a", 20), ("b", 30)) for i in range(n)}
    assert sum(map(len, keys)) == 50


def test_a_split_is_stratified(make_folder: MakeFolder) -> None:
    found = data.open(make_folder({"a": 20, "b": 40})).split()
    labels = list(found.parts["test"].labels)
    assert (labels.count(0), labels.count(1)) == (4, 8)


def test_a_stored_split_is_used_again_and_new_images_go_to_training(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 20, "b": 20})
    stored = data.open(root).split().set_aside
    (root / "a" / "new.png").write_bytes((root / "a" / "0.png").read_bytes())
    again = data.open(root).split(stored)
    assert {name: sorted(part.keys) for name, part in again.parts.items() if name != "train"} == {
        name: sorted(keys) for name, keys in stored.items()
    }
    assert "a/new.png" in again.parts["train"].keys


def test_a_stored_split_whose_images_are_gone_is_refused(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 20, "b": 20})
    stored = data.open(root).split().set_aside
    (root / stored["test"][0]).unlink()
    with pytest.raises(Failure, match="has changed since the run: 1 of its test images are gone"):
        data.open(root).split(stored)


def test_a_training_part_without_validation_gives_a_tenth(make_folder: MakeFolder) -> None:
    found = data.open(make_folder({"train/a": 10, "train/b": 10, "test/a": 3, "test/b": 3})).split()
    assert sizes(found) == {"train": 18, "val": 2, "test": 6}


def test_deeper_nesting_is_refused_and_shown(make_folder: MakeFolder) -> None:
    root = make_folder({"animals/cats/black": 2, "animals/dogs/small": 3})
    with pytest.raises(Failure, match=r"nested deeper(?s:.*)animals/dogs/small/ \(3 files\)"):
        data.open(root)


def test_loose_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x")
    with pytest.raises(Failure, match="holds 1 files and no folder; put the images of each class"):
        data.open(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="is empty"):
        data.open(tmp_path)


def test_folders_without_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(Failure, match="holds folders but no image"):
        data.open(tmp_path)


def test_a_missing_folder_is_a_misuse(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="does not exist; give a folder of images"):
        data.open(tmp_path / "nowhere")


def test_a_misspelt_name_suggests_the_nearest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Misuse, match="did you mean mnist"):
        data.open("mnits")


def test_hidden_files_and_thumbnails_do_not_count(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    (root / "a" / ".DS_Store").write_bytes(b"x")
    (root / "b" / "Thumbs.db").write_bytes(b"x")
    assert len(data.open(root).parts["all"]) == 4


def test_a_download_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Error downloading: no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", offline)
    with pytest.raises(Failure, match=r"mnist is not under .* and could not be downloaded .*--data-dir"):
        data.open("mnist", data_dir=tmp_path)


def test_digits_come_with_a_held_out_fifth() -> None:
    found = data.open("digits").split()
    assert sum(sizes(found).values()) == 1797
    assert sizes(found)["test"] == pytest.approx(1797 / 5, abs=5)


@pytest.mark.realdata
def test_mnist_is_read_where_it_is(realdata: Path) -> None:
    found = data.open("mnist", data_dir=realdata).split()
    assert len(found.parts["test"]) == 10_000
    assert len(found.parts["train"]) + len(found.parts["val"]) == 60_000


def test_parts_are_found_whatever_their_capitals(make_folder: MakeFolder) -> None:
    root = make_folder({"Train/a": 3, "Train/b": 3, "TEST/a": 1, "TEST/b": 2})
    assert sizes(data.open(root)) == {"train": 6, "test": 3}


@pytest.mark.parametrize("other", ["valid", "Val"])
def test_two_folders_of_one_part_are_refused(make_folder: MakeFolder, other: str) -> None:
    root = make_folder({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1, f"{other}/a": 1})
    with pytest.raises(Failure, match="are both named like the part val; put them together"):
        data.open(root)


def test_what_is_left_out_is_said(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 2, "train/b": 2, "unlabelled": 2})
    for stray in (root / "stray.png", root / "train" / "stray.png"):
        stray.write_bytes((root / "train" / "a" / "0.png").read_bytes())
    (root / "README.md").write_text("of no interest")
    found = data.open(root)
    assert sizes(found) == {"train": 4}
    assert found.layout == (
        "image folder with train/ (unlabelled/, 1 loose picture in photos/ left out; "
        "1 loose picture in train/ left out)"
    )


def test_loose_pictures_beside_classes_are_said(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    for stray in ("x.png", "y.png"):
        (root / stray).write_bytes((root / "a" / "0.png").read_bytes())
    assert data.open(root).layout == "image folder of one level (2 loose pictures in photos/ left out)"


@pytest.mark.parametrize("counts", [{"train": 3, "test": 2}, {"train": 3}, {"train": 3, "test/a": 2}])
def test_parts_without_classes_are_no_classes(make_folder: MakeFolder, counts: dict[str, int]) -> None:
    with pytest.raises(Failure, match="train holds pictures and no folder of a class"):
        data.open(make_folder(counts))


def test_a_class_may_be_called_like_a_part(make_folder: MakeFolder) -> None:
    assert list(data.open(make_folder({"bus": 2, "train": 2})).classes) == ["bus", "train"]


@pytest.mark.parametrize("names", [("images", "labels"), ("Image", "Mask"), ("train/imgs", "train/gt")])
def test_pictures_and_labels_are_no_classes(make_folder: MakeFolder, names: tuple[str, str]) -> None:
    with pytest.raises(Failure, match="which are no classes; if these are pictures and their masks"):
        data.open(make_folder(dict.fromkeys(names, 2)))


@pytest.mark.parametrize("counts", [{"a": 1, "b": 1}, {"a": 2, "b": 1}, {"train/a": 1, "train/b": 1}])
def test_too_few_images_to_set_some_aside_are_refused(
    make_folder: MakeFolder, counts: dict[str, int]
) -> None:
    least = 2 if "train/a" in counts else 3
    with pytest.raises(Failure, match=f"has too few images .* there must be {least} or more of one class"):
        data.open(make_folder(counts)).split()


def test_three_of_one_class_are_enough_to_split(make_folder: MakeFolder) -> None:
    assert sizes(data.open(make_folder({"a": 3, "b": 1})).split()) == {"train": 2, "val": 1, "test": 1}
