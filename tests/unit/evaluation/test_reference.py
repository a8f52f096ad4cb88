"""What samples are compared with: the images that D was shown, whatever the resolutions of E and G."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from bigbigan.config import Config
from bigbigan.data import DecodeLimits, open_source
from bigbigan.data.batches import Batches
from bigbigan.data.loading import load_pixels, stored_side
from bigbigan.data.window import Window
from bigbigan.evaluation.image_quality import sampling as samples
from bigbigan.evaluation.image_quality.feature_extractors import FeatureExtractor
from bigbigan.evaluation.image_quality.sampling import measure_quality, reference
from bigbigan.evaluation.metric_names import parse_metrics
from bigbigan.evaluation.splits import View
from bigbigan.experiments import EXPERIMENTS
from bigbigan.methods import System
from bigbigan.randomness import keyed_generator

COUNT = 40


def in_use() -> dict[tuple[int, int], Config]:
    """A config for each pair of resolutions (E's, G's) that some experiment has, as published or at a scale."""
    configs = [e.config(scale) for e in EXPERIMENTS.values() for scale in (0, *e.scales)]
    return {(c.encoder.resolution, c.generator.resolution): c for c in configs if c.has_generator}


SIDES = sorted(in_use())


def random_convolution() -> FeatureExtractor:
    """Responses of 24 random 3×3 filters, averaged over quarters of the image: sees both sharpness and place."""

    def outputs(pixels: torch.Tensor) -> tuple[torch.Tensor, None]:
        x = pixels.float() / 255
        filters = torch.randn(24, x.shape[1], 3, 3, generator=keyed_generator(0, "filters"))
        filters = filters - filters.mean((1, 2, 3), keepdim=True) * (torch.arange(24) % 2)[:, None, None, None]
        return 10 * F.adaptive_avg_pool2d(F.conv2d(x, filters).abs(), 2).flatten(1), None

    return FeatureExtractor("random-convolution", "0", outputs)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv("BIGBIGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """28-px rows of an array, a thick stroke in each: padded for E at 32 px, enlarged for E at 64."""
    rng = np.random.default_rng(0)
    images = np.zeros((COUNT, 28, 28), dtype=np.uint8)
    for image in images:
        (top, left), (height, width) = rng.integers(4, 12, 2), rng.integers(3, 13, 2)
        image[top : top + height, left : left + width] = rng.integers(120, 256)
    path = tmp_path_factory.mktemp("arrays") / "strokes.npz"
    np.savez(path, train_images=images)
    return open_source(str(path))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Image files of 60×48 px: smooth areas, edges and fine grain."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(1)
    for i in range(COUNT):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        image = np.asarray(coarse.resize((60, 48), Image.Resampling.BICUBIC)).astype(int)
        image[:, rng.integers(10, 50) :] += 60
        image += rng.integers(-30, 31, image.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return open_source(str(folder))


def shown_to_d(config: Config, source, epochs: int = 1) -> torch.Tensor:
    """What D is shown of each image, so many times, as uint8."""
    images, r_e, data = source.splits["train"], config.encoder.resolution, config.data
    pixels, _ = load_pixels(images, stored_side(images, r_e, data.augment), data.channels)
    batches = Batches(torch.from_numpy(pixels), COUNT, 0, data.augment, r_e)
    system = SimpleNamespace(config=config, resolution=config.generator.resolution)
    x = torch.cat([System.d_input(system, batches.batch(number), {}, "x") for number in range(epochs)])
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def fid(config: Config, source, shown: torch.Tensor, monkeypatch) -> float:
    """FID as `evaluate` and `log.validation_metric` measure it, of a G that draws the images `shown`."""
    monkeypatch.setattr(samples, "open_extractor", lambda *a: random_convolution())
    monkeypatch.setattr(samples, "draw_samples", lambda *a: shown)
    metrics = parse_metrics(["fid10k_train_mnist-cnn"])
    return measure_quality(torch.nn.Linear(1, 1), None, config, source, metrics)["fid10k_train_mnist-cnn"].value


@pytest.mark.parametrize(
    ("kind", "sides"),
    # At 512 px both kinds are alike, and slow.
    [(kind, sides) for sides in SIDES for kind in ("arrays", "photographs") if kind == "arrays" or sides[0] < 512],
    ids=lambda value: value if isinstance(value, str) else "{}-{}".format(*value),
)
def test_images_as_d_is_shown_them_have_no_distance(sides, kind, request, cache, monkeypatch):
    source, config = request.getfixturevalue(kind), in_use()[sides]
    channels = 1 if kind == "arrays" else 3
    config = replace(config, data=replace(config.data, channels=channels, augment="none"))
    shown = shown_to_d(config, source)
    assert shown.shape == (COUNT, channels, sides[1], sides[1])
    assert fid(config, source, shown, monkeypatch) < 0.01
    if sides[0] > sides[1] == 32:  # the network sees the difference: padded arrays and enlarged ones
        plain = replace(config, encoder=replace(config.encoder, resolution=32))
        assert fid(plain, source, shown, monkeypatch) > (10 if kind == "arrays" else 0.05)


def test_crops_of_one_size_are_compared_with_the_central_one(photographs, cache, monkeypatch):
    config = EXPERIMENTS["bigan/imagenet"].config()
    assert config.data.augment == "random_crop"
    shown = shown_to_d(config, photographs, epochs=10)
    whole = replace(config, data=replace(config.data, augment="none"))
    ours, other = (fid(c, photographs, shown, monkeypatch) for c in (config, whole))
    assert ours < other / 3  # places are drawn, so it is not 0


def test_samples_of_other_forms_have_references_of_their_own(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path))
    network = random_convolution()
    for view, side in ((View(32, 3), 32), (View(64, 3), 32), (View(64, 3), 64), (View(64, 3, "random_crop"), 32)):
        for _ in range(2):
            reference(photographs, "train", view, network, side)
    assert len(list((tmp_path / "statistics").iterdir())) == 4


def test_images_that_are_read_differently_have_references_of_their_own(arrays, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path))
    means = []
    for pad in ("auto", "always", "never"):
        arrays.set_padding(pad)
        means.append(reference(arrays, "train", View(32, 1), random_convolution()).moments.mean)
    assert np.array_equal(means[0], means[1])  # arrays are padded by default: the file in the cache is that one
    assert not np.allclose(means[0], means[2])
    arrays.set_padding("always")
    folder = tmp_path / "deep"
    folder.mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 4096, (32, 32), dtype=np.uint16)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    found = []
    for window in (None, Window(0, 4095), Window(0, 1000)):
        source = open_source(str(folder), limits=DecodeLimits(window=window))
        found.append(reference(source, "train", View(32, 1), random_convolution()).moments.mean)
    assert len({tuple(mean) for mean in found}) == 3


def test_statistics_that_cannot_be_kept_are_returned(photographs, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="statistics of real images are not kept for the next time"):
        found = reference(photographs, "train", View(32, 3), random_convolution())
    assert found.moments.n == COUNT


def test_images_are_read_once_for_all_validations(photographs, cache, monkeypatch):
    config = in_use()[32, 32]
    known: dict[str, samples.Reference] = {}
    monkeypatch.setattr(samples, "open_extractor", lambda *a: random_convolution())
    monkeypatch.setattr(samples, "draw_samples", lambda *a: torch.zeros(9, 3, 32, 32, dtype=torch.uint8))
    metrics, G = parse_metrics(["fid10k_train_mnist-cnn"]), torch.nn.Linear(1, 1)
    first = measure_quality(G, None, config, photographs, metrics, references=known)
    monkeypatch.setattr(samples, "run_reference", None)
    assert measure_quality(G, None, config, photographs, metrics, references=known) == first
