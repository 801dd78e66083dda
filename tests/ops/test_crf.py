"""Mean field against its definition written out, the lattice against the full matrix, and superpixels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.agreement import assert_equal
from torch import Tensor

from cnnkit.ops import crf
from cnnkit.ops.crf import Kernel, dense_crf
from cnnkit.ops.permutohedral import Lattice, _elevate, _simplices
from cnnkit.ops.superpixels import Superpixels, patch_means, spread, superpixels

KERNELS = (Kernel(3.0, 2.0), Kernel(5.0, 4.0, 30.0))


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def halves(size: int = 24) -> tuple[Tensor, Tensor]:
    """A picture of a dark and a bright half, and their labels."""
    labels = torch.zeros(size, size, dtype=torch.long)
    labels[:, size // 2 :] = 1
    grain = 20 * seeded(1, 3, size, size)
    return 40 + 160 * labels.double()[None, None] + grain, labels


def by_hand(logits: Tensor, image: Tensor, kernels: tuple[Kernel, ...], rounds: int) -> Tensor:
    """Algorithm 1 for one image in plain numbers, pair by pair."""
    labels, height, width = logits.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    colours = [[float(c[y, x]) for c in image] for y, x in pixels]
    unary = [[float(row[y, x]) for row in logits] for y, x in pixels]

    def k(kernel: Kernel, i: int, j: int) -> float:
        (a, b), (c, d) = pixels[i], pixels[j]
        apart = ((a - c) ** 2 + (b - d) ** 2) / kernel.spatial**2
        if kernel.colour is not None:
            apart += sum((p - q) ** 2 for p, q in zip(colours[i], colours[j], strict=True)) / kernel.colour**2
        return math.exp(-apart / 2)

    everyone = range(len(pixels))
    weights = [[[k(kernel, i, j) for j in everyone] for i in everyone] for kernel in kernels]
    heard = [list(row) for row in unary]
    for _ in range(rounds):
        believed = []
        for row in heard:
            top = max(row)
            parts = [math.exp(v - top) for v in row]
            believed.append([p / sum(parts) for p in parts])
        for i in everyone:
            heard[i] = list(unary[i])
            for kernel, pairs in zip(kernels, weights, strict=True):
                total = sum(pairs[i])
                for label in range(labels):
                    said = sum(pairs[i][j] * believed[j][label] for j in everyone)
                    heard[i][label] += kernel.weight * said / total
    return torch.tensor(heard, dtype=torch.float64).T.reshape(labels, height, width)


def test_mean_field_of_12_x_12_pixels_is_the_definition_pair_by_pair() -> None:
    logits, images = 4 * seeded(1, 3, 12, 12), 255 * seeded(1, 3, 12, 12, seed=1)
    expected = by_hand(logits[0], images[0], KERNELS, rounds=3)
    assert_equal(dense_crf(logits, images, KERNELS, iterations=3)[0], expected, 1e-10)


def test_no_rounds_and_no_weight_leave_the_logits() -> None:
    logits, images = seeded(2, 3, 5, 7), 255 * seeded(2, 3, 5, 7)
    assert torch.equal(dense_crf(logits, images, iterations=0), logits)
    silent = [Kernel(0.0, 2.0), Kernel(0.0, 4.0, 30.0)]
    torch.testing.assert_close(dense_crf(logits, images, silent), logits)


def test_a_filter_of_positions_comes_apart_into_rows_and_columns() -> None:
    images, values = seeded(2, 3, 9, 11), seeded(2, 4, 9, 11)
    places = crf.features(images, 2.5, 1.0)[:, :, :2]
    assert_equal(crf.spatial_filter(images, 2.5)(values), crf.exact_filter(places)(values))


def test_each_image_of_a_batch_is_by_itself() -> None:
    logits, images = seeded(2, 3, 8, 6), 255 * seeded(2, 3, 8, 6, seed=3)
    both = dense_crf(logits, images, KERNELS)
    torch.testing.assert_close(both[1:], dense_crf(logits[1:], images[1:], KERNELS))


@pytest.mark.parametrize("small", [10**6, 0], ids=["matrix", "lattice"])
def test_labels_follow_the_edges_of_the_image(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crf, "SMALL", small)
    images, labels = halves()
    wrong = seeded(*labels.shape, seed=5) < 0.2
    noisy = torch.where(wrong, 1 - labels, labels)
    logits = 2 * torch.nn.functional.one_hot(noisy, 2).permute(2, 0, 1)[None].double()
    assert int((logits.argmax(1)[0] != labels).sum()) > 80
    found = dense_crf(logits, images, [Kernel(3.0, 3.0), Kernel(10.0, 30.0, 20.0)])
    assert torch.equal(found.argmax(1)[0], labels)


@pytest.mark.parametrize("small", [10**6, 0], ids=["matrix", "lattice"])
def test_gradients_reach_the_logits_through_every_round_and_not_the_images(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crf, "SMALL", small)
    images = (255 * seeded(1, 3, 4, 5)).requires_grad_()
    logits = seeded(1, 2, 4, 5, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dense_crf(x, images, KERNELS, iterations=3), logits)
    (gradient,) = torch.autograd.grad(
        dense_crf(logits, images, KERNELS).sum(), images, allow_unused=True, materialize_grads=False
    )
    assert gradient is None


def test_half_precision_stays_what_it_is() -> None:
    logits, images = seeded(1, 3, 6, 6).bfloat16(), (255 * seeded(1, 3, 6, 6)).bfloat16()
    assert dense_crf(logits, images, KERNELS).dtype == torch.bfloat16


def test_wrong_tensors_are_named() -> None:
    logits, images = seeded(1, 3, 6, 6), seeded(1, 3, 6, 6)
    with pytest.raises(ValueError, match="images must be of floating point"):
        dense_crf(logits, (255 * images).byte())
    with pytest.raises(ValueError, match="logits must be of floating point"):
        dense_crf(logits.long(), images)
    with pytest.raises(ValueError, match=r"images must have shape \(1, 3, 6, 6\), got \(1, 3, 6, 5\)"):
        dense_crf(logits, images[..., :5])


# the lattice


@given(d=st.integers(1, 6), count=st.integers(1, 40), scale=st.floats(0.01, 20), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_a_point_is_the_mean_of_its_corners_by_its_weights(
    d: int, count: int, scale: float, seed: int
) -> None:
    lifted = _elevate(scale * (seeded(count, d, seed=seed) - 0.5))
    corners, weights = _simplices(lifted)
    assert weights.min() > -1e-9
    torch.testing.assert_close(weights.sum(1), torch.ones(count, dtype=torch.float64))
    torch.testing.assert_close((corners * weights[..., None]).sum(1), lifted)
    assert not corners.sum(-1).any()  # on the plane
    remainders = corners.remainder(d + 1)
    assert torch.equal(remainders, torch.arange(d + 1)[None, :, None].expand_as(remainders))


def test_elevating_keeps_distances_up_to_a_factor() -> None:
    points = seeded(50, 5)
    stretched = torch.pdist(_elevate(points)) / torch.pdist(points)
    torch.testing.assert_close(stretched, torch.full_like(stretched, 6 * (2 / 3) ** 0.5))


@given(seed=st.integers(0, 999), d=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_a_filtered_value_is_a_mean_of_the_values(seed: int, d: int) -> None:
    lattice, values = Lattice(5 * seeded(30, d, seed=seed)), seeded(30, 2, seed=seed + 1)
    norm = lattice.filter(torch.ones(30, 1, dtype=torch.float64))
    found = lattice.filter(values) / norm
    assert bool((found >= values.amin(0) - 1e-9).all())
    assert bool((found <= values.amax(0) + 1e-9).all())


def test_points_far_apart_do_not_hear_each_other_and_equal_ones_share_alike() -> None:
    points = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 0.0]], dtype=torch.float64)
    lattice, values = Lattice(points), torch.tensor([[1.0], [2.0], [3.0], [6.0]], dtype=torch.float64)
    found = lattice.filter(values) / lattice.filter(torch.ones_like(values))
    torch.testing.assert_close(found, torch.tensor([[1.0], [4.0], [3.0], [4.0]], dtype=torch.float64))


def test_the_lattice_is_close_to_the_full_matrix() -> None:
    """Of noise over a smooth picture, of which a filter leaves little: within a fifth of that little."""
    images = 255 * torch.nn.functional.interpolate(seeded(1, 3, 5, 6), size=(36, 44), mode="bilinear")
    described, values = crf.features(images, 12.0, 25.0), seeded(1, 4, 36, 44, seed=1)
    exact, quick = crf.exact_filter(described)(values), crf.lattice_filter(described)(values)
    assert (quick - exact).abs().mean() < 0.2 * (exact - exact.mean()).abs().mean()
    assert float(torch.corrcoef(torch.stack([quick.flatten(), exact.flatten()]))[0, 1]) > 0.98


def test_a_lattice_on_the_meta_device_has_room_for_all_corners() -> None:
    lattice = Lattice(torch.empty(7, 5, device="meta"))
    assert lattice.count == 42
    assert lattice.filter(torch.empty(7, 2, device="meta")).shape == (7, 2)


def test_points_that_spread_too_far_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="too many to number; raise the deviations"):
        Lattice(1e4 * seeded(10, 5))


# superpixels


def test_patches_do_not_cross_an_edge_of_the_image() -> None:
    images, labels = halves(28)
    patches = superpixels(images, 8, compactness=0.1)
    assert (patches.rows, patches.columns) == (4, 4)
    sides = patch_means(labels.double()[None, None], patches)
    there = patch_means(torch.ones_like(images[:, :1]), patches) > 0
    assert set(sides[there].tolist()) <= {0.0, 1.0}


def test_a_flat_image_has_square_patches() -> None:
    patches = superpixels(torch.zeros(1, 3, 8, 12), 4)
    assert (patches.rows, patches.columns) == (2, 3)
    rows, columns = torch.arange(8)[:, None] // 4, torch.arange(12)[None, :] // 4
    assert torch.equal(patches.labels[0], rows * 3 + columns)
    assert superpixels(torch.zeros(1, 3, 10, 13), 4)[1:] == (3, 4)


def test_means_are_of_the_pixels_of_a_patch_and_spreading_gives_them_back() -> None:
    patches = Superpixels(torch.tensor([[[0, 0, 1], [0, 2, 1]]]), 2, 2)
    values = torch.tensor([[[[1.0, 2.0, 10.0], [6.0, 7.0, 20.0]]]])
    means = patch_means(values, patches)
    assert means.tolist() == [[[3.0, 15.0, 7.0, 0.0]]]
    assert spread(means, patches).tolist() == [[[[3.0, 3.0, 15.0], [3.0, 7.0, 15.0]]]]
    torch.testing.assert_close(patch_means(spread(means, patches), patches), means)


def test_a_step_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="step must be at least 1, got 0"):
        superpixels(torch.zeros(1, 3, 4, 4), 0)
