"""A network in two towers on two processes computes and learns what it does in one."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from cnnkit.models import create
from cnnkit.surgery import towers
from cnnkit.surgery.towers import put_together, tower

from ..train.two import Two

SIZE, CLASSES, RATE = 227, 6, 0.05


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    pair = Two()
    yield pair
    pair.close()


def whole() -> nn.Module:
    """A narrow AlexNet in float64, without the draws of its dropout and with activations that are large."""
    torch.manual_seed(0)
    network = create("alexnet_two_tower", num_classes=CLASSES, width=1 / 16).double().eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    return network


def images() -> Tensor:
    return 30 * torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def step(network: nn.Module, x: Tensor) -> Tensor:
    """One step of gradient descent; the logits before it."""
    logits = network(x)
    functional.cross_entropy(logits, torch.tensor([1, 4])).backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= RATE * parameter.grad
    return logits.detach()


def learn(rank: int, port: int) -> dict[str, Any]:
    """A step of one tower, what crossed on the way, and the network that both make."""
    dist.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=2)
    try:
        crossed: list[int] = []
        half, x = tower(whole(), rank), images().requires_grad_()
        for join in (m for m in half.modules() if isinstance(m, towers.Join)):
            join.register_forward_pre_hook(lambda m, given: crossed.append(given[0].shape[1]))
        logits = step(half, x)
        after = whole()
        put_together(after, half)
        weights = sum(p.numel() for p in half.parameters())
        return {"logits": logits, "crossed": crossed, "after": after.state_dict(), "weights": weights}
    finally:
        dist.destroy_process_group()


def test_two_towers_in_two_processes_compute_and_learn_as_one_network(two: Two) -> None:
    network = whole()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    logits = step(network, images())
    port = free_port()
    first, second = two.run(learn, port)
    for found in (first, second):
        torch.testing.assert_close(found["logits"], logits, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found["after"], network.state_dict(), rtol=1e-10, atol=1e-12)
    assert all(not torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert first["weights"] == second["weights"] == sum(p.numel() for p in network.parameters()) // 2


def test_activations_cross_before_the_third_convolution_and_the_linear_layers_only(two: Two) -> None:
    first, second = two.run(learn, free_port())
    borders = [2, 2]  # of the two response norms
    maps, units = 256 // 32, 4096 // 32
    assert first["crossed"] == second["crossed"] == [*borders, maps, maps * 36, units, units, CLASSES // 2]


def free_port() -> int:
    """A port that nobody listens on."""
    store = dist.TCPStore("localhost", 0, is_master=True)
    port = store.port
    del store
    return port


def test_a_layer_of_odd_width_has_no_halves() -> None:
    with pytest.raises(ValueError, match="has no two halves"):
        tower(create("alexnet_two_tower", num_classes=5, width=1 / 16), 0)
