"""What is particular to the Inception networks and Xception."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from cnnkit import canon
from cnnkit.layers import ResponseNorm, WithAux
from cnnkit.layers.mixed import chain, conv, keep, mixed
from cnnkit.models import create
from cnnkit.models.classify.bn_inception import HALVE, HALVE_ODD_TOO
from cnnkit.models.classify.inception_resnet import C2_BRANCHES, C2_LAST, residual
from cnnkit.verify.checks import carry_over, randomise

WITH_AUX = ["googlenet", "googlenet_bn", "inception_v3", "inception_v4", "inception_resnet_v2"]


def without_dropout(network: nn.Module) -> nn.Module:
    """Training mode, so that torchvision runs its auxiliary heads, but nothing random."""
    for module in network.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def test_a_part_is_told_the_channels_that_arrive_and_tells_those_that_leave() -> None:
    block = mixed(one=conv(4, 1), three=chain(conv(2, 1), conv(6, 3)), pool=keep(nn.MaxPool2d, 3, 1, 1))
    module, width = block(5)
    maps = module(torch.randn(2, 5, 8, 8))
    assert width == maps.shape[1] == 4 + 6 + 5


def test_a_mixed_block_stacks_its_branches_in_the_order_of_their_names_in_the_source() -> None:
    module, _ = mixed(b=keep(nn.Identity), a=keep(nn.MaxPool2d, 3, 1, 1))(1)
    x = torch.randn(1, 1, 4, 4)
    assert torch.equal(module(x)[:, :1], x)


def test_each_use_of_a_part_has_weights_of_its_own() -> None:
    first, second = (conv(2, 1)(3)[0] for _ in range(2))
    assert not set(first.parameters()) & set(second.parameters())


def test_response_normalisation_divides_by_a_mean_of_squares_over_five_maps() -> None:
    """Caffe's: x / (1 + 1e-4 / 5 * sum of x^2 over the map itself and two on either side)^0.75."""
    norm, _ = (m for m in create("googlenet").modules() if isinstance(m, ResponseNorm))
    x = 100 * torch.randn(1, 7, 1, 1, dtype=torch.float64)
    values = x.flatten().tolist()
    expected = [
        v / (1 + 1e-4 / 5 * sum(u * u for u in values[max(0, i - 2) : i + 3])) ** 0.75
        for i, v in enumerate(values)
    ]
    torch.testing.assert_close(norm(x).flatten().tolist(), expected)


def test_the_poolings_of_googlenet_round_up() -> None:
    """Table 1: 112, 56, 28, 14, 7."""
    network, sizes = create("googlenet").to("meta"), []
    for module in network.modules():
        if isinstance(module, nn.MaxPool2d) and module.stride == 2:
            module.register_forward_hook(lambda _m, arrives, leaves: sizes.append(leaves.shape[2]))
    network(torch.empty(1, 3, 224, 224, device="meta"))
    assert sizes == [56, 28, 14, 7]


def heads_last(entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision defines the auxiliary head of Inception v3 before the stage that follows its map."""
    return dict(sorted(entries.items(), key=lambda entry: entry[0].startswith(("AuxLogits.", "fc."))))


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "theirs", "reorder", "size"),
    [
        ("googlenet_bn", torchvision.models.googlenet, dict, 97),
        ("inception_v3", torchvision.models.inception_v3, heads_last, 299),
    ],
)
def test_the_auxiliary_heads_are_torchvisions(
    name: str, theirs: Callable[..., nn.Module], reorder: Callable[..., dict[str, Tensor]], size: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    reference = without_dropout(theirs(weights=None, aux_logits=True, init_weights=False).double())
    ours = without_dropout(create(name, aux=True).double())
    randomise(reference, draw)
    carry_over(reorder(reference.state_dict()), ours)
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=draw)
    with torch.no_grad():
        found, expected = ours(images), reference(images)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-9, atol=1e-9)
    for head, other in zip(reversed(found.aux), expected[1:], strict=True):  # theirs has the deepest first
        torch.testing.assert_close(head, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", WITH_AUX)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_auxiliary_logits_come_from_a_network_made_with_them_and_from_no_other(
    name: str, training: bool
) -> None:
    images = torch.empty(2, *canon.entry("classification/inception", name).input, device="meta")
    with torch.device("meta"):
        plain, with_aux = (create(name, aux=aux, num_classes=7).train(training) for aux in (False, True))
    assert plain(images).shape == (2, 7)
    output = with_aux(images)
    assert isinstance(output, WithAux)
    assert [x.shape for x in (output.logits, *output.aux)] == [(2, 7)] * (1 + len(output.aux))
    assert len(output.aux) == (2 if name.startswith("googlenet") else 1)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("googlenet", 13_378_280), ("googlenet_bn", 13_004_888), ("inception_v3", 27_161_264)],
)
def test_parameters_with_auxiliary_heads_are_those_of_the_canon(name: str, parameters: int) -> None:
    """The Caffe definition's, torchvision's and torchvision's."""
    with torch.device("meta"):
        network = create(name, aux=True)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("size", [(8, 8), (14, 12)])
def test_the_extra_column_of_a_reduction_changes_nothing_where_sizes_are_even(size: tuple[int, int]) -> None:
    maps = torch.randn(1, 3, *size).relu()
    plain, wider = (part(3)[0] for part in (HALVE, HALVE_ODD_TOO))
    assert torch.equal(plain(maps), wider(maps))
    assert wider(torch.ones(1, 3, 9, 7)).shape == (1, 3, 5, 4)


def test_a_scaled_unit_adds_a_tenth_of_its_branch() -> None:
    module, _ = residual(C2_BRANCHES, 0.1)(8)
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(module.eval()(x), (x + 0.1 * module.branch(x)).relu())


def test_only_the_last_unit_of_inception_resnet_v2_has_no_relu() -> None:
    module, _ = C2_LAST(8)
    assert module.eval()(torch.full((1, 8, 5, 5), -100.0)).max() < 0


def test_nothing_stands_between_the_two_halves_of_a_separable_convolution() -> None:
    """Section 4.7 of the paper: an activation in between harms."""
    depthwise = [m for m in create("xception").modules() if isinstance(m, nn.Sequential) and grouped(m[0])]
    assert len(depthwise) == 34
    assert all(isinstance(m[1], nn.Conv2d) and isinstance(m[2], nn.BatchNorm2d) for m in depthwise)


def grouped(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1
