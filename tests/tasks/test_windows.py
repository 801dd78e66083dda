"""Tiles against the image as a whole, against torch's own operations and against counts by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.layers import WithAux
from cnnkit.models import create
from cnnkit.models.segment.trunks import WithClasses
from cnnkit.ops.crf import Kernel, dense_crf
from cnnkit.tasks import windows as module
from cnnkit.tasks.refine import Crf
from cnnkit.tasks.windows import GRID, Windows, between, mirrored_places, regions, spans
from cnnkit.verify import checks


def together(network: nn.Module, images: Tensor, windows: Windows, **how: Any) -> Tensor:
    """All regions in their places; each pixel must have been given once."""
    size = how.get("size") or images.shape[2:]
    found, times = torch.empty(0), torch.zeros(tuple(size))
    for rows, columns, logs in regions(network, images, windows, **how):
        if not found.numel():
            found = logs.new_full((*logs.shape[:2], *size), torch.nan)
        found[:, :, rows, columns] = logs
        times[rows, columns] += 1
    assert (times == 1).all()
    return found


def narrow(name: str, width: float = 1 / 8, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    network = create(name, num_classes=3, width=width, **arguments).eval()
    checks.randomise(network, torch.Generator().manual_seed(0))
    return network


def picture(*sides: int, channels: int = 3, count: int = 1) -> Tensor:
    return torch.randn(count, channels, *sides, generator=torch.Generator().manual_seed(0))


class Blur(nn.Module):
    """Three 5 x 5 convolutions that pad: a receptive field with a radius of 6."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = [(3, 8), (8, 8), (8, classes)]
        self.layers = nn.Sequential(*(nn.Conv2d(a, b, 5, padding=2) for a, b in sizes))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return self.layers(images)


@pytest.mark.parametrize("sides", [(300, 421), (97, 500), (40, 33)])
def test_tiles_of_a_network_without_padding_give_what_the_whole_image_gives(sides: tuple[int, int]) -> None:
    """The whole: the image mirrored at all borders by the margin, and at the far ends to a side it takes."""
    network, images = narrow("unet").double(), picture(*sides, channels=1).double()
    lower, right = (-(side - 4) % 16 for side in sides)
    rows, columns = (
        mirrored_places(-92, side + more + 92, side) for side, more in zip(sides, (lower, right), strict=True)
    )
    with torch.inference_mode():
        whole = network(images[:, :, rows][:, :, :, columns])[:, :, : sides[0], : sides[1]].log_softmax(1)
    tiled = together(network, images, Windows(size=284))
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-9)
    torch.testing.assert_close(together(network, images, Windows()), whole, rtol=0, atol=1e-9)


def test_tiles_of_a_network_with_padding_give_what_the_whole_image_gives() -> None:
    """Four poolings and odd sides; 96 is no less than the radius of U-Net's receptive field."""
    network, images = narrow("unet_padded_bn").double(), picture(391, 333).double()
    with torch.inference_mode():
        whole = network(images).log_softmax(1)
    torch.testing.assert_close(together(network, images, Windows(256, 96)), whole, rtol=0, atol=1e-9)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(together(network, images, Windows(256, 0)), whole, rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(64, 140), st.integers(6, 16))
def test_tiles_with_enough_context_give_what_the_whole_image_gives(
    height: int, width: int, size: int, overlap: int
) -> None:
    network, images = Blur(), picture(height, width)
    with torch.inference_mode():
        whole = network(images).log_softmax(1)
    network.seen.clear()
    if size < 2 * GRID + GRID and max(height, width) > size:
        with pytest.raises(ValueError, match="label nothing"):
            together(network, images, Windows(size, overlap))
        return
    torch.testing.assert_close(together(network, images, Windows(size, overlap)), whole, rtol=0, atol=1e-5)
    assert max(max(shape[2:]) for shape in network.seen) <= size


@given(st.integers(1, 3000), st.integers(32, 900), st.integers(0, 200), st.integers(1, 300))
def test_spans_own_every_pixel_once_with_context_on_both_sides(
    side: int, window: int, overlap: int, smallest: int
) -> None:
    window = max(window, smallest)
    try:
        found = spans(side, window, overlap, smallest)
    except ValueError:
        assert window - 2 * (-(-overlap // GRID) * GRID) < GRID < side
        return
    assert [span.first for span in found] == [0, *(span.last for span in found[:-1])]
    assert found[-1].last == side
    for span in found:
        assert span.start % GRID == 0
        assert span.first < span.last
        assert span.start == 0 or span.first - span.start >= overlap
        assert span.stop == side or span.stop - span.last >= overlap
        assert min(side, smallest) <= span.stop - span.start <= max(window, smallest + GRID - 1)


def test_a_picture_smaller_than_the_network_takes_is_mirrored() -> None:
    """3 x 5 is mirrored on and on to 16 x 16: columns 0 1 2 3 4 3 2 1 0 1 ..., rows 0 1 2 1 0 1 ..."""
    network, images = narrow("unet_padded_bn"), picture(3, 5)
    rows = [0, 1, 2, 1] * 4
    columns = [0, 1, 2, 3, 4, 3, 2, 1] * 2
    with torch.inference_mode():
        expected = network(images[:, :, rows][:, :, :, columns])[:, :, :3, :5].log_softmax(1)
    torch.testing.assert_close(together(network, images, Windows()), expected)


@pytest.mark.parametrize("name", ["deconvnet", "decouplednet", "segnet_basic"])
def test_networks_that_need_large_images_label_small_ones(name: str) -> None:
    found = together(narrow(name, 1 / 64), picture(50, 30), Windows())
    assert found.shape == (1, 3, 50, 30)
    torch.testing.assert_close(found.logsumexp(1), torch.zeros(1, 50, 30), rtol=0, atol=1e-5)


def test_places_are_mirrored_as_torch_reflects_and_any_number_of_times() -> None:
    line = torch.arange(7.0)[None, None, None]
    reflected = functional.pad(line, (6, 6, 0, 0), mode="reflect")
    assert line[0, 0, 0, mirrored_places(-6, 13, 7)].tolist() == reflected.flatten().tolist()
    assert mirrored_places(-4, 5, 2).tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert mirrored_places(-2, 3, 1).tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("size", [(60, 17), (9, 40), (1, 1), (23, 31)])
def test_between_is_torchs_bilinear_interpolation(size: tuple[int, int]) -> None:
    maps = picture(23, 31)
    rows, columns = ((torch.arange(to) + 0.5) * of / to - 0.5 for of, to in zip((23, 31), size, strict=True))
    expected = functional.interpolate(maps, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(between(maps, rows, columns), expected, rtol=0, atol=1e-5)


def test_another_size_is_interpolated_from_probabilities_some_rows_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, images = Blur(), picture(20, 30)
    with torch.inference_mode():
        whole = network(images).softmax(1)
    expected = functional.interpolate(whole, (77, 45), mode="bilinear", align_corners=False).log()
    monkeypatch.setattr(module, "BUDGET", 700)
    assert len(list(regions(network, images, Windows(), size=(77, 45)))) == 6
    torch.testing.assert_close(together(network, images, Windows(), size=(77, 45)), expected)
    torch.testing.assert_close(together(network, images, Windows(), size=(20, 30)), whole.log())


def test_a_flipped_image_counts_as_much_as_the_image() -> None:
    network, images = narrow("unet_padded_bn"), picture(40, 37)
    with torch.inference_mode():
        mean = (network(images).softmax(1) + network(images.flip(-1)).softmax(1).flip(-1)) / 2
    torch.testing.assert_close(together(network, images, Windows(flip=True)).exp(), mean)


def test_scales_are_the_means_of_probabilities_that_were_brought_back() -> None:
    network, images = Blur(), picture(64, 80)
    scales = (0.75, 1.0, 1.25)
    with torch.inference_mode():
        views = [
            functional.interpolate(images, (int(64 * s), int(80 * s)), mode="bilinear", antialias=True)
            for s in scales
        ]
        back = [functional.interpolate(network(v).softmax(1), (64, 80), mode="bilinear") for v in views]
        mean = sum(back) / 3
    found = together(network, images, Windows(scales=scales)).exp()
    torch.testing.assert_close(found, mean, rtol=0, atol=1e-5)


def test_a_scaled_network_without_padding_labels_the_pixels_where_they_are() -> None:
    """One class answers a pixel's brightness through a margin of 7: a ramp comes back as it was."""

    class Looks(nn.Module):
        margin, smallest_image, image_step = 7, 19, 4

        def forward(self, images: Tensor) -> Tensor:
            inside = images[:, :1, 7:-7, 7:-7]
            return torch.cat([inside, torch.zeros_like(inside)], dim=1)

    ramp = (torch.arange(60.0)[:, None] + 2 * torch.arange(90.0))[None, None] / 100
    for scale in (0.5, 0.8, 1.0, 1.3, 2.0):
        found = together(Looks(), ramp, Windows(scales=(scale,))).exp()[:, 0]
        inner = (slice(None), slice(3, -3), slice(3, -3))
        torch.testing.assert_close(found[inner], ramp[0].sigmoid()[inner], rtol=0, atol=2e-3)


def test_only_the_logits_of_what_is_returned_count() -> None:
    images = picture(20, 20)

    class Wrapped(nn.Module):
        def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
            super().__init__()
            self.inner, self.wrap = Blur(), wrap

        def forward(self, images: Tensor) -> Any:
            return self.wrap(self.inner(images))

    expected = together(Blur(), images, Windows())
    for wrap in (lambda x: WithAux(x, (0 * x,), 0.5), lambda x: WithClasses(x, x.mean((2, 3)))):
        assert torch.equal(together(Wrapped(wrap), images, Windows()), expected)


def test_a_tile_is_prepared_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET", 128**2)
    network, images = Blur(), (picture(300, 210) * 60).clamp(0, 255).byte()
    sizes: list[int] = []

    def prepare(tile: Tensor) -> Tensor:
        sizes.append(tile.numel())
        return tile / 100 - 1

    windows = Windows(overlap=8)
    found = together(network, images, windows, prepare=prepare)
    torch.testing.assert_close(found, together(network, images / 100 - 1, windows))
    assert max(sizes) <= 3 * 128**2


def test_no_more_goes_through_the_network_at_once_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET", 40_000)
    network = Blur()
    several = together(network, picture(100, 120, count=7), Windows(overlap=8))
    alone = [together(network, one[None], Windows(overlap=8)) for one in picture(100, 120, count=7)]
    torch.testing.assert_close(several, torch.cat(alone))
    together(network, picture(500, 90, count=2), Windows(overlap=8, scales=(1.0, 1.5), flip=True))
    assert max(n * h * w for n, _, h, w in network.seen) <= 40_000
    assert (3, 3, 100, 120) in network.seen


def test_refinement_sees_the_image_as_given_and_the_probabilities() -> None:
    network, images = Blur(), (picture(30, 40) * 60).clamp(0, 255).byte()
    asked: list[Tensor] = []

    def refine(seen: Tensor, probabilities: Tensor) -> Tensor:
        asked.extend([seen, probabilities])
        return probabilities.flip(1)

    def prepare(tile: Tensor) -> Tensor:
        return tile / 100 - 1

    plain = together(network, images, Windows(flip=True), prepare=prepare)
    found = together(network, images, Windows(flip=True, refine=refine), prepare=prepare)
    assert torch.equal(asked[0], images)
    torch.testing.assert_close(asked[1].log(), plain)
    torch.testing.assert_close(found, plain.flip(1))


def test_the_crf_has_defaults_that_are_those_of_the_authors_tool() -> None:
    probabilities, images = picture(20, 24).softmax(1), (picture(20, 24) * 60).clamp(0, 255).byte()
    expected = dense_crf(probabilities.log(), images.float()).softmax(1)
    torch.testing.assert_close(Crf()(images, probabilities), expected)
    kernels = (Kernel(3.0, 3.0), Kernel(4.0, 60.0, 20.0))
    expected = dense_crf(probabilities.log(), images.float(), kernels, iterations=3).softmax(1)
    torch.testing.assert_close(Crf(iterations=3, weight=4.0)(images, probabilities), expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(size=0), "a side of at least 1 pixel, got 0"),
        (dict(overlap=-1), "0 pixels or more, got -1"),
        (dict(scales=()), "one or more numbers"),
        (dict(scales=(1.0, 0.0)), "above 0"),
    ],
)
def test_windows_that_make_no_sense_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Windows(**arguments)


def test_windows_without_room_for_context_say_how_large_they_must_be() -> None:
    with pytest.raises(
        ValueError, match=r"windows of 130 pixels with 96 of context .* must have 224 or more"
    ):
        list(regions(Blur(), picture(300, 300), Windows(size=130, overlap=96)))
    assert list(regions(Blur(), picture(300, 300), Windows(size=224, overlap=96)))


@pytest.mark.parametrize(
    ("size", "seen", "tiles"),
    [(32, 32, 10), (100, 100, 4), (128, 128, 4), (304, 304, 2), (384, 320, 1), (None, 320, 1)],
)
def test_without_a_wish_context_is_a_quarter_of_a_window(size: int | None, seen: int, tiles: int) -> None:
    """320 pixels in windows of 32: 10 regions of 32. Of 128 with 32 on each side hops are 64: 0 to 192.
    Of 100, a quarter of which is less than 32, they are 96: 0, 96, 192, and the last starts at 224."""
    network = Blur()
    assert len(list(regions(network, picture(32, 320), Windows(size)))) == tiles
    assert max(shape[3] for shape in network.seen) == seen


def test_a_network_without_padding_gets_windows_that_leave_something_to_label() -> None:
    found = together(narrow("unet"), picture(70, 60, channels=1), Windows(size=32))
    assert found.isfinite().all()


def test_a_network_that_does_not_label_pixels_is_named() -> None:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 20, 4))
    with pytest.raises(ValueError, match=r"Sequential gives \(1, 4\) for images of 20 x 20; one that labels"):
        list(regions(classifier, picture(20, 20), Windows()))
    with pytest.raises(ValueError, match=r"Conv2d gives \(1, 2, 18, 18\)"):
        list(regions(nn.Conv2d(3, 2, 3), picture(20, 20), Windows()))
