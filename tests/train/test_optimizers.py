"""Step rules against the formulas and other implementations."""

import pytest
import torch
from torch import nn

from cnnkit.errors import Misuse
from cnnkit.parts import choose
from cnnkit.train.optimizers import OPTIMIZERS, RmsProp, Sgd
from cnnkit.train.rmsprop import RMSpropTensorFlow


def descend(optimizer: torch.optim.Optimizer, weight: nn.Parameter, steps: int) -> torch.Tensor:
    """The weight after some steps on a bowl, at a learning rate that halves half-way."""
    for step in range(steps):
        if step == steps // 2:
            optimizer.param_groups[0]["lr"] /= 2
        optimizer.zero_grad()
        (weight**4).sum().backward()
        optimizer.step()
    return weight.detach()


@pytest.mark.reference
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rmsprop_is_tensorflows_as_timm_has_it(momentum: float, weight_decay: float) -> None:
    from timm.optim import RMSpropTF

    start = torch.linspace(-1, 1, 7, dtype=torch.float64)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    groups = [{"params": [ours], "weight_decay": weight_decay}]
    mine = RmsProp(lr=0.05, momentum=momentum).build(groups, fused=False)
    other = RMSpropTF([theirs], lr=0.05, alpha=0.9, eps=1e-3, momentum=momentum, weight_decay=weight_decay)
    torch.testing.assert_close(descend(mine, ours, 20), descend(other, theirs, 20), rtol=1e-12, atol=1e-12)


def test_rmsprops_first_step_is_the_one_written_out() -> None:
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = RMSpropTensorFlow([weight], lr=0.1, alpha=0.9, momentum=0.9, eps=1e-3)
    (3 * weight).sum().backward()
    optimizer.step()
    square = 0.9 * 1 + 0.1 * 3**2
    assert weight.item() == pytest.approx(2 - 0.1 * 3 / (square + 1e-3) ** 0.5, rel=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("fused", [False, True])
def test_every_step_rule_goes_down_a_bowl(name: str, fused: bool) -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    rule = OPTIMIZERS[name](lr=0.02)
    optimizer = rule.build([{"params": [weight], "weight_decay": 0.0}], fused=fused)
    before = (weight**4).sum().item()
    descend(optimizer, weight, 40)
    assert (weight**4).sum().item() < before / 2


def test_without_momentum_there_is_nothing_to_look_ahead_to() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = Sgd(momentum=0.0).build([{"params": [weight], "weight_decay": 0.0}], fused=False)
    assert optimizer.defaults["nesterov"] is False


def test_a_setting_that_another_rule_has_is_refused_by_name() -> None:
    with pytest.raises(Misuse, match="optimizer adamw: no setting 'momentum'"):
        choose(OPTIMIZERS, {"name": "adamw", "momentum": 0.9}, "optimizer")
