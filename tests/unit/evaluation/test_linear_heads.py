"""The paper's linear classifiers: known answers, agreement with scikit-learn, and what the protocol says."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from bigbigan.data import open_source
from bigbigan.data.batches import Batches
from bigbigan.data.streaming import StreamedPixels
from bigbigan.evaluation.probes import linear_heads as linear
from bigbigan.evaluation.probes.linear_heads import (
    TABLE2_RATES,
    Heads,
    cached_batches,
    live_batches,
    top_accuracy,
    train_heads,
)
from tiny import blobs

CPU = torch.device("cpu")


def trained(x, y, rates=TABLE2_RATES, steps=600, classes=4):
    return train_heads(cached_batches([{"f": x}], y, 0, CPU), {"f": x.shape[1]}, classes, rates, steps, CPU)


def test_heads_solve_separable_features_at_every_rate():
    (x, y), (xt, yt) = blobs(400, 9, 0), blobs(400, 9, 1)
    found = top_accuracy(trained(x, y), {"f": xt}, yt, 1, CPU)
    assert set(found) == {("f", rate) for rate in TABLE2_RATES}
    assert min(found.values()) > 98


def test_heads_find_the_bayes_rate():
    """Two blobs at distance d: the best classifier is right with probability Phi(d / 2)."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 20_000)
    x = rng.normal(size=(20_000, 5)).astype(np.float32)
    x[:, 0] += 2.0 * y
    best = 100 * torch.distributions.Normal(0, 1).cdf(torch.tensor(1.0)).item()
    heads = trained(x[:10_000], y[:10_000], (1e-2,), steps=1500, classes=2)
    assert top_accuracy(heads, {"f": x[10_000:]}, y[10_000:], 1, CPU)["f", 1e-2] == pytest.approx(best, abs=1)


def test_heads_agree_with_scikit_learn_on_hard_features():
    (x, y), (xt, yt) = blobs(3000, 1.5, 0), blobs(8000, 1.5, 1)
    reference = 100 * LogisticRegression().fit(x, y).score(xt, yt)
    found = top_accuracy(trained(x, y, steps=1500), {"f": xt}, yt, 1, CPU)
    assert max(found.values()) == pytest.approx(reference, abs=0.5)


def test_a_head_trained_among_others_is_the_head_trained_alone():
    x, y = blobs(600, 1, 0)
    together, alone = trained(x, y, (1e-3, 1e-2), steps=40), trained(x, y, (1e-2,), steps=40)
    slow, fast = together.matrices["f"].chunk(2)
    torch.testing.assert_close(fast, alone.matrices["f"], rtol=1e-4, atol=1e-7)
    assert not torch.allclose(slow, alone.matrices["f"], rtol=0.1, atol=0)


def test_weights_are_averaged_from_zero_with_the_papers_decay():
    x, y = blobs(600, 1, 0)
    after = [trained(x, y, (1e-2,), steps=n).matrices["f"] for n in (1, 2)]
    # Adam's first step has the length of the rate; the average takes 1e-4 of it
    torch.testing.assert_close(after[0].abs(), torch.full_like(after[0], 1e-6), rtol=1e-3, atol=0)
    assert after[1].abs().mean() > 1.5 * after[0].abs().mean()


def test_top5_counts_the_five_best():
    heads = Heads({"f": 6}, 6, (1.0,), CPU)
    heads.matrices["f"].copy_(torch.eye(6))
    scores = np.array([[6, 5, 4, 3, 2, 1]], dtype=np.float32)
    hits = [[top_accuracy(heads, {"f": scores}, np.array([c]), k, CPU)["f", 1.0] for c in range(6)] for k in (1, 5)]
    assert hits == [[100, 0, 0, 0, 0, 0], [100, 100, 100, 100, 100, 0]]
    assert top_accuracy(heads, {"f": scores}, np.array([5]), 50, CPU)["f", 1.0] == 100  # fewer classes than k


def test_batches_pass_over_all_images_and_draw_a_view_for_each(monkeypatch):
    monkeypatch.setattr(linear, "BATCH", 8)
    plain = np.arange(32, dtype=np.float32)[:, None]
    batches = cached_batches([{"f": plain}, {"f": plain + 100}], np.arange(32), 0, CPU)
    seen, mirrored = [], 0
    for _ in range(4):
        features, labels = next(batches)
        values = features["f"][:, 0]
        assert torch.equal(values % 100, labels.float())
        seen += labels.tolist()
        mirrored += int((values >= 100).sum())
    assert sorted(seen) == list(range(32))
    assert 4 < mirrored < 28


class Encoder(torch.nn.Module):
    """Its feature is the brightness of an image."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))

    def features(self, x):
        return self.gain * x.mean((2, 3))

    def bn_crelu(self, a):
        return torch.cat([a, -a], 1)


def test_live_batches_encode_fresh_crops_and_keep_their_labels():
    # flat images: whatever the crop, its brightness tells the image
    pixels = torch.arange(0, 200, 20, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 8, 8).contiguous()
    crops = Batches(pixels, 4, seed=0, augment="resnet_crop", resolution=4, labels=torch.arange(10))
    batches = live_batches(Encoder(), ["avepool", "bn_crelu"], crops, CPU)
    seen = []
    for _ in range(5):
        features, labels = next(batches)
        assert not features["avepool"].requires_grad
        torch.testing.assert_close((features["avepool"][:, 0] + 1) * 127.5 / 20, labels.float(), atol=0.01, rtol=0)
        seen += labels.tolist()
    assert sorted(seen) == sorted([*range(10)] * 2)


def test_live_batches_label_substitutes_of_unreadable_images(tmp_path):
    for i in range(10):
        Image.new("L", (8, 8), 20 * i).save(tmp_path / f"{i}.png")
    for i in (3, 6):
        (tmp_path / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    source = open_source(str(tmp_path), max_unreadable=1.0)
    streamed = StreamedPixels(source.splits["train"], 8, 1, source, CPU)
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, -1, 8, 9])  # image 7, the substitute of 6, is not to be trained on
    crops = Batches(streamed, 10, seed=0, augment="resnet_crop", resolution=4, labels=labels)
    features, y = next(live_batches(Encoder(), ["avepool"], crops, CPU))
    streamed.close()
    torch.testing.assert_close((features["avepool"][:, 0] + 1) * 127.5 / 20, y.float(), atol=0.01, rtol=0)
    assert sorted(y.tolist()) == [0, 1, 2, 4, 4, 5, 8, 9]
