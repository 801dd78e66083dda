"""`cnnkit predict` with a network that labels pixels, as a person meets it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnkit.cli import main
from cnnkit.models import create
from cnnkit.tasks import Segmenter, load
from cnnkit.tasks.refine import Crf
from cnnkit.tasks.windows import Windows
from cnnkit.weights import artefact
from cnnkit.weights.preprocessing import Preprocessing

from ..data.masked import lying

CLASSES = ["sky", "road", "tree"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *map(str, arguments)])
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    arguments = {"num_classes": 3, "width": 1 / 16}
    to = Preprocessing(size=(32, 32), fit="window")
    card = artefact.Card(
        model="unet_padded_bn", task="segment", classes=CLASSES, preprocessing=to, arguments=arguments
    )
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    artefact.save(path, create("unet_padded_bn", **arguments).state_dict(), card)
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = Preprocessing(size=(32, 32), channels="L", mean=(0.5,), std=(0.5,))
    arguments = {"num_classes": 2}
    card = artefact.Card(
        model="lenet5_relu", task="classify", classes=["a", "b"], preprocessing=to, arguments=arguments
    )
    path = tmp_path_factory.mktemp("net") / "classifier.safetensors"
    artefact.save(path, create("lenet5_relu", **arguments).state_dict(), card)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures of 50 x 70 and 64 x 40 pixels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, shape in (("street.jpg", (70, 50, 3)), ("park.png", (40, 64, 3))):
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    return folder


def expected(network: Path, picture: Path, windows: Windows = Windows()) -> torch.Tensor:  # noqa: B008
    found = load(network)
    assert isinstance(found, Segmenter)
    return found.predict(picture, windows).mask


def test_masks_overlays_and_a_legend_are_written_and_shares_printed(
    capsys: pytest.CaptureFixture[str], network: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "masks"
    code, printed, err = run(capsys, network, photos, "--out", out)
    assert (code, err) == (0, "")
    files = {"legend.png", "park.png", "park.overlay.jpg", "street.png", "street.overlay.jpg"}
    assert {path.name for path in out.iterdir()} == files
    assert str(photos / "street.jpg") in printed
    for name in ("street.jpg", "park.png"):
        mask = expected(network, photos / name)
        with Image.open(out / f"{Path(name).stem}.png") as written:
            assert written.mode == "P"
            assert np.array_equal(np.asarray(written), mask.numpy())
        with Image.open(out / f"{Path(name).stem}.overlay.jpg") as overlaid, Image.open(photos / name) as was:
            assert overlaid.size == was.size
        for place in mask.unique().tolist():
            assert f"{(mask == place).float().mean():7.1%}  {CLASSES[place]}" in printed


def test_without_a_folder_it_says_how_masks_are_written(
    capsys: pytest.CaptureFixture[str], network: Path, photos: Path
) -> None:
    before = sorted(photos.rglob("*"))
    code, printed, err = run(capsys, network, photos / "park.png")
    assert code == 0
    assert "%  " in printed
    assert "written with --out FOLDER" in err
    assert sorted(photos.rglob("*")) == before


def test_json_has_shares_and_where_the_masks_are(
    capsys: pytest.CaptureFixture[str], network: Path, photos: Path, tmp_path: Path
) -> None:
    code, printed, _ = run(capsys, network, photos / "park.png", "--json", "--out", tmp_path / "m")
    (found,) = json.loads(printed)
    assert code == 0
    assert found["size"] == [40, 64]
    assert found["classes"] == CLASSES
    assert sum(found["shares"]) == pytest.approx(1)
    assert found["mask"] == str(tmp_path / "m" / "park.png")
    assert found["overlay"] == str(tmp_path / "m" / "park.overlay.jpg")
    _, printed, err = run(capsys, network, photos / "park.png", "--json")
    assert json.loads(printed) == [{k: v for k, v in found.items() if k not in ("mask", "overlay")}]
    assert err == ""


@pytest.mark.parametrize(
    ("flags", "windows"),
    [
        (["--views", "flip"], Windows(flip=True)),
        (["--views", "multi_scale"], Windows(flip=True, scales=(0.75, 1.0, 1.25))),
        (["--window", 32], Windows(size=32)),
        (["--crf", "--views", "center"], Windows(refine=Crf())),
    ],
)
def test_flags_say_how_the_network_looks(
    capsys: pytest.CaptureFixture[str],
    network: Path,
    photos: Path,
    tmp_path: Path,
    flags: list[object],
    windows: Windows,
) -> None:
    code, _, _ = run(capsys, network, photos / "street.jpg", "--out", tmp_path / "m", *flags)
    assert code == 0
    with Image.open(tmp_path / "m" / "street.png") as written:
        found = np.asarray(written)
    assert np.array_equal(found, expected(network, photos / "street.jpg", windows).numpy())
    assert not np.array_equal(found, expected(network, photos / "street.jpg").numpy())


def test_what_is_there_is_replaced_only_when_asked(
    capsys: pytest.CaptureFixture[str], network: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m"
    out.mkdir()
    (out / "street.overlay.jpg").write_text("mine")
    code, _, err = run(capsys, network, photos, "--out", out)
    assert code == 2
    assert f"{out / 'street.overlay.jpg'} exists; --overwrite replaces it" in err
    assert [path.name for path in out.iterdir()] == ["street.overlay.jpg"]
    code, _, _ = run(capsys, network, photos, "--out", out, "--overwrite")
    assert code == 0
    assert (out / "street.overlay.jpg").read_bytes() != b"mine"


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_a_picture_is_never_replaced_by_its_mask(
    capsys: pytest.CaptureFixture[str], network: Path, photos: Path, flags: list[str]
) -> None:
    before = (photos / "park.png").read_bytes()
    code, _, err = run(capsys, network, photos, "--out", photos / ".." / "photos", *flags)
    assert code == 2
    assert "is a picture to predict and would be overwritten; take another --out" in err
    assert (photos / "park.png").read_bytes() == before


def test_two_pictures_of_one_name_are_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], network: Path, photos: Path, tmp_path: Path
) -> None:
    with Image.open(photos / "street.jpg") as picture:
        picture.save(photos / "street.png")
    code, _, err = run(capsys, network, photos, "--out", tmp_path / "m")
    assert code == 2
    assert f"{photos / 'street.png'} and {photos / 'street.jpg'} would both be written" in err
    assert not (tmp_path / "m").exists()


def test_a_picture_of_the_legends_name_is_refused(
    capsys: pytest.CaptureFixture[str], network: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "park.png").rename(photos / "legend.png")
    code, _, err = run(capsys, network, photos, "--out", tmp_path / "m")
    assert code == 2
    assert f"{photos / 'legend.png'} and the legend would both be written to" in err


def test_it_goes_on_after_a_picture_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], network: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "a_broken.png").write_bytes(b"x")
    code, printed, err = run(capsys, network, photos, "--out", tmp_path / "m")
    assert code == 1
    assert "a_broken.png is no image" in err
    assert "1 of 3 pictures could not be read" in err
    assert "street.jpg" in printed
    assert (tmp_path / "m" / "street.png").exists()
    assert not (tmp_path / "m" / "a_broken.png").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(
    capsys: pytest.CaptureFixture[str], network: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, network, photos, "--out", tmp_path / "file" / "m")
    assert code == 1
    assert "could not be written" in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--views", "ten_crop"],
            "--views ten_crop is for networks that classify whole images; use center, flip",
        ),
        (["--top", 1], "--top is of classified images"),
    ],
)
def test_what_is_of_classifiers_is_refused(
    capsys: pytest.CaptureFixture[str], network: Path, photos: Path, flags: list[object], said: str
) -> None:
    code, _, err = run(capsys, network, photos, *flags)
    assert code == 2
    assert said in err


@pytest.mark.parametrize("flags", [["--out", "nowhere"], ["--crf"], ["--window", 64], ["--overwrite"]])
def test_what_is_of_masks_is_refused_with_a_classifier(
    capsys: pytest.CaptureFixture[str], classifier: Path, photos: Path, flags: list[object]
) -> None:
    code, _, err = run(capsys, classifier, photos, *flags)
    assert code == 2
    assert f"are of masks, and {classifier} classifies images" in err


def test_a_picture_that_takes_long_says_so_after_its_first_window(
    capsys: pytest.CaptureFixture[str], network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (200, 40), "grey").save(tmp_path / "wide.png")
    monkeypatch.setattr("cnnkit.cli.predict.PATIENCE", 0.0)
    how = [network, tmp_path / "wide.png", "--out", tmp_path / "out", "--window", 64]
    code, _, err = run(capsys, *how, "--crf")
    assert code == 0
    assert len(err.splitlines()) == 1
    assert re.fullmatch(r".*wide\.png: about \d+ s more; leave --crf out, or give a smaller picture\n", err)
    _, _, err = run(capsys, *how, "--overwrite")
    assert err.endswith("s more; a smaller picture takes less\n")
    assert run(capsys, *how[:4], "--overwrite")[2] == ""  # one window: nothing is left after it


@pytest.mark.parametrize("device", ["cuda:63", "nonsense"])
def test_a_device_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str], network: Path, photos: Path, device: str
) -> None:
    code, _, err = run(capsys, network, photos, "--device", device)
    assert (code, err) == (2, f"error: --device {device} is not there on this machine; use --device cpu\n")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_labelled_upright_however_it_was_stored(
    network: Path, tmp_path: Path, orientation: int
) -> None:
    upright = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 64, 3), dtype=np.uint8))
    upright.save(tmp_path / "upright.png")
    lying(upright, orientation, tmp_path / "lying.png")
    found = load(network)
    assert isinstance(found, Segmenter)
    truth = found.predict(tmp_path / "upright.png").mask
    assert len(truth.unique()) > 1
    assert torch.equal(found.predict(tmp_path / "lying.png").mask, truth)
    with Image.open(tmp_path / "lying.png") as opened:
        assert torch.equal(found.predict(opened).mask, truth)
