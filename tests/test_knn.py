"""Nearest neighbours agree with scikit-learn, in every distance, however the references are cut."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from bigbigan.evaluation import knn as module
from bigbigan.evaluation.knn import knn, knn_accuracies, nearest
from test_evaluation import blobs


def unit(x, order):
    return x / np.linalg.norm(x, ord=order, axis=1, keepdims=True)


@pytest.mark.parametrize(("distance", "order", "metric"), [
    ("l1", 1, "manhattan"), ("l2", 2, "euclidean"), ("cosine", 2, "euclidean"), ("euclidean", None, "euclidean"),
])  # fmt: skip
def test_neighbours_are_those_of_scikit_learn(distance, order, metric, monkeypatch):
    monkeypatch.setattr(module, "REFERENCES", 70)
    monkeypatch.setattr(module, "REFERENCES_L1", 33)
    monkeypatch.setattr(module, "QUERIES", 11)
    x, xt = blobs(300, 2, 0)[0], blobs(40, 2, 1)[0]
    a, b = (x, xt) if order is None else (unit(x, order), unit(xt, order))
    expected = NearestNeighbors(n_neighbors=7, metric=metric).fit(a).kneighbors(b, return_distance=False)
    close, found = nearest(torch.from_numpy(xt), torch.from_numpy(x), 7, distance)
    assert np.array_equal(found.numpy(), expected)
    assert torch.all(close[:, :-1] >= close[:, 1:])


@pytest.mark.parametrize(("distance", "order", "metric"), [("l1", 1, "manhattan"), ("l2", 2, "euclidean")])
def test_accuracies_agree_with_scikit_learn(distance, order, metric):
    (x, y), (xt, yt) = blobs(300, 2, 0), blobs(500, 2, 1)
    found = knn_accuracies(x, y, xt, yt, [(1, distance), (25, distance)], "cpu")
    for k, tolerance in ((1, 1e-4), (25, 1.5)):  # ties differ
        reference = KNeighborsClassifier(k, metric=metric).fit(unit(x, order), y).score(unit(xt, order), yt)
        assert found[k, distance] == pytest.approx(100 * reference, abs=tolerance)


def test_a_tie_goes_to_the_nearest():
    train = np.array([[1, 0], [0.9, 0.1], [0.6, 0.5], [0, 1]], dtype=np.float32)
    assert knn(train, np.array([2, 0, 0, 2]), np.array([[1, 0]], dtype=np.float32), np.array([2]), k=4) == 100


def test_cosine_votes_are_weighted_by_similarity():
    """One neighbour at similarity 1 outweighs three at 0.8: exp(0.2 / 0.07) is 17."""
    near, far = [[1, 0]], [[0.8, 0.6]] * 3
    train, labels = np.array(near + far, dtype=np.float32), np.array([1, 0, 0, 0])
    query, truth = np.array([[1, 0]], dtype=np.float32), np.array([1])
    assert knn_accuracies(train, labels, query, truth, [(4, "cosine"), (4, "l2")]) == {(4, "cosine"): 100, (4, "l2"): 0}


def test_more_neighbours_than_references():
    x, y = blobs(8, 5, 0)
    assert 0 <= knn_accuracies(x, y, x, y, [(50, "l2")])[50, "l2"] <= 100
