"""The Neocognitron's cells by hand, its rule, and what it learns by it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from cnnkit.models import create
from cnnkit.models.classify.neocognitron import (
    CellNames,
    ComplexCells,
    Neocognitron,
    SimpleCells,
    representatives,
)

#: The stimuli of the paper are five digits drawn with a thin line; these are ours.
FIVE_DIGITS = """
..####.. ....#... ..####.. ..####.. .....#..
.#....#. ...##... .#....#. .#....#. ....##..
.#....#. ..#.#... ......#. ......#. ...#.#..
.#....#. ....#... ......#. ......#. ..#..#..
.#....#. ....#... .....#.. ...###.. .#...#..
.#....#. ....#... ....#... ......#. .######.
.#....#. ....#... ...#.... ......#. .....#..
.#....#. ....#... ..#..... ......#. .....#..
.#....#. ....#... .#...... .#....#. .....#..
..####.. ..#####. .######. ..####.. .....#..
"""


def five_digits() -> Tensor:
    """(5, 1, 16, 16) with room for a shift by three pixels."""
    rows = [line.split() for line in FIVE_DIGITS.split("\n") if line]
    drawn = [[[float(dot == "#") for dot in row[digit]] for row in rows] for digit in range(5)]
    return functional.pad(torch.tensor(drawn).unsqueeze(1), (4, 4, 3, 3))


def test_an_s_cell_weighs_what_excites_it_against_what_inhibits_it() -> None:
    """All-ones window, a = 0.2, b = 1: the sum is 5, v = 1, r = 1.5: 1.5 (6 / (1 + 1.2) - 1)."""
    cells = SimpleCells(1, 1, padding=0, selectivity=1.5, rate=1.0)
    cells.a.fill_(0.2)
    cells.b.fill_(1)
    torch.testing.assert_close(cells(torch.ones(1, 1, 5, 5)).item(), 1.5 * (6 / 2.2 - 1), rtol=1e-5, atol=0)


def test_a_c_cell_fires_where_its_plane_does_more_than_the_mean_and_saturates() -> None:
    """One plane of ones and one of zeros, in a 2x2 window whose weights are 0.7^sqrt(0.5) each."""
    cells = ComplexCells(2, spacing=1, padding=(0, 0, 0, 0), saturation=0.5)
    maps = torch.stack([torch.ones(2, 2), torch.zeros(2, 2)]).unsqueeze(0)
    near = 4 * 0.7 ** math.sqrt(0.5)
    x = (1 + near) / (1 + near / 2) - 1
    torch.testing.assert_close(cells(maps).flatten(), torch.tensor([x / (0.5 + x), 0.0]))


def test_the_strongest_cell_of_a_column_makes_its_whole_plane_learn_what_it_saw() -> None:
    """One column of three planes, the second of which fires most: it alone gets q c u and q / 2 v."""
    draw = torch.Generator().manual_seed(0)
    cells = SimpleCells(2, 3, padding=0, selectivity=4.0, rate=16.0)
    cells.a[1] *= 10
    before, seen = cells.a.clone(), torch.rand(1, 2, 5, 5, generator=draw)
    cells.learn(seen)
    distance = torch.hypot(*torch.meshgrid(torch.arange(-2.0, 3), torch.arange(-2.0, 3), indexing="ij"))
    c = 0.9**distance / (2 * 0.9**distance).sum()
    torch.testing.assert_close(cells.a[1], before[1] + 16 * c * seen[0])
    torch.testing.assert_close(cells.b[1].item(), 8 * (c * seen.square()).sum().sqrt().item())
    assert torch.equal(cells.a[[0, 2]], before[[0, 2]])
    assert cells.b[0] == cells.b[2] == 0


@given(seed=st.integers(0, 1000), r=st.floats(0.5, 8))
def test_a_plane_that_has_learned_much_measures_the_cosine(seed: int, r: float) -> None:
    """u_S = phi((1 + r) s - r), s being the cosine under the weights c."""
    draw = torch.Generator().manual_seed(seed)
    known, seen = torch.rand(2, 1, 3, 5, 5, generator=draw)
    cells = SimpleCells(3, 1, padding=0, selectivity=r, rate=1e6)
    cells.learn(known)
    c = cells.c.double()
    product, lengths = (c * known * seen).sum(), (c * known**2).sum() * (c * seen**2).sum()
    likeness = (1 + r) * product / lengths.sqrt() - r
    torch.testing.assert_close(cells(seen).double().squeeze(), likeness.clamp(min=0), rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(cells(known).item(), 1.0, rtol=1e-3, atol=0)


def test_a_plane_has_one_representative_and_a_cell_that_is_beaten_in_all_its_columns_is_none() -> None:
    responses = torch.zeros(4, 8, 20)
    responses[0, 4, 3], responses[0, 4, 16] = 1.0, 2.0  # each wins its columns; the second is the stronger
    responses[1, 4, 3] = 0.9  # in the same columns as the first of plane 0
    responses[2, 5, 4] = 0.3  # there are columns that have it and not the stronger one beside it
    responses[3, 4, 10] = 0.1  # alone in its columns
    assert representatives(responses) == [(0, 4, 16), (2, 5, 4), (3, 4, 10)]


def test_a_layer_that_is_silent_learns_nothing() -> None:
    """Its only plane knows an upright line; one that lies is no likeness of it."""
    cells = SimpleCells(1, 1, padding=0, selectivity=4.0, rate=1e3)
    upright = torch.zeros(1, 1, 5, 5)
    upright[..., 2] = 1
    cells.learn(upright)
    before = cells.a.clone()
    cells.learn(upright.transpose(2, 3))
    assert torch.equal(cells.a, before)


def test_the_layers_have_the_sizes_of_the_paper() -> None:
    network, sizes = create("neocognitron"), [16]
    for cells in network.modules():
        if isinstance(cells, SimpleCells | ComplexCells):
            cells.register_forward_hook(lambda _m, _i, out: sizes.append(out.shape[2]))
    assert network(torch.rand(1, 1, 16, 16)).shape == (1, 24)
    assert sizes == [16, 16, 10, 8, 6, 2, 1]


def test_five_digits_come_to_drive_one_cell_each_wherever_they_are() -> None:
    """The paper's experiment with its constants: twenty presentations, then shifts by up to two pixels."""
    torch.manual_seed(0)
    network, digits = create("neocognitron"), five_digits()
    network.learn(digits)
    responses = network(digits)
    cells = responses.argmax(dim=1)
    assert ((responses > 0).sum(dim=1) == 1).all()
    assert len(cells.unique()) == 5
    for move in [(y, x) for y in range(-2, 3) for x in range(-2, 3)]:
        strength, winner = network(digits.roll(move, dims=(2, 3))).max(dim=1)
        assert (strength > 0).all()
        assert torch.equal(winner, cells), move


def test_it_recognises_shifted_digits_better_than_a_linear_classifier_that_learned_the_same() -> None:
    """500 handwritten digits, learned in the middle without labels and tested up to three pixels away."""
    data, draw = load_digits(), torch.Generator().manual_seed(0)
    small = (torch.tensor(data.images[:1100]).float() / 8 - 1).clamp(min=0)
    small = functional.interpolate(small[:, None], size=(10, 10), mode="bilinear")
    images, labels = functional.pad(small, (3, 3, 3, 3)), torch.tensor(data.target[:1100])
    known, known_labels, test, truth = images[:500], labels[:500], images[500:], labels[500:]
    moves = torch.randint(-3, 4, (len(test), 2), generator=draw).tolist()
    moved = torch.stack([image.roll(move, dims=(1, 2)) for image, move in zip(test, moves, strict=True)])
    torch.manual_seed(0)
    network = Neocognitron((24, 48, 150), selectivity=(3.0, 1.5, 6.0), num_classes=10)
    network.learn(known, presentations=1)
    for cells, selectivity in zip(network.simple_cells, (2.0, 1.5, 1.5), strict=True):
        cells.selectivity.fill_(selectivity)
    network.name(known, known_labels)
    seen, found = network(moved).max(dim=1)
    recognised = ((found == truth) & (seen > 0)).float().mean().item()
    linear = LogisticRegression(max_iter=1000).fit(known.flatten(1), known_labels)
    assert linear.score(test.flatten(1), truth) > 0.8  # a fair opponent where the digits are where they were
    assert recognised > linear.score(moved.flatten(1), truth) + 0.1


def test_a_cell_is_named_after_the_class_that_it_wins_most_often_for() -> None:
    names = CellNames(3, 2)
    wins = torch.tensor([0, 0, 0, 1, 1, 1])
    maps = torch.eye(3)[wins].reshape(6, 3, 1, 1)
    names.name(maps, torch.tensor([1, 1, 0, 0, 0, 1]))
    assert names.names.tolist() == [[0, 1], [1, 0], [0, 0]]
    assert names(torch.tensor([0.2, 0.5, 0.9]).reshape(1, 3, 1, 1)).tolist() == [[0.5, pytest.approx(0.2)]]


def test_nothing_of_it_has_a_gradient() -> None:
    assert not any(parameter.requires_grad for parameter in create("neocognitron").parameters())


def test_pictures_with_negative_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"brightness from 0 on, got -1"):
        create("neocognitron").learn(torch.full((1, 1, 16, 16), -1.0))
