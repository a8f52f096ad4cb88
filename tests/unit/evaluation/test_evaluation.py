"""Probes reach known answers, agree with references, and leave the encoder alone."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.special import softmax
from sklearn import metrics
from sklearn.decomposition import PCA

from bigbigan.apps.train import train
from bigbigan.data import open_source
from bigbigan.data.held_out import held_out_fifth
from bigbigan.errors import UserError
from bigbigan.evaluation import features as f
from bigbigan.evaluation.context import Evaluation
from bigbigan.evaluation.features import digest, encoder_features, fill_statistics, pca_pixels, pixel_features
from bigbigan.evaluation.metric_names import parse_metrics
from bigbigan.evaluation.probes import logistic as p
from bigbigan.evaluation.records import paired_lead
from bigbigan.evaluation.runner import evaluate, reconstruction_errors
from bigbigan.evaluation.splits import View, load_images, subsample, train_val
from bigbigan.evaluation.targets import open_target
from bigbigan.inference.model import Model
from bigbigan.models import build
from tiny import blobs, tiny_config, write_npz


def test_linear_probe_solves_separable_features_not_noise():
    (x, y), (xt, yt) = blobs(400, 9, 0), blobs(400, 9, 1)
    assert p.fit_linear(x, y, seed=0).score(xt, yt) == 1
    assert p.fit_few(x[:40], y[:40]).score(xt, yt) > 0.99
    assert 0.15 < p.fit_linear(*blobs(400, 0, 2), seed=0).score(*blobs(4000, 0, 3)) < 0.35


def test_linear_probe_finds_the_bayes_rate():
    """Two blobs at distance d: the best classifier is right with probability Phi(d / 2)."""
    distance = 2.0
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 20_000)
    x = rng.normal(size=(20_000, 5)).astype(np.float32)
    x[:, 0] += distance * y
    best = 100 * torch.distributions.Normal(0, 1).cdf(torch.tensor(distance / 2)).item()
    found = 100 * p.fit_linear(x[:10_000], y[:10_000], seed=0).score(x[10_000:], y[10_000:])
    assert found == pytest.approx(best, abs=1)


def test_linear_probe_does_not_mind_the_scale_of_features():
    (x, y), (xt, yt) = blobs(300, 2.5, 0), blobs(2000, 2.5, 1)
    values = [p.fit_few(s * x, y).score(s * xt, yt) for s in (1, 0.1)]
    assert values[0] == pytest.approx(values[1], abs=0.015)


def test_few_label_draws_are_fixed_distinct_and_balanced():
    labels = np.repeat(np.arange(3), [50, 20, 4])
    draws = p.few_label_trials(labels, 10)
    assert len(draws) == 5
    for picks in draws:
        assert np.bincount(labels[picks]).tolist() == [10, 10, 4]
        assert len(set(picks)) == 24
    assert not np.array_equal(draws[0], draws[1])
    assert all(np.array_equal(a, b) for a, b in zip(draws, p.few_label_trials(labels, 10), strict=True))


def test_figures_over_draws_are_mean_and_sample_deviation():
    figure = p.mean_over_trials([10.0, 20.0, 30.0, 40.0, 50.0])
    assert figure.value == 30
    assert figure.std == pytest.approx(15.811, abs=1e-3)
    assert figure.trials == [10, 20, 30, 40, 50]
    assert p.mean_over_trials([7.0]) == (7, None, None, None)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_scores_are_scikit_learn_s(classes):
    rng = np.random.default_rng(classes)
    truth = rng.choice(classes, 400, p=[0.7, *[0.3 / (classes - 1)] * (classes - 1)])
    logits = rng.normal(size=(400, classes)) * 2
    logits[np.arange(400), truth] += 1.5
    found = p.scores(logits, truth)
    probabilities = softmax(logits, axis=1)
    given = probabilities[:, 1] if classes == 2 else probabilities
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(truth, given, multi_class="ovr"), abs=1e-12)
    assert found["top1"] == pytest.approx(100 * metrics.accuracy_score(truth, logits.argmax(1)))
    assert found["balanced"] == pytest.approx(100 * metrics.balanced_accuracy_score(truth, logits.argmax(1)))


def test_auroc_orders_images_where_probabilities_no_longer_do():
    truth = np.array([0, 0, 1, 1])
    logits = np.stack([np.zeros(4), [800.0, 900.0, 1000.0, 1100.0]], axis=1)  # sigmoid(800) is 1
    assert p.scores(logits, truth)["auroc"] == 1
    assert p.scores(logits, truth)["top1"] == p.scores(logits, truth)["balanced"] == 50


def test_scores_of_classes_that_only_one_side_has():
    logits = np.array([[2.0, 0, -1e9], [0, 2, -1e9], [1, 0, -1e9], [0, 1, -1e9]])
    some = p.scores(logits, np.array([0, 1, 0, 1]))  # the third class was not seen
    assert some == {"top1": 100, "balanced": 100, "auroc": 1}
    more = p.scores(logits[:, :2], np.array([0, 1, 0, 2]))  # the last image is of a class that no classifier knows
    assert more["top1"] == 75
    assert more["balanced"] == pytest.approx(200 / 3)
    assert more["auroc"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert np.isnan(p.scores(logits, np.zeros(4, int))["auroc"])


def test_class_scores_put_each_class_in_its_column():
    x, y = blobs(60, 6, 0, classes=3)
    known = np.flatnonzero(y != 1)
    found = p.class_scores(p.fit_few(x[known], y[known]), x)
    assert found.shape == (60, 3)
    assert found.dtype == np.float64
    assert not (found.argmax(1) == 1).any()


def test_a_handful_of_labels_is_enough_to_fit():
    x, y = blobs(7, 9, 0, classes=2)
    assert p.fit_linear(x, y, seed=0).score(x, y) == 1
    assert p.fit_few(x[:2], y[:2]).score(x, y) == 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=6, max_size=60), st.booleans())
@settings(max_examples=60, deadline=None)
def test_folds_keep_each_class_and_split_no_group(images, grouped):
    labels, groups = np.array(images).T
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = p.folds(labels, groups if grouped else None)
    units = groups if grouped else np.arange(len(labels))
    divided = {c for c in labels.tolist() if len(set(units[labels == c].tolist())) > 1}
    rare = np.isin(labels, [*divided], invert=True).mean()
    assert (len(divided) > 1 and rare <= 0.1) or not found
    for kept, held in found:
        assert len(held)
        assert not set(units[kept].tolist()) & set(units[held].tolist())
        assert divided <= set(labels[kept].tolist())
        assert set(labels[held].tolist()) <= divided
        left_out = np.setdiff1d(np.arange(len(labels)), [*kept, *held])  # rare, and of a group that is held out
        assert not set(labels[left_out].tolist()) & divided
        assert set(units[left_out].tolist()) <= set(units[held].tolist())
    if found:
        assert sorted(i for _, held in found for i in held) == np.flatnonzero(np.isin(labels, [*divided])).tolist()


def test_a_class_of_one_image_does_not_keep_the_others_from_folds():
    x, y = blobs(40, 3, 0, classes=2)
    y[7] = 2
    strength, tested, unseen = p.cross_validated(x, y)
    assert tested.tolist() == [i for i in range(40) if i != 7]
    assert unseen.shape == (39, 3)
    assert (unseen.argmax(1) == y[tested]).mean() > 0.8
    assert strength in p.STRENGTHS


def test_groups_govern_what_a_strength_is_chosen_by(monkeypatch):
    """Twelve images a patient that give the patient away: whole patients are held out."""
    fitted = []
    path = p.logistic_path
    monkeypatch.setattr(p, "logistic_path", lambda x, *rest: fitted.append(x) or path(x, *rest))
    x, y = blobs(120, 3, 0, classes=2)
    groups = np.arange(120) // 12
    patient = {row.tobytes(): group for row, group in zip(x, groups, strict=True)}
    p.fit_few(x, y, groups)
    p.fit_linear(x, y, 0, groups)
    counts = [np.bincount([patient[row.tobytes()] for row in rows], minlength=10) for rows in fitted]
    assert all(set(count) <= {0, 12} for count in counts)  # whole patients
    assert [len(rows) for rows in fitted[3:]] == [120, 108, 120]  # after three folds: all; without one patient; all


@pytest.mark.parametrize("count", [99, 120])
def test_linear_probe_is_fitted_to_images_of_one_group(count):
    (x, y), (xt, yt) = blobs(count, 9, 0), blobs(400, 9, 1)
    assert p.fit_linear(x, y, 0, np.zeros(count, int)).score(xt, yt) > 0.99


def test_a_lead_is_taken_draw_by_draw():
    ours, base = {"trials": [71.0, 73.0, 75.0]}, {"trials": [70.0, 71.0, 74.0]}
    assert paired_lead(ours, base) == pytest.approx((4 / 3, 0.5774), abs=1e-4)
    assert paired_lead(ours, {"trials": None}) is None
    assert paired_lead({}, base) is None
    assert paired_lead(ours, base | {"protocol": {"train_images": 400}}) is None  # of some of the images


def test_runs_of_all_seeds_are_tested_on_the_same_images(tmp_path):
    """Of a source without a test split."""
    for i in range(40):
        path = tmp_path / "photos" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    tested = []
    for seed in (0, 1):
        run = tmp_path / f"run{seed}"
        config = tiny_config("training.steps=1", f"training.seed={seed}")
        train(config, str(tmp_path / "photos"), run, progress=False)
        target = open_target(str(run))
        tested.append(Evaluation(target, target.source(None, None, ""), "", "", False).test.files)
    assert tested[0] == tested[1]


def test_computing_features_changes_no_weight_and_no_statistic():
    E = build(tiny_config()).E
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    fill_statistics(E, E.all_outputs, pixels, seed=0, batches=2)
    before = digest(E)
    encoder_features(E, pixels)
    assert digest(E) == before
    E.train()
    encoder_features(E, pixels)  # in training mode it moves its running statistics
    assert digest(E) != before


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


@pytest.mark.parametrize("side", [4, 16])  # fewer numbers than images, and more
def test_pca_pixels_are_scikit_learn_s(side, monkeypatch):
    monkeypatch.setattr(f, "PCA_VARIANCE", 0.6)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, side, side), dtype=np.uint8)
    pixels[:, 1] = pixels[:, 0] // 2
    pca = pca_pixels(pixels)
    reference = PCA(0.6, whiten=True, svd_solver="full").fit(pixel_features(pixels).astype(np.float64))
    assert len(pca.components) == reference.n_components_ > 3
    ours, theirs = pca(pixels), reference.transform(pixel_features(pixels))
    theirs *= np.sqrt(60 / 59) * np.sign((ours * theirs).sum(0))  # it divides by N - 1, and has its own signs
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    np.testing.assert_allclose(np.cov(ours.T, bias=True), np.eye(len(pca.components)), atol=1e-3)
    mirrored = np.ascontiguousarray(pixels[..., ::-1])
    np.testing.assert_allclose(pca(pixels, mirrored=True), pca(mirrored), atol=1e-4)


def test_pca_pixels_of_many_images_and_of_equal_ones(monkeypatch):
    monkeypatch.setattr(f, "PCA_COMPONENTS", 5)
    monkeypatch.setattr(f, "PCA_IMAGES", 50)
    pixels = np.random.default_rng(0).integers(0, 256, (80, 1, 8, 8), dtype=np.uint8)
    assert pca_pixels(pixels)(pixels).shape == (80, 5)
    np.testing.assert_array_equal(pca_pixels(pixels)(pixels), pca_pixels(pixels)(pixels))
    assert np.isfinite(pca_pixels(np.ones_like(pixels))(pixels)).all()


def test_without_a_test_split_a_fifth_of_train_is_held_out(tmp_path):
    arrays = np.load(write_npz(tmp_path / "both.npz", count=50))
    np.savez(tmp_path / "train.npz", images=arrays["train_images"], labels=arrays["train_labels"])
    images = load_images(open_source(str(tmp_path / "train.npz")), View(8, 1))
    train, test = images.train, images.test
    assert (test.name, len(test), len(train)) == ("held_out", 10, 40)
    seen = {x.tobytes() for x in train.pixels}
    assert not any(x.tobytes() in seen for x in test.pixels)
    assert not set(train.files) & set(test.files)
    again = load_images(open_source(str(tmp_path / "train.npz")), View(8, 1)).test
    assert np.array_equal(test.pixels, again.pixels)


@pytest.mark.parametrize(("count", "held"), [(2, 1), (4, 1), (5, 1), (9, 1), (10, 2)])
def test_of_few_images_one_is_held_out(tmp_path, count, held):
    np.savez(tmp_path / "few.npz", images=np.arange(count, dtype=np.uint8).repeat(64).reshape(count, 8, 8))
    images = load_images(open_source(str(tmp_path / "few.npz")), View(8, 1))
    train, test = images.train, images.test
    assert (len(train), len(test)) == (count - held, held)


def test_one_image_cannot_be_trained_and_tested_on(tmp_path):
    np.savez(tmp_path / "one.npz", images=np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(UserError, match="1 training image and no test split; expected two or more"):
        load_images(open_source(str(tmp_path / "one.npz")), View(8, 1))


def test_the_mismatched_error_does_not_depend_on_the_order_of_files():
    """The images of a folder come class by class, so that the next image is of the same class."""
    light = np.random.default_rng(0).integers(200, 256, (60, 1, 8, 8), dtype=np.uint8)
    pixels = np.concatenate([light, light - 200])
    config = tiny_config()
    model = Model(config, build(config, "cpu"), 1, 1)
    model.reconstruct = model.prepare  # perfect
    sorted_by_class = reconstruction_errors(model, pixels)["reconstruction_error_mismatched"]
    mixed = reconstruction_errors(model, np.random.default_rng(1).permutation(pixels))
    assert sorted_by_class == pytest.approx(mixed["reconstruction_error_mismatched"], rel=0.2)


def test_a_single_test_image_has_no_mismatched_error(tmp_path):
    """It would be the error of the image itself, and the ratio 1 would say that nothing was learned."""
    np.savez(tmp_path / "rows.npz", images=np.load(write_npz(tmp_path / "both.npz"))["train_images"])
    run = tmp_path / "run"
    train(tiny_config("training.steps=2"), str(tmp_path / "rows.npz"), run, progress=False)
    every = ["reconstruction_*"]
    assert [x.metric for x in evaluate(run, None, every, "", False, max_images=4)] == ["reconstruction_error"]
    assert len(evaluate(run, None, every, "", False, max_images=10)) == 3
    with pytest.raises(UserError, match="reconstruction_ratio: needs two or more test images"):
        evaluate(run, None, ["reconstruction_ratio"], "", False, max_images=4)


def test_quality_is_skipped_without_enough_real_images(tmp_path):
    data, run = str(write_npz(tmp_path / "rows.npz")), tmp_path / "run"
    train(tiny_config("training.steps=2"), data, run, progress=False)
    for count, measured in ((1, set()), (2, {"fid", "kid"}), (4, {"fid", "kid", "precision", "recall"})):
        lines = evaluate(run, None, ["reconstruction_error", "*10k_train_encoder"], "", False, max_images=count)
        assert {x.metric for x in lines} == {"reconstruction_error", *(f"{m}10k_train_encoder" for m in measured)}
        assert all(np.isfinite(x.value) for x in lines)
    for name, count in (("fid10k_train_encoder", 1), ("kid10k_test_encoder", 1), ("recall10k_train_encoder", 3)):
        with pytest.raises(UserError, match=f"{name}: needs real images to compare with"):
            evaluate(run, None, [name], "", False, max_images=count)


@pytest.mark.parametrize(("count", "held"), [(60_000, 6_000), (1_300_000, 10_000), (25, 2), (3, 1)])
def test_train_val_is_ten_thousand_or_a_tenth(count, held):
    picks = train_val(count)
    assert len(set(picks.tolist())) == held
    assert picks.min() >= 0
    assert picks.max() < count


def test_train_val_is_recorded_and_taken_from_the_record(tmp_path):
    first = train_val(100, tmp_path)
    record = json.loads((tmp_path / "train_val.json").read_text())
    assert record | {"crc32": ""} == {"seed": 0, "of": 100, "indices": first.tolist(), "crc32": ""}
    (tmp_path / "train_val.json").write_text(json.dumps(record | {"indices": [5, 6]}))
    assert train_val(100, tmp_path).tolist() == [5, 6]
    assert len(train_val(200, tmp_path)) == 20  # another source than the one recorded


def test_few_labels_alone_are_measured_as_among_others(tmp_path):
    data, run = str(write_npz(tmp_path / "rows.npz", count=300)), tmp_path / "run"
    train(tiny_config("training.steps=2"), data, run, progress=False)
    few = ["top1_linear_avepool_10perclass", "knn5_l2_avepool_10perclass"]
    alone, among = (
        evaluate(run, None, metrics, "", progress=False) for metrics in (few, [*few, "top1_linear_avepool"])
    )
    values = [{(x.metric, x.steps): x.trials for x in lines if x.metric in few} for lines in (alone, among)]
    assert values[0] == values[1]
    assert len(values[0]) == 4


def test_own_metric_cannot_take_the_name_of_another(tmp_path, monkeypatch):
    for module in ("first_scores", "second_scores"):
        (tmp_path / f"{module}.py").write_text("def score(x, y, x_test, y_test): ...\ndef top1_linear(*data): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(parse_metrics(["first_scores:score", "first_scores:score"])) == len(
        parse_metrics(["first_scores:score"])
    )
    for names in (["first_scores:score", "second_scores:score"], ["first_scores:top1_linear"]):
        with pytest.raises(UserError, match="is the name of another metric; rename the function"):
            parse_metrics(names)


def test_test_images_that_are_training_images_are_reported(tmp_path):
    path = write_npz(tmp_path / "d.npz", count=60)
    arrays = dict(np.load(path))
    arrays["test_images"][:6] = arrays["train_images"][:6]
    np.savez(path, **arrays)
    with pytest.warns(UserWarning, match="6 of 60 test images are also training images"):
        load_images(open_source(str(path)), View(8, 1))


def test_groups_that_are_the_classes_leave_nothing_to_test(tmp_path):
    source = open_source(str(write_npz(tmp_path / "d.npz", count=60)))
    train = source.splits["train"]
    del source.splits["test"]
    train.groups = train.labels.copy()
    with pytest.raises(UserError, match="no class of the fifth that is held out for testing is left to train on"):
        load_images(source, View(8, 1))


def test_own_metrics_cannot_change_the_features_of_others(tmp_path, monkeypatch):
    (tmp_path / "greedy.py").write_text("def scale(x, y, x_test, y_test):\n    x *= 0\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    train(tiny_config("training.steps=2"), str(write_npz(tmp_path / "rows.npz")), run, progress=False)
    with pytest.raises(UserError, match=r"--metrics greedy:scale: .*read-only"):
        evaluate(run, None, ["greedy:scale", "knn1_l2_avepool"], "", False)


@pytest.mark.parametrize("max_images", [100, 60, 20])
def test_a_part_of_the_images_is_divided_as_all_of_them(tmp_path, max_images):
    """Images that chose the best step, or that trained its classifiers, are not tested on."""
    source = open_source(str(write_npz(tmp_path / "d.npz", count=100)))
    del source.splits["test"]
    images = source.splits["train"]
    kept, held_out = (set(images.subset(part).files) for part in held_out_fifth(images))
    source.splits = subsample(source, max_images)
    found = load_images(source, View(8, 1), drawn_from=images)
    assert set(found.test.files) <= held_out
    assert set(found.train.files) <= kept
    assert (len(found.test), len(found.train)) == (max_images // 5, max_images - max_images // 5)


def test_quality_is_skipped_if_too_few_images_can_be_read(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        Image.new("L", (8, 8), 60 * i).save(folder / f"{i}.png")
    (folder / "3.png").write_bytes(b"damaged")
    settings = ["training.steps=1", "data.max_unreadable=0.5", "training.batch_size=2"]
    with pytest.warns(UserWarning, match="skipped"):
        train(tiny_config(*settings), str(folder), tmp_path / "run", progress=False)
    names = ["fid10k_train_encoder", "recall10k_train_encoder"]
    with pytest.warns(UserWarning, match="recall10k_train_encoder is not measured: 3 images of train can be read"):
        lines = evaluate(tmp_path / "run", None, names, "", False)
    assert [x.metric for x in lines] == ["fid10k_train_encoder"]
