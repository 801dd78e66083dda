"""Receptive fields, by arithmetic and by the support of gradients."""

from fractions import Fraction
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.inspect.check import check
from cnnkit.inspect.receptive import fields
from cnnkit.inspect.spans import Span
from cnnkit.inspect.table import Row, table
from cnnkit.inspect.trace import trace

from .networks import SPECS, Chain, built

torchvision = pytest.importorskip("torchvision")


def last_row(module: nn.Module, *inputs: Tensor) -> Row:
    (row,) = table(trace(module, *inputs), depth=0).rows
    return row


class Seen(NamedTuple):
    """A receptive field along one axis, for comparison."""

    least: int
    most: int
    jump: Fraction | None
    centre: Fraction | None
    whole: bool

    @staticmethod
    def of(span: Span) -> "Seen":
        return Seen(span.least, span.most, span.jump, span.centre, span.whole)


def field_of(module: nn.Module, size: int = 64) -> Seen:
    return Seen.of(last_row(module, torch.zeros(1, 4, size, size)).spans[0])


def conv(kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(4, 4, kernel, stride, padding, dilation)


# -- figures that others state ---------------------------------------------------------------------

#: Network of torchvision; the last layer before the head; size, jump, centre as the literature has them.
PUBLISHED = [
    ("alexnet", "features.12", 195, 32, 31.0),
    ("vgg16", "features.28", 196, 16, 7.5),
    ("vgg16", "features.30", 212, 32, 15.5),
    ("resnet18", "layer4", 435, 32, 0.0),
    ("resnet34", "layer4", 899, 32, 0.0),
    ("resnet50", "layer4", 427, 32, 0.0),
    ("resnet101", "layer4", 971, 32, 0.0),
    ("resnet152", "layer4", 1451, 32, 0.0),
    ("inception_v3", "Mixed_7c", 1311, 32, 37.0),
]


@pytest.mark.parametrize(("name", "layer", "size", "jump", "centre"), PUBLISHED)
def test_published_receptive_fields(name: str, layer: str, size: int, jump: int, centre: float) -> None:
    extra = {"init_weights": False} if name == "inception_v3" else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, **extra)
        made = table(trace(model, torch.zeros(1, 3, 299, 299)), depth=layer.count(".") + 1)
    (row,) = [row for row in made.rows if row.path == layer]
    assert tuple(map(Seen.of, row.spans)) == (Seen(size, size, Fraction(jump), Fraction(centre), False),) * 2


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet50", 427), ("resnet50_v1", 483), ("resnet101_v1", 1027), ("resnet152_v1", 1507)],
)
def test_a_resnet_sees_more_with_its_stride_in_the_first_1x1(name: str, size: int) -> None:
    made = table(trace(built(SPECS[name]), torch.zeros(1, 3, 224, 224)))
    assert [row.spans[0].most for row in made.rows if row.kind == "ReLU"][-1] == size


# -- by arithmetic, in the head --------------------------------------------------------------------


def test_windows_widen_by_the_jump_before_them() -> None:
    assert field_of(nn.Sequential(conv(3, 2, 1), conv(3, 1, 1), nn.MaxPool2d(2))) == Seen(
        3 + 2 * 2 + 1 * 2, 9, Fraction(4), Fraction(1), False
    )


def test_a_dilated_kernel_reaches_as_far_as_its_taps() -> None:
    assert field_of(conv(3, dilation=4)) == Seen(9, 9, Fraction(1), Fraction(4), False)


def test_branches_unite() -> None:
    wide, narrow = conv(5, 1, 2), conv(1)
    assert field_of(Chain(lambda x: wide(x) + narrow(x))).most == 5
    assert field_of(Chain(lambda x: torch.cat([narrow(x), wide(x)], 1))).most == 5


def test_branches_that_are_not_aligned_see_the_hull() -> None:
    # conv(3) without padding sees [i, i + 2], the crop [i + 2, i + 2] of its input: together [i, i + 2];
    # against [i + 2 + 2, i + 2 + 4] it is [i, i + 6].
    module = Chain(lambda x: conv(3)(x)[:, :, :-4, :-4] + conv(3)(x)[:, :, 4:, 4:])
    assert field_of(module) == Seen(7, 7, Fraction(1), Fraction(3), False)


def test_branches_that_drift_apart_have_no_jump() -> None:
    # Index i of one sees pixel i, of the other pixel 2 i: 1 + i pixels, 20 of them at i = 19.
    span = field_of(Chain(lambda x: x[:, :, :20, :20] + x[:, :, :40:2, :40:2]))
    assert span == Seen(1, 20, None, None, False)


def test_a_transposed_convolution_sees_differently_in_its_phases() -> None:
    # Kernel 3 at stride 2: even results are met by two inputs, odd ones by one.
    module = nn.Sequential(conv(2, 2), nn.ConvTranspose2d(4, 4, 3, stride=2))
    assert field_of(module) == Seen(2, 4, Fraction(1), Fraction(-1, 2), False)


def test_enlarging_repeats_what_was_seen() -> None:
    module = nn.Sequential(conv(2, 2), nn.Upsample(scale_factor=2))
    assert field_of(module) == Seen(2, 2, Fraction(1), Fraction(0), False)


def test_global_pooling_and_flattening_see_the_whole_image() -> None:
    whole = Seen(64, 64, None, None, True)
    assert field_of(nn.AdaptiveAvgPool2d(1)) == whole
    assert field_of(nn.Sequential(nn.Flatten(), nn.Linear(4 * 64 * 64, 3))) == whole
    assert field_of(Chain(lambda x: x.mean((2, 3)))) == whole


def test_what_a_stride_leaves_out_is_not_seen() -> None:
    # 64 pixels in windows of 5: the last four are in none, whatever reads all of the map.
    assert field_of(nn.Sequential(nn.MaxPool2d(5), nn.AdaptiveAvgPool2d(1))) == Seen(
        60, 60, None, None, False
    )


def test_the_axes_are_apart() -> None:
    row = last_row(nn.Conv2d(4, 4, (1, 7), (1, 2), (0, 3)), torch.zeros(1, 4, 32, 48))
    assert tuple(map(Seen.of, row.spans)) == (
        Seen(1, 1, Fraction(1), Fraction(0), False),
        Seen(7, 7, Fraction(2), Fraction(0), False),
    )


def test_squeeze_and_excitation_sees_everything_but_its_main_path_does_not() -> None:
    body, gate = conv(3, 1, 1), conv(1)
    module = Chain(lambda x: body(x) * gate(x.mean((2, 3), keepdim=True)).sigmoid())
    row = last_row(module, torch.zeros(1, 4, 32, 32))
    assert Seen.of(row.spans[0]) == Seen(32, 32, None, None, True)
    assert Seen.of(row.local[0]) == Seen(3, 3, Fraction(1), Fraction(0), False)


def test_a_norm_over_the_image_is_context() -> None:
    row = last_row(nn.Sequential(conv(3, 1, 1), nn.GroupNorm(2, 4)), torch.zeros(1, 4, 32, 32))
    assert (row.spans[0].whole, row.local[0].most) == (True, 3)


def test_attention_reads_all_tokens() -> None:
    patches = nn.Conv2d(4, 8, 4, 4)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def attend(x: Tensor) -> Tensor:
        tokens = patches(x).flatten(2).transpose(1, 2)
        return attention(tokens, tokens, tokens)[0]

    assert field_of(Chain(attend, uses=(patches, attention)), 32).whole
    tokens = Chain(lambda x: patches(x).flatten(2).transpose(1, 2), uses=[patches])
    assert [v.agrees for v in check(tokens, torch.zeros(1, 4, 32, 48), units=7)] == [True] * 14


def test_channels_keep_their_own_fields_until_they_mix() -> None:
    narrow, wide = conv(1), conv(5, 1, 2)
    both = Chain(lambda x: torch.cat([narrow(x), wide(x)], 1))
    first, second = (Chain(both, lambda x, i=i: x.chunk(2, 1)[i]) for i in (0, 1))
    assert (field_of(first).most, field_of(second).most) == (1, 5)
    shuffled = Chain(both, lambda x: x.view(1, 2, 4, 64, 64).transpose(1, 2).reshape(1, 8, 64, 64)[:, :4])
    assert field_of(shuffled) == Seen(5, 5, Fraction(1), Fraction(0), False)
    grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
    assert field_of(Chain(both, grouped, lambda x: x[:, :4])).most == 3


def test_writing_into_a_view_is_seen_through_its_base() -> None:
    body = conv(5, 1, 2)

    def write(x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[:, :2] = x[:, :2]
        out[:, 2:] = body(x)[:, 2:]
        return out

    assert field_of(Chain(write)).most == 5
    assert field_of(Chain(write, lambda x: x[:, :2])).most == 1
    assert all(v.agrees for v in check(Chain(write, uses=[body]), torch.zeros(1, 4, 16, 12)))


def test_a_text_is_seen_along_its_words() -> None:
    module = nn.Sequential(nn.Embedding(9, 4), Chain(lambda x: x.transpose(1, 2)), nn.Conv1d(4, 4, 3))
    row = last_row(module, torch.zeros(2, 12, dtype=torch.int64))
    assert tuple(map(Seen.of, row.spans)) == (Seen(3, 3, Fraction(1), Fraction(1), False),)


def test_the_image_can_be_named() -> None:
    class Two(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return functional.avg_pool2d(left, 2) + right

    inputs = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)
    found = {
        name: table(trace(Two(), *inputs), image=name).rows[0].spans[0].most for name in ("left", "right")
    }
    assert found == {"left": 2, "right": 1}
    with pytest.raises(LookupError, match="no input is named 'top'; there are 'left', 'right'"):
        fields(trace(Two(), *inputs), image="top")


def test_what_no_rule_knows_reads_everything_and_is_named() -> None:
    made = table(trace(Chain(torch.linalg.inv), torch.zeros(1, 4, 8, 8)), depth=0)
    assert made.fields is not None
    assert made.fields.unknown == {"linalg_inv_ex"}
    assert made.rows[-1].spans[0].whole
