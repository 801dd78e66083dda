"""Layouts with masks are recognised, and so is what their values mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnkit import data
from cnnkit.data.masks import IGNORED
from cnnkit.errors import Failure, Misuse

from ..conftest import MakeFolder
from .masked import write

SIZES = [(20, 30)] * 4


def keys(found: data.DataSet) -> dict[str, list[tuple[str, str]]]:
    """Pictures and masks by part."""
    made = {}
    for name, part in found.parts.items():
        assert part.masks is not None
        assert set(part.labels) == {0}
        made[name] = list(zip(part.keys, part.masks.keys, strict=True))
    return made


def painted(folder: Path, values: Sequence[Any], kind: Any = np.uint8) -> Path:
    """`images/0.png` and `masks/0.png`, which has these values in one row."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (len(values), 1)).save(folder / "images" / "0.png")
    Image.fromarray(np.array([values], dtype=kind)).save(folder / "masks" / "0.png")
    return folder


def labels(found: data.DataSet) -> list[int]:
    """Of the one mask there is."""
    (part,) = found.parts.values()
    return part.mask(0)[0].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [
        ("{}/images", "{}/masks", "train/, valid/ with images/ and masks/ each"),
        ("images/{}", "masks/{}", "images/ and masks/ with train/, valid/"),
        ("{}", "{}annot", "train/, valid/ with masks in trainannot/, validannot/"),
    ],
)
def test_parts_are_found_wherever_their_names_stand(
    tmp_path: Path, images: str, masks: str, words: str
) -> None:
    for name in ("train", "valid"):
        write(tmp_path / images.format(name), tmp_path / masks.format(name), SIZES)
    found = data.open(tmp_path)
    assert (found.task, list(found.classes)) == ("segment", ["0", "1", "2"])
    assert found.layout == f"{words}; 3 classes named by the values in the masks, 0, 1, 2; 255 ignored"
    assert keys(found)["val"] == [
        (f"{images.format('valid')}/{i}.png", f"{masks.format('valid')}/{i}.png") for i in range(4)
    ]
    assert set(found.parts) == {"train", "val"}


def test_one_folder_of_images_and_masks_is_split_and_keeps_pairs_together(tmp_path: Path) -> None:
    write(tmp_path / "images", tmp_path / "masks", SIZES * 5, ending="jpg")
    (tmp_path / "images" / ".hidden").touch()
    found = data.open(tmp_path)
    assert found.layout.startswith("images/ and masks/; ")
    split = found.split()
    assert {name: len(part) for name, part in split.parts.items()} == {"train": 14, "test": 4, "val": 2}
    for pairs in keys(split).values():
        assert all(Path(picture).stem == Path(mask).stem for picture, mask in pairs)
    assert keys(split.without([split.parts["val"].keys[0]]))["val"] == keys(split)["val"][1:]
    assert len(split.share(0.5).parts["train"]) == 7
    assert keys(data.open(tmp_path).split(split.set_aside)) == keys(split)


def voc(root: Path, lists: dict[str, str]) -> Path:
    write(root / "JPEGImages", root / "SegmentationClass", SIZES, ending="jpg")
    (root / "SegmentationClass" / "3.png").unlink()
    for name, words in lists.items():
        (root / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(words)
    return root


def test_vocs_lists_say_the_parts(tmp_path: Path) -> None:
    found = data.open(voc(tmp_path, {"train": "2\n0\n", "val": "1\n", "trainval": "0\n1\n2\n"}))
    assert {name: list(part.keys) for name, part in found.parts.items()} == {
        "train": ["JPEGImages/2.jpg", "JPEGImages/0.jpg"],
        "val": ["JPEGImages/1.jpg"],
    }
    assert "ImageSets/Segmentation/ of train, val (1 pictures in no list left out)" in found.layout


def test_voc_without_lists_has_the_pictures_with_masks(tmp_path: Path) -> None:
    found = data.open(voc(tmp_path, {}))
    assert [key for key, _ in keys(found)["all"]] == [f"JPEGImages/{i}.jpg" for i in range(3)]
    assert "(1 pictures without a mask left out)" in found.layout


def test_a_listed_picture_needs_its_mask(tmp_path: Path) -> None:
    with pytest.raises(
        Failure, match=r"1 of the files listed in train.txt have no counterpart in Segment.*'3'"
    ):
        data.open(voc(tmp_path, {"train": "0\n3\n"}))


@pytest.mark.parametrize(("gone", "here"), [("masks", "images"), ("images", "masks")])
def test_a_picture_and_a_mask_need_each_other(tmp_path: Path, gone: str, here: str) -> None:
    write(tmp_path / "images", tmp_path / "masks", SIZES)
    (tmp_path / gone / "2.png").unlink()
    sentence = (
        f"1 of the files in {here}/ have no counterpart in {gone}/, the first is '2'; a picture and its"
    )
    with pytest.raises(Failure, match=sentence):
        data.open(tmp_path)


@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [
        ("train", "trainannot", "train/ with masks in trainannot/ (test/ without masks left out)"),
        (
            "train/images",
            "train/masks",
            "train/ with images/ and masks/ each (test/ without masks left out)",
        ),
    ],
)
def test_a_part_without_masks_is_said_to_be_left_out(
    tmp_path: Path, images: str, masks: str, words: str
) -> None:
    write(tmp_path / images, tmp_path / masks, SIZES)
    (tmp_path / "test").mkdir()
    assert words in data.open(tmp_path).layout


def test_two_files_of_one_name_and_missing_folders_are_refused(tmp_path: Path) -> None:
    for top in ("train", "val"):
        write(tmp_path / top / "images", tmp_path / top / "masks", SIZES)
    copy = tmp_path / "train" / "images" / "1.jpg"
    Image.new("RGB", (30, 20)).save(copy)
    with pytest.raises(Failure, match=r"1.jpg and 1.png share a name"):
        data.open(tmp_path)
    copy.unlink()
    write(tmp_path / "images" / "train", tmp_path / "masks" / "trian", SIZES)
    with pytest.raises(Failure, match=r"there is no folder .*masks/train"):
        data.open(tmp_path)


def test_folders_without_a_picture_are_refused(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    with pytest.raises(Failure, match=r"\(images/ and masks/\) holds no picture"):
        data.open(tmp_path)


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    root = voc(tmp_path, {"train": "0"})
    (root / "ImageSets" / "Segmentation" / "train.txt").write_bytes(b"\xff\xfe0\x00")
    with pytest.raises(Failure, match=r"train\.txt is no list of names: 'utf-8' codec"):
        data.open(root)


def test_masks_of_which_none_can_be_read_say_why(tmp_path: Path) -> None:
    painted(tmp_path, [0, 1])
    for path in (tmp_path / "masks").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(Failure, match=r"has no mask that can be read: .* is no image that can be read"):
        data.open(tmp_path)


@pytest.mark.parametrize(
    ("values", "classes", "expected", "ignored"),
    [
        ([0, 255], ["0", "255"], [0, 1], False),
        ([0, 1], ["0", "1"], [0, 1], True),
        ([0, 1, 255], ["0", "1"], [0, 1, IGNORED], True),
        ([3, 9, 255, 3], ["3", "9"], [0, 1, IGNORED, 0], True),
    ],
)
def test_values_name_classes_where_nothing_else_does(
    tmp_path: Path, values: list[int], classes: list[str], expected: list[int], ignored: bool
) -> None:
    found = data.open(painted(tmp_path, values))
    assert (list(found.classes), labels(found)) == (classes, expected)
    assert f"{len(classes)} classes named by the values in the masks, {', '.join(classes)}" in found.layout
    assert found.layout.endswith("; 255 ignored") == ignored


def test_colours_name_classes_too(tmp_path: Path) -> None:
    found = data.open(painted(tmp_path, [(0, 0, 0), (128, 64, 128), (0, 0, 0)]), ignore=["#000000"])
    assert (list(found.classes), labels(found)) == (["#804080"], [IGNORED, 0, IGNORED])


def test_a_value_that_training_lacks_has_no_class(tmp_path: Path) -> None:
    for part, classes in (("train", 2), ("val", 3)):
        write(tmp_path / part, tmp_path / f"{part}annot", SIZES, classes)
    found = data.open(tmp_path)
    assert list(found.classes) == ["0", "1"]
    with pytest.raises(Failure, match=r"valannot/.*png holds 2, which is no class"):
        [found.parts["val"].mask(i) for i in range(4)]


@pytest.mark.parametrize(
    ("given", "ignore", "classes", "expected"),
    [
        (["a", "b", "c"], None, ["a", "b", "c"], [0, 1, 2, IGNORED]),
        (["a", "void", "c"], ["void"], ["a", "c"], [0, IGNORED, 1, IGNORED]),
        (["a", "b"], ["2"], ["a", "b"], [0, 1, IGNORED, IGNORED]),
        (["a", "b"], [2], ["a", "b"], [0, 1, IGNORED, IGNORED]),
        (["z=255", "y=1", "x=0", "y=2"], None, ["z", "y", "x"], [2, 1, 1, 0]),
        (["x=#000000", "y=#010101", "y=#020202"], ["#ffffff"], ["x", "y"], [0, 1, 1, IGNORED]),
    ],
)
def test_a_class_map_names_values(
    tmp_path: Path, given: list[str], ignore: Any, classes: list[str], expected: list[int]
) -> None:
    found = data.open(painted(tmp_path, [0, 1, 2, 255]), classes=given, ignore=ignore)
    assert (list(found.classes), labels(found)) == (classes, expected)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "road=#804080\n\nsky=#0000c0\n"),
        ("class_dict.csv", "name, r, g, b\nroad, 128, 64, 128\nsky, 0, 0, 192\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:0,0,192::\n"),
    ],
)
def test_a_class_map_is_read_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    painted(tmp_path, [(0, 0, 192), (128, 64, 128)])
    (tmp_path / name).write_text(text)
    found = data.open(tmp_path)
    assert (list(found.classes), labels(found)) == (["road", "sky"], [1, 0])
    assert f"classes of {name}" in found.layout
    with pytest.raises(Failure, match="holds #0000c0, which is no class"):
        labels(data.open(tmp_path, classes=["road=#804080"]))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "class_dict.csv",
            "name,red,green,blue\nsky,1,2,3\n",
            "its header has no 'r'; it must be name,r,g,b",
        ),
        ("class_dict.csv", "name,r,g,b\nsky,1,2,300\n", "sky has the colour 1,2,300, which is none"),
        ("class_dict.csv", "name,r,g,b\nsky,1,2\n", "sky has the colour 1,2,, which is none"),
        ("labelmap.txt", "sky\n", "'sky' has no colour; a line is name:r,g,b:parts:actions"),
        ("labelmap.txt", "sky:1,2::\n", "sky has the colour 1,2, which is none"),
        ("labelmap.txt", "sky:1,2,blue::\n", "sky has the colour 1,2,blue, which is none"),
    ],
)
def test_a_file_that_is_no_class_map_is_named(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    painted(tmp_path, [0, 1])
    (tmp_path / name).write_text(text)
    with pytest.raises(Failure, match=f"{name} is no class map: {sentence}"):
        data.open(tmp_path)


@pytest.mark.parametrize(
    ("classes", "ignore", "sentence"),
    [
        (["a=0", "b"], None, "the class map mixes names and values; give each class in the same way"),
        (["a=0", "b=0"], None, "the class map gives one value to both a and b"),
        (["a=0", "=1"], None, "names no class in '=1'"),
        (["a=0", "b=300"], None, "gives the value '300'; it must be 0 to 255"),
        (["a=#12"], None, "gives the value '#12'"),
        (
            ["a", "b"],
            ["c"],
            "there is no class 'c' to ignore in the class map; give a class's name or a value",
        ),
        (["a", "b"], ["a", "b"], "the class map leaves 0 classes; there may be 1 to 255"),
        (None, ["sky"], "there is no class 'sky' to ignore"),
    ],
)
def test_a_class_map_that_makes_no_sense_is_refused(
    tmp_path: Path, classes: Any, ignore: Any, sentence: str
) -> None:
    with pytest.raises(Misuse, match=sentence):
        data.open(painted(tmp_path, [0, 1, 2]), classes=classes, ignore=ignore)


@pytest.mark.parametrize("how", [{"classes": ["a"]}, {"ignore": ["255"]}])
def test_a_class_map_needs_masks(make_folder: MakeFolder, how: dict[str, Any]) -> None:
    for source in (make_folder({"a": 2, "b": 2}), "digits"):
        with pytest.raises(Misuse, match="has no masks; a class map and values to ignore are about masks"):
            data.open(source, **how)


@pytest.mark.realdata
def test_camvid_and_the_membranes_are_recognised(realdata: Path) -> None:
    names = [
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ]
    camvid = data.open(realdata / "camvid", classes=[*names, "void"], ignore=["void"])
    assert {part: len(images) for part, images in camvid.parts.items()} == {
        "train": 367,
        "val": 101,
        "test": 233,
    }
    assert list(camvid.classes) == names
    mask = camvid.parts["train"].mask(0)
    assert mask.shape == (360, 480)
    assert set(mask.unique().tolist()) <= {*range(11), IGNORED}
    assert list(data.open(realdata / "camvid").classes) == [str(i) for i in range(12)]
    membrane = data.open(realdata / "membrane", classes=["membrane=0", "cell=255"])
    assert {part: len(images) for part, images in membrane.parts.items()} == {"all": 30}
    assert set(membrane.parts["all"].mask(0).unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("images", "masks"), [("{}/images", "{}/masks"), ("images/{}", "masks/{}"), ("{}", "{}annot")]
)
def test_two_folders_of_one_part_are_refused(tmp_path: Path, images: str, masks: str) -> None:
    for name in ("train", "val", "valid"):
        write(tmp_path / images.format(name), tmp_path / masks.format(name), SIZES)
    with pytest.raises(Failure, match="are both named like the part val; put them together"):
        data.open(tmp_path)


@pytest.mark.parametrize(
    ("images", "masks", "part"),
    [
        ("Images", "MASKS", "all"),
        ("Train/Images", "Train/masks", "train"),
        ("images/TRAIN", "masks/train", "train"),
        ("Train", "trainAnnot", "train"),
    ],
)
def test_capitals_do_not_matter(tmp_path: Path, images: str, masks: str, part: str) -> None:
    write(tmp_path / images, tmp_path / masks, SIZES)
    found = data.open(tmp_path)
    assert keys(found) == {part: [(f"{images}/{i}.png", f"{masks}/{i}.png") for i in range(4)]}


def test_what_lies_beside_parts_is_said_to_be_left_out(tmp_path: Path) -> None:
    write(tmp_path / "images" / "train", tmp_path / "masks" / "train", SIZES)
    write(tmp_path / "images" / "more", tmp_path / "masks" / "more", SIZES)
    write(tmp_path / "images", tmp_path / "masks", SIZES[:2])
    found = data.open(tmp_path)
    assert {name: len(part) for name, part in found.parts.items()} == {"train": 4}
    assert "with train/ (more/, 2 loose pictures in images/ left out)" in found.layout


def test_pictures_that_lie_deeper_are_said_to(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a", tmp_path / "masks" / "a", SIZES)
    with pytest.raises(Failure, match="holds no picture; they lie in the folders themselves, in none deeper"):
        data.open(tmp_path)


def test_one_class_is_one_class(tmp_path: Path) -> None:
    assert "; 1 class named by the values in the masks, 0" in data.open(painted(tmp_path, [0, 0])).layout
    assert "; 1 class as given" in data.open(tmp_path, classes=["sky"]).layout
