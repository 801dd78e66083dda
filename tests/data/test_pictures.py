"""Pictures come out as a person would see them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnkit.data.pictures import fit, read, seen, size, to_picture, to_tensor
from cnnkit.errors import Failure
from cnnkit.weights.preprocessing import Preprocessing

from .masked import lying

RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))  # dark left, light right


def saved(path: Path, image: Image.Image, **options: object) -> Image.Image:
    image.save(path, **options)
    return read(path)


def test_sixteen_bit_grey_spans_the_same_range_as_eight_bit(tmp_path: Path) -> None:
    wide = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert wide.mode == "I;16"
    seen = saved(tmp_path / "wide.png", wide)
    assert seen.mode == "L"
    np.testing.assert_array_equal(np.asarray(seen), RAMP)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    colours = Image.new("RGB", (8, 8), (200, 30, 40))
    colours.paste((10, 220, 90), (0, 0, 4, 8))
    seen = saved(tmp_path / "p.png", colours.convert("P", palette=Image.Palette.ADAPTIVE))
    assert seen.mode == "RGB"
    assert seen.getpixel((0, 0)) == (10, 220, 90)
    assert seen.getpixel((7, 7)) == (200, 30, 40)


def test_cmyk_becomes_the_colours_that_it_prints(tmp_path: Path) -> None:
    seen = saved(tmp_path / "c.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    red, green, blue = seen.getpixel((8, 8))  # type: ignore[misc]
    assert (red, green, blue) == pytest.approx((255, 0, 0), abs=4)


def test_an_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 10), "black")
    image.paste("white", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    seen = saved(tmp_path / "e.jpg", image, exif=exif, quality=95)
    assert seen.size == (10, 30)
    assert seen.getpixel((5, 3))[0] > 240  # type: ignore[index]
    assert seen.getpixel((5, 27))[0] < 15  # type: ignore[index]


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 255, 255))
    seen = saved(tmp_path / "a.png", image)
    assert seen.getpixel((3, 3)) == (255, 255, 255)
    assert seen.getpixel((0, 0)) == (0, 0, 255)


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    seen = saved(tmp_path / "b.png", Image.fromarray(RAMP > 100))
    assert set(np.unique(np.asarray(seen))) == {0, 255}


def test_a_float_image_spans_its_own_range(tmp_path: Path) -> None:
    seen = saved(tmp_path / "f.tiff", Image.fromarray(RAMP.astype(np.float32) / 7 - 3))
    values = np.asarray(seen)
    assert (values.min(), values.max()) == (0, 255)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"these are words, not an image", "is no image"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 64, "cannot be decoded|is no image"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(Failure, match=rf"x\.png ({reason})"):
        read(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise).save(whole)
    (tmp_path / f"half.{suffix}").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(Failure, match="half"):
        read(tmp_path / f"half.{suffix}")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(Failure, match=r"bomb\.png has more pixels than the 178,956,970 allowed"):
        read(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("squash", [(0, 0, 255), (0, 0, 255)]),  # both ends of the long side are there
        ("crop", [(9, 9, 9), (9, 9, 9)]),  # only the middle
    ],
)
def test_fit_keeps_what_it_says(how: str, expected: list[tuple[int, int, int]]) -> None:
    wide = Image.new("RGB", (60, 20), (9, 9, 9))
    wide.paste((0, 0, 255), (0, 0, 8, 20))
    wide.paste((0, 0, 255), (52, 0, 60, 20))
    made = fit(wide, Preprocessing((20, 20), fit=how, keep=1.0))  # type: ignore[arg-type]
    assert made.size == (20, 20)
    assert [made.getpixel((0, 10)), made.getpixel((19, 10))] == expected


def test_pad_centres_a_small_image_and_does_not_enlarge_it() -> None:
    made = fit(
        Image.new("L", (28, 28), 200), Preprocessing((32, 32), "pad", mean=(0.0,), std=(1.0,), channels="L")
    )
    array = np.asarray(made)
    assert (array[2:30, 2:30] == 200).all()
    assert array.sum() == 200 * 28 * 28


def test_channels_are_put_in_the_order_that_is_asked_for() -> None:
    image = Image.new("RGB", (2, 2), (1, 2, 3))
    to = Preprocessing((2, 2), mean=(0.0,) * 3, std=(1.0,) * 3, channels="BGR")
    assert to_tensor(fit(image, to), to)[:, 0, 0].tolist() == [3, 2, 1]


def test_a_tensor_goes_back_to_the_same_picture() -> None:
    image = Image.fromarray(RAMP)
    to = Preprocessing((48, 64), mean=(0.0,), std=(1.0,), channels="L")
    assert to_picture(to_tensor(image, to)).tobytes() == image.tobytes()


def test_normalise_subtracts_and_divides_in_units_of_one() -> None:
    image = Image.new("RGB", (1, 1), (255, 51, 0))
    to = Preprocessing((1, 1), mean=(0.5, 0.1, 0.25), std=(0.5, 0.1, 0.25))
    made = to.normalise(to_tensor(image, to)[None])
    np.testing.assert_allclose(made.flatten().numpy(), [1.0, 1.0, -1.0], rtol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_read_upright_whole_and_at_a_fraction(tmp_path: Path, orientation: int) -> None:
    down, across = np.mgrid[0:240, 0:320]
    shades = np.stack([down * 255 / 240, across * 255 / 320, down * 0], -1).astype(np.uint8)
    path = tmp_path / "lying.jpg"
    lying(Image.fromarray(shades), orientation, path, quality=95)
    assert size(path) == (320, 240)
    small = read(path, (80, 60))
    assert small.size == (80, 60)
    for made, truth in ((read(path), shades), (small, shades[2::4, 2::4])):
        assert np.abs(np.asarray(made).astype(int) - truth).mean() < 2
    with Image.open(path) as opened:
        assert seen(opened).tobytes() == read(path).tobytes()


def test_a_phones_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.HEIC").write_bytes(b"\x00\x00\x00\x18ftypheic")
    with pytest.raises(Failure, match=r"x\.HEIC is no image that can be read; save it as JPEG or PNG"):
        read(tmp_path / "x.HEIC")
