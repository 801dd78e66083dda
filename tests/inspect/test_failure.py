"""What a trace says when it cannot go on: one sentence that names the layer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from cnnkit.inspect.failure import TraceError
from cnnkit.inspect.trace import trace

from .networks import SPECS, built


@torch.library.custom_op("cnnkit_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    """An operator of whose shape PyTorch knows nothing."""
    return x * 2


class Lambda(nn.Module):
    """A function as a module, with modules of its own."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.parts, self.function = nn.ModuleList(parts), function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, *self.parts)


class Chooser(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return x
        return -x


class Net(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.part = part

    def forward(self, images: Tensor) -> Tensor:
        return self.part(self.stem(images))


class Asked(NamedTuple):
    """A module behind the stem, the input, and what is said."""

    part: nn.Module
    inputs: tuple[Any, ...]
    says: str


SAID = {
    "channels": Asked(
        nn.Identity(), (torch.zeros(1, 4, 8, 8),), r"layer 'stem.0' \(Conv2d\) .* it takes 3 channels, not 4"
    ),
    "too small": Asked(
        nn.MaxPool2d(4),
        (torch.zeros(1, 3, 5, 5),),
        r"layer 'part' \(MaxPool2d\) .* a map of 3x3 is too small .* 4x4",
    ),
    "too small for a kernel": Asked(
        nn.Conv2d(8, 8, 5),
        (torch.zeros(1, 3, 6, 6),),
        r"layer 'part' \(Conv2d\) .* a map of 4x4 is too small .* 5x5",
    ),
    "features": Asked(
        nn.Sequential(nn.Flatten(), nn.Linear(100, 2)),
        (torch.zeros(1, 3, 8, 8),),
        r"layer 'part.1' \(Linear\) fails on an input of shape \(1, 288\): it takes 100 features, not 288",
    ),
    "no dimensions": Asked(nn.Identity(), (torch.zeros(8),), r"layer 'stem.0' \(Conv2d\) .*\(8,\)"),
    "numbers": Asked(
        Chooser(),
        (torch.zeros(1, 3, 8, 8),),
        r"'part' \(Chooser\) decides by the numbers .*\(test_failure.py:\d+: `if x.mean\(\) > 0:`\); .*--run",
    ),
    "a value": Asked(
        Lambda(lambda x: x * x.max().item()),
        (torch.zeros(1, 3, 8, 8),),
        r"layer 'part' \(Lambda\) decides by the numbers .*item\(\).* run=True",
    ),
    "an array": Asked(
        Lambda(lambda x: x.numpy()), (torch.zeros(1, 3, 8, 8),), r"layer 'part' .* numbers .*run=True"
    ),
    "a mask": Asked(
        Lambda(lambda x: x[x > 0]), (torch.zeros(1, 3, 8, 8),), r"layer 'part' .* numbers .*run=True"
    ),
    "lengths": Asked(
        Lambda(lambda x: pack_padded_sequence(x.flatten(2), torch.tensor([4]), batch_first=True)),
        (torch.zeros(1, 3, 8, 8),),
        r"layer 'part' .* numbers .*run=True",
    ),
    "an operator of ones own": Asked(
        Lambda(lambda x: doubled(x)),
        (torch.zeros(1, 3, 8, 8),),
        r"layer 'part' .* only once it has run .*run=True",
    ),
    "a gradient": Asked(
        Lambda(lambda x: torch.autograd.grad(x.sum(), x)),
        (torch.zeros(1, 3, 8, 8),),
        r"layer 'part' \(Lambda\) asks for gradients in its forward",
    ),
    "sparse": Asked(
        Lambda(lambda x: torch.sparse.mm(torch.eye(6).to_sparse(), x[0, 0])),
        (torch.zeros(1, 3, 8, 8),),
        r"layer 'part' \(Lambda\) computes with sparse tensors",
    ),
    "a word that is not there": Asked(
        Lambda(lambda x: functional.relu(x, bad=1)),
        (torch.zeros(1, 3, 8, 8),),
        r"'part' \(Lambda\) cannot .*'bad' \(test_failure.py:\d+: `Lambda",
    ),
    "no input": Asked(
        nn.Identity(),
        (),
        r"the network itself \(Net\) cannot be called .* missing a required argument: 'images'$",
    ),
    "shape unknown": Asked(
        nn.LazyConv2d(4, 3), (torch.zeros(1, 3, 8, 8),), r"layer 'part' .* has no shape yet"
    ),
    "types": Asked(
        nn.Identity(), (torch.zeros(1, 3, 8, 8, dtype=torch.float64),), r"layer 'stem.0' \(Conv2d\) fails"
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_failures_are_one_sentence_that_names_the_layer(name: str) -> None:
    part, inputs, says = SAID[name]
    with pytest.raises(ValueError, match=says) as caught:
        trace(Net(part), *inputs)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300


def test_code_beside_pytorch_is_the_networks_own() -> None:
    beside = Path(torch.__file__).parent.parent / "torchnetworks" / "part.py"
    space: dict[str, Any] = {}
    exec(compile("def choose(x):\n    return x if x.sum() > 0 else -x", str(beside), "exec"), space)
    with pytest.raises(TraceError, match=r"\(part.py:2: ``\)"):
        trace(Lambda(space["choose"]), torch.zeros(3))


def test_a_list_of_an_inputs_numbers_is_not_there() -> None:
    with pytest.raises(TraceError, match=r"decides by the numbers .*tolist\(\)"):
        trace(Lambda(lambda x: x.tolist()), torch.zeros(3))


def test_a_network_that_cannot_begin_is_left_in_training_mode() -> None:
    model = Net(nn.LazyConv2d(4, 3)).train()
    with pytest.raises(TraceError, match="no shape yet"):
        trace(model, torch.zeros(1, 3, 8, 8))
    assert all(part.training for part in model.modules())


def test_a_real_forward_needs_real_numbers() -> None:
    with pytest.raises(TraceError, match="must not be on the meta device"):
        trace(nn.ReLU(), torch.zeros(3, device="meta"), run=True)


def test_networks_that_are_too_small_for_an_image_say_where() -> None:
    with pytest.raises(TraceError, match=r"layer '.+' \(\w+\) fails on an input of shape .* too small"):
        trace(built(SPECS["vgg16"]), torch.zeros(1, 3, 16, 16))
