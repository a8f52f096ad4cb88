"""Feature networks: trained, kept and found again; image quality by them orders what it should."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.compute import computing
from bigbigan.config import override
from bigbigan.data import open_source
from bigbigan.data.batches import Batches
from bigbigan.errors import UserError
from bigbigan.evaluation.early_stopping import ValidationMetric
from bigbigan.evaluation.image_quality import sampling as samples
from bigbigan.evaluation.image_quality.feature_extractors import (
    CLASSIFIERS,
    FeatureExtractor,
    augmented,
    available_extractors,
    channels_of,
    classifier_file,
    open_extractor,
    train_classifier,
    warn_of_other_images,
)
from bigbigan.evaluation.image_quality.metrics import Moments
from bigbigan.evaluation.image_quality.sampling import Reference, compare, draw_samples, measure_quality, reference
from bigbigan.evaluation.metric_names import parse_metrics
from bigbigan.evaluation.records import read_results
from bigbigan.evaluation.runner import evaluate
from bigbigan.evaluation.splits import View, read_split
from bigbigan.io.tensors import save_tensors
from bigbigan.models import build
from tiny import tiny_config, write_npz

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path):
    return str(write_npz(tmp_path / "rows.npz", count=240))


def test_a_trained_classifier_is_kept_and_found_again(cache, data, capsys, tmp_path):
    out = tmp_path / "r.jsonl"
    assert "mnist-cnn" not in available_extractors("rows", own_encoder=False)
    call = ["feature-extractor", "mnist-cnn", "--data", data, "--epochs", "30", "--quiet", "--results", str(out)]
    assert main(call) == 0
    (line,) = read_results(out)
    assert line["value"] > 90  # the bright row gives the class away
    assert (line["experiment"], line["metric"], line["n"]) == ("feature-extractor/mnist-cnn", "top1", 240)
    assert f"{line['value']:.1f} %" in capsys.readouterr().out
    assert available_extractors("rows", own_encoder=True) == ["mnist-cnn", "encoder"]
    network = open_extractor("mnist-cnn", "rows", None, 8, CPU)
    assert network.digest == line["protocol"]["network"]
    source = open_source(data)
    images = read_split(source, source.splits["test"], View(32, 1)).pixels
    features, logits = network(torch.from_numpy(images))
    assert features.shape == (240, 128)
    assert 100 * np.mean(logits.argmax(1).numpy() == source.splits["test"].labels) == pytest.approx(line["value"])


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_every_classifier_trains_and_takes_other_image_sizes(cache, tmp_path, name):
    channels = 1 if name.startswith("mnist") else 3
    source = open_source(str(write_npz(tmp_path / "few.npz", count=130, channels=channels)))
    train_classifier(name, source, 1, CPU, "", progress=False)
    network = open_extractor(name, "few", None, 8, CPU)
    features, logits = network(torch.randint(0, 256, (3, channels, 16, 16), dtype=torch.uint8))
    assert features.shape == (3, CLASSIFIERS[name].features)
    assert logits.shape == (3, 3)
    grey = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)  # the same to it as three equal channels
    assert torch.equal(network(grey)[0], network(grey.expand(-1, 3, -1, -1))[0])


def test_a_classifier_learns_from_fewer_images_than_a_batch(cache, tmp_path):
    source = open_source(str(write_npz(tmp_path / "few.npz", count=60)))
    _, line = train_classifier("mnist-cnn", source, 60, CPU, "", progress=False)
    assert (line.steps, line.images_seen) == (60, 60 * 60)
    assert line.value > 90  # the bright row gives the class away
    source = open_source(str(write_npz(tmp_path / "fewer.npz", count=5)))
    with pytest.raises(UserError, match="5 labelled training images of 3 classes; mnist-cnn needs 6 or more"):
        train_classifier("mnist-cnn", source, 1, CPU, "", progress=False)


def test_a_classifier_of_another_folder_of_that_name_is_reported(cache, tmp_path, monkeypatch):
    sources = []
    for i in range(2):
        (tmp_path / f"{i}").mkdir()
        sources.append(str(write_npz(tmp_path / f"{i}" / "rows.npz", seed=i)))
    train_classifier("mnist-cnn", open_source(sources[0]), 1, CPU, "", progress=False)
    few = samples.draw_samples
    monkeypatch.setattr(samples, "draw_samples", lambda G, config, count, seed: few(G, config, 50, seed))
    metric = "fid10k_train_mnist-cnn"
    for data, other in zip(sources, (False, True), strict=True):
        run = tmp_path / f"run{other}"
        train(tiny_config("training.steps=2"), data, run, progress=False)
        for max_images in (None, 20):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                evaluate(run, None, [metric], "", False, max_images=max_images)
            found = [str(w.message) for w in caught if "mnist-cnn was trained on other images" in str(w.message)]
            assert len(found) == other
        config = tiny_config(f"log.validation_metric={metric}")
        source = open_source(data)
        batches = Batches(torch.zeros(60, 1, 8, 8, dtype=torch.uint8), 16, 0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ValidationMetric(config, batches, source.splits["train"], source, run)
        assert len(caught) == other


def test_known_data_sets_share_a_classifier(cache, monkeypatch):
    """mnist and mnist:PATH are the same images, whatever their form."""
    source = open_source("digits")
    path = classifier_file("mnist-cnn", "digits")
    path.parent.mkdir(parents=True)
    save_tensors(path, {"x": torch.zeros(1)}, {"bigbigan": json.dumps({"quick_fingerprint": "other"})}, digest=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_images("mnist-cnn", source, source.splits["train"])
    source.spec = "./digits"
    with pytest.warns(UserWarning, match="other images than the training images of ./digits: of another source called"):
        warn_of_other_images("mnist-cnn", source, source.splits["train"])


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_channels_are_those_of_images_that_can_be_read(tmp_path, mode, channels):
    for i in range(12):
        (tmp_path / f"{i:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert channels_of(open_source(str(tmp_path))) == 1
    Image.new(mode, (8, 8)).save(tmp_path / "09.png")
    assert channels_of(open_source(str(tmp_path))) == channels


def test_augmentation_shifts_and_mirrors_each_image_on_its_own():
    x = torch.zeros(200, 1, 9, 9, dtype=torch.uint8)
    x[:, :, 4, 4] = 255
    x[:, :, 4, 5] = 100
    out = augmented(x, torch.Generator().manual_seed(0))
    places = {tuple(np.argwhere(image[0].numpy() == 255)[0]) for image in out if (image == 255).any()}
    assert len(places) > 40  # of 81 shifts
    left = [bool((row[:-1] == 100).any()) for image in out for row in image[0] if (row == 255).any()]
    assert 0.2 < np.mean(left) < 1
    assert (out.min(), out.max()) == (0, 255)


def test_what_is_missing_or_damaged_is_refused_in_one_line(cache, data):
    with pytest.raises(UserError, match="not trained for rows yet: bigbigan feature-extractor mnist-cnn --data rows"):
        open_extractor("mnist-cnn", "rows", None, 8, CPU)
    path = classifier_file("mnist-cnn", "rows")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a network")
    with pytest.raises(UserError, match="damaged"):
        open_extractor("mnist-cnn", "rows", None, 8, CPU)
    with pytest.raises(UserError, match="a GAN has no encoder"):
        open_extractor("encoder", "rows", None, 8, CPU)


def test_images_without_a_label_are_left_out(cache, data, tmp_path):
    source = open_source(data)
    labels = source.splits["train"].labels
    labels[:40] = -1
    _, line = train_classifier("mnist-cnn", source, 1, CPU, "", progress=False)
    assert line.n == 240


@pytest.mark.parametrize(("arguments", "message"), [
    (["vgg", "--data", "{d}"], "expected one of mnist-cnn, cifar-resnet18"),
    (["mnist-cnn", "--data", "{d}", "--epochs", "0"], "expected at least 1"),
    (["mnist-cnn", "--data", "{u}"], "no labelled train and test split"),
])  # fmt: skip
def test_mistakes(cache, data, arguments, message, capsys, tmp_path):
    unlabelled = tmp_path / "u.npz"
    np.savez(unlabelled, images=np.zeros((20, 8, 8), dtype=np.uint8))
    assert main(["feature-extractor", *(a.format(d=data, u=unlabelled) for a in arguments), "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not cache.exists()


def of(features):
    moments = Moments()
    moments.update(features)
    return Reference(moments, features)


def test_measures_order_what_they_should():
    g = torch.Generator().manual_seed(0)
    real, same, near, far = (torch.randn(600, 8, generator=g) + shift for shift in (0, 0, 0.5, 4))
    found = [compare(of(real), x, {"fid", "kid", "precision", "recall"}) for x in (same, near, far)]
    for measure, sign in (("fid", 1), ("kid", 1), ("precision", -1), ("recall", -1)):
        values = [sign * f[measure].value for f in found]
        assert values == sorted(values), measure
        assert values[0] < values[2], measure
    assert found[0]["fid"].protocol == {"references": 600}
    assert found[0]["kid"].protocol["size"] == 600


def test_classifier_file_stays_in_the_cache():
    """The index of a set of shards names it."""
    for name in ("../../../evil", "a/b", "..\\evil"):
        assert classifier_file("mnist-cnn", name).parent == classifier_file("mnist-cnn", "digits").parent


def test_reference_statistics_are_kept_by_data_and_network(cache, data, monkeypatch):
    source = open_source(data)
    train_classifier("mnist-cnn", source, 1, CPU, "", progress=False)
    network, view = open_extractor("mnist-cnn", "rows", None, 8, CPU), View(32, 1)
    first = reference(source, "train", view, network)
    assert first.moments.n == len(first.features) == 240
    with monkeypatch.context() as m:
        m.setattr(samples, "stream_view", lambda *a: pytest.fail("the images were read again"))
        again = reference(source, "train", view, network)
    assert torch.equal(first.features, again.features)
    np.testing.assert_array_equal(first.moments.covariance, again.moments.covariance)
    (kept,) = (cache / "statistics").glob("*.safetensors")
    for damage in (lambda content: b"damaged", lambda content: content[:-1] + bytes((content[-1] ^ 64,))):
        kept.write_bytes(damage(kept.read_bytes()))
        with pytest.warns(UserWarning, match="statistics of real images are computed again"):
            assert torch.equal(reference(source, "train", view, network).features, first.features)
        assert torch.equal(reference(source, "train", view, network).features, first.features)
    classifier = classifier_file("mnist-cnn", "rows")
    content = classifier.read_bytes()
    classifier.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
    with pytest.raises(UserError, match=r"changed since it was written\); delete it and train"):
        open_extractor("mnist-cnn", "rows", None, 8, CPU)
    classifier.write_bytes(content)
    reference(source, "test", view, network)
    reference(source, "train", View(16, 1), network)
    assert len(list((cache / "statistics").iterdir())) == 3


def test_references_are_looked_at_batch_by_batch(cache, data, monkeypatch):
    source, view = open_source(data), View(32, 1)
    network = FeatureExtractor("pixels", "0", lambda x: (x[:, 0, 14:18, 14].float(), None))
    seen = []
    stream = samples.stream_view

    def small(*arguments, bar):
        for pixels, kept in stream(*arguments, batch_size=50, bar=bar):
            seen.append(len(pixels))
            yield pixels, kept

    whole = reference(source, "train", view, network)
    shutil.rmtree(cache / "statistics")
    monkeypatch.setattr(samples, "stream_view", small)
    monkeypatch.setattr(samples, "MAX_FEATURES", 100)
    found = reference(source, "train", view, network)
    assert seen == [50] * 4 + [40]
    assert found.moments.n == whole.moments.n == 240
    np.testing.assert_allclose(found.moments.covariance, whole.moments.covariance, rtol=1e-12)
    picks = np.sort(np.random.default_rng(0).permutation(240)[:100])  # from all of the set
    assert torch.equal(found.features, whole.features[picks])


def test_samples_are_bytes_and_the_same_each_time():
    config = tiny_config()
    G = build(config).G.eval()
    x = draw_samples(G, config, 30)
    assert (x.shape, x.dtype) == ((30, 1, 8, 8), torch.uint8)
    assert not torch.equal(x, draw_samples(G, config, 30, seed=1))
    with computing(batch_size=7):  # changes no sample, but for rounding
        assert (x.int() - draw_samples(G, config, 30).int()).abs().max() <= 1
    assert not torch.equal(x[:7], x[7:14])


def test_quality_of_a_run_by_its_own_encoder_and_a_classifier(cache, data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(override(tiny_config(), ["training.steps=2"]), data, run, progress=False)
    train_classifier("mnist-cnn", open_source(data), 1, CPU, "", progress=False)
    few = samples.draw_samples
    monkeypatch.setattr(samples, "draw_samples", lambda G, config, count, seed: few(G, config, 300, seed))
    out = tmp_path / "r.jsonl"
    metrics = "fid10k_*_encoder,*10k_train_mnist-cnn,is10k_mnist-cnn"
    assert main(["evaluate", str(run), "--metrics", metrics, "--quiet", "--results", str(out)]) == 0
    lines = {x["metric"]: x for x in read_results(out)}
    assert set(lines) == {
        "fid10k_train_encoder", "fid10k_test_encoder", "fid10k_train_mnist-cnn", "kid10k_train_mnist-cnn",
        "precision10k_train_mnist-cnn", "recall10k_train_mnist-cnn", "is10k_mnist-cnn",
    }  # fmt: skip
    fid = lines["fid10k_train_mnist-cnn"]
    assert (fid["n"], fid["split"], fid["steps"], fid["protocol"]["references"]) == (10_000, "train", 2, 240)
    assert len(fid["protocol"]["network"]) == 12
    assert lines["is10k_mnist-cnn"]["split"] == "samples"
    assert 1 <= lines["is10k_mnist-cnn"]["value"] <= 3
    assert json.loads((run / "results.jsonl").read_text().splitlines()[0])["experiment"] == "small/digits"


def test_50k_and_10k_samples_have_separate_names(monkeypatch, cache, data):
    config = tiny_config()
    networks = build(config)
    drawn = []
    monkeypatch.setattr(
        samples, "draw_samples", lambda G, c, n, s: drawn.append(n) or torch.zeros(n // 100, 1, 8, 8).byte()
    )
    monkeypatch.setattr(samples, "reference", lambda *a: computed.append(a[1]) or reference(*a))
    computed = []
    names = ["fid10k_train_encoder", "fid10k_test_encoder", "fid50k_train_encoder", "kid50k_train_encoder"]
    found = measure_quality(networks.G.eval(), networks.E.eval(), config, open_source(data), parse_metrics(names))
    assert drawn == [50_000]
    assert set(found) == set(names)
    assert computed == ["train", "test"]  # each once
