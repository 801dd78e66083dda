"""Noise in labels and mixed images: what the papers define, drawn from generators alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cnnkit.tasks.classify import Classify
from cnnkit.tasks.losses import LOSSES
from cnnkit.train.mix import cutmix, disturb, mixup, noisy, probabilities
from cnnkit.train.penalty import penalty


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def constant_images(count: int, height: int = 8, width: int = 12) -> Tensor:
    """Image i is i everywhere, so that a mixture says of itself what it was made of."""
    return torch.arange(1.0, count + 1).view(-1, 1, 1, 1).expand(-1, 2, height, width).contiguous()


@given(seed=st.integers(0, 2**31), count=st.integers(1, 9), alpha=st.sampled_from([0.2, 1.0, 4.0]))
@settings(max_examples=40, deadline=None)
def test_mixup_mixes_images_and_labels_with_the_same_weight(seed: int, count: int, alpha: float) -> None:
    images = constant_images(count)
    mixed, targets = mixup(images, torch.eye(count), alpha, generator(seed))
    found = targets @ torch.arange(1.0, count + 1)
    torch.testing.assert_close(mixed, found.view(-1, 1, 1, 1).expand_as(mixed), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(targets.sum(1), torch.ones(count))


@given(seed=st.integers(0, 2**31), count=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_cutmix_shares_labels_as_it_shares_pixels_and_cuts_one_box(seed: int, count: int) -> None:
    images = constant_images(count)
    mixed, targets = cutmix(images, torch.eye(count), 1.0, generator(seed))
    for i in range(count):
        foreign = mixed[i, 0] != i + 1
        rows, columns = foreign.any(1).nonzero(), foreign.any(0).nonzero()
        assert int(foreign.sum()) == len(rows) * len(columns)
        share = {j: float((mixed[i, 0] == j + 1).float().mean()) for j in range(count)}
        torch.testing.assert_close(targets[i], torch.tensor([share[j] for j in range(count)]))
    assert bool((mixed[:, 0] == mixed[:, 1]).all())


def test_the_weights_of_mixup_are_beta_and_the_boxes_of_cutmix_have_the_area_of_the_paper() -> None:
    """Beta(1, 1) is uniform: mean 1 / 2, variance 1 / 12. A box inside the image has the share 1 - weight."""
    weights = []
    for seed in range(600):
        _, targets = mixup(constant_images(2), torch.eye(2), 1.0, generator(seed))
        if targets[0, 0] != 1:  # not the identity permutation
            weights.append(float(targets[0, 0]))
    assert np.mean(weights) == pytest.approx(0.5, abs=0.06)
    assert np.var(weights) == pytest.approx(1 / 12, abs=0.015)
    # a centre anywhere and a box of share s cut at the edges keeps less of it than s, so more label stays
    kept = [
        float(cutmix(constant_images(2, 32, 32), torch.eye(2), 1.0, generator(s))[1].amax())
        for s in range(400)
    ]
    assert 0.6 < np.mean(kept) < 0.95


def test_the_same_generator_gives_the_same_mixture_whatever_torch_drew_before() -> None:
    images, targets = torch.randn(6, 3, 8, 8), torch.eye(6)
    for mix in (mixup, cutmix):
        first = mix(images, targets, 1.0, generator(3))
        torch.rand(5)
        again = mix(images, targets, 1.0, generator(3))
        other = mix(images, targets, 1.0, generator(4))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("mix", [mixup, cutmix])
@pytest.mark.parametrize("labels", [[0], [1, 1, 1, 1]])
def test_one_image_and_one_class_go_through_and_stay_what_they_are(mix: object, labels: list[int]) -> None:
    targets = probabilities(torch.tensor(labels), 3)
    images = torch.randn(len(labels), 3, 4, 4)
    mixed, found = mix(images, targets, 1.0, generator(0))  # type: ignore[operator]
    torch.testing.assert_close(found, targets)
    assert mixed.shape == images.shape
    if len(labels) == 1:
        torch.testing.assert_close(mixed, images)


def test_a_share_of_the_labels_is_replaced_from_all_classes() -> None:
    """2,000 of 10,000 are replaced; a tenth of those by the right class, so about 1,800 change."""
    labels = [0] * 10_000
    found = noisy(labels, 10, 0.2, generator(0))
    changed = sum(label != 0 for label in found)
    assert abs(changed - 1800) < 80
    assert found == noisy(labels, 10, 0.2, generator(0))
    assert found != noisy(labels, 10, 0.2, generator(1))
    assert noisy(labels, 10, 0.0, generator(0)) == labels
    assert set(noisy([3, 3], 10, 1.0, generator(5))) <= set(range(10))


def test_disturbed_labels_are_replaced_anew_with_their_probability() -> None:
    labels = torch.full((10_000,), 7)
    found = disturb(labels, 10, 0.3, generator(0))
    assert abs(int((found != 7).sum()) - 2700) < 5 * (10_000 * 0.27 * 0.73) ** 0.5
    assert found.unique().tolist() == list(range(10))
    assert torch.equal(disturb(labels, 10, 0.0, generator(0)), labels)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses(loss: str) -> None:
    """Of cross-entropy exactly; of the squared error for what is certain."""
    task = Classify(["a", "b", "c"], (LOSSES[loss](),), 0.1 if loss == "cross_entropy" else 0.0)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    certain = probabilities(labels, 3)

    def lost(targets: Tensor) -> Tensor:
        return task.loss(logits, {"labels": targets})

    torch.testing.assert_close(lost(certain), lost(labels))
    if loss == "cross_entropy":
        mixed = lost(0.3 * certain + 0.7 * certain.roll(1, 0))
        apart = 0.3 * lost(labels) + 0.7 * lost(labels.roll(1))
        torch.testing.assert_close(mixed, apart)


def test_penalties_have_the_gradient_of_their_formula_and_leave_biases_and_frozen_weights() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    network[2].weight.requires_grad_(False)
    value = penalty(network, 0.5, 0.25)
    weight = network[0].weight.detach()
    expected = 0.5 * weight.abs().sum() + 0.125 * weight.square().sum()
    assert isinstance(value, Tensor)
    torch.testing.assert_close(value.detach(), expected)
    value.backward()
    torch.testing.assert_close(network[0].weight.grad, 0.5 * weight.sign() + 0.25 * weight)
    assert network[0].bias.grad is None
    assert network[1].weight.grad is None
    assert penalty(nn.ReLU(), 1.0, 1.0) == 0.0
