"""A saved head: what it predicts, what its file holds, and which files are refused."""

import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import softmax

from bigbigan.config import override
from bigbigan.errors import UserError
from bigbigan.evaluation.probes.calibration import calibration_error
from bigbigan.evaluation.probes.saved_head import fit_head, references
from bigbigan.evaluation.probes.solver import logistic_path
from bigbigan.inference.head import Head, Preprocessing, distances, mean_of_nearest
from bigbigan.inference.model import Model
from bigbigan.models import build
from tiny import blobs, tiny_config

VIEW = Preprocessing(8, 1, "none", False)
E = torch.nn.Linear(2, 2)  # any module has weights to belong to


def fitted(x, y, names=("a", "b", "c", "d"), groups=None):
    return fit_head(x, x[:, :6] + 3, y, names, groups, VIEW, E, tiny_config(), 7)[:2]


def predicted(head, x):
    return head.predict(torch.from_numpy(x), torch.from_numpy(x[:, :6] + 3))


@pytest.fixture(scope="module")
def data():
    return blobs(240, 3, 0)


@pytest.fixture(scope="module")
def head(data):
    return fitted(*data)[0]


def test_probabilities_are_those_of_the_optimum(head, data):
    x, y = data
    classifier = next(logistic_path(x, y, [head.strength]))
    new, truth = blobs(400, 3, 1)
    found = predicted(head, new)
    expected = softmax(classifier.decision_function(new) / head.temperature, axis=1)
    np.testing.assert_allclose(found.probabilities.numpy(), expected, atol=1e-5)
    assert (head.images, head.step) == (240, 7)
    assert np.mean([head.classes.index(name) == k for name, k in zip(found.names, truth, strict=True)]) > 0.9
    assert torch.equal(found.confidence, found.probabilities.amax(1))


def test_of_many_images_rare_classes_are_calibrated_too(monkeypatch):
    """Among 600 images, of which 100 choose the strength and the temperature, are 4 of the rare class."""
    monkeypatch.setattr("bigbigan.evaluation.probes.saved_head.MAX_IMAGES", 100)
    x, y = blobs(900, 3, 0, classes=3)
    keep = np.concatenate([np.flatnonzero(y != 2)[:596], np.flatnonzero(y == 2)[:4]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as: the confidence is not calibrated
        head, quality = fitted(x[keep], y[keep])
    assert head.classes == ("a", "b", "c")
    assert len(head.references) == 100
    assert quality["balanced"] > 60


def test_a_class_with_one_label_is_named_and_the_others_are_calibrated(data):
    x, y = (part.copy() for part in data)
    y[5] = 4
    with pytest.warns(UserWarning, match="only one labelled image or group of e: not among the images"):
        head, quality = fitted(x, y, ("a", "b", "c", "d", "e"))
    before, expected = fitted(*data)
    assert head.classes == ("a", "b", "c", "d", "e")
    assert head.temperature == pytest.approx(before.temperature, rel=0.2)
    assert quality["top1"] == pytest.approx(expected["top1"], abs=2)


def test_quality_on_folds_is_that_of_new_images(data):
    head, quality = fitted(*data)
    new, truth = blobs(4_000, 3, 1)
    found = predicted(head, new).probabilities.argmax(1).numpy()
    assert quality["top1"] == pytest.approx(100 * (found == truth).mean(), abs=3)
    assert quality["ece"] < 5
    assert quality["auroc"] > 0.98


def test_strength_and_temperature_suit_new_images(head, data):
    """Other strengths are not much better, and the confidence is right on average."""
    new, truth = blobs(4_000, 3, 1)
    found = predicted(head, new).probabilities.double()
    accuracies = [c.score(new, truth) for c in logistic_path(*data, [1e-3, 1e-2, 1e-1, 1, 10, 100])]
    assert (found.argmax(1).numpy() == truth).mean() > max(accuracies) - 0.02
    assert calibration_error(found.log().numpy(), truth) < 0.04


def test_two_classes_and_a_class_without_labels():
    x, y = blobs(80, 5, 0, classes=2)
    found = predicted(fitted(x, 2 * y)[0], x)  # class 1 has no labelled image
    assert found.classes == ("a", "c")
    assert np.mean(np.array(found.names) == np.where(y, "c", "a")) > 0.95
    assert torch.allclose(found.probabilities.sum(1), torch.ones(80))


def test_known_images_are_rarely_unlike_and_foreign_ones_are(head):
    new, _ = blobs(4_000, 3, 1)
    assert predicted(head, new).unlike_training.float().mean() < 0.03
    far = new + 6 * np.random.default_rng(0).normal(size=new.shape)
    assert predicted(head, far.astype(np.float32)).unlike_training.float().mean() > 0.9


def test_the_limit_ignores_images_of_the_same_group(data):
    """Copies of an image in its group would make the limit nearly 0."""
    x, y = (np.repeat(part[:60], 6, axis=0) for part in data)
    groups = np.repeat(np.arange(60), 6)
    alone = fitted(*(part[:60] for part in data))[0].max_distance
    assert fitted(x, y)[0].max_distance < 0.05
    assert fitted(x, y, groups=groups)[0].max_distance > 0.5 * alone


def test_mean_of_nearest_of_a_known_case():
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert torch.allclose(distances(5 * x, x), torch.tensor([[0.0, 0.4], [0.4, 0.0]]))
    found = torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 9.0]])
    assert mean_of_nearest(found).item() == 3.0
    assert mean_of_nearest(found[:, :3]).item() == 4.5  # of three references two


def test_too_few_labels_are_not_calibrated():
    x, y = blobs(8, 3, 0)
    with pytest.warns(UserWarning, match="confidence is not calibrated"):
        head, quality = fitted(x[:5], y[:5])
    assert head.temperature == 1
    assert quality == {}
    one_group = np.zeros(8, dtype=np.int64)
    with pytest.warns(UserWarning, match="confidence is not calibrated"):
        head, _ = fitted(x, y, groups=one_group)
    assert head.max_distance is None
    assert not predicted(head, np.full((1, 12), -1e6, dtype=np.float32)).unlike_training.any()


# -- its file ---------------------------------------------------------------------------------------------------


def test_a_file_gives_the_head_back(head, tmp_path):
    head.save(tmp_path / "h.safetensors")
    again = Head.load(tmp_path / "h.safetensors")
    for name in ("weight", "bias", "references"):
        assert torch.equal(getattr(head, name), getattr(again, name))
    same = replace(again, weight=head.weight, bias=head.bias, references=head.references)
    assert vars(same) == vars(head)


def about(path):
    size = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]


def rewrite(path, change=None, tensors=None, stamp=True):
    """Write the file again with its JSON or tensors changed, and checksums that fit unless not `stamp`."""
    from bigbigan.io import stamped
    from bigbigan.io.tensors import digest_of

    found, metadata = load_file(path), about(path)
    content = json.loads(metadata["head"])
    content.pop("crc32") if stamp else None
    content = (change or dict)(content)
    found = (tensors or dict)(found)
    save_file(found, path, {"head": json.dumps(stamped(content) if stamp else content), "sha256": digest_of(found)})


WRONG = {
    "schema": (lambda c: c | {"schema": 2}, None, "has schema 2, this version reads 1"),
    "no classes": (lambda c: {k: v for k, v in c.items() if k != "classes"}, None, "it has no classes"),
    "one class twice": (lambda c: c | {"classes": ["a"] * 4}, None, "not two or more different names"),
    "a class too few": (lambda c: c | {"classes": ["a", "b"]}, None, r"bias has shape \[4\]; expected \[2\]"),
    "temperature": (lambda c: c | {"temperature": 0.0}, None, "expected a number above 0"),
    "infinite": (lambda c: c | {"max_distance": float("inf")}, None, "max_distance is inf"),
    "features": (lambda c: c | {"features": "fc7"}, None, "expected bn_crelu"),
    "NaN": (None, lambda t: t | {"bias": t["bias"] * float("nan")}, "not finite"),
    "other references": (None, lambda t: t | {"references": t["references"][:, :3].clone()}, "references has shape"),
    "no weight": (None, lambda t: {k: v for k, v in t.items() if k != "weight"}, "it has no weight"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_files_with_wrong_content_are_refused(kind, head, tmp_path):
    change, tensors, message = WRONG[kind]
    head.save(path := tmp_path / "h.safetensors")
    rewrite(path, change, tensors)
    with pytest.raises(UserError, match=message) as caught:
        Head.load(path)
    assert "\n" not in str(caught.value)


def test_damaged_and_foreign_files_are_refused(head, tmp_path):
    head.save(path := tmp_path / "h.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="its content has changed"):
        Head.load(path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is not a saved head"):
        Head.load(path)
    with pytest.raises(UserError, match="cannot be read"):
        Head.load(tmp_path / "none.safetensors")


def test_an_edited_class_name_is_reported(head, tmp_path):
    head.save(path := tmp_path / "h.safetensors")
    assert re.fullmatch("[0-9a-f]{8}", json.loads(about(path)["head"])["crc32"])
    rewrite(path, lambda c: c | {"classes": ["a", "b", "c", "x"]}, stamp=False)
    with pytest.warns(UserWarning, match="changed since it was written"):
        assert Head.load(path).classes[3] == "x"


# -- in Python --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    config = override(tiny_config(), ["training.steps=2"])
    return Model(config, build(config, "cpu"), 7, 100)


def test_a_model_predicts_by_its_own_head_alone(model, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    encoded = model.encode(images)
    features = encoded.bn_crelu_feat, encoded.avepool_feat
    names, y = ("dark", "light"), np.arange(40) % 2
    head, *_ = fit_head(*(f.numpy() for f in features), y, names, None, VIEW, model.encoder, model.config, 7)
    found = model.predict(images, head)
    assert torch.equal(found.probabilities, head.predict(*features).probabilities)
    head.save(tmp_path / "h.safetensors")
    assert torch.equal(model.predict(images, tmp_path / "h.safetensors").distance, found.distance)
    with pytest.raises(UserError, match="has no saved head"):
        model.predict(images)
    other = Model(model.config, build(model.config, "cpu"), 9, 100)
    with torch.no_grad():
        next(other.encoder.parameters()).add_(0.1)
    with pytest.raises(UserError, match=r"does not belong to the encoder .* after 7 steps"):
        other.predict(images, head)


@pytest.mark.parametrize(("labelled", "share"), [(10, 1 / 11), (20, 1 / 21), (100, 0.01), (400, 0.01)])
def test_how_many_ordinary_images_are_marked_as_unlike(labelled, share):
    """Images of one distribution are marked as rarely as docs/your_data.md says."""
    marked = []
    for seed in range(60):
        x = torch.randn(labelled + 200, 16, generator=torch.Generator().manual_seed(seed)) + 3
        kept, limit = references(x[:labelled], None)
        marked.append((mean_of_nearest(distances(x[labelled:], kept.float())) > limit).float().mean().item())
    assert np.mean(marked) == pytest.approx(share, abs=max(0.004, 4 * np.std(marked) / 60**0.5))
