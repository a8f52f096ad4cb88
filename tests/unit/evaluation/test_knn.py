"""Nearest neighbours agree with scikit-learn, in every distance, however the references are cut."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from bigbigan.evaluation.probes import knn as module
from bigbigan.evaluation.probes.knn import knn_accuracies, nearest
from tiny import blobs


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
    query, truth = np.array([[1, 0]], dtype=np.float32), np.array([2])
    assert knn_accuracies(train, np.array([2, 0, 0, 2]), query, truth, [(4, "l2")]) == {(4, "l2"): 100}


def test_a_tie_of_many_votes_goes_to_the_nearest():
    train = np.arange(28, dtype=np.float32)[:, None]
    labels = np.where((train[:, 0] == 0) | (train[:, 0] >= 15), 1, 0)
    query, truth = np.zeros((1, 1), dtype=np.float32), np.array([1])
    assert knn_accuracies(train, labels, query, truth, [(28, "euclidean")])[28, "euclidean"] == 100


def test_cosine_votes_are_weighted_by_similarity():
    """One neighbour at similarity 1 outweighs three at 0.8: exp(0.2 / 0.07) is 17."""
    near, far = [[1, 0]], [[0.8, 0.6]] * 3
    train, labels = np.array(near + far, dtype=np.float32), np.array([1, 0, 0, 0])
    query, truth = np.array([[1, 0]], dtype=np.float32), np.array([1])
    assert knn_accuracies(train, labels, query, truth, [(4, "cosine"), (4, "l2")]) == {(4, "cosine"): 100, (4, "l2"): 0}


def test_more_neighbours_than_references():
    x, y = blobs(8, 5, 0)
    assert 0 <= knn_accuracies(x, y, x, y, [(50, "l2")])[50, "l2"] <= 100


def memory(field: str) -> float:
    """MiB this process holds (VmRSS), or has held at most since `forget_peak` (VmHWM)."""
    found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_knn_memory_does_not_grow_with_references():
    """Five neighbours of each query, at angles of 0.1 to 0.5 and of any length, are hidden in 1 GiB of noise."""
    rng = np.random.default_rng(0)
    references = rng.standard_normal((1_000_000, 256), dtype=np.float32)
    queries = rng.standard_normal((1_000, 256), dtype=np.float32)
    planted = rng.permutation(len(references))[:5_000].reshape(1_000, 5)
    ahead = unit(queries, 2)
    for rank, angle in enumerate((0.1, 0.2, 0.3, 0.4, 0.5)):
        aside = rng.standard_normal(queries.shape, dtype=np.float32)
        aside -= (aside * ahead).sum(1, keepdims=True) * ahead
        near = np.cos(angle) * ahead + np.sin(angle) * unit(aside, 2)
        references[planted[:, rank]] = near * rng.uniform(0.1, 10, (1_000, 1))
    labels, truth = rng.integers(10, size=len(references)), rng.integers(10, size=len(queries))
    labels[planted] = truth[:, None]

    def grown(search):
        forget_peak()
        before = memory("VmRSS")
        found = search()
        return memory("VmHWM") - before, found

    for distance in ("l2", "cosine"):
        tensors = torch.from_numpy(queries), torch.from_numpy(references)
        more, (_, found) = grown(lambda t=tensors, d=distance: nearest(*t, 5, d))
        assert np.array_equal(found.numpy(), planted), distance
        assert more < 300, distance
    wanted = [(k, distance) for k in (1, 5) for distance in ("l2", "cosine")]
    more, accuracies = grown(lambda: knn_accuracies(references, labels, queries, truth, wanted))
    assert accuracies == dict.fromkeys(wanted, 100.0)
    assert more < 300
