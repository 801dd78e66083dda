"""Stochastic depth as its paper defines it."""

import pytest
import torch
from torch import Tensor, nn

from cnnkit.layers import Residual
from cnnkit.models import create
from cnnkit.surgery import stochastic_depth
from cnnkit.surgery.stochastic_depth import Survival


class Adds(nn.Module):
    """A branch of one constant, which counts how often it is computed."""

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.constant, self.runs = constant, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return torch.full_like(x, self.constant)


def chain(*constants: float) -> nn.Sequential:
    return nn.Sequential(*(Residual(Adds(c), nn.Identity()) for c in constants))


def test_the_probability_falls_linearly_to_that_of_the_last_unit() -> None:
    network = create("stochastic_depth110_cifar10", width=0.25)
    found = [module.p for module in network.modules() if isinstance(module, Survival)]
    assert len(found) == 54
    assert found == pytest.approx([1 - unit / 54 * 0.5 for unit in range(1, 55)])
    assert sum(found) == pytest.approx((3 * 54 - 1) / 4)  # expected depth, section 3 of the paper


def test_in_evaluation_every_branch_counts_with_its_probability() -> None:
    """Two units of 1 and 10 at p = 0.75 and 0.5: 0 + 0.75 * 1 + 0.5 * 10 = 5.75."""
    network = stochastic_depth(chain(1, 10), survival=0.5).eval()
    assert network(torch.zeros(1, 1, 1, 1)).item() == pytest.approx(5.75)


def test_in_training_a_branch_survives_as_often_as_its_probability_says() -> None:
    """1000 draws at p = 0.75 and 0.5; the bounds are five standard deviations wide."""
    torch.manual_seed(0)
    network = stochastic_depth(chain(1, 10), survival=0.5).train()
    for _ in range(1000):
        assert network(torch.zeros(1, 1, 1, 1)).item() in (0, 1, 10, 11)
    first, second = (unit.branch.branch.runs for unit in network)
    assert abs(first - 750) < 5 * (1000 * 0.75 * 0.25) ** 0.5
    assert abs(second - 500) < 5 * (1000 * 0.5 * 0.5) ** 0.5


def test_a_branch_that_is_left_out_learns_nothing_and_keeps_its_statistics() -> None:
    network = create("stochastic_depth110_cifar10", width=0.25).train()
    survivals = [module for module in network.modules() if isinstance(module, Survival)]
    for survival in survivals[1::2]:
        survival.p = 0.0
    for survival in survivals[::2]:
        survival.p = 1.0
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    for survives, survival in zip([True, False] * 27, survivals, strict=True):
        norm = survival.branch[0][1]
        assert bool(norm.running_mean.any()) == survives
        assert (norm.weight.grad is not None) == survives


def test_a_survival_of_one_leaves_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    network, images = create("preresnet110_cifar10", width=0.25).train(), torch.randn(2, 3, 8, 8)
    before = network(images)
    torch.testing.assert_close(stochastic_depth(network, survival=1.0)(images), before)


def test_it_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"above 0 and at most 1, got 0\.0"):
        stochastic_depth(chain(1), survival=0.0)
    with pytest.raises(ValueError, match="Linear has no residual unit"):
        stochastic_depth(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="has stochastic depth already"):
        stochastic_depth(stochastic_depth(chain(1)))
