"""Logistic regression reaches its optimum, for any strength, for more features than rows and for fewer."""

import time

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from bigbigan.errors import UserError
from bigbigan.evaluation.probes import logistic as choice
from bigbigan.evaluation.probes import solver as logistic
from bigbigan.evaluation.probes.logistic import STRENGTHS, cross_validated, fit_each, fit_few, folds, scores
from bigbigan.evaluation.probes.solver import logistic_path, shortened


def images(count, size, classes, seed=0):
    """Features in [0, 1] that are strongly correlated, as those of neighbouring pixels are; float32 [count, size]."""
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(size=(count, size)), axis=1) / size**0.5
    labels = np.arange(count) % classes
    x += 0.3 * np.cumsum(np.random.default_rng(9).normal(size=(classes, size)), axis=1)[labels] / size**0.5
    return np.clip(0.5 + 0.2 * x, 0, 1).astype(np.float32), labels


def objective(W, b, x, labels, C):
    """Value and gradients, written down without regard to the code under test; W [K, d], of two classes [1, d]."""
    x = x.astype(np.float64)
    if len(W) == 1:
        margin = np.where(labels == 1, 1, -1) * (x @ W[0] + b[0])
        slope = -np.where(labels == 1, 1, -1) / (1 + np.exp(margin))
        return C * np.logaddexp(0, -margin).sum() + (W**2).sum() / 2, C * slope[None] @ x + W, C * slope.sum()[None]
    logits = x @ W.T + b
    slope = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    slope[np.arange(len(x)), labels] -= 1
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(x)), labels]
    return C * losses.sum() + (W**2).sum() / 2, C * slope.T @ x + W, C * slope.sum(0)


def reference(x, labels, C):
    """The lowest objective that scipy finds, from zero, on the features as they are."""
    classes = 1 if labels.max() == 1 else labels.max() + 1
    mean = x.mean(0, dtype=np.float64)

    def function(flat):
        W, b = flat[:-classes].reshape(classes, -1), flat[-classes:]
        value, gW, gb = objective(W, b, x - mean, labels, C)
        return value, np.concatenate([gW.ravel(), gb])

    start = np.zeros(classes * (x.shape[1] + 1))
    options = {"maxiter": 20_000, "maxfun": 40_000, "maxcor": 50, "ftol": 0, "gtol": 1e-7}
    return minimize(function, start, jac=True, method="L-BFGS-B", options=options)


@pytest.mark.parametrize(
    ("count", "size", "classes"), [(40, 300, 4), (40, 300, 2), (300, 20, 4), (300, 20, 2), (60, 60, 3)]
)
def test_the_optimum_is_reached_for_all_strengths(count, size, classes):
    x, labels = images(count, size, classes)
    for C, found in zip(STRENGTHS, logistic_path(x, labels, STRENGTHS), strict=True):
        value, *_ = objective(found.coef_, found.intercept_, x, labels, C)
        best = reference(x, labels, C)
        assert value <= best.fun * (1 + 1e-6)
        W = best.x[: found.coef_.size].reshape(found.coef_.shape)
        np.testing.assert_allclose(found.coef_, W, atol=2e-3 * np.abs(W).max())


def test_a_rotated_fit_has_the_weights_of_the_other(monkeypatch):
    x, labels = images(50, 120, 5)
    rotated = list(logistic_path(x, labels, STRENGTHS))
    monkeypatch.setattr(logistic, "MAX_ROTATED", 0)
    for ours, other in zip(rotated, logistic_path(x, labels, STRENGTHS, 1e-10), strict=True):
        scale = np.abs(other.coef_).max()
        np.testing.assert_allclose(ours.coef_, other.coef_, atol=1e-3 * scale)
        new = images(500, 120, 5, seed=1)[0]
        np.testing.assert_allclose(ours.decision_function(new), other.decision_function(new), atol=5e-3 * scale)


def test_many_rows_of_many_numbers_reach_the_optimum(monkeypatch):
    """With principal axes of a part of the rows, in blocks."""
    monkeypatch.setattr(logistic, "MAX_AXES", 20)
    monkeypatch.setattr(logistic, "BLOCK", 64)
    x, labels = images(300, 60, 3)
    for C, found in zip(STRENGTHS, logistic_path(x, labels, STRENGTHS), strict=True):
        value, *_ = objective(found.coef_, found.intercept_, x, labels, C)
        assert value <= reference(x, labels, C).fun * (1 + 1e-6)


def test_classes_keep_their_numbers_and_intercepts_are_free():
    x, labels = images(90, 20, 3)
    (found,) = logistic_path(x, 2 * labels + 5, [1.0])
    assert found.classes_.tolist() == [5, 7, 9]
    assert set(found.predict(x)) == {5, 7, 9}
    (moved,) = logistic_path(x + np.float32(8), labels, [1.0])
    np.testing.assert_allclose(moved.coef_, found.coef_, atol=1e-3 * np.abs(found.coef_).max())


def test_rows_that_are_equal_are_separated_by_frequency():
    (found,) = logistic_path(np.ones((4, 9), np.float32), np.array([0, 0, 0, 1]), [1.0])
    assert found.predict_proba(np.ones((1, 9)))[0] == pytest.approx([0.75, 0.25], abs=1e-3)


@pytest.mark.parametrize("size", [3, 600])
def test_two_rows_of_two_classes_reach_the_optimum(size):
    """Rounding errors along equal intercepts, which the objective does not see, must not grow."""
    for seed in range(5):
        x, labels = np.random.default_rng(seed).normal(size=(2, size)).astype(np.float32), np.arange(2)
        for C, found in zip((1e-3, 1e-2, 1.0, 100.0), logistic_path(x, labels, [1e-3, 1e-2, 1.0, 100.0]), strict=True):
            expected = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(x.astype(np.float64), labels)
            np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-3 * np.abs(expected.coef_).max())


@pytest.mark.parametrize("size", [3, 30])
def test_rows_that_are_equal_can_be_shortened(size):
    x, labels = np.ones((8, size), np.float32), np.arange(8) % 2
    rows, restored = shortened(x)
    (found,) = logistic_path(rows, labels, [1.0])
    assert restored(found).predict_proba(x)[0] == pytest.approx([0.5, 0.5], abs=1e-3)


def test_features_that_are_not_finite_are_refused():
    x, labels = images(20, 30, 2)
    x[3, 4] = np.nan
    with pytest.raises(UserError, match=r"1 of 20 images .* not finite"):
        next(logistic_path(x, labels, [1.0]))


def test_a_strength_is_chosen_like_by_fits_at_the_optimum():
    """Over noisy classes, for which strengths differ; `unseen` are the logits of that strength."""
    x, labels = images(120, 40, 6)
    rng = np.random.default_rng(1)
    labels = np.where(rng.random(120) < 0.3, rng.integers(0, 6, 120), labels)
    unseen = np.empty((len(STRENGTHS), *labels.shape, 6))
    for kept, held_out in folds(labels):
        for logits, found in zip(unseen, logistic_path(x[kept], labels[kept], STRENGTHS), strict=True):
            logits[held_out] = found.decision_function(x[held_out])
    accuracies = (unseen.argmax(-1) == labels).mean(1)
    best = int(accuracies.argmax())
    assert accuracies[best] > accuracies[0]
    strength, tested, logits = cross_validated(x, labels)
    assert tested.tolist() == list(range(120))
    assert strength == STRENGTHS[best]
    np.testing.assert_allclose(logits, unseen[best], atol=0.05 * np.abs(unseen[best]).max())


def test_strengths_are_not_tried_beyond_two_falls(monkeypatch):
    labels, wrong, tried = np.arange(30) % 2, [9, 0, 3, 6, 2, 12], []

    def path(*_):
        for i in range(len(STRENGTHS)):
            tried.append(i)
            yield i

    monkeypatch.setattr(choice, "logistic_path", path)
    monkeypatch.setattr(choice, "class_scores", lambda i, rows: np.eye(2)[labels[rows] ^ (rows < wrong[i])])
    strength, *_ = cross_validated(np.arange(30), labels)
    assert strength == STRENGTHS[1]
    assert tried == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]  # by three folds


def test_the_number_of_threads_does_not_matter():
    x, labels = images(200, 500, 4)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(fit_few(x, labels).coef_)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
def test_blocks_of_rows_in_threads_give_the_same_weights(classes, monkeypatch):
    """Parts are added in the order of the blocks, whichever thread is first."""
    monkeypatch.setattr(logistic, "BLOCK", 32)
    x, labels = images(200, 50, classes)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        with threadpool_limits(1):
            found.append(next(logistic_path(x, labels, [1.0])).coef_)
    np.testing.assert_array_equal(*found)


def test_trials_side_by_side_are_those_in_turn(monkeypatch):
    trials = [images(60, 200, 3, seed) for seed in range(4)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for found, (x, labels) in zip(fit_each(fit_few, trials), trials, strict=True):
        np.testing.assert_array_equal(found.coef_, fit_few(x, labels).coef_)


def test_photographs_are_fitted_twenty_times_faster():
    """100 images of 12,288 numbers, ten classes, beside scikit-learn's solver on the features as they are."""
    x, labels = images(100, 12_288, 10)
    start = time.process_time()
    LogisticRegression(C=0.01, max_iter=300).fit(x, labels)
    usual = time.process_time() - start
    start = time.process_time()
    list(logistic_path(x, labels, STRENGTHS))
    ours = (time.process_time() - start) / len(STRENGTHS)
    assert usual > 20 * ours


@pytest.mark.parametrize("d", [40, 900])  # fewer numbers than images, and more
def test_shortened_rows_have_the_same_optimum(d):
    x, labels = images(90, d, 3)
    rows, restored = shortened(x)
    assert rows.shape == (90, min(d, 89))
    found = restored(next(logistic_path(rows, labels, [1.0])))
    expected = next(logistic_path(x, labels, [1.0]))
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-5 * abs(expected.coef_).max())
    np.testing.assert_allclose(found.decision_function(x), expected.decision_function(x), atol=1e-3)
    assert found.n_features_in_ == d


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_auroc_does_not_depend_on_the_number_of_a_class_without_training_images(temperature):
    rng = np.random.default_rng(0)
    truth, known = rng.integers(0, 3, 300), rng.normal(size=(300, 2))
    known[np.arange(300), np.minimum(truth, 1)] += 1
    areas = []
    for unseen in range(3):  # its place among the class numbers; the others keep their order
        others = [c for c in range(3) if c != unseen]
        logits = np.full((300, 3), -1e9)
        logits[:, others] = known
        renumbered = np.array([*others, unseen])[truth]
        areas.append(scores(logits / temperature, renumbered)["auroc"])
    assert areas[0] == areas[1] == areas[2]
    at_the_end = scores(known / temperature, truth)["auroc"]
    assert at_the_end == areas[0]


def test_a_fold_may_train_without_the_last_class():
    """The only image of class 2 belongs to a group that a fold leaves out."""
    labels = np.array([0, 1] * 10 + [2])
    groups = np.append(np.arange(20) // 2, 9)
    features = np.random.default_rng(0).normal(size=(21, 8)).astype(np.float32)
    classifier = fit_few(features, labels, groups)
    assert classifier.classes_.tolist() == [0, 1, 2]
    _, tested, logits = cross_validated(features, labels, groups)
    assert logits.shape == (len(tested), 3)
