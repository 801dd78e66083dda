"""What is put into a network for its training alone: it drops what it should, and no name changes."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import drop_block2d

from cnnkit.models import create
from cnnkit.surgery.dropblock import DropBlock, drop_block, schedule
from cnnkit.surgery.dropout import dropout, spatial_dropout
from cnnkit.surgery.rehearsal import is_activation, rehearse

SMALL = ["lenet5_relu", "resnet20_cifar10", "preresnet110_cifar10", "squeezenet1_1", "densenet_40_12_cifar10"]
SMALL += ["mobilenet_v2", "googlenet", "vgg11", "shufflenet_v1_g3_1x"]


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create(name, **({} if name.startswith(("lenet", "densenet", "googlenet")) else {"width": 0.25}))


def image_of(name: str) -> tuple[int, int, int]:
    sides = {"lenet5_relu": 28, "vgg11": 64, "inception_v3": 139, "squeezenet1_1": 64}
    return (1 if name == "lenet5_relu" else 3, side := sides.get(name, 32), side)


@pytest.mark.parametrize("name", SMALL)
def test_any_network_keeps_its_names_and_its_evaluation_and_draws_in_training(name: str) -> None:
    network, image = made(name), image_of(name)
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    before, images = list(network.state_dict()), torch.randn(4, *image)
    calm = network.eval()(images)
    calm = calm if isinstance(calm, Tensor) else calm.logits
    places = drop_block(network, 0.3, 3, image=image)
    assert places, "nothing was put anywhere"
    spatial_dropout(network, 0.3)
    assert list(network.state_dict()) == before
    again = network.eval()(images)
    torch.testing.assert_close(again if isinstance(again, Tensor) else again.logits, calm)
    for norm in network.train().modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    one, two = network(images), network(images)
    assert not torch.equal(*(y if isinstance(y, Tensor) else y.logits for y in (one, two)))


@pytest.mark.parametrize(("size", "side"), [(1, 8), (3, 8), (7, 16)])
def test_squares_are_those_of_torchvision_from_the_same_random_state(size: int, side: int) -> None:
    x = torch.randn(2, 3, side, side)
    torch.manual_seed(1)
    ours = DropBlock(0.2, size).train()(x)
    torch.manual_seed(1)
    theirs = drop_block2d(x, 0.2, size, training=True)
    assert 0 < int((ours == 0).sum()) < x.numel()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [2, 3, 5, 8, 9])
def test_a_map_of_ones_keeps_its_mean_and_loses_about_the_share_in_whole_squares(size: int) -> None:
    """gamma counts overlapping squares twice, so a little less than the share is lost."""
    torch.manual_seed(0)
    dropped = DropBlock(0.1, size).train()(torch.ones(64, 8, 8, 8))
    assert dropped.mean().item() == pytest.approx(1.0, abs=1e-5)
    lost = (dropped == 0).float()
    assert 0.05 < lost.mean().item() < 0.11
    b = min(size, 8)
    whole = nn.functional.max_pool2d(nn.functional.avg_pool2d(lost, b, 1).eq(1).float(), 1)
    covered = nn.functional.max_pool2d(nn.functional.pad(whole, [b - 1] * 4), b, 1)
    assert torch.equal(covered, lost), "a dropped pixel belongs to no whole square"


def test_the_share_grows_linearly_over_the_training() -> None:
    network = made("resnet20_cifar10")
    places = drop_block(network, 0.2, image=(3, 32, 32))
    assert len(places) == 12  # the units of the second and third stage have two activations, three units each
    assert all(place.startswith(("stages.1", "stages.2")) for place in places)
    layers = [m for m in network.modules() if isinstance(m, DropBlock)]
    for done, share in ((0.0, 0.0), (0.25, 0.05), (1.0, 0.2), (2.0, 0.2)):
        schedule(network, done)
        assert [m.now for m in layers] == pytest.approx([share] * 12)
    schedule(network, 0.0)
    x = torch.randn(1, 1, 9, 9)
    assert torch.equal(layers[0].train()(x), x)


def test_whole_maps_are_dropped_and_the_rest_is_scaled() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x)

    network = Head()
    spatial_dropout(network, 0.25)
    torch.manual_seed(0)
    found = network.train()(torch.ones(40, 50, 2, 3)).flatten(2)
    assert bool((found.amin(2) == found.amax(2)).all())
    assert found.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (found == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert torch.equal(copy.deepcopy(network).eval()(torch.ones(1, 2, 2, 2)), torch.ones(1, 2, 2, 2))


def test_dropout_is_set_where_there_is_some_and_put_before_the_logits_where_there_is_none() -> None:
    vgg = made("vgg11")
    assert dropout(vgg, 0.0) == ["head.5", "head.8"]
    assert [m.p for m in vgg.modules() if isinstance(m, nn.Dropout)] == [0.0, 0.0]
    resnet = made("resnet20_cifar10").train()
    names = list(resnet.state_dict())
    assert dropout(resnet, 0.0) == []
    assert dropout(resnet, 0.5) == ["head.2"]
    assert list(resnet.state_dict()) == names
    read: list[Tensor] = []
    resnet.head[2].register_forward_hook(lambda m, given, y: read.append(given[0]))
    copy.deepcopy(resnet)(torch.randn(64, 3, 32, 32))
    assert 0.4 < (read[0] == 0).float().mean().item() < 0.75  # some maps are 0 by themselves
    read.clear()
    resnet.eval()(torch.randn(8, 3, 32, 32))
    assert (read[0] == 0).float().mean().item() < 0.3


def test_refused_are_probabilities_out_of_range_and_modules_that_are_not_there() -> None:
    network = made("resnet20_cifar10")
    with pytest.raises(ValueError, match=r"at least 0 and below 1, got 1\.0"):
        dropout(network, 1.0)
    with pytest.raises(ValueError, match="ResNet has no module 'neck'"):
        spatial_dropout(network, 0.1, ("neck",))
    with pytest.raises(ValueError, match=r"ResNet has no module 'stages\.9'"):
        drop_block(network, 0.1, after=("stages.9",))
    with pytest.raises(ValueError, match="at least 1 pixel wide, got 0"):
        DropBlock(0.1, 0)
    with pytest.raises(ValueError, match="below 1, got 1"):
        DropBlock(1.0)
    with pytest.raises(ValueError, match="Linear has no activation of maps"):
        drop_block(nn.Linear(4, 4), 0.1, image=(1, 4, 4))


def test_a_rehearsal_names_layers_in_their_order_and_who_made_what_they_read() -> None:
    network = made("resnet20_cifar10")
    weight = network.get_parameter("head.2.weight")
    before = weight.clone()
    steps = {step.name: step for step in rehearse(network)}
    assert next(iter(steps)) == "stem.0"
    assert (steps["stem.1"].behind, steps["stem.2"].behind) == ("stem.0", "stem.1")
    assert steps["stages.0.0.1"].behind == ""  # it reads a sum
    assert steps["head.2"].makes == (2, 10)
    assert torch.equal(weight, before)
    assert weight.device.type == "cpu"
    assert [n for n, s in steps.items() if is_activation(s)][:2] == ["stem.2", "stages.0.0.0.branch.0.2"]


def test_an_image_that_the_network_does_not_take_is_named() -> None:
    with pytest.raises(ValueError, match=r"LeNet5ReLU does not take an image of \(1, 5, 5\)"):
        rehearse(create("lenet5_relu"), (1, 5, 5))
