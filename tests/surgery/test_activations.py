"""Non-linearities exchanged: everywhere, each its own module, the weights as they were."""

import pytest
import torch
from torch import nn

from cnnkit.models import create
from cnnkit.surgery.activations import ACTIVATIONS, swap_activations
from cnnkit.surgery.changes import replay


def test_every_relu_becomes_a_tanh_of_its_own_and_no_weight_changes_its_name() -> None:
    network = create("lenet5_relu", in_channels=1)
    names = list(network.state_dict())
    replay(network, [{"change": "swap_activations", "kind": "tanh"}])
    made = [m for m in network.modules() if isinstance(m, nn.Tanh)]
    assert len({id(m) for m in made}) == len(made) == 4
    assert not any(isinstance(m, nn.ReLU) for m in network.modules())
    assert list(network.state_dict()) == names


def test_the_network_computes_with_what_was_put_in() -> None:
    """A net of one weight 2 and input 0.5: tanh(1), sigmoid(1), and back to relu(1)."""
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
    nn.init.constant_(network[0].weight, 2.0)  # type: ignore[arg-type]
    x = torch.tensor([[0.5]])
    for kind, value in {"tanh": 0.76159416, "relu": 1.0, "silu": 0.73105858}.items():
        assert swap_activations(network, kind)(x).item() == pytest.approx(value, abs=1e-6)


def test_one_module_in_two_places_becomes_two() -> None:
    relu = nn.ReLU()
    network = swap_activations(nn.Sequential(relu, nn.Flatten(), relu), "elu")
    assert network[0] is not network[2]  # type: ignore[index]


def test_gates_stay_and_what_cannot_be_exchanged_is_refused() -> None:
    gated = nn.Sequential(nn.ReLU(), nn.Sigmoid())
    assert isinstance(swap_activations(gated, "tanh")[1], nn.Sigmoid)  # type: ignore[index]
    with pytest.raises(ValueError, match="no activation"):
        swap_activations(nn.Sequential(nn.Linear(2, 2)), "tanh")
    with pytest.raises(LookupError, match="relu"):
        swap_activations(nn.Sequential(nn.ReLU()), "relo")
    assert set(ACTIVATIONS) == {"relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "silu"}
