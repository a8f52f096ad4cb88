"""Find nearest neighbours in feature space (Appendix C).

l1, l2     distance of vectors divided by their own norm of that kind; k equal votes, ties go to the nearest
euclidean  distance of the vectors as they are (BiGAN's 1-NN); equal votes; at most 50,000 references in evaluations
cosine     votes weighted by exp(similarity / 0.07), as is usual since instance discrimination

References are processed in chunks, and only the k nearest so far are kept, so that memory does not grow with their
number.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bigbigan.data.image_set import fixed_picks

__all__ = ["bigan_references", "knn_accuracies", "nearest"]

TEMPERATURE = 0.07
QUERIES, REFERENCES = 1_000, 20_000  # at a time: 80 MB of distances
REFERENCES_L1 = 4_000
BIGAN_REFERENCES = 50_000  # five blocks of 10,000 training images (jeffdonahue/bigan, train_gan.py)


def scaled(x: Tensor, distance: str) -> Tensor:
    """Scale vectors [N, d] to length 1 in the norm of `distance`; return them as they are for "euclidean"."""
    return x if distance == "euclidean" else F.normalize(x, p=1.0 if distance == "l1" else 2.0, dim=1)


@torch.no_grad()
def nearest(queries: Tensor, references: Tensor, k: int, distance: str) -> tuple[Tensor, Tensor]:
    """Return the k nearest references of each query, nearest first.

    Args:
        queries: [N, d], on the device to compute on.
        references: [M, d], on any device; moved in chunks.
        k: neighbours; at most M are returned.
        distance: l1, l2, cosine or euclidean; for unit vectors l2 and cosine give the same order.

    Returns:
        Closeness, float [N, k], the greater the nearer (cosine similarity, or minus the distance); and indices, int64
        [N, k].
    """
    k = min(k, len(references))
    part = REFERENCES_L1 if distance == "l1" else REFERENCES
    values, indices = [], []
    for q in scaled(queries, distance).split(QUERIES):
        best = torch.full((len(q), 0), -torch.inf, device=q.device)
        found = torch.zeros((len(q), 0), dtype=torch.long, device=q.device)
        for start in range(0, len(references), part):
            r = scaled(references[start : start + part].to(q.device), distance)
            p = {"l1": 1.0, "euclidean": 2.0}.get(distance)
            close = q @ r.t() if p is None else -torch.cdist(q, r, p=p)
            top = close.topk(min(k, len(r)), dim=1)
            best, found = torch.cat([best, top.values], 1), torch.cat([found, top.indices + start], 1)
            best, kept = best.topk(min(k, best.shape[1]), dim=1)
            found = found.gather(1, kept)
        values.append(best)
        indices.append(found)
    return torch.cat(values), torch.cat(indices)


def bigan_references(train: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the references of BiGAN's 1-NN: features [M, d] and labels [M], M at most 50,000.

    With `--use_test_set` the authors' code draws 50,000 of MNIST's 60,000 training images; otherwise it holds out
    10,000 and uses all others. The images drawn are the same for all runs.
    """
    if len(train) <= BIGAN_REFERENCES:
        return train, labels
    picks = fixed_picks(len(train), BIGAN_REFERENCES)
    return train[picks], labels[picks]


def knn_accuracies(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    wanted: Iterable[tuple[int, str]],
    device: str | torch.device = "cpu",
) -> dict[tuple[int, str], float]:
    """Return top-1 accuracy in percent by (k, distance).

    One search serves all k, and both l2 and cosine.

    Args:
        train, labels: features [M, d] and int64 labels [M] of the references.
        test, test_labels: features [N, d] and int64 labels [N] of the queries.
        wanted: pairs (k, distance).
        device: the device to compute on.
    """
    wanted = sorted(wanted)
    truth = torch.from_numpy(test_labels).to(device)
    out = {}
    for distances in ({"l1"}, {"euclidean"}, {"l2", "cosine"}):
        ours = [(k, d) for k, d in wanted if d in distances]
        if not ours:
            continue
        queries, references = torch.from_numpy(test).to(device), torch.from_numpy(train)
        close, indices = nearest(queries, references, ours[-1][0], ours[0][1])
        classes = torch.from_numpy(labels).to(device)[indices]
        for k, distance in ours:
            nearest_classes, votes = classes[:, :k], torch.ones_like(close[:, :k])
            if distance == "cosine":  # relative to the nearest one's weight, which avoids overflow
                votes = ((close[:, :k] - close[:, :1]) / TEMPERATURE).exp()
            tally = torch.zeros(len(truth), int(labels.max()) + 1, device=device)
            tally.scatter_add_(1, nearest_classes, votes.to(tally.dtype))
            first = tally.gather(1, nearest_classes).argmax(1, keepdim=True)  # of classes with equal votes, the nearest
            predicted = nearest_classes.gather(1, first)[:, 0]
            out[k, distance] = 100 * (int((predicted == truth).sum()) / len(truth))
    return out
