"""Views are the papers' crops, and their average is the mean worked out by hand."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import v2

from cnnkit.data.pictures import fit, to_tensor
from cnnkit.data.sets import Part
from cnnkit.errors import Misuse
from cnnkit.tasks.classify import Classifier
from cnnkit.tasks.views import VIEWS, Viewer, fused
from cnnkit.weights.artefact import Card
from cnnkit.weights.preprocessing import Preprocessing, fit_preprocessing

TO = Preprocessing((28, 28))  # keeps 0.875: crops of 28 out of 32, as 224 out of 256
GREY = Preprocessing((28, 28), "pad", 1.0, mean=(0.5,), std=(0.25,), channels="L")


class Plain(nn.Sequential):
    """A classifier without padding, 12 x 12 and more."""

    def __init__(self, channels: int = 3, classes: int = 4, side: int = 28) -> None:
        inside = ((side - 4) // 2 - 2) // 2
        torch.manual_seed(0)
        last = nn.Linear(16, classes)
        with torch.no_grad():
            last.weight.mul_(100)  # so that logits and probabilities average differently
        super().__init__(
            *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()),
            *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * inside * inside, 16), nn.ReLU()),
            last,
        )


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth noise, the same for the same numbers."""
    noise = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(seed))
    large = functional.interpolate(noise[None], (height, width), mode="bilinear")[0]
    return v2.functional.to_pil_image(large).convert(mode)


def viewer(views: str, to: Preprocessing = TO, network: nn.Module | None = None) -> Viewer:
    network = network or Plain(len(to.mean), side=to.size[0])
    card = Card(model="none", task="classify", classes=list("abcd"), preprocessing=to)
    return Viewer(Classifier(network, card), views)


def seen(views: str, image: Image.Image, to: Preprocessing = TO) -> Tensor:
    """All views of one size."""
    (found,) = VIEWS[views].cut(image, to)
    return found


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("fitting", ["crop", "squash", "pad"])
@pytest.mark.parametrize(("width", "height"), [(40, 30), (9, 12), (28, 28), (33, 70)])
def test_there_are_as_many_views_as_the_table_says(views: str, fitting: str, width: int, height: int) -> None:
    to = Preprocessing((28, 28), fitting)  # type: ignore[arg-type]
    groups = VIEWS[views].cut(picture(width, height), to)
    assert sum(map(len, groups)) == VIEWS[views].count
    for group in groups:
        assert group.dtype == torch.uint8
        assert VIEWS[views].dense or group.shape[1:] == (3, 28, 28)
        assert group.shape[2] >= 28
        assert group.shape[3] >= 28


@pytest.mark.parametrize("views", VIEWS)
def test_weights_are_shares(views: str) -> None:
    weights = VIEWS[views].weights
    assert weights is None or (sum(weights) == 1 and len(weights) == VIEWS[views].count)


def test_ten_crops_are_those_of_torchvision() -> None:
    """Of the central square whose side is that of training's scaled images."""
    image = picture(50, 39)
    square = to_tensor(fit(image, Preprocessing((32, 32), keep=1.0)), TO)
    top_left, top_right, bottom_left, bottom_right, centre, *mirrored = v2.functional.ten_crop(square, [28])
    found = seen("ten_crop", image)
    theirs = torch.stack([top_left, top_right, bottom_left, bottom_right, centre])
    assert torch.equal(found[:5], theirs)
    assert {tuple(m.flatten().tolist()) for m in mirrored} == {tuple(m.flatten().tolist()) for m in found[5:]}


def test_the_centre_of_the_ten_crops_is_the_usual_view() -> None:
    for image in (picture(64, 48), picture(32, 32)):
        assert torch.equal(seen("ten_crop", image)[4], seen("center", image)[0])


def test_ten_crops_of_an_image_of_the_network_s_own_size_are_a_flip() -> None:
    image = picture(28, 28, "L")
    found = [viewer(v, GREY).predict(image).probabilities for v in ("ten_crop", "flip")]
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_the_grid_of_vgg_is_regular_and_covers_the_picture() -> None:
    """Short side 32, so 44 x 32: crops of 28 begin 0, 1, 2, 3, 4 down and 0, 4, 8, 12, 16 across."""
    image = picture(88, 64)
    whole = to_tensor(image.resize((44, 32), Image.Resampling.BILINEAR), TO)
    own = [whole[:, i : i + 28, j : j + 28] for i in range(5) for j in range(0, 17, 4)]
    found = seen("multi_crop", image)
    assert torch.equal(found[25:50], torch.stack(own))
    assert torch.equal(found[75:], found[:75].flip(-1))


def test_scales_are_those_of_vgg() -> None:
    """224, 256 and 288 for crops of 224."""
    to = Preprocessing((224, 224))
    groups = VIEWS["multi_scale"].cut(picture(300, 250), to)
    assert [tuple(g.shape) for g in groups] == [(2, 3, 224, 269), (2, 3, 256, 307), (2, 3, 288, 346)]


def test_a_network_that_keeps_all_of_the_image_is_never_given_less() -> None:
    to = Preprocessing((28, 28), keep=1.0)
    groups = VIEWS["multi_scale"].cut(picture(20, 20), to)
    assert [g.shape[2] for g in groups] == [28, 28, 32]


def test_the_average_of_crops_is_the_mean_of_their_probabilities() -> None:
    image = picture(41, 37)
    network = Plain().eval()
    with torch.inference_mode():
        each = network(TO.normalise(seen("ten_crop", image))).softmax(1)
        logits = network(TO.normalise(seen("ten_crop", image))).mean(0).softmax(0)
    found = viewer("ten_crop", network=network).predict(image)
    expected = each.mean(0).sort(descending=True)
    assert found.probabilities == pytest.approx(expected.values.tolist(), rel=1e-4)
    assert [list("abcd").index(c) for c in found.classes] == expected.indices.tolist()
    assert logits.max().item() != pytest.approx(found.probabilities[0], rel=0.02), "logits would be the same"


def test_translate_is_airbench_s_average_of_logits() -> None:
    """Half of the image and its mirror, half of two moved by a pixel and their mirrors, reflected border."""
    image = picture(28, 28)
    network = Plain().eval()
    pixels = TO.normalise(to_tensor(image, TO)[None])
    framed = functional.pad(pixels, (1, 1, 1, 1), "reflect")

    def both(x: Tensor) -> Tensor:
        return 0.5 * network(x) + 0.5 * network(x.flip(-1))

    with torch.inference_mode():
        moved = 0.5 * both(framed[:, :, :28, :28]) + 0.5 * both(framed[:, :, 2:, 2:])
        expected = (0.5 * both(pixels) + 0.5 * moved).softmax(1)[0]
    to = Preprocessing((28, 28), keep=1.0)
    views = TO.normalise(seen("translate", image, to))[[2, 4]]
    torch.testing.assert_close(views, torch.cat([framed[:, :, :28, :28], framed[:, :, 2:, 2:]]))
    found = viewer("translate", to, network).predict(image)
    assert found.probabilities == pytest.approx(expected.sort(descending=True).values.tolist(), rel=1e-4)


def test_dense_evaluation_is_the_mean_over_all_crops_where_nothing_pads() -> None:
    """VGG: class scores averaged over positions, then softmax, then the mean with the mirrored picture's.

    The network's strides are 4 together: crops begin at 0, 4, 8, 12 across 44 - 28 and at 0, 4 down 32.
    """
    image = picture(88, 64)
    network = Plain().eval()
    whole = to_tensor(image.resize((44, 32), Image.Resampling.BILINEAR), TO)
    expected = torch.zeros(4)
    for side in (whole, whole.flip(-1)):
        crops = [side[:, i : i + 28, j : j + 28] for i in range(0, 5, 4) for j in range(0, 17, 4)]
        with torch.inference_mode():
            expected += network(TO.normalise(torch.stack(crops))).mean(0).softmax(0) / 2
    found = viewer("dense", network=network).predict(image)
    assert found.probabilities == pytest.approx(expected.sort(descending=True).values.tolist(), rel=1e-4)


def test_dense_evaluation_of_an_image_of_the_network_s_size_is_a_flip() -> None:
    image = picture(28, 28, "L")
    found = [viewer(v, GREY).predict(image).probabilities for v in ("dense", "flip")]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_several_scales_are_the_mean_of_each() -> None:
    image = picture(60, 50)
    whole = viewer("multi_scale")
    groups = whole.views.cut(image, TO)
    with torch.inference_mode():
        each = [whole.model(TO.normalise(g)).mean((2, 3)).softmax(1) for g in groups]
    assert len({tuple(g.shape) for g in groups}) == 3
    expected = torch.cat(each).mean(0).sort(descending=True).values.tolist()
    assert whole.predict(image).probabilities == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "to", [TO, GREY, Preprocessing((28, 28), channels="BGR")], ids=["rgb", "grey", "bgr"]
)
def test_small_and_grey_pictures_are_predicted(views: str, mode: str, to: Preprocessing) -> None:
    found = viewer(views, to).predict(picture(5, 3, mode), top=4)
    assert sum(found.probabilities) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("views", VIEWS)
def test_a_part_is_predicted_as_its_pictures_are(views: str, tmp_path: Path) -> None:
    """Pictures of different shapes, more than are cut at once."""
    count = 9
    for i in range(count):
        picture(30 + 5 * (i % 3), 40 - 2 * (i // 4), seed=i).save(tmp_path / f"{i}.png")
    part = Part([f"{i}.png" for i in range(count)], [i % 4 for i in range(count)], tmp_path)
    looking = viewer(views)
    for workers in (0, 2):
        pairs = list(looking.outputs(part, workers))
        assert torch.cat([labels for _, labels in pairs]).tolist() == part.labels
        found = torch.cat([found for found, _ in pairs]).exp()
        each = [looking.predict(tmp_path / f"{i}.png", top=4) for i in range(count)]
        for row, one in zip(found, each, strict=True):
            assert row.sort(descending=True).values.tolist() == pytest.approx(one.probabilities, rel=1e-3)


def test_cutting_keeps_to_the_memory_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part(list("abcdefg"), [0] * 7, None, torch.randint(256, (7, 3, 28, 28), dtype=torch.uint8))
    monkeypatch.setattr("cnnkit.tasks.views.BYTES", 2 * 10 * 3 * 28 * 28)
    sizes = [len(labels) for _, labels in viewer("ten_crop").outputs(part)]
    assert sizes == [2, 2, 2, 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(2, 5), st.integers(0, 100))
def test_fusion_is_the_mean_of_probabilities(networks: int, pictures: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 50 * torch.randn(networks, pictures, classes, generator=generator, dtype=torch.float64)
    expected = sum(one.softmax(1) for one in logits) / networks
    torch.testing.assert_close(fused(list(logits.log_softmax(2))).exp(), expected)


def test_whitened_images_are_looked_at_in_crops_and_not_as_a_whole() -> None:
    images = torch.randint(256, (50, 1, 12, 12), dtype=torch.uint8)
    to = Preprocessing((12, 12), mean=(0.5,), std=(0.3,), channels="L", normalisation="zca")
    to = fit_preprocessing(to, lambda: images)
    assert len(viewer("ten_crop", to).predict(picture(20, 30)).classes) == 4
    with pytest.raises(Misuse, match="whitening is of 12 x 12 images; use --views ten_crop"):
        viewer("dense", to)


def test_a_network_that_cannot_slide_says_so() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft2(x).abs().flatten(1)[:, :4]

    with pytest.raises(Misuse, match=r"dense needs a network that slides: .*use --views ten_crop"):
        viewer("dense", network=Odd())


def test_unknown_views_are_refused_with_the_nearest() -> None:
    with pytest.raises(Misuse, match="no views 'tencrop'; did you mean ten_crop"):
        viewer("tencrop")
