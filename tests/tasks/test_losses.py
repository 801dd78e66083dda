"""Losses against their definitions written out, against torch, and where nothing counts."""

import math
import pickle
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from cnnkit.data.masks import IGNORED
from cnnkit.errors import Failure, Misuse
from cnnkit.ops.losses import cross_entropy as defined
from cnnkit.parts import choose
from cnnkit.tasks.border import border_weights
from cnnkit.tasks.losses import LOSSES, CrossEntropy, Dice, Focal, Loss, SquaredError, total

OF_PIXELS = [CrossEntropy(), CrossEntropy(weights=(0.5, 2.0, 1.0)), Dice(), Focal(), Focal(alpha=(1, 2, 3))]


def pixels(seed: int = 0, ignored: float = 0.3, size: int = 5) -> tuple[Tensor, Tensor]:
    """Logits and labels of three classes, a share of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, size, size + 1, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, (2, size, size + 1), dtype=torch.uint8, generator=generator)
    out = torch.rand(labels.shape, generator=generator) < ignored
    return logits, labels.masked_fill(out, IGNORED)


def test_reading_the_losses_needs_no_torch() -> None:
    code = "import sys, cnnkit.tasks.losses as l; l.CrossEntropy().plain(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_losses_are_chosen_by_name() -> None:
    made = choose(LOSSES, {"name": "cross_entropy", "balance": "median_frequency", "border": 10}, "loss")
    assert made == CrossEntropy(balance="median_frequency", border=10.0)
    assert str(made) == "cross_entropy (balance median_frequency, border 10.0)"
    assert [str(choose(LOSSES, name, "loss")) for name in LOSSES] == list(LOSSES)
    with pytest.raises(Misuse, match="gamma must be at least 0"):
        choose(LOSSES, {"name": "focal", "gamma": -1}, "loss")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
def test_cross_entropy_of_images_is_torch_s_bit_for_bit(smoothing: float, mixed: bool) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(64, 300, requires_grad=True), torch.randint(0, 300, (64,))
    labels[0] = IGNORED  # a class like any other
    given_ = torch.rand(64, 300).softmax(1) if mixed else labels
    ours = total([CrossEntropy()], logits, given_, smoothing=smoothing)
    theirs = functional.cross_entropy(logits, given_, label_smoothing=smoothing)
    assert torch.equal(ours, theirs)
    (a,), (b,) = torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits)
    assert torch.equal(a, b)


@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.5)])
def test_cross_entropy_of_pixels_equals_its_definition(weights: tuple[float, ...] | None) -> None:
    logits, labels = pixels()
    known = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = defined(logits, labels, weights=known, ignore=IGNORED)
    torch.testing.assert_close(CrossEntropy(weights=weights)(logits, labels), expected)
    for smoothing in (0.0, 0.2):
        theirs = functional.cross_entropy(
            logits, labels.long(), known, ignore_index=IGNORED, label_smoothing=smoothing
        )
        ours = CrossEntropy(weights=weights)(logits, labels, smoothing=smoothing)
        torch.testing.assert_close(ours, theirs)


def test_a_map_of_weights_stands_for_those_of_the_classes() -> None:
    """Two pixels of class 0 and weights 3 and 1, one of class 1 and weight 2, one ignored: the sum over 3."""
    logits = torch.tensor([[[[2.0, 0.0, 1.0, 9.0]], [[0.0, 0.0, 3.0, 0.0]]]])
    labels, weights = torch.tensor([[[0, 0, 1, IGNORED]]]), torch.tensor([[[3.0, 1.0, 2.0, 50.0]]])
    expected = (3 * math.log(1 + math.exp(-2)) + math.log(2) + 2 * math.log(1 + math.exp(-2))) / 3
    found = CrossEntropy(weights=(100.0, 100.0), border=10)(logits, labels, weights)
    assert found.item() == pytest.approx(expected)


def test_median_frequency_balance_by_hand() -> None:
    """Frequencies 0.6, 0.1, 0.2, none, 0.1: the median of the four is 0.15."""
    made = CrossEntropy(balance="median_frequency").resolved(lambda: [0.6, 0.1, 0.2, 0.0, 0.1])
    assert made.weights == pytest.approx((0.25, 1.5, 0.75, 1.0, 1.5))
    assert made.resolved(lambda: [1.0]) == made
    with pytest.raises(Failure, match="no pixel of the training part counts"):
        CrossEntropy(balance="median_frequency").resolved(lambda: [0.0, 0.0])
    with pytest.raises(ValueError, match="no weights yet"):
        CrossEntropy(balance="median_frequency")(*pixels())
    with pytest.raises(ValueError, match="a weight for each of 3 classes, got 2"):
        CrossEntropy(weights=(1.0, 2.0))(*pixels())


def test_squared_error_is_to_targets_of_one_and_minus_one() -> None:
    logits = torch.tensor([[0.5, -3.0], [0.0, 4.0]])
    expected = ((0.5 - 1) ** 2 + (-3 + 1) ** 2 + (0 + 1) ** 2 + (4 - 1) ** 2) / 4
    assert SquaredError()(logits, torch.tensor([0, 1])).item() == expected
    assert SquaredError()(logits, torch.eye(2)).item() == expected
    with pytest.raises(ValueError, match="whole images"):
        SquaredError()(*pixels())


def test_dice_by_hand() -> None:
    """Softmax makes (3/4, 1/4) of (ln 3, 0). Classes 0 and 1: 2 (3/4) / (9/16 + 1/16 + 1); 2 is absent."""
    logits = torch.tensor([[[[math.log(3), 0.0, 7.0]], [[0.0, math.log(3), 0.0]], [[-99.0, -99.0, 99.0]]]])
    labels = torch.tensor([[[0, 1, IGNORED]]])
    assert Dice(smooth=0)(logits, labels).item() == pytest.approx(1 - 1.5 / 1.625)
    assert Dice()(logits, labels).item() == pytest.approx(1 - 2.5 / 2.625)


@given(st.integers(0, 1000), st.sampled_from([0.0, 1.0]))
@settings(max_examples=20, deadline=None)
def test_dice_equals_a_loop_over_pixels(seed: int, smooth: float) -> None:
    logits, labels = pixels(seed)
    p, scores = logits.softmax(1), []
    for k in set(labels.flatten().tolist()) - {IGNORED}:
        above = below = smooth
        for n, i, j in (labels != IGNORED).nonzero().tolist():
            right = float(labels[n, i, j] == k)
            above += 2 * float(p[n, k, i, j]) * right
            below += float(p[n, k, i, j]) ** 2 + right
        scores.append(above / below)
    assert Dice(smooth=smooth)(logits, labels).item() == pytest.approx(1 - sum(scores) / len(scores))


def test_dice_of_images_takes_numbers_and_probabilities() -> None:
    logits, labels = torch.randn(8, 3), torch.arange(8) % 3
    of_pixels = Dice()(logits[:, :, None], labels[:, None])
    torch.testing.assert_close(Dice()(logits, labels), of_pixels)
    torch.testing.assert_close(Dice()(logits, functional.one_hot(labels, 3).float()), of_pixels)


def test_focal_without_gamma_is_cross_entropy() -> None:
    logits, labels = pixels()
    torch.testing.assert_close(Focal(gamma=0)(logits, labels), CrossEntropy()(logits, labels))
    torch.testing.assert_close(
        Focal(gamma=0)(logits[:, :, 0, 0], torch.tensor([1, 2])),
        CrossEntropy()(logits[:, :, 0, 0], torch.tensor([1, 2])),
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_equals_a_loop_over_pixels(gamma: float) -> None:
    logits, labels = pixels()
    alpha, losses = (0.25, 0.75, 2.0), []
    for n, i, j in (labels != IGNORED).nonzero().tolist():
        k = int(labels[n, i, j])
        p = float(logits[n, :, i, j].softmax(0)[k])
        losses.append(-alpha[k] * (1 - p) ** gamma * math.log(p))
    found = Focal(gamma=gamma, alpha=alpha)(logits, labels)
    assert found.item() == pytest.approx(sum(losses) / len(losses))
    with pytest.raises(ValueError, match="an alpha for each of the 3 classes"):
        Focal(alpha=(1.0,))(logits, labels)
    with pytest.raises(ValueError, match="class numbers"):
        Focal()(torch.randn(2, 3), torch.rand(2, 3))


def test_focal_has_a_gradient_where_the_network_is_certain() -> None:
    logits = torch.tensor([[[[200.0]], [[-200.0]]]], requires_grad=True)
    for gamma in (0.0, 0.5, 2.0):
        (gradient,) = torch.autograd.grad(Focal(gamma=gamma)(logits, torch.zeros(1, 1, 1).long()), logits)
        assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("loss", OF_PIXELS, ids=str)
def test_gradients_are_those_of_the_loss(loss: Loss) -> None:
    logits, labels = pixels(size=3)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_())


@pytest.mark.parametrize("loss", OF_PIXELS, ids=str)
def test_ignored_pixels_count_nowhere(loss: Loss) -> None:
    logits, labels = pixels()
    out = (labels == IGNORED)[:, None]
    logits.requires_grad_()
    found = loss(logits, labels)
    (gradient,) = torch.autograd.grad(found, logits)
    assert not gradient.masked_select(out).any()
    assert gradient.masked_select(~out).all()
    torch.testing.assert_close(loss(logits.masked_fill(out, 7.0), labels), found)


@pytest.mark.parametrize("loss", OF_PIXELS, ids=str)
@pytest.mark.parametrize("mapped", [False, True])
def test_a_batch_that_is_ignored_altogether_gives_0_and_no_gradient(loss: Loss, mapped: bool) -> None:
    logits = pixels()[0].requires_grad_()
    labels = torch.full((2, 5, 6), IGNORED, dtype=torch.uint8)
    weights = torch.ones(2, 5, 6, dtype=torch.float64) if mapped else None
    found = loss(logits, labels, weights)
    (gradient,) = torch.autograd.grad(found, logits)
    assert found.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("loss", OF_PIXELS, ids=str)
def test_a_class_that_is_missing_changes_nothing_that_is_not_finite(loss: Loss) -> None:
    logits = pixels()[0].requires_grad_()
    found = loss(logits, torch.ones(2, 5, 6, dtype=torch.uint8))
    (gradient,) = torch.autograd.grad(found, logits)
    assert found.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", OF_PIXELS, ids=str)
def test_sums_over_many_pixels_keep_their_digits_in_half_precision(loss: Loss) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 3, 300, 300).bfloat16(), torch.randint(0, 3, (1, 300, 300))
    torch.testing.assert_close(loss(logits, labels), loss(logits.float(), labels))


def test_losses_are_added_up_with_their_weights_and_smoothing_is_cross_entropy_s() -> None:
    logits, labels = pixels()
    found = total([CrossEntropy(weight=0.5), Dice(weight=3.0)], logits, labels, smoothing=0.1)
    expected = 0.5 * CrossEntropy()(logits, labels, smoothing=0.1) + 3 * Dice()(logits, labels)
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="no loss"):
        total([], logits, labels)


def test_every_sum_of_losses_learns_to_call_pixels_right() -> None:
    labels = pixels()[1]
    for losses in ([CrossEntropy()], [Dice()], [Focal()], [CrossEntropy(), Dice()]):
        logits = torch.zeros(2, 3, 5, 6, requires_grad=True)
        optimiser = torch.optim.Adam([logits], lr=0.3)
        for _ in range(60):
            optimiser.zero_grad()
            total(losses, logits, labels).backward()
            optimiser.step()
        counted = labels != IGNORED
        assert (logits.argmax(1) == labels)[counted].all()


def test_only_borders_ask_for_a_map_of_weights() -> None:
    classes: Sequence[str] = ("membrane", "cell")
    assert CrossEntropy(weights=(1.0, 2.0)).weigh(classes) is None
    assert all(LOSSES[name]().weigh(classes) is None for name in LOSSES)
    labels = torch.ones(1, 9, 9, dtype=torch.uint8)
    labels[:, 4] = 0
    known = CrossEntropy(weights=(3.0, 2.0), border=10.0, sigma=2.0)
    make = known.weigh(classes)
    assert make is not None
    expected = border_weights(labels, cells=1, classes=(3.0, 2.0), border=10.0, sigma=2.0)
    assert torch.equal(pickle.loads(pickle.dumps(make))(labels), expected)
    other = CrossEntropy(border=10.0, foreground="membrane").weigh(classes)
    assert other is not None
    assert torch.equal(other(labels), torch.ones(1, 9, 9))  # one membrane has no second
    with pytest.raises(Misuse, match="no class 'cells'; did you mean cell"):
        CrossEntropy(border=1.0, foreground="cells").weigh(classes)


def test_mixed_labels_are_weighed_as_those_that_they_are_made_of() -> None:
    """Shares of 0 and 1 are class numbers, so the loss is the same; torch's is not divided by the weights."""
    logits, labels = torch.randn(6, 4), torch.tensor([0, 3, 1, 2, 3, 3])
    loss = CrossEntropy(weights=(1.0, 2.0, 3.0, 9.0))
    shares = functional.one_hot(labels, 4).float()
    for smoothing in (0.0, 0.1):
        alike = loss(logits, shares, smoothing=smoothing), loss(logits, labels, smoothing=smoothing)
        torch.testing.assert_close(*alike)
