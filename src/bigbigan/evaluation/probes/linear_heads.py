"""Train the paper's linear classifiers on frozen features (Section 3.1 and Appendix A).

table1     zero initialisation, Adam at 0.01, average of the weights with decay 0.9999, 5,000 steps on training crops;
           scored on train_val, training images that are held out
sweepNk    the same at each of Table 2's five rates, N thousand steps (the paper's: 100); rate chosen on train_val,
           scored once on the test split

All rates and both features are trained in one pass over the features. A batch has 512 images, since the paper does not
state its batch size (docs/deviations.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigbigan.data.batches import Batches
from bigbigan.evaluation.features import outputs
from bigbigan.progress import Bar

__all__ = [
    "PROTOCOLS",
    "TABLE1_RATE",
    "TABLE2_RATES",
    "Heads",
    "cached_batches",
    "head_flops",
    "top_accuracy",
    "train_heads",
]

TABLE1_RATE = 1e-2
TABLE2_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
PROTOCOLS = {"table1": 5_000, "sweep5k": 5_000, "sweep100k": 100_000}  # steps
DECAY = 0.9999
BATCH = 512


FeatureBatches = Iterator[tuple[Mapping[str, Tensor], Tensor]]


def head_flops(d: int, classes: int) -> int:
    """Return the floating-point operations of training the heads of all rates for 5,000 steps on a feature [d]."""
    return 4 * PROTOCOLS["sweep5k"] * BATCH * len(TABLE2_RATES) * d * classes  # 2 products, 2 a multiply-add


class Heads:
    """Hold linear classifiers by (feature, rate), initially zero.

    The classifiers of a feature are one matrix, [rates · classes, d], so that all rates are one matrix product.
    """

    def __init__(self, sizes: Mapping[str, int], classes: int, rates: tuple[float, ...], device: torch.device) -> None:
        self.classes = classes
        self.keys = [(name, rate) for name in sizes for rate in rates]
        self.matrices = {name: torch.zeros(len(rates) * classes, d, device=device) for name, d in sizes.items()}
        self.offsets = {name: torch.zeros(len(rates) * classes, device=device) for name in sizes}

    def logits_of(self, name: str, features: Tensor) -> Tensor:
        """Return logits [N, rates, classes] of the heads on one feature, [N, d]."""
        return torch.addmm(self.offsets[name], features, self.matrices[name].T).unflatten(1, (-1, self.classes))

    def logits(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return logits [N, heads, classes] of features by name, each [N, d]."""
        return torch.cat([self.logits_of(name, features[name]) for name in self.matrices], dim=1)


def train_heads(
    batches: FeatureBatches,
    sizes: Mapping[str, int],
    classes: int,
    rates: tuple[float, ...],
    steps: int,
    device: torch.device,
    progress: bool = False,
) -> Heads:
    """Train heads and return them with averaged weights.

    The average starts at the zero initialisation, which shrinks the weights but changes no arg max.

    Args:
        batches: endless batches of (features by name, each [n, d]; labels int64 [n]).
        sizes: d of each feature.
        classes: number of classes.
        rates: learning rates of Adam.
        steps: how many batches are used.
        device: the device to train on.
        progress: show steps/s and time left.
    """
    heads, average = (Heads(sizes, classes, rates, device) for _ in range(2))
    trained, averaged = ([*h.matrices.values(), *h.offsets.values()] for h in (heads, average))
    # Adam's step is proportional to its rate, and all heads start at zero. So one Adam of rate 1 trains them all, and
    # the weights of a head are its rate times the tensors that it trains.
    by_row = torch.tensor(rates, device=device).repeat_interleave(classes)[:, None]
    optimizer = torch.optim.Adam(trained, lr=1.0, fused=True)
    for tensor in trained:
        tensor.grad = torch.empty_like(tensor)
    for _ in Bar(range(steps), "linear heads", disable=not progress, leave=False, unit="step"):
        features, labels = next(batches)
        with torch.no_grad():
            target = F.one_hot(labels, classes).T
            for name in sizes:
                matrix, offset = heads.matrices[name], heads.offsets[name]
                logits = torch.addmm(offset[:, None], matrix, features[name].T).mul_(by_row)
                # The gradient of the mean cross-entropy by the logits, of each head as if it were alone.
                error = F.softmax(logits.unflatten(0, (-1, classes)), dim=1)
                error = error.sub_(target).div_(len(labels)).flatten(0, 1)
                torch.mm(error, features[name], out=matrix.grad)
                torch.sum(error, dim=1, out=offset.grad)
            optimizer.step()
            torch._foreach_lerp_(averaged, trained, 1 - DECAY)
    for matrix in average.matrices.values():
        matrix.mul_(by_row)
    for offset in average.offsets.values():
        offset.mul_(by_row[:, 0])
    return average


def cached_batches(
    views: Sequence[Mapping[str, np.ndarray]], labels: np.ndarray, seed: int, device: torch.device
) -> FeatureBatches:
    """Yield endless batches of features that are computed only once.

    Args:
        views: features of the same images under each augmentation (as they are; mirrored). One view is drawn for each
            image of a batch.
        labels: [N].
        seed: draws the order and the views.
        device: the device of the features.
    """
    generator = torch.Generator().manual_seed(seed)
    data = [{name: torch.from_numpy(f).to(device) for name, f in view.items()} for view in views]
    y = torch.from_numpy(labels).to(device)
    order = torch.empty(0, dtype=torch.long)
    while True:
        if len(order) < min(BATCH, len(y)):
            order = torch.randperm(len(y), generator=generator)
        picks, order = order[:BATCH].to(device), order[BATCH:]
        counts = [len(picks)]
        if len(data) > 1:  # the images of a batch in the order of their views, so that each view is read once
            which = torch.randint(len(data), (len(picks), 1), generator=generator)[:, 0]
            picks = picks[which.argsort(stable=True).to(device)]
            counts = which.bincount(minlength=len(data)).tolist()
        features = {}
        for name, f in data[0].items():
            out = features[name] = f.new_empty(len(picks), f.shape[1])
            parts = zip(data, picks.split(counts), out.split(counts), strict=True)
            for view, rows, part in parts:  # index_select copies rows several times as fast as f[rows] on a CPU
                torch.index_select(view[name], 0, rows, out=part)
        yield features, y[picks]


@torch.no_grad()
def top_accuracy(
    heads: Heads, features: Mapping[str, np.ndarray], labels: np.ndarray, top: int, device: torch.device
) -> dict[tuple[str, float], float]:
    """Return the percentage of images whose label is among the `top` best classes, by (feature, rate)."""
    correct = torch.zeros(len(heads.keys), dtype=torch.long, device=device)
    for start in range(0, len(labels), 2_000):
        chunk = {name: torch.from_numpy(f[start : start + 2_000]).to(device) for name, f in features.items()}
        y = torch.from_numpy(labels[start : start + 2_000]).to(device)
        best = heads.logits(chunk).topk(min(top, heads.classes), dim=2).indices
        correct += (best == y[:, None, None]).any(2).sum(0)
    return {key: 100 * int(count) / len(labels) for key, count in zip(heads.keys, correct, strict=True)}


def live_batches(encoder: nn.Module, names: Sequence[str], crops: Batches, device: torch.device) -> FeatureBatches:
    """Yield endless batches of features of fresh training crops, for augmentations with too many views to cache.

    Args:
        encoder, names: see `bigbigan.evaluation.features.outputs`.
        crops: batches of the images, with their labels; images of label -1 are skipped.
        device: the encoder's.
    """
    number = 0
    while True:
        x, y = crops.batch(number), crops.labels(number)
        assert y is not None
        if (y < 0).any():  # the substitute of an unreadable image may be an image that is not to be trained on
            x, y = x[y >= 0], y[y >= 0]
        with torch.no_grad():
            features = outputs(encoder, x.to(device), names)
        yield features, y.to(device)
        number += 1
