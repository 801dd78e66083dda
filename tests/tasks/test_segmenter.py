"""Labels of pictures: their size, what of them the network sees, and what is said of them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.errors import Failure, Misuse
from cnnkit.models import create
from cnnkit.tasks.refine import Crf
from cnnkit.tasks.segmenter import Segmenter
from cnnkit.tasks.windows import Windows
from cnnkit.weights.artefact import Card
from cnnkit.weights.preprocessing import Preprocessing, fit_preprocessing

GREY: dict[str, Any] = dict(channels="L", mean=(0.5,), std=(0.25,))


class Brightness(nn.Module):
    """Three classes of grey: below a third, in the middle, above two thirds of the range."""

    def forward(self, images: Tensor) -> Tensor:
        grey = images.mean(1, keepdim=True) * 0.25 + 0.5
        return -50 * (grey - torch.tensor([1 / 6, 1 / 2, 5 / 6]).view(1, 3, 1, 1)).square()


def segmenter(network: nn.Module | None = None, fit: Any = "window", **how: Any) -> Segmenter:
    to = Preprocessing(size=(24, 36), fit=fit, **{**GREY, **how})
    card = Card(model="unet", task="segment", classes=["dark", "grey", "bright"], preprocessing=to)
    return Segmenter(network or Brightness(), card)


def stripes(width: int, height: int) -> Image.Image:
    """A quarter dark, a half grey, a quarter bright, from left to right."""
    pixels = np.full((height, width), 128, np.uint8)
    pixels[:, : width // 4] = 10
    pixels[:, -(width // 4) :] = 250
    return Image.fromarray(pixels)


@pytest.mark.parametrize("fit", ["window", "squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(80, 60), (20, 100), (24, 36)])
def test_the_mask_has_the_size_of_the_picture_however_the_network_sees_it(
    fit: str, size: tuple[int, int]
) -> None:
    found = segmenter(fit=fit).predict(stripes(*size))
    assert found.mask.shape == size[::-1]
    assert found.mask.dtype == torch.uint8
    quarter = size[0] // 4
    assert (found.mask[:, : quarter - 3] == 0).all()
    assert (found.mask[:, quarter + 4 : -quarter - 4] == 1).all()
    assert (found.mask[:, 3 - quarter :] == 2).all()


def test_shares_and_confidence_are_those_of_the_pixels() -> None:
    found = segmenter().predict(stripes(80, 60))
    assert found.classes == ("dark", "grey", "bright")
    assert found.shares == (0.25, 0.5, 0.25)
    scores = -50 * (torch.tensor([[10.0], [128], [250]]).div(255) - torch.tensor([1, 3, 5]) / 6).square()
    likeliest = scores.softmax(1).amax(1)
    assert found.confidence == pytest.approx(float(likeliest @ torch.tensor(found.shares)), rel=1e-5)
    assert found.to_json() == {
        "image": "picture",
        "size": [60, 80],
        "classes": ["dark", "grey", "bright"],
        "shares": [0.25, 0.5, 0.25],
        "confidence": found.confidence,
    }
    assert str(found).splitlines() == ["picture", "  50.0%  grey", "  25.0%  dark", "  25.0%  bright"]


def test_a_class_that_is_nowhere_is_not_printed() -> None:
    found = segmenter().predict(Image.new("L", (30, 30), 250))
    assert str(found).splitlines() == ["picture", " 100.0%  bright"]
    assert found.shares == (0, 0, 1)


def test_files_are_upright_and_of_any_mode(tmp_path: Path) -> None:
    lying = stripes(80, 60).convert("RGB").rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise
    lying.save(tmp_path / "lying.png", exif=exif)
    stripes(80, 60).convert("RGBA").save(tmp_path / "alpha.png")
    expected = segmenter().predict(stripes(80, 60)).mask
    named = list(segmenter().predict_all([tmp_path / "lying.png", str(tmp_path / "alpha.png")]))
    assert [one.image for one in named] == [str(tmp_path / "lying.png"), str(tmp_path / "alpha.png")]
    assert all(torch.equal(one.mask, expected) for one in named)


def test_colours_come_in_the_order_that_the_network_knows() -> None:
    class First(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([images[:, :1], 0 * images[:, :2]], dim=1)

    red = Image.new("RGB", (30, 20), (255, 0, 0))
    statistics = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert segmenter(First(), channels="RGB", **statistics).predict(red).shares[0] == 1
    assert segmenter(First(), channels="BGR", **statistics).predict(red).shares[0] == 0


def test_tiles_of_bytes_give_what_the_whole_picture_gives() -> None:
    torch.manual_seed(0)
    network = create("unet", num_classes=3, width=1 / 16).double().eval()

    class AsDoubles(nn.Module):
        margin, smallest_image, image_step = 92, 188, 16

        def forward(self, images: Tensor) -> Tensor:
            return network(images.double())

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 201), dtype=np.uint8))
    whole, tiled = (
        segmenter(AsDoubles()).predict(picture, windows) for windows in (Windows(), Windows(size=252))
    )
    assert torch.equal(whole.mask, tiled.mask)
    assert whole.confidence == pytest.approx(tiled.confidence, abs=1e-12)


def test_squashed_pictures_come_back_by_probabilities_and_not_by_classes() -> None:
    """Nearest neighbours of a class map would give staircases of 10 pixels; probabilities cross between."""
    ramp = Image.fromarray(np.linspace(0, 255, 360).round().astype(np.uint8)[None].repeat(240, 0))
    found = segmenter(fit="squash").predict(ramp)
    to = Preprocessing(size=(24, 36), fit="squash", **GREY)
    small = torch.from_numpy(np.array(ramp.resize((36, 24), Image.Resampling.BILINEAR)))[None, None]
    probabilities = Brightness()(to.normalise(small)).softmax(1)
    large = functional.interpolate(probabilities, (240, 360), mode="bilinear", align_corners=False)
    assert torch.equal(found.mask, large[0].argmax(0).byte())
    edges = (found.mask[0].diff() != 0).nonzero().flatten().tolist()
    assert len(edges) == 2
    assert any((edge + 1) % 10 for edge in edges)


@pytest.mark.parametrize("normalisation", ["image", "lcn"])
def test_pictures_that_are_normalised_as_a_whole_are_so_before_they_are_cut(normalisation: str) -> None:
    torch.manual_seed(0)
    network = create("unet_padded_bn", num_classes=3, width=1 / 16, in_channels=1)
    whole = segmenter(network, normalisation=normalisation)
    picture = stripes(300, 200)
    plain, tiled = (whole.predict(picture, windows) for windows in (Windows(), Windows(size=224, overlap=96)))
    assert tiled.confidence == pytest.approx(plain.confidence, abs=1e-6)


def test_a_whitening_of_whole_images_takes_pictures_of_its_size_alone() -> None:
    to = Preprocessing(size=(8, 8), fit="squash", **GREY, normalisation="zca")
    to = fit_preprocessing(to, lambda: torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8))
    card = Card(model="unet", task="segment", classes=["a", "b", "c"], preprocessing=to)
    assert Segmenter(Brightness(), card).predict(stripes(20, 30)).mask.shape == (30, 20)
    card = replace(card, preprocessing=replace(to, fit="pad"))
    with pytest.raises(Misuse, match="zca whitens images of 8 x 8 as a whole and this one is 8 x 5"):
        Segmenter(Brightness(), card).predict(stripes(20, 30))


def test_a_refinement_sees_grey_levels_and_takes_away_a_speck() -> None:
    """One pixel of 138 among 128, whose class is uncertain: the field makes it what all around it are."""

    class Doubts(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            odd = (images > images.median()).float()
            return torch.cat([0 * odd, 1 - 2 * odd, odd - 0.5], dim=1)

    pixels = np.full((20, 30), 128, np.uint8)
    pixels[8, 9] = 138
    picture = Image.fromarray(pixels)
    assert segmenter(Doubts()).predict(picture).mask[8, 9] == 2
    refined = segmenter(Doubts()).predict(picture, Windows(refine=Crf()))
    assert (refined.mask == 1).all()


@pytest.mark.parametrize("normalisation", ["dataset", "image"])
def test_a_refinement_sees_the_picture_and_not_what_the_network_sees(normalisation: str) -> None:
    """A picture that is normalised as a whole is refined by its bytes as well, tile by tile."""
    shown: list[Tensor] = []

    def refine(images: Tensor, probabilities: Tensor) -> Tensor:
        shown.append(images)
        return probabilities

    picture = stripes(300, 200)
    network = segmenter(normalisation=normalisation)
    found = network.predict(picture, Windows(size=224, overlap=32, refine=refine))
    assert torch.equal(found.mask, network.predict(picture, Windows(size=224, overlap=32)).mask)
    bytes_ = torch.from_numpy(np.array(picture))[None, None]
    assert len(shown) == 2
    assert torch.equal(shown[0], bytes_[..., : shown[0].shape[3]])
    assert torch.equal(shown[1], bytes_[..., -shown[1].shape[3] :])


def test_what_is_no_picture_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("words")
    with pytest.raises(Failure, match=r"words.png is no image that can be read"):
        segmenter().predict(tmp_path / "words.png")


PHOTO = """
import sys
from pathlib import Path

import torch
torch.set_num_threads(1)
from PIL import Image
from cnnkit.models import create
from cnnkit.weights import artefact
from cnnkit.weights.preprocessing import Preprocessing

folder, name, width = sys.argv[1], sys.argv[2], float(sys.argv[3])
arguments = {"num_classes": 11, "width": width}
to = Preprocessing(size=(224, 224), fit="window")
card = artefact.Card(
    model=name,
    task="segment",
    classes=[f"class {i}" for i in range(11)],
    preprocessing=to,
    arguments=arguments,
)
artefact.save(Path(folder, "net.safetensors"), create(name, **arguments).state_dict(), card)
from cnnkit.cli import main
try:
    main(["predict", f"{folder}/net.safetensors", f"{folder}/photo.jpg", "--out", f"{folder}/out", "--json"])
finally:
    (most,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print(most.split()[1], file=sys.stderr)  # ru_maxrss would be that of the parent, if it is larger
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize(("name", "width"), [("fcn_squeezenet1_0", 1.0)])
def test_a_photo_of_twelve_megapixels_is_labelled_in_less_than_2_gb(
    name: str, width: float, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC).save(tmp_path / "photo.jpg")
    ran = subprocess.run(
        [sys.executable, "-c", PHOTO, str(tmp_path), name, str(width)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    with Image.open(tmp_path / "out" / "photo.png") as mask:
        assert mask.size == (4000, 3000)
    assert int(ran.stderr.split()[-1]) * 1024 < 2_000_000_000
