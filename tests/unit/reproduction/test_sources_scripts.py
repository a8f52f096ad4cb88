"""The scripts behind docs/notes/sources.md, on networks small enough to train here."""

import json

import numpy as np
import pytest
import torch

from bigbigan.apps.benchmark import Cost
from bigbigan.apps.train import train
from bigbigan.config import Config
from bigbigan.data import open_source
from bigbigan.evaluation.records import read_results
from bigbigan.inference.latents import refine
from bigbigan.inference.loading import load
from reproduction.benchmark import encoders
from reproduction.common import as_seen
from reproduction.measure import anomaly, inversion, latent_shift, reference_quality, refinement, unlike
from reproduction.render import bigan_rows, reconstructions
from reproduction.render import sources as tables
from reproduction.train import filters, hinges, table
from tiny import TINY, tiny_config, write_npz


def values(path):
    """The values of a file of result lines by metric and subject; there must be one of each."""
    lines = read_results(path)
    found = {(x["metric"], x["subject"]): x["value"] for x in lines}
    assert len(found) == len(lines)
    return found


# -- reconstructions of two runs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An untrained BigBiGAN, an autoencoder that has learned something, and a run of another size."""
    folder = tmp_path_factory.mktemp("reconstructions")
    data = str(write_npz(folder / "rows.npz"))
    settings = {
        "bigbigan": ["training.steps=1"],
        "autoencoder": [
            "training.steps=60",
            "system=autoencoder",
            "encoder.stochastic=false",
            "optimizer.lr_g=0.01",
            "training.ema_decay=0",
        ],
        "large": ["training.steps=1", "generator.channels=[8,8,8]", "latent.dim=9", "encoder.resolution=16"],
    }
    for name, changes in settings.items():
        train(tiny_config(*changes), data, folder / name, progress=False)
    return folder


def test_two_runs_are_compared_on_the_same_images(runs, tmp_path):
    out, results = tmp_path / "picture.png", tmp_path / "lines.jsonl"
    names = [str(runs / "bigbigan"), str(runs / "autoencoder")]
    assert reconstructions.main([*names, "--out", str(out), "--results", str(results)]) == 0
    untrained, trained = read_results(results)
    assert out.stat().st_size > 1000
    assert {x["metric"] for x in (untrained, trained)} == {"reconstruction_ratio_pixels"}
    assert trained["value"] < 0.8 < untrained["value"] < 1.1
    assert (untrained["n"], untrained["steps"], trained["steps"]) == (60, 1, 60)
    assert trained["protocol"]["distance"] < untrained["protocol"]["distance"]
    rows = tables.reconstructions(read_results(results)).splitlines()
    assert len(rows) == 3  # runs that differ in settings alone fill one row, the newest


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("bigbigan", "large"), [], "has images of 8 px, grey, "),
        (("bigbigan", "bigbigan"), ["--network", "encoder"], "each run has its own"),
        (("bigbigan", "nothing"), [], "nothing"),
    ],
)
def test_runs_that_do_not_compare_are_refused(runs, names, options, message, tmp_path, capsys):
    words = [*(str(runs / name) for name in names), *options, "--results", str(tmp_path / "x.jsonl")]
    assert reconstructions.main([*words, "--out", str(tmp_path / "x.png")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.jsonl").exists()


def test_mismatched_distances_are_of_other_images():
    f = torch.eye(4)
    assert reconstructions.distances(f, f) == (0, pytest.approx(2**0.5))


# -- splits ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(runs):
    """Images to validate on but none to test on; training images only."""
    arrays = dict(np.load(runs / "rows.npz"))
    train = {name: array for name, array in arrays.items() if name.startswith("train")}
    np.savez(runs / "only_train.npz", **train)
    held_out = {name.replace("test", "val"): array[:20] for name, array in arrays.items() if name.startswith("test")}
    np.savez(runs / "no_test.npz", **train, **held_out)
    return {name: str(runs / f"{name}.npz") for name in ("only_train", "no_test")}


@pytest.mark.parametrize(("source", "split"), [("no_test", "val"), ("only_train", "train")])
def test_images_that_were_not_trained_on_are_measured_first(runs, sources, source, split, tmp_path):
    run, results = str(runs / "bigbigan"), str(tmp_path / "lines.jsonl")
    given, out = ["--data", sources[source], "--results", results], ["--out", str(tmp_path / "p.png")]
    assert refinement.main([run, *given, *out, "--count", "30", "--steps", "2"]) == 0
    assert latent_shift.main([run, *given, "--count", "8"]) == 0
    assert inversion.main([run, *given, *out, "--count", "30", "--steps", "2", "--refine", "2"]) == 0
    lines = read_results(tmp_path / "lines.jsonl")
    assert {x["split"] for x in lines} == {split}
    assert {x["study"]: x["n"] for x in lines} == {
        "refinement": min(30, 20 if split == "val" else 60),
        "latent_shift": 8,
        "inversion": min(30, 20 if split == "val" else 60),
    }
    assert bigan_rows.main([run, str(tmp_path / "rows.png"), "--data", sources[source], "--columns", "4"]) == 0
    assert (tmp_path / "rows.png").stat().st_size > 1000


def test_scripts_that_need_test_images_say_so(runs, sources, tmp_path, capsys):
    run, data = str(runs / "bigbigan"), ["--data", sources["only_train"]]
    network = ["--network", "mnist-cnn"]
    for script, words in (
        (anomaly, [run, *data]),
        (unlike, [run, *data]),
        (reference_quality, [*data, *network]),
        (table, ["1", "base", *data, "--steps", "1", "--images", "20", "--runs", str(tmp_path)]),
    ):
        assert script.main([*words, "--results", str(tmp_path / "x.jsonl")]) == 2
        assert f"{sources['only_train']} has no test images; give a source that has" in capsys.readouterr().err


def test_images_are_shown_as_e_and_g_see_them(runs):
    model, source = load(runs / "large"), open_source(str(runs / "rows.npz"))
    pixels, x = as_seen(model, source, source.splits["test"], 5)
    assert (pixels.shape, pixels.dtype) == ((5, 1, 16, 16), torch.uint8)
    assert x.shape == (5, 1, model.config.generator.resolution, model.config.generator.resolution)
    assert len(as_seen(model, source, source.splits["test"])[0]) == 60


# -- inversion ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["z", "w"])
def test_a_foreign_generator_is_inverted_and_measured(name, tmp_path):
    out, results = tmp_path / "picture.png", tmp_path / "lines.jsonl"
    words = [f"python:reproduction.measure.stylegan_shaped:{name}", "--steps", "8", "--refine", "4", "--count", "3"]
    assert inversion.main([*words, "--out", str(out), "--results", str(results)]) == 0
    found = values(results)
    ends = {f"inversion_error_{end}_{start}" for end in ("start", "end") for start in ("E", "mean", "random")}
    saved = {f"inversion_steps_saved_{start}" for start in ("mean", "random")}
    assert set(found) == {(m, "external") for m in ends | saved | {"inversion_latent_error"}}
    assert out.stat().st_size > 1000
    assert "not run" not in tables.inversion(read_results(results))


def test_a_run_is_inverted_next_to_its_own_encoder(runs, tmp_path):
    results = tmp_path / "lines.jsonl"
    words = [str(runs / "bigbigan"), "--data", str(runs / "rows.npz"), "--steps", "2", "--refine", "2", "--count", "4"]
    assert inversion.main([*words, "--out", str(tmp_path / "p.png"), "--results", str(results)]) == 0
    assert ("inversion_error_start_own", "trained") in values(results)
    assert {(x["experiment"], x["dataset"], x["steps"]) for x in read_results(results)} == {("small/digits", "rows", 1)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["python:no.such:thing"], "python:no.such:thing: "),
        (["python:torch:relu"], "does not say how long its latents are: give --dim N"),
        (["python:torch:relu", "--dim", "4"], "expected square images"),
    ],
)
def test_a_generator_that_cannot_be_used_is_refused(words, message, capsys):
    assert inversion.main(words) == 2
    assert message in capsys.readouterr().err


def test_steps_to_an_error_are_counted_from_the_curve():
    curve = torch.tensor([5.0, 4.0, 2.0, 3.0])
    assert inversion.steps_to(curve, 4.5) == (1, True)
    assert inversion.steps_to(curve, 5.0) == (0, True)
    assert inversion.steps_to(curve, 1.0) == (3, False)
    z = torch.zeros(2, 3)
    errors = refine(lambda z: z.view(-1, 1, 1, 3), torch.ones(2, 1, 1, 3), z, 5).errors.mean(1)
    assert inversion.steps_to(errors, float(errors[2])) == (2, True)


# -- hinges and filters ---------------------------------------------------------------------------------------


def test_both_hinges_are_trained_measured_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = str(write_npz(tmp_path / "rows.npz"))
    call = ["--data", data, "--steps", "4", "--out", "p.png", "--results", "lines.jsonl", "--set", *TINY]
    assert hinges.main(call) == 0
    lines = [x for x in read_results(tmp_path / "lines.jsonl") if x["subject"] == "trained"]
    assert {x["settings"].get("loss.hinge") for x in lines} == {None, "sum"}
    assert {x["metric"] for x in lines} >= set(hinges.METRICS)
    gaps = hinges.margins(tmp_path / "runs/hinges/small_digits-0/sum-0")
    assert list(gaps) == ["s_x", "s_z", "s_xz"]
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert tables.hinges(lines).count("rows | 4 | 0 |") == 2
    capsys.readouterr()
    assert hinges.main(call) == 0
    folder = "runs/hinges/small_digits-0"
    assert capsys.readouterr().out.splitlines() == [f"{folder}/{h}-0: finished, skipped" for h in hinges.HINGES]


SMALL_BASE = [
    "encoder.resolution=32", "encoder.widths=[32,32]", "encoder.blocks=1", "encoder.head_width=8",
    "generator.channels=[8,8,8,8]", "discriminator.channels=[8,8,8,8]", "discriminator.mlp_width=8",
    "latent.dim=8", "training.batch_size=4", "log.standing_batches=1",
]  # fmt: skip


def test_filters_move_further_at_the_higher_rate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = str(write_npz(tmp_path / "rows.npz", count=12, side=32, channels=3))
    call = ["--data", data, "--steps", "3", "--out", "p.png", "--results", "lines.jsonl", "--set", *SMALL_BASE]
    assert filters.main(call) == 0
    change = {
        x["settings"].get("encoder.lr_multiplier", 1): x["value"]
        for x in read_results(tmp_path / "lines.jsonl")
        if x["metric"] == "filter_change"
    }
    assert 3 * change[1] < change[10.0] < 30 * change[1]
    assert (tmp_path / "p.png").stat().st_size > 1000
    rows = tables.filters(read_results(tmp_path / "lines.jsonl")).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| 1", "| 10"]
    capsys.readouterr()
    assert filters.main(call) == 0
    assert capsys.readouterr().out.splitlines() == [f"runs/filters/eta-{n}: finished, skipped" for n in (1, 10)]


def test_roughness_tells_noise_from_smooth_filters():
    noise = torch.randn(64, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(-1, 1, 7).expand(2, 3, 7, 7) + torch.linspace(-1, 1, 7)[:, None]
    assert filters.roughness(noise) == pytest.approx(1, abs=0.1)
    assert filters.roughness(ramp) < 0.1
    assert filters.roughness(5 * ramp + 3) == pytest.approx(filters.roughness(ramp), rel=1e-4)


# -- encoders -------------------------------------------------------------------------------------------------


def test_encoders_are_timed_on_rows_that_differ_in_e_alone(tmp_path, monkeypatch, capsys):
    measured: list[Config] = []

    def bench(config, steps):
        measured.append(config)
        return Cost(2.0, {"encoder_generator_update": 1.5}, 8.0, 10**9, 1e-3, 0.1, 900.0, 400.0)

    monkeypatch.setattr(encoders, "bench", bench)
    out, results = tmp_path / "p.png", tmp_path / "lines.jsonl"
    words = ["--batch", "4", "--out", str(out), "--results", str(results)]
    assert encoders.main(words) == 0
    trees = [json.loads(json.dumps(config.to_dict())) for config in measured]
    assert all({**t, "encoder": 0, "experiment": 0} == {**trees[0], "encoder": 0, "experiment": 0} for t in trees)
    assert len({json.dumps(t["encoder"]) for t in trees}) == len(encoders.ROWS)
    resnet, revnet, revnet_x2 = (encoders.trunk_parameters(config) for config in measured[:3])
    assert revnet < revnet_x2 / 3 < revnet_x2 < 1.2 * resnet  # the fair match has twice the width
    assert out.stat().st_size > 1000
    rows = tables.encoders(read_results(results)).splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [title for title, _ in encoders.ROWS.values()]
    assert all("| 2.00 | 1.50 | 1.0 | 900 |" in row for row in rows)
    assert encoders.main(["resnet", *words]) == 2
    assert "no such row" in capsys.readouterr().err
