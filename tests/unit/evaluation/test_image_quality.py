"""Image quality: known answers, agreement with independent computations, and bounded memory."""

import numpy as np
import pytest
import scipy.linalg
import torch

from bigbigan.evaluation.image_quality.metrics import (
    Moments,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from bigbigan.image import reconstruction_distances


def moments(x):
    m = Moments()
    m.update(x)
    return m


@pytest.mark.parametrize("cuts", [[], [1], [1, 2, 3], [50], [10, 11, 90]])
def test_moments_are_numpys_however_the_features_are_cut(cuts):
    x = np.random.default_rng(0).normal(1e4, 1, (100, 7))  # far from zero: a naive sum of squares would lose all
    m = Moments()
    for part in np.split(x, cuts):
        m.update(torch.from_numpy(part))
    assert m.n == 100
    np.testing.assert_allclose(m.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(m.covariance, np.cov(x.T), rtol=1e-7, atol=1e-9)
    m.update(np.empty((0, 7)))
    assert m.n == 100


def test_frechet_distance_of_gaussians_is_known():
    """Of diagonal Gaussians: the sum over axes of (μa − μb)² + (σa − σb)²."""
    a = Moments(11, np.array([1.0, 2.0]), 10 * np.diag([4.0, 9.0]))
    b = Moments(11, np.array([0.0, 5.0]), 10 * np.diag([1.0, 25.0]))
    assert frechet_distance(a, b) == pytest.approx(1 + 9 + (2 - 1) ** 2 + (3 - 5) ** 2, rel=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("n", "d"), [(200, 20), (15, 40)])  # the second has covariances without full rank
def test_frechet_distance_agrees_with_scipys_square_root(n, d):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)), rng.normal(0.5, 2, (n, d)) @ rng.normal(size=(d, d))
    a, b = moments(x), moments(y)
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T) + 0j).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_refuses_what_does_not_compare():
    with pytest.raises(ValueError, match="of one length"):
        frechet_distance(moments(np.zeros((5, 3))), moments(np.zeros((5, 4))))
    with pytest.raises(ValueError, match="two or more"):
        frechet_distance(moments(np.zeros((1, 3))), moments(np.zeros((5, 3))))


def test_kernel_distance_is_the_formula():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 4)), rng.normal(1, 1, size=(12, 4))

    def kernel(u, v):
        return (u @ v / 4 + 1) ** 3

    pairs = [(i, j) for i in range(12) for j in range(12)]
    xx, yy = (np.mean([kernel(s[i], s[j]) for i, j in pairs if i != j]) for s in (x, y))
    expected = xx + yy - 2 * np.mean([kernel(x[i], y[j]) for i, j in pairs])
    value, std = kernel_distance(torch.from_numpy(x), torch.from_numpy(y), subsets=3)
    assert value == pytest.approx(expected, rel=1e-10)
    assert std == pytest.approx(0, abs=1e-10)  # every subset is the whole


def test_kernel_distance_is_unbiased():
    """Of two samples of one distribution it is zero in the mean; of different ones it is not."""
    g = torch.Generator().manual_seed(0)
    values = [kernel_distance(*torch.randn(2, 80, 6, generator=g), subsets=1)[0] for _ in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    far, _ = kernel_distance(
        torch.randn(500, 6, generator=g), torch.randn(500, 6, generator=g) + 1, subsets=5, size=400
    )
    assert far > 10 * np.std(values)


def test_inception_score_of_known_cases():
    assert inception_score(torch.ones(100, 10))[0] == pytest.approx(1)
    sure = 100 * torch.eye(10)[torch.arange(1000) % 10]
    assert inception_score(sure, splits=1) == pytest.approx((10, 0), abs=1e-6)
    assert 9 < inception_score(sure, splits=10)[0] < 10  # parts of 100 are not quite even


def test_inception_score_is_the_mean_divergence():
    logits = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).double()
    p = torch.softmax(logits, 1).numpy()
    divergence = (p * np.log(p / p.mean(0))).sum(1)
    assert inception_score(logits, splits=1)[0] == pytest.approx(np.exp(divergence.mean()), rel=1e-10)


def brute_force(real, fake, k):
    def reach(x):
        return np.sort(np.linalg.norm(x[:, None] - x[None], axis=2), axis=1)[:, k]

    def share(a, b, r):
        return np.mean([(np.linalg.norm(b - q, axis=1) <= r + 1e-6).any() for q in a])

    return share(fake, real, reach(real)), share(real, fake, reach(fake))


def test_precision_and_recall_agree_with_brute_force():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(150, 3)), rng.normal(0.7, 0.5, size=(90, 3))
    expected = brute_force(real, fake, 3)
    assert 0.05 < expected[1] < expected[0] <= 1
    for part in (7, 2000):
        found = precision_recall(torch.from_numpy(real), torch.from_numpy(fake), 3, part)
        assert found == pytest.approx(expected, abs=1e-9)


def test_precision_and_recall_at_their_ends():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert precision_recall(x, x) == (1, 1)
    assert precision_recall(x, x + 100) == (0, 0)
    narrow = x[:10].repeat(5, 1) + 1e-4 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    precision, recall = precision_recall(x, narrow)  # all fakes are real ones, but only of ten kinds
    assert precision == 1
    assert recall < 0.4
    with pytest.raises(ValueError, match="more than k"):
        precision_recall(x[:3], x)


def test_equal_features_coincide_next_to_a_long_one():
    """Reach and membership must agree on what is rounding, whatever else is in a part."""
    g = torch.Generator().manual_seed(0)
    real = torch.randn(30, 4, generator=g)[:5].repeat(6, 1)
    real[-1] = 1e4
    for part in (3, 500):
        assert precision_recall(real, real[:-1], part=part) == pytest.approx((1, 29 / 30), abs=1e-9)


def test_too_few_to_measure():
    with pytest.raises(ValueError, match="two or more"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="at least one image in each"):
        inception_score(torch.zeros(5, 3), splits=10)


def test_reconstruction_distances_use_pixels_in_0_1():
    x = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    x_hat = torch.zeros_like(x)
    x_hat[1] = 0.5
    own, mismatched = reconstruction_distances(2 * x - 1, 2 * x_hat - 1)
    for i in range(3):
        assert own[i].item() == pytest.approx((x[i] - x_hat[i]).square().sum().sqrt().item(), rel=1e-5)
        assert mismatched[i].item() == pytest.approx((x[i] - x_hat[i - 1]).square().sum().sqrt().item(), rel=1e-5)
