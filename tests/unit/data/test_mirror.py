"""Whether images are mirrored: digits and letters never by themselves, photographs where the augmentation says so."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import bigbigan.apps.classify as of_classify
from bigbigan.apps.train import train
from bigbigan.config import Config, config_from_dict, override
from bigbigan.data import open_source, write_shards
from bigbigan.data.batches import Batches
from bigbigan.data.sources import _mirrorable
from bigbigan.errors import UserError
from bigbigan.evaluation import early_stopping as along
from bigbigan.evaluation import feature_probes, runner
from bigbigan.evaluation.image_quality import feature_extractors as networks
from bigbigan.evaluation.probes import linear_heads as linear
from bigbigan.evaluation.records import chosen_settings
from bigbigan.evaluation.targets import open_target
from bigbigan.experiments import EXPERIMENTS, find
from bigbigan.io import read_json, write_json
from bigbigan.methods import make_system
from bigbigan.models import build
from bigbigan.training import loop
from bigbigan.training.run_folder import read_config
from bigbigan.training.training_data import resolve_config
from tiny import tiny_config

CPU = torch.device("cpu")
FLIPS = ("data.augment=flip", "data.mirror=auto")


def to_the_left(count: int = 48, side: int = 8, channels: int = 1) -> np.ndarray:
    """Images that are bright in their left half: of a mirrored one the right half is. uint8 [N, S, S, C]."""
    images = np.random.default_rng(0).integers(0, 60, (count, side, side, channels), dtype=np.uint8)
    images[:, :, : side // 2] += 180
    return images


def write_arrays(path, channels: int = 1):
    labels, images = np.arange(48) % 3, to_the_left(channels=channels)
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return str(path)


def write_folder(path):
    for k, image in enumerate(to_the_left(channels=3)):
        (path / "train" / f"{k % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / "train" / f"{k % 3}" / f"{k}.png")
    return str(path)


def mirrored(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return x[..., half:].mean((1, 2, 3)) > x[..., :half].mean((1, 2, 3))


# -- what the source knows ------------------------------------------------------------------------------------


def test_digits_and_grey_arrays_may_not_be_mirrored(tmp_path):
    assert not open_source("digits").mirrorable
    assert not open_source(write_arrays(tmp_path / "xrays.npz")).mirrorable
    (tmp_path / "idx").mkdir()
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (48, 8, 8))
    (tmp_path / "idx" / "train-images-idx3-ubyte").write_bytes(header + to_the_left().tobytes())
    assert not open_source(str(tmp_path / "idx")).mirrorable


def test_photographs_and_arrays_in_colour_may_be_mirrored(tmp_path):
    assert open_source(write_folder(tmp_path / "photos")).mirrorable
    assert open_source(write_arrays(tmp_path / "cells.npz", channels=3)).mirrorable


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "Fashion-MNIST", "svhn_cropped", "MNIST-JPG-master"])
def test_known_letters_and_garments_are_known_in_any_form(name, tmp_path):
    source = open_source(write_folder(tmp_path / "photos"))
    assert _mirrorable(source)
    assert not _mirrorable(replace(source, name=name))
    assert not open_source(write_folder(tmp_path / name)).mirrorable


def test_shards_know_it_of_the_set_they_are_made_of(tmp_path):
    for number, spec in enumerate((write_arrays(tmp_path / "xrays.npz"), write_folder(tmp_path / "photos"))):
        for resolution in (None, 16):
            out = tmp_path / f"{number}-{resolution}"
            write_shards(open_source(spec), out, resolution=resolution)
            assert open_source(str(out)).mirrorable == bool(number)


# -- the setting ----------------------------------------------------------------------------------------------


def test_no_experiment_decides_it_beforehand():
    for e in EXPERIMENTS.values():
        assert {e.config(scale).data.mirror for scale in (0, *e.scales)} == {"auto"}


def test_a_flip_that_is_asked_for_by_name_is_always_done():
    base = find("table1/base").config(32)
    assert override(base, ["training.steps=5"]).data.mirror == "auto"
    assert override(base, ["data.augment=flip"]).data.mirror == "always"
    assert override(base, ["data.augment=flip", "data.mirror=never"]).data.mirror == "never"
    assert override(base, ["data.augment=resnet_crop"]).data.mirror == "auto"
    assert override(override(base, ["data.augment=flip"]), ["data.augment=none"]).data.mirror == "auto"


def test_mirror_without_its_augmentation_is_refused():
    for settings in (["data.mirror=always"], ["data.augment=square_crop", "data.mirror=always"]):
        with pytest.raises(UserError, match="=always does nothing with data"):
            override(find("small/digits").config(), settings)
    with pytest.raises(UserError, match="expected one of"):
        override(find("small/digits").config(), ["data.mirror=sometimes"])


@pytest.mark.parametrize(("augment", "expected"), [("flip", "always"), ("resnet_crop", "always"), ("none", "auto")])
def test_runs_of_earlier_versions_mirrored_whatever_the_data(augment, expected):
    tree = Config().to_dict()
    tree["data"]["augment"] = augment
    del tree["data"]["mirror"], tree["data"]["class_sizes"]
    assert config_from_dict(tree, "test").data.mirror == expected


def test_mirroring_by_default_makes_no_other_row_of_a_table():
    assert chosen_settings({"settings": {"data.mirror": "always", "data.classes": 7, "a": 1}}) == {"a": 1}
    assert chosen_settings({"settings": {"data.mirror": "never"}}) == {"data.mirror": "never"}


# -- training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["flip", "resnet_crop"])
def test_batches_are_mirrored_only_where_they_may_be(augment):
    pixels = torch.from_numpy(to_the_left(count=64)).permute(0, 3, 1, 2).contiguous()
    pixels = pixels if augment == "flip" else pixels.repeat_interleave(4, 2).repeat_interleave(4, 3)
    resolution = pixels.shape[-1]
    as_they_are = Batches(pixels, 64, 0, augment, resolution, mirror=False).batch(0)
    both = Batches(pixels, 64, 0, augment, resolution).batch(0)
    different = torch.tensor([not torch.equal(a, b) for a, b in zip(as_they_are, both, strict=True)])
    assert 20 < different.sum() < 44
    torch.testing.assert_close(both[different], as_they_are[different].flip(3), atol=1e-5, rtol=0)
    if augment == "flip":
        assert torch.equal(different, mirrored(both))
        assert not mirrored(as_they_are).any()


@pytest.mark.parametrize(
    ("settings", "colour", "resolved"),
    [
        (FLIPS, False, "never"),
        (FLIPS, True, "always"),
        (("data.augment=resnet_crop",), False, "never"),
        (("data.augment=flip",), False, "always"),
        (("data.augment=flip", "data.mirror=never"), True, "never"),
        (("data.augment=none",), True, "auto"),
    ],
)
def test_training_follows_the_source_unless_set(settings, colour, resolved, tmp_path, monkeypatch):
    seen = []

    def step(state, batches):
        seen.append(mirrored(batches.batch(state.step)))
        return real_step(state, batches)

    real_step = loop.training_step
    monkeypatch.setattr(loop, "training_step", step)
    channels = 3 if colour else 1
    data = write_arrays(tmp_path / "data.npz", channels)
    config = tiny_config("training.steps=2", f"data.channels={channels}", *settings)
    train(config, data, tmp_path / "run", progress=False)
    assert read_json(tmp_path / "run" / "config.json")["data"]["mirror"] == resolved
    if "crop" not in settings[0]:
        assert torch.cat(seen).any() == (resolved == "always")
    of_lines = open_target(str(tmp_path / "run")).settings
    assert of_lines.get("data.mirror", "auto") == resolved
    train(replace(config, training=replace(config.training, steps=3)), data, tmp_path / "run", progress=False)


def test_a_run_goes_on_as_it_began(tmp_path):
    """One of an earlier version on grey arrays: it mirrored them."""
    data, runs = write_arrays(tmp_path / "data.npz"), [tmp_path / name for name in "ab"]
    for run, steps in zip(runs, (2, 4), strict=True):
        train(tiny_config(f"training.steps={steps}", "data.augment=flip"), data, run, progress=False)
    tree = read_json(runs[0] / "config.json")
    del tree["data"]["mirror"], tree["data"]["class_sizes"]
    write_json(runs[0] / "config.json", tree)
    train(tiny_config("training.steps=4", *FLIPS), data, runs[0], progress=False)
    assert read_config(runs[0]).data.mirror == "always"
    first, second = ((run / "checkpoints/step-00000004/weights.safetensors").read_bytes() for run in runs)
    assert first == second


def test_a_start_that_failed_decides_nothing_for_other_data(tmp_path):
    """Photographs were read, and training ended before its first step; then the folder is given to grey arrays."""
    config = override(tiny_config(*FLIPS), ["data.mirror=always", "data.pad=always"])
    (tmp_path / "run").mkdir()
    config.save(tmp_path / "run" / "config.json")
    source = open_source(write_arrays(tmp_path / "data.npz"))
    now = tiny_config("data.augment=flip", "data.mirror=auto")
    resolved = resolve_config(now, source, source.splits["train"], source.spec, tmp_path / "run").data
    assert (resolved.mirror, resolved.pad) == ("never", "auto")


@pytest.mark.parametrize("mirror", ["always", "never"])
def test_pretext_views_are_mirrored_only_where_they_may_be(mirror):
    settings = (
        ["pretext.tasks=[exemplar,cpc]", "pretext.patch_augment=true"],
        ["pretext.tasks=[exemplar]", "data.augment=none"],
    )
    for changed in settings:
        config = override(find("pretext/exemplar").config(32), [*changed, f"data.mirror={mirror}"])
        system = make_system(config, SimpleNamespace(E=None))
        noise = system.sample_noise(40, torch.Generator().manual_seed(0))
        names = {name for name in noise if name.endswith("mirrored")}
        assert "exemplar mirrored" in names
        assert ("patch mirrored" in names) == ("patch" in str(changed))
        assert all(noise[name].any() == (mirror == "always") for name in names)


# -- evaluation -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["never", "always"])
def run(request, tmp_path_factory):
    """A run on grey arrays, and whether it was to mirror them."""
    folder = tmp_path_factory.mktemp("mirror")
    data = write_arrays(folder / "data.npz")
    config = tiny_config("training.steps=2", "data.augment=flip", f"data.mirror={request.param}")
    train(config, data, folder / "run", progress=False)
    return folder / "run", request.param == "always"


def test_linear_heads_see_what_training_saw(run, monkeypatch):
    (folder, mirror), asked = run, []
    monkeypatch.setitem(linear.PROTOCOLS, "table1", 5)
    for module in (feature_probes, along):
        monkeypatch.setattr(module, "encoder_features", spied(module.encoder_features, asked))
    monkeypatch.setattr(
        feature_probes, "pixel_features", lambda pixels, mirrored=False: asked.append(mirrored) or pixels
    )
    runner.evaluate(str(folder), None, ["top1_table1_avepool"], "", progress=False)
    assert asked.count(True) == (2 if mirror else 0)  # of the untrained and the trained encoder
    asked.clear()
    source, config = open_source(read_json(folder / "data.json")["spec"]), read_config(folder)
    images = source.splits["train"]
    pixels = torch.from_numpy(np.stack([images.load(i).transpose(2, 0, 1) for i in range(len(images))]))
    config = replace(config, log=replace(config.log, validation_metric="top1_table1_avepool"))
    validation = along.ValidationMetric(config, Batches(pixels, 16, 0), images, source, folder)
    validation(SimpleNamespace(G_ema=None, E_ema=build(config).encoder.eval()))
    assert (True in asked) == mirror


def spied(function, asked):
    def spy(*arguments, mirrored=False, **more):
        asked.append(mirrored)
        return function(*arguments, mirrored=mirrored, **more)

    return spy


def test_heads_on_other_data_follow_that_data(run, tmp_path):
    folder, mirror = run
    target = open_target(str(folder))
    photographs, digits = open_source(write_folder(tmp_path / "photos")), open_source("digits")
    assert (target.mirrors(photographs), target.mirrors(digits)) == (mirror, False)


def test_fine_tuning_sees_what_training_saw(run, tmp_path, monkeypatch):
    (folder, mirror), asked = run, []
    monkeypatch.setattr(of_classify, "_tuner", lambda *a: asked.append(a[-1]) or (lambda known, number, rest: None))
    target = open_target(str(folder))
    source = open_source(read_json(folder / "data.json")["spec"])
    images = of_classify.load_images(source, target.view)
    of_classify._methods(target, images, True, True, target.mirrors(source))
    assert asked == [mirror, mirror]


@pytest.mark.parametrize("channels", [1, 3])
def test_feature_extractors_are_trained_like_their_data(channels, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(networks.CLASSIFIERS, "mnist-cnn", replace(networks.CLASSIFIERS["mnist-cnn"], augment=True))
    monkeypatch.setattr(networks, "augmented", spied_augmented := Augmented())
    source = open_source(write_arrays(tmp_path / "data.npz", channels))
    for split in source.splits.values():  # a batch has 128 images
        split.index, split.labels = np.tile(split.index, 3), np.tile(split.labels, 3)
        split.files = [f"{i}" for i in range(len(split.index))]
    networks.train_classifier("mnist-cnn", source, 1, CPU, "", progress=False)
    assert spied_augmented.asked == [channels == 3]


class Augmented:
    def __init__(self):
        self.asked, self.real = [], networks.augmented

    def __call__(self, x, draws, mirror):
        self.asked.append(mirror)
        shown = self.real(x, draws, mirror)
        assert mirror or not mirrored(shown[..., 4:-4]).any()
        return shown
