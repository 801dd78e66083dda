"""What the network reads: each normalisation against arithmetic by hand, learned once, stored beside the
weights.
"""

import pickle
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA
from torch import Tensor, nn

from cnnkit import data
from cnnkit.data.pictures import to_picture
from cnnkit.errors import Failure
from cnnkit.models import create
from cnnkit.tasks.classify import Classifier
from cnnkit.weights import artefact
from cnnkit.weights.artefact import Card
from cnnkit.weights.preprocessing import EPSILON, Preprocessing, fit_preprocessing

LEARNED = ["pca", "zca", "gcn_zca"]
COLOUR = Preprocessing((4, 5), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def pixels(count: int = 400, channels: int = 3, size: tuple[int, int] = (4, 5), seed: int = 0) -> Tensor:
    """Bytes whose neighbours and channels resemble each other. Shape: (count, channels, *size)"""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, channels, *size, generator=generator)
    light = torch.rand(count, 1, 1, 1, generator=generator)
    return (255 * (0.5 * noise + 0.5 * light)).to(torch.uint8)


def learned(normalisation: str, to: Preprocessing = COLOUR, images: Tensor | None = None) -> Preprocessing:
    found = replace(to, normalisation=normalisation)  # type: ignore[arg-type]
    return fit_preprocessing(found, lambda: pixels() if images is None else images)


def test_dataset_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    made = COLOUR.normalise(torch.full((1, 3, 4, 5), 204, dtype=torch.uint8))
    assert made[0, :, 0, 0].tolist() == pytest.approx([(0.8 - 0.4) / 0.2, 0.3 / 0.25, 0.2 / 0.3], rel=1e-5)


def test_image_brings_each_image_to_mean_0_and_deviation_1() -> None:
    made = replace(COLOUR, normalisation="image").normalise(pixels(3)).flatten(1)
    assert made.mean(1).tolist() == pytest.approx([0] * 3, abs=1e-6)
    assert made.std(1, correction=0).tolist() == pytest.approx([1] * 3, rel=1e-5)


def test_an_even_image_stays_finite_under_every_normalisation() -> None:
    even = torch.full((2, 3, 4, 5), 77, dtype=torch.uint8)
    for name in ("dataset", "image", "lcn", *LEARNED):
        assert learned(name).normalise(even).isfinite().all(), name


def test_pca_colours_are_the_components_of_scikit_learn() -> None:
    """Of standardised pixels; epsilon takes a component of variance l to l / (l + 0.001)."""
    rows = COLOUR.normalise(pixels()).movedim(1, -1).reshape(-1, 3).double().numpy()
    theirs = PCA(whiten=True).fit(rows)
    shrunk = np.sqrt(theirs.explained_variance_ / (theirs.explained_variance_ + EPSILON["pca"]))
    made = learned("pca").normalise(pixels())
    ours = made.movedim(1, -1).reshape(-1, 3).numpy()
    expected = theirs.transform(rows) * shrunk
    signs = np.sign((ours * expected).sum(0))
    assert np.allclose(ours * signs, expected, atol=1e-4)
    assert np.allclose(np.cov(ours.T), np.eye(3), atol=0.01)


@pytest.mark.parametrize("name", ["zca", "gcn_zca"])
def test_zca_takes_every_correlation_of_the_training_part(name: str) -> None:
    """The covariance C becomes C (C + 0.1)^-1, whose eigenvalues are l / (l + 0.1)."""
    before = replace(COLOUR, normalisation="image" if name == "gcn_zca" else "dataset").normalise(pixels())
    spread = np.cov(before.flatten(1).double().numpy().T)
    made = np.cov(learned(name).normalise(pixels()).flatten(1).double().numpy().T)
    assert np.allclose(made, spread @ np.linalg.inv(spread + 0.1 * np.eye(60)), atol=1e-4)


def test_zca_leaves_every_value_at_its_place() -> None:
    """Whitened or not, a pixel that is bright among its neighbours is bright: ZCA changes least."""
    images = pixels(50)
    plain, made = (found.normalise(images).flatten(1) for found in (COLOUR, learned("zca")))
    both = torch.corrcoef(torch.cat([plain, made], dim=1).T)[:60, 60:]
    assert (both.argmax(1) == torch.arange(60)).all()


def test_grey_images_are_whitened_too() -> None:
    to = Preprocessing((4, 5), mean=(0.5,), std=(0.25,), channels="L")
    images = pixels(channels=1)
    made = learned("zca", to, images).normalise(images)
    assert made.shape == images.shape
    assert np.cov(made.flatten(1).numpy().T)[np.triu_indices(20, 1)].max() < 0.2
    with pytest.raises(ValueError, match="grey images have none"):
        replace(to, normalisation="pca")


def test_the_training_part_is_read_only_where_something_is_learned() -> None:
    def never() -> Tensor:
        raise AssertionError("read")

    for name in ("dataset", "image", "lcn"):
        found = replace(COLOUR, normalisation=name)
        assert fit_preprocessing(found, never) is found
    with pytest.raises(AssertionError, match="read"):
        fit_preprocessing(replace(COLOUR, normalisation="zca"), never)


@pytest.mark.parametrize("name", ["dataset", "image", "lcn", *LEARNED])
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    found, images = learned(name), pixels(5, seed=3)
    alone = torch.cat([found.normalise(image[None]) for image in images])
    torch.testing.assert_close(alone, found.normalise(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["image", "lcn", *LEARNED])
def test_sixteen_bit_arithmetic_around_it_changes_nothing(name: str) -> None:
    found, images = learned(name), pixels(5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = found.normalise(images)
    assert torch.equal(mixed, found.normalise(images))
    assert mixed.dtype == torch.float32


def test_what_is_learned_is_copied_to_a_device_once_and_serves_training_too() -> None:
    whitening, other = learned("zca").whitening, torch.device("meta")
    assert whitening.on(torch.device("cpu")) is whitening
    with torch.inference_mode():
        copy = whitening.on(other)
    assert copy.matrix.device == other
    assert whitening.on(other) is copy
    assert not copy.matrix.is_inference()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", ["dataset", "image", "lcn", *LEARNED])
def test_a_gpu_gives_what_the_processor_gives(name: str) -> None:
    found, images = learned(name), pixels(5)
    for _ in range(2):
        made = found.normalise(images.cuda())
        assert made.is_cuda
        torch.testing.assert_close(made.cpu(), found.normalise(images), rtol=1e-4, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["dataset", "image", "lcn", "pca", "zca", "gcn_zca"]),
    st.sampled_from(["crop", "squash", "pad"]),
    st.integers(1, 30),
)
def test_the_plain_record_survives_toml(name: str, fit: str, side: int) -> None:
    found = Preprocessing((side, side), fit=fit, normalisation=name)  # type: ignore[arg-type]
    assert Preprocessing.from_dict(tomllib.loads(tomli_w.dumps(found.to_dict()))) == found


def test_records_of_before_are_read_as_they_were_meant() -> None:
    old = {
        "size": [28, 28],
        "fit": "pad",
        "keep": 1.0,
        "interpolation": "bilinear",
        "mean": [0.1],
        "std": [0.3],
        "channels": "L",
    }
    assert Preprocessing.from_dict(old) == Preprocessing(
        (28, 28), "pad", 1.0, "bilinear", (0.1,), (0.3,), "L"
    )
    assert Preprocessing.from_dict(old).normalisation == "dataset"


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"up to 4,096 values, and 3 x 224 x 224 are 150,528; use pca, lcn"):
        Preprocessing((224, 224), normalisation="zca")
    with pytest.raises(ValueError, match="zca was not learned yet"):
        replace(COLOUR, normalisation="zca").normalise(pixels(1))
    with pytest.raises(ValueError, match="learn it anew"):
        replace(learned("zca"), size=(5, 5))
    with pytest.raises(ValueError, match="at least two rows"):
        learned("zca", images=pixels(1))
    with pytest.raises(ValueError, match="of 60 values, got rows of 75"):
        learned("zca").normalise(pixels(1, size=(5, 5)))


def test_it_travels_to_worker_processes() -> None:
    found = learned("zca")
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert torch.equal(again.normalise(pixels(2)), found.normalise(pixels(2)))


def lenet(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return create("lenet5_relu", num_classes=2, in_channels=channels).eval()


def card(to: Preprocessing) -> Card:
    arguments = {"num_classes": 2, "in_channels": len(to.mean)}
    return Card(
        model="lenet5_relu", task="classify", classes=["a", "b"], preprocessing=to, arguments=arguments
    )


@pytest.fixture(scope="module", params=LEARNED)
def whitened(request: pytest.FixtureRequest) -> tuple[Preprocessing, Tensor]:
    """Preprocessing for LeNet's images, and some of them."""
    channels = 3 if request.param == "pca" else 1
    to = Preprocessing(
        (28, 28), mean=(0.5,) * channels, std=(0.25,) * channels, channels="RGB" if channels == 3 else "L"
    )
    images = pixels(60, channels, (28, 28))
    return learned(request.param, to, images), images


def test_an_artefact_predicts_what_was_trained(
    whitened: tuple[Preprocessing, Tensor], tmp_path: Path
) -> None:
    to, images = whitened
    network = lenet(len(to.mean))
    artefact.save(tmp_path / "a.safetensors", network.state_dict(), card(to))
    model, found = artefact.load(tmp_path / "a.safetensors")
    assert found.preprocessing == to
    expected = network(to.normalise(images[:3]))
    assert torch.equal(model(found.preprocessing.normalise(images[:3])), expected)
    picture = tmp_path / "p.png"
    to_picture(images[0]).save(picture)
    likeliest = Classifier(model, found).predict(picture)
    assert likeliest.probabilities[0] == pytest.approx(expected[0].softmax(0).max().item(), rel=1e-5)
    assert artefact.read_card(tmp_path / "a.safetensors").preprocessing == replace(to, whitening=None)


def test_an_artefact_is_not_written_before_the_whitening_is_learned(tmp_path: Path) -> None:
    to = replace(COLOUR, normalisation="zca")
    with pytest.raises(ValueError, match="not learned yet"):
        artefact.save(tmp_path / "a.safetensors", lenet().state_dict(), card(to))
    assert not list(tmp_path.iterdir())


def test_an_artefact_without_its_whitening_or_with_another_is_refused(tmp_path: Path) -> None:
    path, to = tmp_path / "a.safetensors", learned("zca")
    artefact.save(path, lenet().state_dict(), card(to))
    document = artefact._card.dump_json(card(to), exclude={"preprocessing": {"whitening"}}).decode()
    entries = load_file(path)
    for change, reason in (
        ({"preprocessing.matrix": torch.zeros(60, 59)}, r"preprocessing.matrix is \(60, 59\) instead of"),
        ({"preprocessing.matrix": None}, "preprocessing.matrix is missing"),
        ({"preprocessing.other": torch.zeros(1)}, "preprocessing.other is not part of it"),
    ):
        wrong = {name: tensor for name, tensor in (entries | change).items() if tensor is not None}
        save_file(wrong, path, metadata={"cnnkit": document})
        with pytest.raises(Failure, match=reason):
            artefact.load(path)


@pytest.mark.parametrize("name", ["dataset", *LEARNED])
def test_a_run_that_is_resumed_finds_it_again(name: str, tmp_path: Path) -> None:
    found = learned(name)
    artefact.save_preprocessing(tmp_path / "p.safetensors", found)
    assert artefact.load_preprocessing(tmp_path / "p.safetensors") == found
    artefact.save(tmp_path / "a.safetensors", lenet().state_dict(), card(found))
    with pytest.raises(Failure, match="holds no preprocessing"):
        artefact.load_preprocessing(tmp_path / "a.safetensors")


@pytest.mark.realdata
def test_zca_decorrelates_neighbours_of_real_digits(realdata: Path) -> None:
    part = data.open("mnist", data_dir=realdata).parts["train"].select(range(2000))
    assert part.pixels is not None
    to = Preprocessing((28, 28), "pad", 1.0, mean=(0.1307,), std=(0.3081,), channels="L")
    plain, white = (made.normalise(part.pixels) for made in (to, learned("zca", to, part.pixels)))

    def beside(images: Tensor) -> float:
        """Correlation of the pixels right of each other in the middle of the images."""
        left, right = images[:, 0, 8:20, 8:19].flatten(), images[:, 0, 8:20, 9:20].flatten()
        return torch.corrcoef(torch.stack([left, right]))[0, 1].item()

    assert beside(plain) > 0.7
    assert abs(beside(white)) < 0.2
