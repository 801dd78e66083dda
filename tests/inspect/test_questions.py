"""The questions that networks are asked: which layers they are about, and what the answer holds."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from cnnkit.errors import Misuse
from cnnkit.inspect.inputs import Form, arguments
from cnnkit.inspect.questions import checked, dense, ends, used, wanted
from cnnkit.inspect.subject import Subject
from cnnkit.inspect.trace import trace

from .networks import SPECS, built, example


def quiet(words: str) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet50", ["stem.0", "stages.0", "stages.1", "stages.2", "stages.3", "head.0"]),
        ("googlenet", ["segments.0.0", "segments.0", "segments.1", "segments.4", "segments.5", "head.0"]),
        ("vgg16", ["stages.0", "stages.1", "stages.2", "stages.3", "stages.4", "head.1"]),
        ("densenet121", ["stem.0", "stages.0", "stages.1", "stages.2", "norm", "head.0"]),
    ],
)
def test_each_resolution_ends_with_a_layer(name: str, layers: list[str]) -> None:
    assert ends(trace(built(SPECS[name]), *example(SPECS[name]))) == layers


def test_one_sequence_ends_each_resolution_where_the_next_begins() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1))
    assert ends(trace(net, torch.zeros(1, 3, 8, 8))) == ["1", "3"]
    assert ends(trace(nn.Sequential(net), torch.zeros(1, 3, 8, 8))) == ["0.1", "0"]


def test_layers_are_taken_as_they_are_asked_for() -> None:
    made = trace(built(SPECS["lenet5_relu"]), *example(SPECS["lenet5_relu"]))
    assert wanted(made, ["stages.0.0"]) == ["stages.0.0"]
    assert len(wanted(made, ["all"])) == len([c for c in made.root.calls() if c.path])
    with pytest.raises(Misuse, match=r"'conv1' is no layer that is called; there are stages.0, stages.0.0"):
        wanted(made, ["conv1"])


class Blind(nn.Module):
    """Sees the mean of its image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mean((2, 3)))


def test_where_nothing_has_a_place_there_is_nothing_to_check_or_measure() -> None:
    blind = Subject("blind", Blind, (Form((3, 8, 8)),))
    with pytest.raises(Misuse, match="blind has no layer that sees a part of an image"):
        checked(blind, [], quiet)
    with pytest.raises(Misuse, match="blind has no layer with a map of units over an image"):
        used(blind, [], 1, quiet)
    plain = Subject("plain", lambda: nn.Linear(3, 2), (Form((3,)),))
    with pytest.raises(Misuse, match="plain has no layer that sees a part of an image"):
        checked(plain, [], quiet)


def test_random_weights_differ_from_draw_to_draw_and_trained_ones_do_not() -> None:
    one = Subject("one", lambda: nn.Conv2d(3, 4, 3), (Form((3, 8, 8)),))
    first, again, other = (one.real(seed).weight for seed in (0, 0, 1))  # type: ignore[union-attr]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    fixed = nn.Conv2d(3, 4, 3)
    kept = Subject("kept", lambda: fixed, is_trained=True)
    assert kept.real(0) is kept.real(1) is kept.hollow() is fixed


def test_a_network_is_built_without_memory_where_its_constructor_allows_it() -> None:
    assert next(Subject("one", lambda: nn.Linear(3, 4)).hollow().parameters()).is_meta


def test_a_convolution_of_a_file_without_a_batch_in_its_costs() -> None:
    one = Subject("one", lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), (Form((3, 8, 8)),))
    found = dense(one, "0")
    assert [w["macs"] for w in found.record["wirings"]] == [36 * 4 * 27, 36 * 4 * 27, 36 * 4 * 192]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("3,224,224", Form((3, 224, 224))),
        ("3x224x224", Form((3, 224, 224))),
        (" 3, 8 ", Form((3, 8))),
        ("int64:16", Form((16,), "int64")),
        ("int64:", Form((), "int64")),
        ("mask=bool:4,4", Form((4, 4), "bool", "mask")),
        ("list:3,8,8", Form((3, 8, 8), listed=True)),
        ("images=list:float16:3,8,8", Form((3, 8, 8), "float16", "images", True)),
    ],
)
def test_inputs_are_read_as_they_are_written(text: str, form: Form) -> None:
    assert Form.read(text) == form


@pytest.mark.parametrize("text", ["", "3,", "0", "a", "int64", "=3", "list:", "3,-4", "float8:3", "9" * 20])
def test_what_is_no_input_is_refused(text: str) -> None:
    with pytest.raises(Misuse):
        Form.read(text)


def test_inputs_become_tensors_with_a_batch_and_lists_without() -> None:
    forms = [Form.read(text) for text in ("3,4", "int64:", "list:3,5", "mask=bool:2")]
    (image, number, images), named = arguments(forms, 2)
    assert (image.shape, number.shape, number.dtype) == ((2, 3, 4), (2,), torch.int64)
    assert [x.shape for x in images] == [(3, 5)] * 2
    assert named["mask"].dtype == torch.bool
    assert image.is_meta
    (real, *_), _ = arguments(forms, 2, "cpu")
    assert real.std() > 0.3


def test_a_hollow_network_is_built_without_drawing_its_weights() -> None:
    """Drawing on the meta device imports torch's compiler, which takes longer than all the rest."""
    program = (
        "import sys\nfrom cnnkit.inspect.subject import subject\n"
        "network = subject('resnet18').hollow()\n"
        "print(next(network.parameters()).is_meta, 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
