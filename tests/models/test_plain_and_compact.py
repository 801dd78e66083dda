"""What the test of every network cannot say of NIN, VGG, SqueezeNet, MobileNet, ShuffleNet, EfficientNet."""

import math

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.models import create
from cnnkit.models.classify import efficientnet, shufflenet_v1, shufflenet_v2
from cnnkit.models.classify.mobilenet_v2 import round_channels
from cnnkit.verify.checks import randomise


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def random(network: nn.Module) -> nn.Module:
    """The network in evaluation mode and double precision, with every weight and statistic redrawn."""
    network = network.double().eval()
    randomise(network, torch.Generator().manual_seed(1))
    return network


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    "name",
    [
        *("alexnet", "alexnet_two_tower", "zfnet", "vgg11", "nin_cifar10", "nin_imagenet"),
        *("squeezenet1_0", "squeezenet1_1"),
    ],
)
def test_one_pixel_less_than_the_smallest_image_leaves_nothing_to_pool(name: str) -> None:
    with torch.device("meta"):
        network = create(name).eval()
        side = network.smallest_image
        network(torch.empty(1, 3, side, side))
        with pytest.raises(RuntimeError, match="size is too small"):
            network(torch.empty(1, 3, side - 1, side - 1))


def test_nin_pools_32_to_16_to_8() -> None:
    with torch.device("meta"):
        maps = create("nin_cifar10").features(torch.empty(1, 3, 32, 32))
    assert [x.shape[-1] for x in maps] == [32, 16, 8]


@torch.no_grad()
def test_vgg_c_mixes_by_1x1_and_a_lrn_differs_from_a_by_its_norm_alone() -> None:
    kernels = [m.kernel_size[0] for m in create("vgg16_c", width=0.25).modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [3, 3, 3, 3, 3, 3, 1, 3, 3, 1, 3, 3, 1]
    plain, normed = random(create("vgg11", width=0.25)), create("vgg11_lrn", width=0.25).double().eval()
    normed.load_state_dict(plain.state_dict())
    images = 100 * seeded(1, 3, 32, 32)
    first, second = plain.features(images)[0], normed.features(images)[0]
    torch.testing.assert_close(functional.local_response_norm(first, 5, alpha=5e-4, beta=0.75, k=2.0), second)


@torch.no_grad()
def test_a_bypass_adds_what_a_fire_module_read() -> None:
    plain = random(create("squeezenet1_0", width=0.25))
    simple = create("squeezenet1_0_simple_bypass", width=0.25).double().eval()
    simple.load_state_dict(dict(zip(simple.state_dict(), plain.state_dict().values(), strict=True)))
    x = plain.features(seeded(1, 3, 40, 40))[0]
    pool, *fires = plain.stages[1]
    x = pool(x)
    for i, fire in enumerate(fires):  # fire2, 3 and 4: the widths agree around fire3
        x = fire(x) + x if i == 1 else fire(x)
    torch.testing.assert_close(simple.features(seeded(1, 3, 40, 40))[1], x)


@torch.no_grad()
def test_a_padded_classifier_averages_a_border_of_bare_biases() -> None:
    """With h x w pixels and a sum s of their scores: (s + (2h + 2w + 4) relu(bias)) / ((h + 2)(w + 2))."""
    plain = random(create("squeezenet1_0", width=0.25))
    padded = create("squeezenet1_0", width=0.25, classifier_padding=1).double().eval()
    padded.load_state_dict(plain.state_dict())
    images = seeded(1, 3, 64, 80)
    h, w = plain.features(images)[-1].shape[2:]
    border = (2 * h + 2 * w + 4) * plain.head[1].bias.relu()
    expected = (plain(images) * h * w + border) / ((h + 2) * (w + 2))
    torch.testing.assert_close(padded(images), expected)


@pytest.mark.parametrize(
    ("asked", "given"), [(32, 32), (1, 8), (11.2, 16), (44.8, 48), (33.6, 32), (134.4, 136)]
)
def test_channels_are_rounded_to_eights_and_never_lose_a_tenth(asked: float, given: int) -> None:
    """The pairs are widths of MobileNet v2 at 0.35 (11.2, 33.6) and 1.4 (44.8, 134.4) in torchvision."""
    assert round_channels(asked) == given


def test_the_last_convolution_of_mobilenet_v2_grows_but_does_not_shrink() -> None:
    with torch.device("meta"):
        widths = [create("mobilenet_v2", width=w).head[-1].in_features for w in (0.35, 1.0, 1.4)]
    assert widths == [1280, 1280, 1792]


def grouped(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """A grouped 1x1 convolution, group by group."""
    maps, kernels = x.chunk(groups, 1), weight.chunk(groups, 0)
    return torch.cat([functional.conv2d(m, k) for m, k in zip(maps, kernels, strict=True)], 1)


@pytest.mark.parametrize("groups", [2, 3, 4, 8])
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_a_shuffle_unit_is_figure_2_with_its_depthwise_kernels_renumbered(groups: int, stride: int) -> None:
    """Fig. 2b and 2c shuffle before the depthwise convolution, this file after it.

    So the figure's p-th depthwise kernel is our kernel of the channel that the shuffle brings to place p.
    """
    channels = 8 * groups
    out = channels if stride == 1 else 3 * channels
    unit = random(shufflenet_v1.ShuffleUnit(channels, out, stride, (groups, groups), shufflenet_v1.by_group))
    (conv1, norm1, _), (depthwise, norm2), _, (conv2, norm3) = unit.branch
    x = seeded(2, channels, 6, 6)

    y = norm1(grouped(x, conv1.weight, groups)).relu()
    size = y.shape[1] // groups
    order = [g * size + i for i in range(size) for g in range(groups)]
    y = functional.conv2d(y[:, order], depthwise.weight[order], stride=stride, padding=1, groups=len(order))
    scale = (norm2.weight / (norm2.running_var + norm2.eps).sqrt())[order].view(-1, 1, 1)
    y = (y - norm2.running_mean[order].view(-1, 1, 1)) * scale + norm2.bias[order].view(-1, 1, 1)
    y = norm3(grouped(y, conv2.weight, groups))
    halved = functional.avg_pool2d(x, 3, 2, 1)
    expected = (x + y).relu() if stride == 1 else torch.cat([halved, y.relu()], 1)
    torch.testing.assert_close(unit(x), expected)


@torch.no_grad()
def test_the_shuffle_of_the_authors_code_undoes_that_of_the_paper() -> None:
    x = torch.arange(12.0).view(1, 12, 1, 1)
    paper = shufflenet_v1.by_group(12, 3)(x)
    assert paper.flatten().tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert shufflenet_v1.by_position(12, 3)(x).flatten().tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
    assert torch.equal(shufflenet_v1.by_position(12, 3)(paper), x)


def test_all_1x1_convolutions_of_a_shufflenet_are_grouped_but_the_first() -> None:
    convolutions = [m for m in create("shufflenet_v1_g3_1x").stages[1].modules() if isinstance(m, nn.Conv2d)]
    assert [m.groups for m in convolutions if m.kernel_size == (1, 1)] == [1, 3, 3, 3, 3, 3, 3, 3]


def test_widths_that_the_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="8 groups do not divide 24 or 84 channels"):
        create("shufflenet_v1_g8_1x", width=0.25, stem=12)
    with pytest.raises(ValueError, match="channels must be even to be split in halves"):
        shufflenet_v2.ShuffleNetV2((24, 49, 96), 64)


@torch.no_grad()
def test_a_split_unit_leaves_every_second_channel_untouched() -> None:
    unit, x = random(shufflenet_v2.SplitUnit(8)), seeded(1, 8, 5, 5)
    assert torch.equal(unit(x)[:, ::2], x[:, :4])
    torch.testing.assert_close(unit(x)[:, 1::2], unit.branch(x[:, 4:]))


def test_compound_scaling_doubles_the_cost_with_each_step_of_phi() -> None:
    """Eq. 3 with alpha = 1.2, beta = 1.1, gamma = 1.15: 1.2 * 1.1^2 * 1.15^2 = 1.92 times the cost."""
    assert efficientnet.compound_scaling(0) == (1, 1, 224)
    width, depth, resolution = efficientnet.compound_scaling(1)
    assert (width, depth, resolution) == (1.1, 1.2, 258)
    for phi in (1, 3, 6.5):
        width, depth, resolution = efficientnet.compound_scaling(phi)
        cost = depth * width**2 * (resolution / 224) ** 2
        assert math.log(cost, 1.92) == pytest.approx(phi, rel=0.01)


def test_b8_and_b_a_half_are_one_call() -> None:
    with torch.device("meta"):
        b8 = efficientnet.EfficientNet(2.2, 3.6, dropout=0.5)
        half, side = efficientnet.scaled(0.5, num_classes=10)
        logits = half.eval()(torch.empty(1, 3, side, side))
    assert count(b8) == 87_413_142  # timm 1.0.31, efficientnet_b8
    assert side == 240
    assert logits.shape == (1, 10)


@pytest.mark.reference
def test_blocks_are_left_out_as_often_as_in_torchvision() -> None:
    ours = [m.p for m in create("efficientnet_b1").modules() if isinstance(m, efficientnet.DropConnect)]
    blocks = [m for m in torchvision.models.efficientnet_b1().modules() if hasattr(m, "use_res_connect")]
    assert ours == [block.stochastic_depth.p for block in blocks if block.use_res_connect]


def test_a_branch_is_left_out_image_by_image_and_in_training_only() -> None:
    module, x = efficientnet.DropConnect(0.2), torch.rand(5000, 2, 3, 3) + 1
    torch.manual_seed(0)
    out = module(x)
    kept = (out != 0).all((1, 2, 3))
    torch.testing.assert_close(out[kept], x[kept] / 0.8)
    assert not out[~kept].any()
    assert kept.float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert module.eval()(x) is x


@torch.no_grad()
def test_squeeze_and_excitation_weighs_each_map_by_a_function_of_all_means() -> None:
    module, x = random(efficientnet.SqueezeExcitation(6, 2)), seeded(2, 6, 3, 5)
    _, squeeze, _, expand, _ = module.weigh
    hidden = functional.silu(x.mean((2, 3)) @ squeeze.weight[:, :, 0, 0].T + squeeze.bias)
    weights = torch.sigmoid(hidden @ expand.weight[:, :, 0, 0].T + expand.bias)
    torch.testing.assert_close(module(x), x * weights[:, :, None, None])
