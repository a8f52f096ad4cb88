"""Probes reach known answers, agree with references, and leave the encoder alone."""

import json

import numpy as np
import pytest
import torch

from bigbigan.data import open_source
from bigbigan.evaluation import probe as p
from bigbigan.evaluation.features import encoder_features, fill_statistics, pixel_features, unchanged
from bigbigan.evaluation.results import paired_lead
from bigbigan.evaluation.splits import View, load_labelled, train_val
from bigbigan.models import build
from tiny import tiny_config, write_npz


def blobs(count: int, distance: float, seed: int, classes: int = 4, dim: int = 12):
    """Gaussian blobs: class k sits at `distance` along axis k."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    x = rng.normal(size=(count, dim))
    x[np.arange(count), labels] += distance
    return x.astype(np.float32), labels


def test_linear_probe_solves_separable_features_and_guesses_on_noise():
    (x, y), (xt, yt) = blobs(400, 9, 0), blobs(400, 9, 1)
    assert p.linear(x, y, xt, yt, seed=0) == 100
    assert p.few_label_linear(x[:40], y[:40], xt, yt) > 99
    noise, labels = blobs(400, 0, 2)
    assert 15 < p.linear(noise, labels, blobs(4000, 0, 3)[0], blobs(4000, 0, 3)[1], seed=0) < 35


def test_linear_probe_finds_the_bayes_rate():
    """Two blobs at distance d: the best classifier is right with probability Phi(d / 2)."""
    distance = 2.0
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 20_000)
    x = rng.normal(size=(20_000, 5)).astype(np.float32)
    x[:, 0] += distance * y
    best = 100 * torch.distributions.Normal(0, 1).cdf(torch.tensor(distance / 2)).item()
    assert p.linear(x[:10_000], y[:10_000], x[10_000:], y[10_000:], seed=0) == pytest.approx(best, abs=1)


def test_linear_probe_does_not_mind_the_scale_of_features():
    (x, y), (xt, yt) = blobs(300, 2.5, 0), blobs(2000, 2.5, 1)
    values = [p.few_label_linear(s * x, y, s * xt, yt) for s in (1, 0.1)]
    assert values[0] == pytest.approx(values[1], abs=1.5)


def test_few_label_draws_are_fixed_distinct_and_balanced():
    labels = np.repeat(np.arange(3), [50, 20, 4])
    draws = p.few_label_draws(labels, 10)
    assert len(draws) == 5
    for picks in draws:
        assert np.bincount(labels[picks]).tolist() == [10, 10, 4]
        assert len(set(picks)) == 24
    assert not np.array_equal(draws[0], draws[1])
    assert all(np.array_equal(a, b) for a, b in zip(draws, p.few_label_draws(labels, 10), strict=True))


def test_figures_over_draws_are_mean_and_sample_deviation():
    x, y = blobs(200, 3, 0)
    values = iter([10.0, 20.0, 30.0, 40.0, 50.0])
    figure = p.over_draws(lambda *a: next(values), x, y, x, y)
    assert figure.value == 30
    assert figure.std == pytest.approx(15.811, abs=1e-3)
    assert figure.draws == [10, 20, 30, 40, 50]


def test_a_lead_is_taken_draw_by_draw():
    ours, base = {"draws": [71.0, 73.0, 75.0]}, {"draws": [70.0, 71.0, 74.0]}
    assert paired_lead(ours, base) == pytest.approx((4 / 3, 0.5774), abs=1e-4)
    assert paired_lead(ours, {"draws": None}) is None
    assert paired_lead({}, base) is None


def test_unchanged_notices_a_weight_and_a_statistic():
    E = build(tiny_config()).E
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    fill_statistics(E, E.all_outputs, pixels, seed=0, batches=2)
    with unchanged(E):
        encoder_features(E, pixels)
    with pytest.raises(AssertionError, match="encoder changed"), unchanged(E), torch.no_grad():
        E.latent.bias[0] += 1e-6
    E.train()
    with pytest.raises(AssertionError, match="encoder changed"), unchanged(E):
        encoder_features(E, pixels)  # in training mode it moves its running statistics


def test_features_do_not_depend_on_the_batch_size():
    E = build(tiny_config()).E
    pixels = np.random.default_rng(0).integers(0, 256, (33, 1, 8, 8), dtype=np.uint8)
    fill_statistics(E, E.all_outputs, pixels, seed=0, batches=2)
    a, b = encoder_features(E, pixels, batch_size=33), encoder_features(E, pixels, batch_size=7)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_mirrored_features_are_those_of_mirrored_images():
    E = build(tiny_config()).E
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    fill_statistics(E, E.all_outputs, pixels, seed=0, batches=2)
    flipped = np.ascontiguousarray(pixels[..., ::-1])
    np.testing.assert_allclose(
        encoder_features(E, pixels, mirrored=True)["avepool"], encoder_features(E, flipped)["avepool"], rtol=1e-5
    )
    np.testing.assert_array_equal(pixel_features(pixels, mirrored=True), pixel_features(flipped))


def test_pixel_features_of_large_images_are_averaged_down():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 128, 128), dtype=np.uint8)
    found = pixel_features(pixels).reshape(3, 1, 64, 64)
    np.testing.assert_allclose(found[0, 0, 5, 7], pixels[0, 0, 10:12, 14:16].mean() / 255, rtol=1e-5)
    assert pixel_features(pixels[..., :64, :64]).shape == (3, 64 * 64)


def test_without_a_test_split_a_fifth_of_train_is_held_out_and_never_shared(tmp_path):
    arrays = np.load(write_npz(tmp_path / "both.npz", count=50))
    np.savez(tmp_path / "train.npz", images=arrays["train_images"], labels=arrays["train_labels"])
    train, test = load_labelled(open_source(str(tmp_path / "train.npz")), View(8, 1))
    assert (test.name, len(test), len(train)) == ("held_out", 10, 40)
    seen = {x.tobytes() for x in train.pixels}
    assert not any(x.tobytes() in seen for x in test.pixels)
    assert not set(train.files) & set(test.files)
    again = load_labelled(open_source(str(tmp_path / "train.npz")), View(8, 1))[1]
    assert np.array_equal(test.pixels, again.pixels)


@pytest.mark.parametrize(("count", "held"), [(60_000, 6_000), (1_300_000, 10_000), (25, 2), (3, 1)])
def test_train_val_is_ten_thousand_or_a_tenth(count, held):
    picks = train_val(count)
    assert len(set(picks.tolist())) == held
    assert picks.min() >= 0
    assert picks.max() < count


def test_train_val_is_recorded_and_taken_from_the_record(tmp_path):
    first = train_val(100, tmp_path)
    record = json.loads((tmp_path / "train_val.json").read_text())
    assert record == {"seed": 0, "of": 100, "indices": first.tolist()}
    (tmp_path / "train_val.json").write_text(json.dumps(record | {"indices": [5, 6]}))
    assert train_val(100, tmp_path).tolist() == [5, 6]
    assert len(train_val(200, tmp_path)) == 20  # another source than the one recorded
