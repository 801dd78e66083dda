"""The check and the balance of classes, where pictures have masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnkit import data
from cnnkit.cli import main
from cnnkit.data import masks
from cnnkit.data.balance import balance, frequencies
from cnnkit.data.masks import IGNORED

from ..conftest import MakeFolder
from .masked import blocks, write

SIZES = [(24, 36)] * 4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, part in enumerate(("train", "val")):
        write(tmp_path / part, tmp_path / f"{part}annot", SIZES, seed=20 * seed)
    return tmp_path


def paint(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.uint8)).save(path)


def messages(found: data.DataSet, kind: str) -> list[str]:
    return [finding.message for finding in data.examine(found).findings if finding.kind == kind]


def test_clean_masks_have_no_findings_and_their_pixels_are_counted(root: Path) -> None:
    found = data.open(root)
    seen = data.examine(found)
    assert seen.findings == ()
    assert (seen.grey, seen.side, seen.one_size) == (False, 24, True)
    for name, part in found.parts.items():
        whole = np.stack([part.mask(i).numpy() for i in range(4)])
        assert seen.pixels[name] == {str(label): int((whole == label).sum()) for label in range(3)}
        assert seen.counts[name] == {str(i): int((whole == i).any((1, 2)).sum()) for i in range(3)}


def test_every_mask_that_cannot_be_used_is_named_with_its_picture(root: Path) -> None:
    train = root / "trainannot"
    paint(train / "0.png", np.zeros((24, 35)))
    paint(train / "1.png", np.array([[1] * 35 + [9]] * 24))
    (train / "2.png").write_bytes(b"no picture")
    paint(root / "valannot" / "1.png", np.full((24, 36), IGNORED))
    seen = data.examine(data.open(root, classes=["a", "b", "c"]))
    assert seen.unreadable == ("train/0.png", "train/1.png", "train/2.png")
    assert seen.pixels["train"]["b"] == int((blocks((24, 36), 3, 3) == 1).sum())  # none of the second mask
    first, second, third, empty = seen.findings
    assert (
        "trainannot/0.png has 35 x 24 pixels and its picture 36 x 24 when it is upright; make them alike"
        in first.message
    )
    assert "trainannot/1.png holds 9, which is no class; name it in the class" in second.message
    assert "trainannot/2.png is no image that can be read" in third.message
    assert (empty.kind, empty.keys) == ("ignored", ("val/1.png",))
    assert "val has 1 masks of which all pixels are ignored, the first that of val/1.png" in empty.message
    assert data.examine(data.open(root, classes=["a", "b", "c"]).without(seen.unreadable)).unreadable == ()


def test_a_class_that_a_part_lacks_is_named(root: Path) -> None:
    for number in range(4):
        paint(root / "valannot" / f"{number}.png", blocks((24, 36), 2, number))
    assert messages(data.open(root), "classes") == ["val has no pixel of 2"]


def test_the_same_picture_in_two_parts_is_found(root: Path) -> None:
    (root / "val" / "0.png").write_bytes((root / "train" / "1.png").read_bytes())
    assert messages(data.open(root), "twice") == ["the same image is in two parts: train/1.png and val/0.png"]


def test_a_very_rare_class_is_found(tmp_path: Path) -> None:
    write(tmp_path / "images", tmp_path / "masks", [(40, 60)] * 2, 1)
    mask = np.zeros((40, 60))
    mask[0, :2] = 1
    paint(tmp_path / "masks" / "0.png", mask)
    assert messages(data.open(tmp_path), "balance") == [
        "all has 2 pixels of 1 and 4,798 of 0; a loss that balances classes may help"
    ]
    mask[1, :3] = 1
    paint(tmp_path / "masks" / "0.png", mask)
    assert messages(data.open(tmp_path), "balance") == []


def test_masks_are_looked_at_once_until_one_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    tally = masks.tally

    def counted(path: Path) -> masks.Tally:
        looked.append(f"{path.parent.name}/{path.name}")
        return tally(path)

    monkeypatch.setattr(masks, "tally", counted)
    first = data.examine(data.open(root))
    assert sorted(looked) == [f"{part}annot/{i}.png" for part in ("train", "val") for i in range(4)]
    assert data.examine(data.open(root)) == first
    assert len(looked) == 8
    paint(root / "trainannot" / "3.png", np.ones((24, 36)))
    again = data.examine(data.open(root, classes=["x", "y", "z"]))
    assert looked[8:] == ["trainannot/3.png"]
    assert set(again.pixels["train"]) == {"x", "y", "z"}


def test_frequencies_are_those_of_the_images_that_show_a_class(tmp_path: Path) -> None:
    """By hand: class 0 has 6 of the 8 pixels of both images, class 1 has 1 of 4, class 2 is nowhere."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number, mask in enumerate(([[0, 0], [0, 0]], [[0, 0], [1, IGNORED]])):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
        paint(tmp_path / "masks" / f"{number}.png", np.array(mask))
    part = data.open(tmp_path, classes=["a", "b", "c"]).parts["all"]
    assert frequencies(part, ["a", "b", "c"]) == (6 / 8, 1 / 4, 0.0)
    assert balance(part, ["a", "b", "c"]).empty == [False, False]


def test_frequencies_of_whole_images_are_their_shares(make_folder: MakeFolder) -> None:
    part = data.open(make_folder({"a": 1, "b": 3})).parts["all"]
    assert frequencies(part, ["a", "b"]) == (0.25, 0.75)


def test_the_command_shows_shares_and_takes_a_class_map(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["check", str(root), "--classes", "road=0,sky=1", "--ignore", "2"])
    assert left.value.code == 0
    out = capsys.readouterr().out.splitlines()
    assert "2 classes as given; 2, 255 ignored" in out[0]
    assert out[2].split() == ["class", "train", "val"]
    part = data.open(root, classes=["road", "sky"], ignore=[2]).parts["train"]
    road, sky = (sum(int((part.mask(i) == label).sum()) for i in range(4)) for label in range(2))
    assert out[3].split()[:2] == ["road", f"{road / (road + sky):.2%}"]
    with pytest.raises(SystemExit) as left:
        main(["check", str(root), "--classes", "road=0,sky=1", "--json"])
    assert left.value.code == 3
    told = json.loads(capsys.readouterr().out)
    assert set(told["pixels"]) == {"train", "val"}
    assert "holds 2, which is no class" in told["findings"][0]["message"]


@pytest.mark.realdata
def test_camvids_frequencies_are_those_of_the_definition(realdata: Path) -> None:
    """Every mask decoded, and the definition written out. Ports of SegNet that count void as a class give it
    the weight 1.0974; their other eleven are SegNet's own, of masks that are not quite these.
    """
    found = data.open(realdata / "camvid")
    part = found.parts["train"]
    pixels, among = np.zeros(12), np.zeros(12)
    for index in range(len(part)):
        mask = part.mask(index).numpy()
        count = np.bincount(mask.ravel(), minlength=12)
        pixels += count
        among += mask.size * (count > 0)
    ours = np.array(frequencies(part, found.classes))
    np.testing.assert_allclose(ours, pixels / among, rtol=1e-12)
    assert np.median(ours) / ours[11] == pytest.approx(1.0974, abs=5e-5)
    assert data.examine(found).findings == ()


@pytest.mark.parametrize(("step", "found"), [(2, True), (1, False)])
def test_masks_with_smoothed_edges_are_found(tmp_path: Path, step: int, found: bool) -> None:
    write(tmp_path / "images", tmp_path / "masks", SIZES)
    for path in (tmp_path / "masks").iterdir():
        paint(path, np.arange(24 * 36).reshape(24, 36) % 60 * step)
    said = messages(data.open(tmp_path), "classes")
    assert [("60 values with gaps between them" in line) for line in said] == ([True] if found else [])
