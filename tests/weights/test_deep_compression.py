"""Files of Deep Compression: what they hold, written out by hand, and what is said of damaged ones."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cnnkit.data.pictures import fit, to_tensor
from cnnkit.errors import Failure
from cnnkit.models import create
from cnnkit.verify.checks import carry_over
from cnnkit.weights.deep_compression import Layer, load_deep_compression, read_deep_compression
from cnnkit.weights.preprocessing import Preprocessing

CLASSES = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]

#: A layer of 2 x 20 weights with codes of 4 bits, and one of 3 weights with codes of 8.
LAYERS = [Layer("a", (2, 20), bits=4), Layer("b", (1, 3, 1, 1))]


def codebook(bits: int, **values: float) -> bytes:
    """A codebook that is 0 but where `_code=value` says otherwise."""
    entries = [values.get(f"_{code}", 0.0) for code in range(2**bits)]
    return struct.pack(f"<{len(entries)}f", *entries)


def by_hand(second_gap: int = 15, zero: float = 0.0, bias: float = 7.0) -> bytes:
    """Layer a stores weights 2, 18 (code 0, a bridge) and 21; layer b its weight 1."""
    return b"".join(
        [
            struct.pack("<2I", 3, 1),
            codebook(4, _0=zero, _5=0.5, _9=-2.0),
            struct.pack("<2f", 1.0, -1.0),
            bytes([0x05, 0x09]),  # codes 5 and 0, then 9
            bytes([second_gap << 4 | 2, 2]),  # gaps 2 and 15, then 2
            codebook(8, _200=3.0),
            struct.pack("<f", bias),
            bytes([200]),
            bytes([1]),
        ]
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net"
    path.write_bytes(by_hand())
    return path


def test_a_file_written_by_hand_is_read_as_it_was_meant(file: Path) -> None:
    entries = read_deep_compression(file, LAYERS)
    a = torch.zeros(40)
    a[2], a[21] = 0.5, -2.0
    expected = {
        "a.weight": a.view(2, 20),
        "a.bias": torch.tensor([1.0, -1.0]),
        "b.weight": torch.tensor([0.0, 3.0, 0.0]).view(1, 3, 1, 1),
        "b.bias": torch.tensor([7.0]),
    }
    assert list(entries) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(entries[name], tensor), name


def encode(codes: list[int], bits: int) -> tuple[int, bytes, bytes]:
    """How many entries are stored for these codes, and the bytes of their codes and gaps."""
    stored, gap = [], 0
    for code in codes:
        if code or gap == 15:
            stored.append((code, gap))
            gap = 0
        else:
            gap += 1
    nibbles = [gap for _, gap in stored]
    gaps = bytes(a | b << 4 for a, b in zip(nibbles[::2], [*nibbles[1::2], 0], strict=False))
    raw = [code for code, _ in stored]
    packed = (
        bytes(raw)
        if bits == 8
        else bytes(a | b << 4 for a, b in zip(raw[::2], [*raw[1::2], 0], strict=False))
    )
    return len(stored), packed, gaps


@given(bits=st.sampled_from([4, 8]), data=st.data())
def test_what_was_encoded_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, bits: int, data: st.DataObject
) -> None:
    sparse = st.one_of(st.just(0), st.just(0), st.just(0), st.integers(0, 2**bits - 1))
    codes = data.draw(st.lists(sparse, min_size=1, max_size=120))
    values = np.concatenate([[0], np.random.default_rng(0).normal(size=2**bits - 1)]).astype("<f4")
    count, packed, gaps = encode(codes, bits)
    path = tmp_path_factory.getbasetemp() / "encoded"
    path.write_bytes(struct.pack("<I", count) + values.tobytes() + struct.pack("<f", 0.25) + packed + gaps)
    entries = read_deep_compression(path, [Layer("x", (1, len(codes)), bits)])
    assert entries["x.weight"].numpy().ravel().tolist() == values[codes].tolist()


def test_a_file_cut_short_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(Failure, match=r"ends within .*bytes are needed and \d+ left"):
            read_deep_compression(file, LAYERS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (by_hand() + b"\0", "goes on for 1 bytes after its last layer"),
        (by_hand(zero=0.1), "code 0 of a must stand for 0"),
        (by_hand(bias=float("nan")), "b has a value that is not finite"),
    ],
    ids=["too long", "code 0 is not 0", "not finite"],
)
def test_a_damaged_file_is_refused_with_a_sentence(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(Failure, match=said):
        read_deep_compression(file, LAYERS)


def test_a_gap_past_the_end_of_a_layer_is_refused(file: Path) -> None:
    file.write_bytes(by_hand()[:-1] + bytes([3]))
    with pytest.raises(Failure, match="the gaps of b reach 4 of 3 weights"):
        read_deep_compression(file, LAYERS)


def test_a_number_of_weights_that_no_file_holds_allocates_nothing(file: Path) -> None:
    file.write_bytes(struct.pack("<2I", 2**32 - 1, 1) + by_hand()[8:])
    with pytest.raises(Failure, match="ends within the codes of a: 2147483648 bytes are needed"):
        read_deep_compression(file, LAYERS)


def test_a_missing_file_and_a_width_that_no_file_has_are_refused(file: Path) -> None:
    with pytest.raises(Failure, match="there is no file"):
        read_deep_compression(file.with_name("other"), LAYERS)
    with pytest.raises(ValueError, match="codes of a must be 4 or 8 bits wide, got 5"):
        read_deep_compression(file, [LAYERS[0]._replace(bits=5)])


@pytest.fixture(scope="module")
def squeezenet(realdata: Path) -> Path:
    return realdata / "squeezenet_deep_compression" / "compressed_SqueezeNet.net"


@pytest.mark.realdata
@pytest.mark.reference
@pytest.mark.parametrize(("picture", "name"), [("chelsea", "Egyptian cat"), ("coffee", "espresso")])
@torch.no_grad()
def test_the_published_squeezenet_knows_a_cat_and_a_cup_of_coffee(
    squeezenet: Path, picture: str, name: str
) -> None:
    net = load_deep_compression(squeezenet)
    network = create(net.model, **net.arguments).eval()
    network.load_state_dict(net.weights)
    probabilities = network(pixels(picture, net.preprocessing)).softmax(1)[0]
    assert name in [CLASSES[i] for i in probabilities.topk(2).indices.tolist()]


@pytest.mark.realdata
@pytest.mark.reference
@pytest.mark.parametrize(
    ("picture", "name", "probability"), [("chelsea", "Egyptian cat", 0.81), ("coffee", "espresso", 0.995)]
)
@torch.no_grad()
def test_torchvisions_network_gives_the_probabilities_that_others_found_with_these_weights(
    squeezenet: Path, picture: str, name: str, probability: float
) -> None:
    """As written down beside the file: the picture squashed to 256 x 256, the last convolution unpadded."""
    net = load_deep_compression(squeezenet)
    network = torchvision.models.squeezenet1_0().eval()
    carry_over(net.weights, network)
    squashed = pixels(picture, net.preprocessing, squash=(256, 256))
    assert network(squashed).softmax(1)[0, CLASSES.index(name)].item() == pytest.approx(
        probability, abs=0.005
    )


def pixels(picture: str, preprocessing: Preprocessing, squash: tuple[int, int] | None = None) -> torch.Tensor:
    """One of scikit-image's pictures as the network wants it. Shape: (1, 3, H, W)"""
    image = Image.fromarray(getattr(pytest.importorskip("skimage.data"), picture)())
    if squash is not None:
        image = image.resize(squash, Image.Resampling.BILINEAR)
    return preprocessing.normalise(to_tensor(fit(image, preprocessing), preprocessing)[None])


@pytest.mark.realdata
def test_the_published_squeezenet_keeps_a_third_of_its_weights(squeezenet: Path) -> None:
    weights = load_deep_compression(squeezenet).weights
    kernels = torch.cat([tensor.flatten() for name, tensor in weights.items() if name.endswith("weight")])
    assert kernels.count_nonzero() / len(kernels) == pytest.approx(0.33, abs=0.005)


@pytest.mark.realdata
def test_the_published_squeezenet_is_built_and_fed_as_its_definition_says(squeezenet: Path) -> None:
    """The authors' deploy.prototxt pads the last convolution; their trainval.prototxt has crop and means."""
    net = load_deep_compression(squeezenet)
    assert create(net.model, **net.arguments).head[1].padding == (1, 1)
    assert net.preprocessing.size == (227, 227)
    white = net.preprocessing.normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))
    assert white.flatten().tolist() == pytest.approx([255 - 104, 255 - 117, 255 - 123])
