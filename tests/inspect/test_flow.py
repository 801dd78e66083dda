"""The part of a receptive field that is used, against what theory says; and one unit's box."""

import math

import pytest
import torch
from PIL import Image
from torch import nn

from cnnkit.errors import Misuse
from cnnkit.inspect.effective import effective
from cnnkit.inspect.sight import drawn, sight
from cnnkit.inspect.trace import trace

from .networks import SPECS, built, example

# -- the effective receptive field -----------------------------------------------------------------


def convolutions(count: int, *, ones: bool) -> nn.Sequential:
    model = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 6, 6, 3, padding=1, bias=False) for i in range(count)))
    for part in model:
        fan = part.weight[0].numel()
        if ones:
            nn.init.constant_(part.weight, 1 / fan)
        else:
            nn.init.normal_(part.weight, std=fan**-0.5)
    return model


@pytest.mark.parametrize("depth", [4, 9, 16])
def test_equal_weights_give_a_gaussian_of_known_width(depth: int) -> None:
    found = effective([convolutions(depth, ones=True)], (3, 61, 61), layer=str(depth - 1))
    assert found.std == pytest.approx((math.sqrt(depth * (3**2 - 1) / 12),) * 2, rel=1e-3)
    assert [(s.most, s.jump, s.centre) for s in found.theory] == [(2 * depth + 1, 1, 0)] * 2
    assert found.fit > 0.99
    assert not found.cut


def test_the_share_that_is_used_shrinks_with_depth() -> None:
    torch.manual_seed(0)
    shares = []
    for depth in (4, 16):
        models = [convolutions(depth, ones=False) for _ in range(20)]
        found = effective(models, (3, 61, 61), layer=str(depth - 1))
        # The square of a random gradient spreads as boxes do; its magnitude is wider by the root of 2.
        assert found.std[0] == pytest.approx(math.sqrt(2 * depth * 8 / 12), rel=0.15)
        shares.append(found.side / found.theory[0].most)
    assert shares[1] < 0.75 * shares[0]


def test_signs_cancel_where_they_are_kept() -> None:
    torch.manual_seed(0)
    models = [convolutions(9, ones=False) for _ in range(10)]
    loud = effective(models, (3, 41, 41), layer="8")
    quiet = effective(models, (3, 41, 41), layer="8", signed=True)
    assert quiet.side < loud.side


def test_a_field_that_does_not_fit_is_said() -> None:
    assert effective([convolutions(9, ones=True)], (3, 15, 15), layer="8").cut


def test_layers_without_a_place_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(Misuse, match="'2' has no map of units"):
        effective([model], (3, 8, 8), layer="2")
    with pytest.raises(Misuse, match="'9' is no layer that is called; there are 0, 1, 2"):
        effective([model], (3, 8, 8), layer="9")


# -- one unit's box --------------------------------------------------------------------------------


def test_the_box_of_a_unit_respects_the_border() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1))
    traced = trace(model, torch.zeros(1, 3, 16, 24))
    # Pooled pixel i sees [2 i - 1, 2 i + 2]; the last convolution i - 1 to i + 1 of those.
    assert sight(traced, "2", (3, 5)).box == ((3, 10), (7, 14))
    assert sight(traced, "2", (0, 11)).box == ((0, 4), (19, 23))


def test_what_is_not_seen_is_dimmed() -> None:
    traced = trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 16, 16))
    found = sight(traced, "", (4, 6))
    picture = drawn(Image.new("RGB", (16, 16), (0, 0, 0)), found)
    zoom = picture.width // 16
    colour = {
        (y, x): picture.getpixel((zoom * x + zoom // 2, zoom * y + zoom // 2))
        for y in range(16)
        for x in range(16)
    }
    assert {place for place, rgb in colour.items() if rgb == (0, 0, 0)} == {
        (y, x) for y in range(4, 7) for x in range(6, 9)
    }


def test_units_that_are_not_there_are_refused() -> None:
    traced = trace(built(SPECS["lenet5"]), *example(SPECS["lenet5"]))
    with pytest.raises(Misuse, match=r"'stages.0.0' has a map of 28x28, so no unit \(28, 0\)"):
        sight(traced, "stages.0.0", (28, 0))
    with pytest.raises(Misuse, match="'conv1' is no layer that is called"):
        sight(traced, "conv1", (0, 0))
