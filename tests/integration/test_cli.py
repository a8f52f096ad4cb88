"""The command line as a user meets it: every verb does its work, every mistake ends in one line and exit code 2."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

import bigbigan
from bigbigan.apps.visualize import spread
from bigbigan.cli import main
from bigbigan.data import open_source
from bigbigan.errors import RunError, UserError
from bigbigan.evaluation import targets
from bigbigan.evaluation.image_quality import sampling as samples
from bigbigan.evaluation.probes import linear_heads as linear
from bigbigan.progress import Bar
from tiny import TINY, write_npz


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "rows.npz", count=90)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A finished tiny run, made by the real command."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    code = main(["train", "small/digits", "--data", str(data), "--out", str(run), "--quiet", "--steps", "6",
                 "--set", *TINY, "log.pictures_every=3"])  # fmt: skip
    assert code == 0
    return run


def call(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# -- verbs --------------------------------------------------------------------------------------------------


def test_run_folder_has_its_fixed_parts(run):
    for name in ("config.json", "metrics.jsonl", "environment.json", "data.json", "tensorboard", "samples"):
        assert (run / name).exists(), name
    assert sorted(p.name for p in (run / "checkpoints").iterdir() if p.is_dir()) == [
        "step-00000004",
        "step-00000006",
    ]
    pictures = {p.name for p in (run / "samples").iterdir()}
    assert {"data.png", "samples-00000003.png", "reconstructions-00000006.png"} <= pictures
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    expected = {"loss_d", "loss_eg", "s_x_enc", "s_x_gen", "s_z_enc", "s_z_gen", "s_xz_enc", "s_xz_gen", "grad_norm_d",
                "grad_norm_g", "grad_norm_e", "reconstruction_error", "reconstruction_error_mismatched",
                "reconstruction_ratio", "z_mean_spread", "z_stdev", "images_seen", "images_per_second", "step"}  # fmt: skip
    assert expected <= set(line)
    assert line["images_seen"] == 6 * 16 * 3


def test_list(capsys):
    code, out, _ = call(capsys, "list")
    assert code == 0
    assert "small/mnist" in out
    entries = json.loads(call(capsys, "list", "--json")[1])
    assert {"small/digits", "small/mnist", "small/fashion_mnist", "small/cifar10", "small/folder64"} <= {
        e["name"] for e in entries
    }
    assert "not in the paper" not in out
    long = re.split(r"^(?=\w+/\w+ )", call(capsys, "list", "--long")[1], flags=re.M)
    parts = {part.split()[0]: " ".join(part.split()) for part in long}
    assert "not in the paper: discriminator.pair_norm=true at --scale" in parts["table1/base"]
    assert "not in the paper: discriminator.pair_norm=true, encoder.stdev_bias=-3.0" in parts["small/digits"]
    assert "not in the paper" not in parts["biggan/128"] + parts["table1/no_encoder"] + parts["pretext/rotation"]


def test_dry_run_names_what_is_not_in_the_paper(capsys, unmeasured):
    dry_run = ["train", "small/digits", "--dry-run", "--set", "encoder.stdev_bias=0"]
    ours = "not in the paper: discriminator.pair_norm=true (docs/deviations.md: 2, 3 and 55)"
    assert call(capsys, *dry_run)[1].endswith(ours + "\n")
    assert "not in the paper" not in call(capsys, *dry_run, "discriminator.pair_norm=false")[1]
    found = json.loads(call(capsys, *dry_run, "--json")[1])["additions"]
    assert found == {"discriminator.pair_norm": True}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["data", "inspect", "--help"], ["--version"]])
def test_help_everywhere(capsys, arguments):
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert "bigbigan" in out


@pytest.fixture
def unmeasured(monkeypatch):
    """Let --dry-run measure no step, for tests of what it counts."""
    monkeypatch.setattr("bigbigan.apps.dry_run.MAX_SECONDS", 0.0)


def test_dry_run_prints_settings_and_costs_and_writes_nothing(capsys, tmp_path, unmeasured):
    out = tmp_path / "run"
    code, text, _ = call(capsys, "train", "small/mnist", "--out", out, "--dry-run", "--json", "--steps", "7")
    assert code == 0
    result = json.loads(text)
    assert result["config"]["training"]["steps"] == 7
    assert result["parameters"]["D"] == sum(v for k, v in result["parameters"].items() if k.startswith("D."))
    assert result["flops_per_step"] > 1e9
    assert result["memory_bytes"] > 1e7
    assert not out.exists()
    double = json.loads(
        call(capsys, "train", "small/mnist", "--dry-run", "--json", "--set", "training.batch_size=128")[1]
    )
    assert double["flops_per_step"] == 2 * result["flops_per_step"]


def test_dry_run_tells_how_long_training_takes(data, capsys):
    command = ["train", "small/digits", "--data", data, "--dry-run", "--set", *TINY, "training.steps=7200"]
    found = json.loads(call(capsys, *command, "--json")[1])
    assert (found["images"], found["images_per_step"], found["steps_per_epoch"]) == (90, 3 * 16, 2)
    assert found["hours"] == pytest.approx(2 * found["seconds_per_step"])
    assert 0 < found["least_hours"] < found["hours"]
    text = call(capsys, *command)[1]
    assert "90 images: 2 steps per epoch; 7,200 steps are 3,600.0 epochs" in text
    assert "one step here, measured: " in text


def test_dry_run_does_not_take_steps_that_are_too_large(capsys, monkeypatch):
    monkeypatch.setattr("bigbigan.apps.dry_run.MAX_SECONDS", 0.0)
    monkeypatch.setattr("bigbigan.apps.dry_run.seconds_per_step", lambda *a, **k: pytest.fail("a step was taken"))
    code, text, _ = call(capsys, "train", "small/folder64", "--dry-run")
    assert code == 0
    assert "steps per epoch: unknown without --data SOURCE" in text
    assert "a step is too large to measure here; at the rate of this machine's matrix product" in text


def test_evaluate_writes_complete_result_lines_with_baselines(run, capsys, tmp_path, monkeypatch):
    for protocol in ("table1", "sweep5k"):
        monkeypatch.setitem(linear.PROTOCOLS, protocol, 100)
    few = samples.draw_samples
    monkeypatch.setattr(samples, "draw_samples", lambda G, config, count, seed: few(G, config, 200, seed))
    copy = shutil.copytree(run, tmp_path / "run")
    results = tmp_path / "results.jsonl"
    code, out, _ = call(capsys, "evaluate", copy, "--quiet", "--results", results, "--study", "some")
    assert code == 0
    assert "raw pixels" in out
    assert "PCA-whitened pixels" in out
    assert "untrained E" in out
    lines = [json.loads(line) for line in (copy / "results.jsonl").read_text().splitlines()]
    assert results.read_text() == (copy / "results.jsonl").read_text()
    fields = {"study", "subject", "experiment", "table_row", "dataset", "split", "metric", "value", "n", "seed", "steps",
              "images_seen", "device", "seconds", "commit", "command"}  # fmt: skip
    assert all(fields <= set(line) for line in lines)
    assert {(line["metric"], line["subject"]) for line in lines} >= {
        ("top1_linear_pixels", "pixels"),
        ("top1_linear_pca_pixels", "pca_pixels"),
        ("top1_linear_pca_pixels_10perclass", "pca_pixels"),
        ("top1_table1_pixels", "pixels"),
        ("top1_table1_pca_pixels", "pca_pixels"),
        ("knn5_l2_pca_pixels_10perclass", "pca_pixels"),
        ("top1_linear_bn_crelu", "untrained"),
        ("top1_linear_bn_crelu", "trained"),
        ("top1_linear_avepool_10perclass", "trained"),
        ("knn5_l2_bn_crelu_10perclass", "trained"),
        ("top1_table1_avepool", "trained"),
        ("top1_sweep5k_bn_crelu", "untrained"),
        ("knn50_cosine_avepool", "trained"),
        ("fid10k_train_encoder", "trained"),
        ("reconstruction_ratio", "trained"),
    }
    assert {(line["subject"], line["steps"]) for line in lines} == {
        ("pixels", 0), ("pca_pixels", 0), ("untrained", 0), ("trained", 6)
    }  # fmt: skip
    assert {line["study"] for line in lines} == {"some"}
    assert len({(line["metric"], line["subject"]) for line in lines}) == len(lines)
    assert all(line["command"].startswith("bigbigan evaluate") for line in lines)
    kinds = {"table1": "train_val", "10k_train": "train"}
    for line in lines:
        expected = next((split for kind, split in kinds.items() if kind in line["metric"]), "test")
        assert line["split"] == expected, line["metric"]
    assert json.loads((copy / "train_val.json").read_text())["of"] > 0
    pixels = next(line for line in lines if line["metric"] == "top1_linear_pixels")
    assert pixels["value"] == 100  # the bright row gives the class away
    assert next(line for line in lines if line["metric"].endswith("10perclass"))["std"] is not None


def test_evaluate_takes_chosen_metrics(run, capsys, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    code, out, _ = call(capsys, "evaluate", copy, "--quiet", "--json", "--metrics", "knn5_l2_avepool")
    assert code == 0
    assert {line["metric"] for line in json.loads(out)} == {"knn5_l2_avepool"}


@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_encode(run, data, capsys, tmp_path, suffix):
    out = tmp_path / f"features.{suffix}"
    code, _, _ = call(capsys, "encode", run, "--data", data, "--out", out, "--features", "z_mean,avepool_feat")
    assert code == 0
    if suffix == "npz":
        with np.load(out) as arrays:
            assert arrays["z_mean"].shape == (180, 8)
            assert arrays["avepool_feat"].shape == (180, 8)
            assert list(arrays["file"][:1]) == ["train/00000"]
            assert set(arrays["split"]) == {"train", "test"}
            assert arrays["class_number"].tolist()[:4] == [0, 1, 2, 0]
            assert arrays["class"].tolist()[:4] == ["0", "1", "2", "0"]
    else:
        header, first, *rest = out.read_text().splitlines()
        assert header.split(",")[:5] == ["file", "split", "class", "class_number", "z_mean_0"]
        assert first.startswith("train/00000,train,0,0,")
        assert len(rest) == 179


def test_encode_parquet_or_says_what_to_install(run, capsys, tmp_path):
    pandas = pytest.importorskip("pandas", reason="the parquet extra is not installed")
    pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    out = tmp_path / "features.parquet"
    assert call(capsys, "encode", run, "--out", out)[0] == 0
    assert len(pandas.read_parquet(out)) == 180


def test_generate_grid_and_folder(run, capsys, tmp_path):
    assert call(capsys, "generate", run, "--count", 5, "--out", tmp_path / "grid.png", "--truncation", 0.5)[0] == 0
    width, height = Image.open(tmp_path / "grid.png").size  # three columns and two rows of 8 px, enlarged to 64
    assert (3 * 64 < width < 4 * 64, 2 * 64 < height < 3 * 64) == (True, True)
    assert call(capsys, "generate", run, "--count", 3, "--out", tmp_path / "many")[0] == 0
    assert [Image.open(p).size for p in sorted((tmp_path / "many").iterdir())] == [(8, 8)] * 3


def test_generated_images_do_not_replace_others(run, capsys, tmp_path):
    photo = tmp_path / "00000.png"
    Image.new("RGB", (4, 4)).save(photo)
    before = photo.read_bytes()
    for out, message in ((tmp_path, "has other images, such as 00000.png"), (photo, "bigbigan did not write")):
        code, _, err = call(capsys, "generate", run, "--out", out, "--count", 2)
        assert (code, photo.read_bytes()) == (2, before)
        assert message in err
    photo.unlink()
    for _ in range(2):
        assert call(capsys, "generate", run, "--out", tmp_path, "--count", 2)[0] == 0


def test_generate_depends_on_its_seed_alone(run, capsys, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        call(capsys, "generate", run, "--count", 4, "--seed", seed, "--out", tmp_path / f"{name}.png")
    a, b, c = ((tmp_path / f"{n}.png").read_bytes() for n in "abc")
    assert a == b
    assert a != c


def test_reconstruct(run, capsys, tmp_path):
    assert call(capsys, "reconstruct", run, "--count", 8, "--out", tmp_path / "r.png")[0] == 0
    width, height = Image.open(tmp_path / "r.png").size  # eight columns and two rows, with a title and names of rows
    assert (8 * 64 < width < 10 * 64, 2 * 64 < height < 3 * 64) == (True, True)


def test_interpolate_writes_an_animation(run, capsys, tmp_path):
    for name, options in (("walk.gif", ()), ("latents.GIF", ("--latents",))):
        out = tmp_path / name
        assert call(capsys, "interpolate", run, "--count", 2, "--steps", 4, *options, "--out", out)[0] == 0
        with Image.open(out) as animation:
            assert animation.format == "GIF"
            assert animation.info["loop"] == 0  # endless
            frames = [np.asarray(frame.convert("L"), dtype=int) for frame in ImageSequence.Iterator(animation)]
        assert len(frames) == 6  # four steps there, and two back
        assert np.abs(frames[1] - frames[5]).max() <= 2  # the way back shows the same images
    code, _, err = call(capsys, "interpolate", run, "--out", tmp_path / "walk.mp4")
    assert (code, "expected a name ending in .png or .gif" in err) == (2, True)


def test_data_inspect(data, capsys, tmp_path):
    code, out, _ = call(capsys, "data", "inspect", data, "--out", tmp_path / "sheet.png")
    assert code == 0
    assert "90" in out
    assert (tmp_path / "sheet.png").exists()
    assert json.loads(call(capsys, "data", "inspect", data, "--json")[1])["splits"]["train"]["count"] == 90


def test_data_shard(data, capsys, tmp_path):
    out = tmp_path / "shards"
    code, text, _ = call(capsys, "data", "shard", data, "--out", out, "--images", 40, "--quiet")
    assert (code, text.splitlines()[0].split(", ")[0]) == (0, f"{out / 'train'}: 90 images in 3 shards")
    again = json.loads(call(capsys, "data", "shard", data, "--out", out, "--images", 40, "--json")[1])
    assert again["splits"]["test"]["images"] == 90
    assert json.loads(call(capsys, "data", "inspect", out, "--json")[1])["splits"]["train"]["classes"] == dict.fromkeys(
        "012", 30
    )
    pattern = out / "train" / "shard-{000000..000002}.tar"
    assert json.loads(call(capsys, "data", "inspect", pattern, "--json")[1])["splits"]["train"]["count"] == 90


def test_report(run, capsys, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    code, out, _ = call(capsys, "report", copy)
    assert code == 0
    assert out.strip() == str(copy / "report.html")


def test_a_finished_run_started_again_is_left_alone(run, data, capsys):
    before = (run / "metrics.jsonl").read_text()
    code, out, _ = call(capsys, "train", "small/digits", "--out", run, "--quiet", "--steps", 6, "--set", *TINY,
                      "log.pictures_every=3", "--json")  # fmt: skip
    assert code == 0
    assert json.loads(out) == {"run": str(run), "steps": 6, "ended_by_signal": None}
    assert (run / "metrics.jsonl").read_text() == before


# -- mistakes -----------------------------------------------------------------------------------------------


def broken_run(tmp_path, run, damage):
    copy = shutil.copytree(run, tmp_path / "broken")
    damage(copy)
    return copy


MISTAKES = {
    "unknown verb": lambda t, r: (["trian"], "there is no command trian; did you mean train?"),
    "unknown option": lambda t, r: (["evaluate", r, "--lables", "x.csv"], "there is no option --lables; did you mean --labels?; see: bigbigan evaluate --help"),
    "unknown experiment": lambda t, r: (["train", "small/mnits", "--out", t / "x"], "did you mean small/mnist?"),
    "no --out": lambda t, r: (["train", "small/digits"], "--out RUN is missing"),
    "no --data": lambda t, r: (["train", "small/folder64", "--out", t / "x"], "--data SOURCE is missing"),
    "unknown source": lambda t, r: (["train", "small/digits", "--out", t / "x", "--data", "mnits"], "mnist"),
    "missing folder": lambda t, r: (["train", "small/folder64", "--out", t / "x", "--data", t / "none"], "none"),
    "unknown setting": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "training.step=3"], "did you mean training.steps?"),
    "setting without value": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "training.steps"], "expected name=value"),
    "word for a number": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "training.steps=many"], "many"),
    "colours that are none": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "data.channels=2"], "expected one of 1, 3, got 2"),
    "a number for a list": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "encoder.widths=3"], "expected a list, such as [1,2], got 3"),
    "mirror images of nothing": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "data.mirror=always"], "set data.augment=flip"),
    "nan rate": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "optimizer.lr_g=nan"], "nan"),
    "negative rate": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "optimizer.lr_d=-1"], "must be positive"),
    "no widths of D": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "discriminator.channels=[]"], "must be one or more positive widths"),
    "zero steps": lambda t, r: (["train", "small/digits", "--out", t / "x", "--steps", "0"], "training.steps must be positive"),
    "batch of one": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "training.batch_size=1"], "at least 2"),
    "chunks of a batch that differ": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "training.accumulate=3"], "must cut training.batch_size = 64 into equal chunks"),
    "chunks of one image": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "training.accumulate=64"], "equal chunks of 2 or more"),
    "one setting of two is wrong": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "log.every=3", "training.precision=fp16"], "--set training.precision=fp16: "),
    "unknown precision": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "training.precision=fp16"], "fp16"),
    "chunks do not divide": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "latent.dim=21"], "2 equal chunks"),
    "unknown prior": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "latent.prior=gauss"], "gauss"),
    "uniform but sampled": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "latent.prior=uniform"], "encoder.stochastic=false"),
    "resolutions do not fit": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "encoder.resolution=4"], "must not be below the generator's 8"),
    "fewer steps than there were": lambda t, r: (["train", "small/digits", "--out", r, "--steps", "2"], "has been trained for 6 steps; expected as many or more"),
    "no score for G": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "loss.s_x=false", "loss.s_xz=false"], "G learns by no other"),
    "compiled pretext task": lambda t, r: (["train", "pretext/rotation", "--out", t / "x", "--set", "training.compile=true"], "not for system=pretext"),
    "one class of a pretext task": lambda t, r: (["train", "pretext/rotation", "--out", t / "x", "--set", "data.labels=single"], "data.labels=single is for"),
    "no score": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "loss.s_x=false", "loss.s_z=false", "loss.s_xz=false"], "at least one"),
    "D too shallow": lambda t, r: (["train", "small/mnist", "--out", t / "x", "--set", "discriminator.channels=[8]", "discriminator.joint_maps=1"], "at least 3"),
    "scale of what has none": lambda t, r: (["train", "small/digits", "--out", t / "x", "--scale", "32"], "has one size only"),
    "unknown scale": lambda t, r: (["train", "table1/base", "--out", t / "x", "--scale", "48"], "scales to 16, 32, 64"),
    "scale as a setting": lambda t, r: (["train", "table1/base", "--out", t / "x", "--set", "scale=32"], "give --scale S"),
    "attention at no map": lambda t, r: (["train", "small/mnist", "--out", t / "x", "--set", "generator.attention=[64]"], "its maps have sides 8, 16, 32"),
    "attention for narrow maps": lambda t, r: (["train", "small/mnist", "--out", t / "x", "--set", "generator.attention=[16]", "generator.channels=[8,8,4,4]"], "8 channels or more"),
    "blocks of other stages": lambda t, r: (["train", "small/mnist", "--out", t / "x", "--set", "encoder.blocks=[1,2]"], "must be one number, or 4"),
    "kept activations of a ResNet": lambda t, r: (["train", "small/mnist", "--out", t / "x", "--set", "encoder.keep_activations=true"], "encoder.block=reversible"),
    "reversible stages that narrow": lambda t, r: (["train", "small/mnist", "--out", t / "x", "--set", "encoder.block=reversible", "encoder.widths=[32,16,64,64]"], "must not fall"),
    "final size that is none": lambda t, r: (["train", "small/mnist", "--out", t / "x", "--set", "discriminator.final_size=5"], "cannot be halved to it"),
    "out is a file": lambda t, r: ((t / "f").write_text("x") and ["train", "small/digits", "--out", t / "f"], "is a file"),
    "out holds other things": lambda t, r: ((t / "d").mkdir() or ((t / "d" / "thesis.txt").write_text("x") and ["train", "small/digits", "--out", t / "d"]), "is not empty"),
    "other settings than before": lambda t, r: (["train", "small/digits", "--out", r, "--steps", "9"], "holds a run with other settings"),
    "labels that are not there": lambda t, r: (["evaluate", r, "--labels", t / "l.csv"], "cannot be read: No such file"),
    "labels of other images": lambda t, r: ((t / "l.csv").write_text("file,label\nz.png,1\n") and ["train", "small/digits", "--out", t / "x", "--labels", t / "l.csv"], "1 of 1 rows name no image of digits"),
    "evaluate nothing": lambda t, r: (["evaluate", t / "none"], "is not a folder"),
    "evaluate a folder that is no run": lambda t, r: (["evaluate", t], "config.json does not exist"),
    "at most one image": lambda t, r: (["evaluate", r, "--max-images", "1"], "--max-images 1: expected at least 2"),
    "unknown metric": lambda t, r: (["evaluate", r, "--metrics", "accuracy"], "known are"),
    "config is not JSON": lambda t, r: (["evaluate", broken_run(t, r, lambda c: (c / "config.json").write_text("{"))], "cannot be read as JSON"),
    "config is a list": lambda t, r: (["evaluate", broken_run(t, r, lambda c: (c / "config.json").write_text("[]"))], "expected a JSON object"),
    "config has unknown keys": lambda t, r: (["evaluate", broken_run(t, r, lambda c: (c / "config.json").write_text('{"optimiser": {}}'))], "optimiser"),
    "config has null": lambda t, r: (["evaluate", broken_run(t, r, lambda c: (c / "config.json").write_text('{"training": null}'))], "training"),
    "no checkpoint": lambda t, r: (["generate", broken_run(t, r, lambda c: shutil.rmtree(c / "checkpoints")), "--out", t / "g.png"], "no checkpoint yet"),
    "all checkpoints damaged": lambda t, r: (["generate", broken_run(t, r, lambda c: [p.write_bytes(b"") for p in c.glob("checkpoints/*/weights.safetensors")]), "--out", t / "g.png"], "is valid"),
    "checkpoint of other networks": lambda t, r: (["generate", broken_run(t, r, lambda c: (c / "config.json").write_text((c / "config.json").read_text().replace('"mlp_width": 16', '"mlp_width": 24'))), "--out", t / "g.png"], "does not fit"),
    "truncation of zero": lambda t, r: (["generate", r, "--out", t / "g.png", "--truncation", "0"], "truncation is 0"),
    "no images": lambda t, r: (["generate", r, "--out", t / "g.png", "--count", "0"], "at least 1"),
    "image set that another would mix with": lambda t, r: ((t / "g").mkdir() or ((t / "g" / "00004.png").write_bytes(b"x") and ["generate", r, "--out", t / "g", "--count", "2"]), "1 more images of an earlier call, such as 00004.png"),
    "labels that would be replaced": lambda t, r: ((t / "l.csv").write_text("file,label\nz.png,1\n") and ["classify", r, "--labels", t / "l.csv", "--labels-per-class", "2", "--out", t / "l.csv"], "is the file given by --labels, which it would replace"),
    "clusters over labels": lambda t, r: ((t / "l.csv").write_text("file,label\nz.png,1\n") and ["cluster", r, "--labels", t / "l.csv", "--clusters", "2", "--out", t / "l.csv"], "is the file given by --labels, which it would replace"),
    "seed of no latents": lambda t, r: (["interpolate", r, "--out", t / "i.png", "--seed", "1"], "--seed 1: only latents are drawn"),
    "labels of no images": lambda t, r: (["interpolate", r, "--out", t / "i.png", "--latents", "--labels", "no.csv"], "--labels no.csv: --latents needs no images"),
    "report that is a picture": lambda t, r: (["report", r, "--out", t / "r.png"], "expected a name ending in .html"),
    "step of a packaged model": lambda t, r: (["generate", "small/fashion_mnist", "--checkpoint", "5", "--out", t / "g.png"], "which has only step 12000; expected no checkpoint"),
    "count is a word": lambda t, r: (["generate", r, "--out", t / "g.png", "--count", "few"], "invalid int value: 'few'"),
    "unknown feature": lambda t, r: (["encode", r, "--out", t / "f.npz", "--features", "fc7"], "known are"),
    "unknown format": lambda t, r: (["encode", r, "--out", t / "f.xlsx"], ".npz, .csv or .parquet"),
    "results into a folder": lambda t, r: (["evaluate", r, "--results", t], "is a folder"),
    "results below a file": lambda t, r: ((t / "f").write_text("x") and ["evaluate", r, "--results", t / "f" / "r.jsonl"], "cannot be created"),
    "samples as JPEG": lambda t, r: (["generate", r, "--out", t / "g.jpg"], "expected a name ending in .png"),
    "sheet without .png": lambda t, r: (["data", "inspect", "digits", "--out", t / "sheet.xyz"], "ending in .png"),
    "picture without .png": lambda t, r: (["reconstruct", r, "--out", t / "r.jpeg"], "ending in .png"),
    "no images to reconstruct": lambda t, r: (["reconstruct", r, "--out", t / "r.png", "--count", "0"], "at least 1"),
    "reconstruct what": lambda t, r: (["reconstruct", broken_run(t, r, lambda c: (c / "data.json").unlink()), "--out", t / "r.png"], "give --data"),
    "serve at no port": lambda t, r: (["serve", r, "--port", "70000"], "expected a number from 0 to 65535"),
    "serve elsewhere": lambda t, r: (["serve", r, "--host", "192.0.2.1"], "--port 7860 cannot bind"),
    "score of no kind": lambda t, r: (["encode", r, "--out", t / "f.npz", "--features", "score_y"], "anomaly_score"),
    "report of nothing": lambda t, r: (["report", t / "none"], "is not a folder"),
    "shards that are not there": lambda t, r: (["train", "small/digits", "--out", t / "x", "--data", t / "part-{000..099}.tar"], "no shard exists; the first missing one is"),
    "shards of a range backwards": lambda t, r: (["data", "inspect", t / "part-{9..0}.tar"], "runs backwards; write {0..9}"),
    "remote shards without an index": lambda t, r: (["data", "inspect", "https://127.0.0.1/shards"], "expected .../index.json"),
    "a command that fails": lambda t, r: (["data", "inspect", f"pipe:cat {t}/index.json"], "cannot be fetched: the command ended with code 1"),
    "Hugging Face without a name": lambda t, r: (["data", "inspect", "hf:"], "no name after the colon"),
    "no shuffling of shards": lambda t, r: (["train", "small/digits", "--out", t / "x", "--set", "data.shuffle_shards=0"], "at least 1"),
    "shards of nothing": lambda t, r: (["data", "shard", t / "none", "--out", t / "s"], "no such file or folder"),
    "shards into a folder of other things": lambda t, r: (["data", "shard", "digits", "--out", r], "is not empty and has no shards"),
    "shards into a file": lambda t, r: ((t / "f").write_text("x") and ["data", "shard", "digits", "--out", t / "f"], "is a file"),
    "shards of no size": lambda t, r: (["data", "shard", "digits", "--out", t / "s", "--size-mib", "0"], "above 0"),
    "shards without an end": lambda t, r: (["data", "shard", "digits", "--out", t / "s", "--size-mib", "inf"], "above 0"),
    "shards of no images": lambda t, r: (["data", "shard", "digits", "--out", t / "s", "--images", "0"], "at least 1"),
    "shards of a size and of images": lambda t, r: (["data", "shard", "digits", "--out", t / "s", "--images", "9", "--size-mib", "9"], "not allowed with"),
    "inspect nothing": lambda t, r: (["data", "inspect", t / "none"], "none"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_and_exit_code_2(mistake, run, capsys, tmp_path):
    arguments, expected = MISTAKES[mistake](tmp_path, run)
    files = set(run.rglob("*"))
    code, out, err = call(capsys, *arguments)
    lines = [line for line in err.splitlines() if line]
    assert code == 2
    assert len(lines) == 1, err
    assert lines[0].startswith("bigbigan: ")
    assert expected in lines[0], lines[0]
    assert "Traceback" not in out + err
    assert not (tmp_path / "x").exists() or not any((tmp_path / "x").glob("checkpoints")), "something was half made"
    assert set(run.rglob("*")) == files


def test_a_start_that_failed_can_be_mended_in_the_same_folder(capsys, tmp_path):
    """Images without a range need a window, which the first start lacks; other settings are refused only later."""
    (tmp_path / "scans").mkdir()
    for i in range(20):
        values = np.random.default_rng(i).normal(1000, 100, (8, 8)).astype(np.float32)
        Image.fromarray(values).save(tmp_path / "scans" / f"{i:02}.tif")
    out = tmp_path / "run"
    start = ["train", "small/digits", "--data", tmp_path / "scans", "--out", out, "--steps", "1", "--quiet", "--set"]
    start += ["training.batch_size=8", "log.validate_every=0"]
    code, _, err = call(capsys, *start)
    assert (code, "data.window" in err) == (2, True), err
    code, _, err = call(capsys, *start, "data.window=[700,1300]")
    assert code == 0, err
    code, _, err = call(capsys, *start, "data.window=[0,1300]")
    assert (code, "holds a run with other settings" in err) == (2, True), err


def test_a_start_that_failed_leaves_nothing_to_the_next(capsys, tmp_path, monkeypatch):
    """Neither the size of its images nor which images they were."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(20):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
            photos / f"{i}.png"
        )
    out, fresh = tmp_path / "run", tmp_path / "fresh"
    start = ["train", "small/digits", "--steps", "1", "--quiet", "--data", photos, "--set", "training.batch_size=8"]
    start += ["log.validate_every=0", "data.augment=resnet_crop"]

    def fails(*args, **kwargs):
        raise RunError("step 1: not finite")

    with monkeypatch.context() as patch:
        patch.setattr("bigbigan.training.loop.training_step", fails)
        large = ["encoder.resolution=16"]
        assert call(capsys, *start, *large, "--out", out)[0] != 0
    assert json.loads((out / "data.json").read_text())["side"] == 40
    (photos / "0.png").unlink()
    for run in (out, fresh):
        code, _, err = call(capsys, *start, "--out", run)
        assert code == 0, err
    sides = [json.loads((run / "data.json").read_text())["side"] for run in (out, fresh)]
    assert sides == [20, 20]


def test_evaluate_reports_its_maximum_number_of_images(run, capsys, tmp_path):
    results, copy = tmp_path / "r.jsonl", shutil.copytree(run, tmp_path / "copy")
    asked = ["--max-images", "30", "--metrics", "knn1_euclidean_pixels", "--results", results, "--quiet"]
    code, _, err = call(capsys, "evaluate", copy, *asked)
    assert code == 0, err
    (line,) = [json.loads(text) for text in results.read_text().splitlines()]
    assert (line["n"], line["protocol"]["train_images"]) == (30, 30)


def test_evaluate_without_labels_measures_what_it_can(run, capsys, tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(folder / f"{i}.png")
    copy = shutil.copytree(run, tmp_path / "run")
    code, out, _ = call(capsys, "evaluate", copy, "--data", folder, "--quiet", "--json")
    assert code == 0
    measures = ("fid", "kid", "precision", "recall")
    reconstruction = ("reconstruction_ratio", "reconstruction_error", "reconstruction_error_mismatched")
    without_labels = {*reconstruction, "evaluation_seconds", *(f"{m}10k_train_encoder" for m in measures)}
    assert {line["metric"] for line in json.loads(out)} == without_labels
    code, _, err = call(capsys, "evaluate", copy, "--data", folder, "--quiet", "--metrics", "top1_linear_pixels")
    assert code == 2
    assert "has no labels" in err


def test_a_gan_trains_and_says_that_it_has_no_encoder(data, capsys, tmp_path):
    run = tmp_path / "gan"
    scores = ["loss.s_z=false", "loss.s_xz=false"]
    train = ["train", "small/digits", "--data", data, "--out", run, "--quiet", "--steps", "4", "--set", *TINY, *scores]
    assert call(capsys, *train)[0] == 0
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["grad_norm_g"] > 0
    assert not list((run / "samples").glob("reconstructions*"))
    assert call(capsys, "generate", run, "--out", tmp_path / "g.png")[0] == 0
    for verb in (
        ["evaluate", run, "--metrics", "top1_linear_avepool"],
        ["encode", run, "--out", tmp_path / "f.npz"],
        ["reconstruct", run, "--out", tmp_path / "r.png"],
    ):
        code, _, err = call(capsys, *verb)
        assert (code, err.count("\n")) == (2, 1)
        assert "is a GAN, or only a generator" in err
    code, out, _ = call(capsys, "evaluate", run, "--metrics", "knn1_l2_*,knn1_l2_discriminator", "--json", "--quiet")
    assert code == 0
    found = {(line["metric"], line["steps"]) for line in json.loads(out)}
    pixels = {("knn1_l2_pixels", 0), ("knn1_l2_pca_pixels", 0)}
    assert found == pixels | {("knn1_l2_discriminator", 0), ("knn1_l2_discriminator", 4)}
    folder = tmp_path / "flat"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(folder / f"{i}.png")
    code, _, err = call(capsys, "evaluate", run, "--data", folder)
    assert code == 2
    assert "train one: bigbigan feature-extractor" in err
    assert call(capsys, "report", run)[0] == 0
    page = (run / "report.html").read_text()
    assert "it learns to generate images" in page
    assert "Nearest neighbours" not in page
    assert "E None" not in page


def test_a_row_of_table_1_at_scale_16_end_to_end(capsys, tmp_path, monkeypatch):
    one_batch = functools.partial(targets.fill_statistics, batches=1)  # of the untrained encoder; 16 take a minute
    monkeypatch.setattr(targets, "fill_statistics", one_batch)
    data, run = write_npz(tmp_path / "colour.npz", side=16, channels=3), tmp_path / "run"
    small = ["training.batch_size=8", "log.every=1", "log.standing_batches=1", "log.validate_every=0"]
    train = [
        "train",
        "table1/revnet",
        "--scale",
        "16",
        "--data",
        data,
        "--out",
        run,
        "--quiet",
        "--steps",
        "1",
        "--set",
        *small,
    ]
    assert call(capsys, *train)[0] == 0
    forgotten = [word for word in train if word not in ("--scale", "16")]
    code, _, err = call(capsys, *forgotten)
    assert (code, err.count("\n")) == (2, 1)
    assert "(scale was 16, now 0; " in err
    assert " more); choose another --out" in err
    code, out, _ = call(capsys, "evaluate", run, "--quiet", "--json", "--metrics", "knn5_l2_avepool")
    assert code == 0
    trained = json.loads(out)[-1]
    assert (trained["scale"], trained["table_row"], trained["steps"]) == (16, "Table 1, RevNet", 1)
    assert trained["settings"] == {"data.mirror": "always", "training.batch_size": 8}
    shutil.rmtree(run / "checkpoints")  # the page then says how to train on
    assert call(capsys, "report", run)[0] == 0
    assert "bigbigan train --out" in (run / "report.html").read_text()


def test_photographs_are_cropped_from_a_larger_copy(capsys, tmp_path):
    folder, run = tmp_path / "photos", tmp_path / "run"
    folder.mkdir()
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    settings = ["data.channels=3", "data.augment=resnet_crop", "encoder.resolution=16", "training.batch_size=8"]
    train = [
        "train",
        "small/digits",
        "--data",
        folder,
        "--out",
        run,
        "--quiet",
        "--steps",
        "1",
        "--set",
        *TINY,
        *settings,
    ]
    code, _, err = call(capsys, *train)
    assert (code, err) == (0, "")
    assert (run / "samples" / "reconstructions-00000001.png").exists()


# -- Python -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_output_that_is_not_utf8_has_replacements(tmp_path, encoding):
    for folder in ("Größe", "幅"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "images" / folder / "a.png")
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    for arguments in (["list"], ["data", "inspect", str(tmp_path / "images")], ["data", "shard", "--help"]):
        command = [sys.executable, "-m", "bigbigan", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr


def test_python_without_docstrings(tmp_path):
    for arguments in (["--version"], ["list"], ["train", "--help"]):
        command = [sys.executable, "-OO", "-m", "bigbigan", *arguments]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_output_to_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "bigbigan", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "bigbigan: the output cannot be written: No space left on device\n")


def test_the_model_in_python(run):
    import torch

    model = bigbigan.load(run)
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    out = model.encode(images)
    n = model.encoder.num_features
    shapes = {"z_mean": 8, "z_stdev": 8, "z_sample": 8, "avepool_feat": n, "bn_crelu_feat": 2 * n}
    for name, width in shapes.items():
        assert getattr(out, name).shape == (5, width), name
    floats = images.float() / 127.5 - 1
    torch.testing.assert_close(model.encode(floats).z_mean, out.z_mean)
    x_hat = model.reconstruct(images)
    assert x_hat.shape == (5, 1, 8, 8)
    torch.testing.assert_close(x_hat, model.generate(out.z_mean))
    assert model.generate(3, truncation=0.7).abs().max() <= 1
    scores = model.discriminate(images, out.z_mean)
    assert scores.score_x.shape == scores.score_z.shape == scores.score_xz.shape == (5,)
    # Batch statistics play no part: an image's features do not depend on its company.
    torch.testing.assert_close(model.encode(images[:2]).avepool_feat, out.avepool_feat[:2], rtol=1e-4, atol=1e-5)
    assert model.encode(images.expand(-1, 3, -1, -1)).z_mean.shape == (5, 8)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda m, t: m.encode(t.zeros(1, 8, 8)),
            r"shape \[1, 8, 8\]; expected \[N, C, H, W\] or .* such as \[N, 1, 8, 8\]",
        ),
        (lambda m, t: m.encode(t.full((1, 1, 8, 8), 255.0)), r"expected \[-1, 1\]"),
        (lambda m, t: m.encode([[0.0]]), "images has a list at place 0; expected paths, PIL images, or one array"),
        (lambda m, t: m.encode("a.png"), r"a.png in images: cannot be read \(No such file"),
        (lambda m, t: m.encode(np.array([None])), "images has a NoneType at place 0"),
        (lambda m, t: m.encode(t.zeros(1, 1, 8, 8).long()), r"images are torch.int64; expected uint8"),
        (lambda m, t: m.encode(t.full((1, 1, 8, 8), t.nan)), "NaN or infinite"),
        (lambda m, t: m.encode(-t.full((1, 1, 8, 8), t.inf)), "NaN or infinite"),
        (lambda m, t: m.encode(t.zeros(1, 1, 0, 0)), "shape"),
        (lambda m, t: m.encode(t.rand(1, 1, 8, 8), value_range=(1, 0)), "value_range is"),
        (lambda m, t: m.encode(t.full((1, 1, 8, 8), 2.0), value_range=(0, 1)), r"expected \[0, 1\]"),
        (lambda m, t: m.generate(-1), "count is -1; expected a whole number, at least 1"),
        (lambda m, t: m.generate(0), "count is 0"),
        (lambda m, t: m.generate(2.5), "count is 2.5"),
        (lambda m, t: m.generate("2"), "count is 2;"),
        (lambda m, t: m.generate(t.full((2, 8), t.nan)), "z has numbers that are NaN"),
        (lambda m, t: m.refine(t.zeros(1, 1, 8, 8), steps=-1), "steps is -1; expected a whole number, at least 0"),
        (lambda m, t: m.refine(t.zeros(1, 1, 8, 8), steps=1.5), "steps is 1.5"),
        (lambda m, t: m.refine(t.zeros(1, 1, 8, 8), steps=1, rate=0), "rate is 0"),
        (lambda m, t: m.refine(t.zeros(1, 1, 8, 8), 1, z=t.zeros(2, 8)), r"z has shape \[2, 8\]; expected \[1, 8\]"),
        (lambda m, t: m.discriminate(t.zeros(1, 1, 8, 8), None), "z is missing"),
        (lambda m, t: m.discriminate(t.zeros(1, 1, 8, 8), t.zeros(1, 7)), r"expected \[1, 8\]"),
        (lambda m, t: m.discriminate(t.zeros(1, 1, 8, 8), t.zeros(2, 8)), r"expected \[1, 8\]"),
        (lambda m, t: m.interpolate(t.zeros(1, 1, 8, 8), t.zeros(2, 1, 8, 8)), "1 images and 2 others"),
        (lambda m, t: m.interpolate(t.zeros(1, 1, 8, 8), t.zeros(1, 1, 8, 8), steps=1), "steps is 1"),
        (lambda m, t: m.to("cuda:99"), "device is cuda:99: .*; expected cpu"),
        (lambda m, t: m.to("gpu"), "device is gpu: .*; expected cpu"),
        (lambda m, t: bigbigan.load("nowhere", device="meta"), "device is meta"),
        (lambda m, t: bigbigan.load(None), "run is a NoneType; expected the path"),
        (lambda m, t: m.generate(t.zeros(2, 7)), r"expected \[N, 8\]"),
        (lambda m, t: m.generate(2, truncation=2.0), "truncation is 2"),
    ],
)
def test_wrong_arguments_in_python_say_what_was_expected(run, call, expected):
    import torch

    with pytest.raises(UserError, match=expected):
        call(bigbigan.load(run), torch)


def test_images_from_0_to_1_are_noticed_once(run):
    import torch

    model = bigbigan.load(run)
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    right, halves = model.encode(images).z_mean, images / 255
    with pytest.warns(UserWarning, match=r"read as in \[-1, 1\]; if they are in \[0, 1\].*value_range=\(0, 1\)"):
        wrong = model.encode(halves).z_mean
    assert not torch.allclose(wrong, right, atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(halves)  # said once
        model = bigbigan.load(run)
        model.encode(halves * 2 - 1)
        bright = torch.full((1, 1, 8, 8), 200, dtype=torch.uint8)
        model.encode(bright)
        model.reconstruct(model.prepare(bright))  # what `prepare` made is known to be right
        found = [model.encode(halves, value_range=(0, 1)), model.encode(halves.numpy(), value_range=(0, 1)),
                 model.encode(images.float(), value_range=(0, 255)), model.encode(images.numpy()),
                 model.encode(model.prepare(halves, (0, 1)))]  # fmt: skip
    for each in found:
        torch.testing.assert_close(each.z_mean, right, rtol=1e-3, atol=1e-4)


def test_endings_in_capital_letters(run, data, capsys, tmp_path):
    assert call(capsys, "generate", run, "--count", 2, "--out", tmp_path / "grid.PNG")[0] == 0
    assert Image.open(tmp_path / "grid.PNG").width > 2 * 64
    assert call(capsys, "interpolate", run, "--latents", "--count", 2, "--out", tmp_path / "walk.Png")[0] == 0
    assert (tmp_path / "walk.Png").is_file()
    assert call(capsys, "data", "inspect", data, "--out", tmp_path / "sheet.PNG")[0] == 0
    assert call(capsys, "encode", run, "--features", "z_mean", "--out", tmp_path / "f.NPZ")[0] == 0
    assert np.load(tmp_path / "f.NPZ")["z_mean"].shape == (180, 8)
    for name in ("grid.JPEG", "grid.jfif", "grid.svg", "grid.pdf", "grid.npz"):
        code, _, err = call(capsys, "generate", run, "--count", 2, "--out", tmp_path / name)
        assert (code, "expected a name ending in .png for a grid, or a folder" in err) == (2, True)


@pytest.fixture
def photos(tmp_path):
    """Forty images, the last of them cut short."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(40):
        rows = np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(rows).save(folder / f"{i:03d}.png")
    (folder / "039.png").write_bytes((folder / "039.png").read_bytes()[:100])
    return folder


def test_one_unreadable_image_does_not_stop_a_picture(run, photos, capsys, tmp_path):
    for verb in ("neighbours", "interpolate", "reconstruct"):
        code, _, err = call(capsys, verb, run, "--data", photos, "--count", 8, "--out", tmp_path / f"{verb}.png")
        assert code == 0, err
    source = open_source(str(photos))
    pixels, shown = spread(bigbigan.load(run), source, source.splits["train"], 8)
    assert len(pixels) == len(shown) == 8
    assert "039.png" not in shown.files
    assert source.skipped == [("039.png", "truncated PNG")]
    for i in range(39):
        (photos / f"{i:03d}.png").write_bytes(b"")
    code, _, err = call(capsys, "neighbours", run, "--data", photos, "--out", tmp_path / "n.png")
    assert (code, "can be read" in err) == (2, True)


def test_neighbours_of_few_images(run, photos, capsys, tmp_path):
    for i in range(5, 40):
        (photos / f"{i:03d}.png").unlink()
    model = tmp_path / "model"  # of which the training images are not known
    assert call(capsys, "export", run, "--out", model)[0] == 0
    code, out, _ = call(capsys, "neighbours", model, "--data", photos, "--json", "--out", tmp_path / "n.png")
    assert code == 0
    for row in json.loads(out):
        files = [n["file"] for n in row["neighbours"]]
        assert sorted([row["file"], *files]) == [f"{i:03d}.png" for i in range(5)]
        similar = [n["similarity"] for n in row["neighbours"]]
        assert similar == sorted(similar, reverse=True)
    for i in range(1, 5):
        (photos / f"{i:03d}.png").unlink()
    code, _, err = call(capsys, "neighbours", model, "--data", photos, "--out", tmp_path / "n.png")
    assert (code, "a neighbour needs another" in err) == (2, True)


def test_an_unquoted_pattern_of_shards_is_reported(capsys):
    code, _, err = call(capsys, "data", "inspect", "part-000.tar", "part-001.tar", "part-002.tar")
    assert (code, "a pattern of shards must be quoted" in err) == (2, True)


# -- a run's own images, from elsewhere ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_photos(tmp_path_factory):
    """here/photos in two classes, and a run on them that was begun in `here`, with a labels file; there is empty."""
    root = tmp_path_factory.mktemp("elsewhere")
    for c in ("a", "b"):
        (root / "here" / "photos" / c).mkdir(parents=True)
        for i in range(10):
            rows = np.random.default_rng(i + 10 * (c == "b")).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(rows).save(root / "here" / "photos" / c / f"{i}.png")
    rows = [f"{c}/{i}.png,{'xy'[i % 2]}" for c in "ab" for i in range(10)]
    (root / "here" / "own.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    (root / "there").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "here")
        for name, labels in (("run", []), ("labelled", ["--labels", "own.csv"])):
            assert main(["train", "small/digits", "--data", "photos", *labels, "--out", f"../{name}", "--quiet",
                         "--steps", "2", "--set", *TINY, "training.batch_size=4"]) == 0  # fmt: skip
    return root


def encoded(capsys, root, run, *more):
    out = root / "features.npz"
    code, _, err = call(capsys, "encode", run, "--features", "z_mean", "--out", out, "--quiet", *more)
    with np.load(out) if code == 0 else nullcontext({"file": []}) as found:
        return code, err, list(found["file"]), list(found["class"]) if code == 0 else []


def test_a_run_finds_its_images_from_any_folder(of_photos, capsys, tmp_path, monkeypatch):
    root = shutil.copytree(of_photos, tmp_path / "root")
    monkeypatch.chdir(root / "there")
    (root / "there" / "photos").mkdir()
    shutil.copy(root / "here" / "photos" / "a" / "0.png", root / "there" / "photos")
    code, err, files, classes = encoded(capsys, root, "../run")
    assert (code, err, len(files), set(classes)) == (0, "", 20, {"a", "b"})
    code, err, files, classes = encoded(capsys, root, "../labelled")  # its labels file is found too
    assert (code, err, len(files), set(classes)) == (0, "", 20, {"x", "y"})
    card = json.loads((root / "run" / "data.json").read_text())
    assert (card["spec"], card["from_run"], card["classes"]) == ("photos", "../here/photos", ["a", "b"])

    shutil.move(root / "here" / "photos", root / "here" / "gone")
    code, err, files, _ = encoded(capsys, root, "../run")  # others of the name
    assert (code, len(files)) == (0, 1)
    assert "the images of photos are not those ../run was trained on" in err
    shutil.rmtree(root / "there" / "photos")
    code, err, _, _ = encoded(capsys, root, "../run")
    assert code == 2
    assert (
        "../run was trained on photos, relative to the folder where training began; it does not exist: give --data"
        in err
    )
    assert encoded(capsys, root, "../run", "--data", root / "here" / "gone")[0] == 0


def test_other_images_of_the_same_names_are_noticed(of_photos, capsys, tmp_path, monkeypatch):
    root = shutil.copytree(of_photos, tmp_path / "root")
    monkeypatch.chdir(root / "here")
    for path in (root / "here" / "photos").rglob("*.png"):
        Image.new("L", (8, 8), 77).save(path)
    code, err, _, _ = encoded(capsys, root, "../run")
    assert (code, "are not those ../run was trained on" in err) == (0, True)


def test_a_labels_file_that_has_gone_stops_only_what_needs_it(of_photos, capsys, tmp_path, monkeypatch):
    root = shutil.copytree(of_photos, tmp_path / "root")
    monkeypatch.chdir(root / "here")
    with (root / "here" / "own.csv").open("a") as file:
        file.write("\n")
    code, err, _, _ = encoded(capsys, root, "../labelled")
    assert (code, "the labels file own.csv has changed since ../labelled was trained" in err) == (0, True)
    (root / "here" / "own.csv").unlink()
    code, err, files, classes = encoded(capsys, root, "../labelled")
    assert (code, len(files), set(classes)) == (0, 20, {""})
    assert "the labels file own.csv of ../labelled does not exist: continuing without labels" in err
    for command in (["cluster", "../labelled", "--clusters", "2", "--out", "c.csv"], ["evaluate", "../labelled", "--metrics", "reconstruction_ratio"]):  # fmt: skip
        code, _, err = call(capsys, *command)
        assert (code, "continuing without labels" in err) == (0, True)
    code, _, err = call(capsys, "evaluate", "../labelled", "--quiet")
    assert (code, "does not exist; give --labels FILE.csv" in err) == (2, True)


def test_a_run_is_not_continued_with_classes_in_another_order(tmp_path, capsys):
    for c in ("2", "10"):
        (tmp_path / "set" / c).mkdir(parents=True)
        for i in range(8):
            Image.new("L", (8, 8), 9 * i).save(tmp_path / "set" / c / f"{i}.png")
    out = tmp_path / "run"
    arguments = ["train", "small/digits", "--data", tmp_path / "set", "--out", out, "--quiet", "--steps", "1", "--set",
                 *TINY, "data.labels=classes", "system=bigbigan", "loss.s_z=false", "loss.s_xz=false",
                 "training.batch_size=4"]  # fmt: skip
    code, _, err = call(capsys, *arguments)
    assert code == 0, err
    card = json.loads((out / "data.json").read_text())
    assert card["classes"] == ["2", "10"]
    assert call(capsys, "export", out, "--out", tmp_path / "model")[0] == 0
    assert json.loads((tmp_path / "model" / "model.json").read_text())["data"]["classes"] == ["2", "10"]
    assert call(capsys, *arguments)[0] == 0
    del card["classes"]  # as before it was recorded: classes were in the order of text
    (out / "data.json").write_text(json.dumps(card))
    code, _, err = call(capsys, *arguments)
    assert (code, "are in another order" in err) == (2, True)


# -- logs and folders that cannot be written to -------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_log_file_is_a_line_every_30_seconds():
    now = [0.0]
    log, screen = io.StringIO(), Terminal()
    for file in (log, screen):
        bar = Bar(total=1000, file=file, ncols=80)
        bar._time = lambda: now[0]
        bar.start_t = bar.last_print_t = now[0]
        for _ in range(1000):
            now[0] += 0.1
            bar.update()
        bar.close()
    lines = [line for line in log.getvalue().split("\n") if line]
    assert 4 <= len(lines) <= 6  # 100 seconds: at first, every 30 seconds, at last
    assert all("\r" not in line for line in lines)
    assert "1000/1000" in lines[-1]
    assert screen.getvalue().count("\r") > 100


def test_a_part_of_a_long_evaluation_is_named_in_a_log_file():
    log = io.StringIO()
    bar = Bar(total=2, file=log, desc="evaluate", ncols=80)
    bar._time = lambda: now
    now = bar.last_print_t + 1
    bar.part("first")
    now += 40
    bar.part("second")
    now += 1
    bar.part("third")
    shown = [line for line in log.getvalue().split("\n") if line]
    assert [line.split(": ")[1].split(":")[0] for line in shown[1:]] == ["second"]


def test_linear_heads_on_large_pixels_of_many_classes_are_left_out_unless_asked_for(run, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("bigbigan.evaluation.runner.MAX_PIXEL_HEAD_FLOPS", 1)
    for protocol in ("table1", "sweep5k"):
        monkeypatch.setitem(linear.PROTOCOLS, protocol, 2)
    _, out, _ = call(capsys, "evaluate", run, "--quiet", "--out", tmp_path)
    measured = {json.loads(line)["metric"] for line in (tmp_path / "results.jsonl").read_text().splitlines()}
    assert {"top1_sweep5k_avepool", "top1_table1_bn_crelu", "top1_linear_pixels", "knn5_l2_pixels"} <= measured
    assert not {"top1_sweep5k_pixels", "top1_table1_pixels"} & measured
    assert (
        "skipped the linear heads on raw pixels, which take long here: --metrics top1_table1_pixels,top1_sweep5k_pixels"
        in out
    )
    _, out, _ = call(capsys, "evaluate", run, "--quiet", "--out", tmp_path, "--metrics", "top1_table1_pixels")
    assert "top1_table1_pixels (raw pixels): " in out


def test_a_run_that_cannot_be_written_to(run, data, capsys, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: copy not in (Path(path), *Path(path).parents) and allowed(path, mode)
    )
    few = ["--quiet", "--metrics", "top1_linear_pixels"]
    code, _, err = call(capsys, "evaluate", copy, *few)
    assert (code, "give a folder for the results: --out DIR" in err) == (2, True)
    code, _, err = call(capsys, "evaluate", copy, *few, "--out", tmp_path / "results")
    assert code == 0, err
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["results.jsonl"]
    code, _, err = call(capsys, "report", copy)
    assert (code, "give another place: --out FILE.html" in err) == (2, True)
    assert call(capsys, "report", copy, "--out", tmp_path / "page.html")[1].strip() == str(tmp_path / "page.html")
    assert "<html" in (tmp_path / "page.html").read_text()
    out = tmp_path / "clusters" / "c.csv"
    code, _, err = call(capsys, "cluster", copy, "--clusters", 3, "--out", out)
    assert (code, "result lines are added to" in err) == (0, True)
    assert sorted(p.name for p in out.parent.iterdir()) == ["c.csv", "results.jsonl"]
    out = tmp_path / "classes" / "p.csv"
    code, _, err = call(capsys, "classify", copy, "--labels-per-class", 5, "--trials", 1, "--quiet", "--out", out)
    assert (code, "result lines are added to" in err) == (0, True)
    assert sorted(p.name for p in out.parent.iterdir()) == ["p.csv", "results.jsonl"]
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == before


def test_large_images_are_read_smaller_or_by_a_setting(capsys, tmp_path):
    folder, train = (
        tmp_path / "photos",
        ["train", "small/digits", "--quiet", "--steps", "1", "--data", tmp_path / "photos"],
    )
    folder.mkdir()
    for i in range(8):
        rows = np.random.default_rng(i).integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(rows).save(folder / f"{i}.jpg")
    few = [*TINY, "training.batch_size=4", "data.max_pixels=300"]
    code, _, err = call(capsys, *train, "--out", tmp_path / "a", "--set", *few)
    assert code == 0, err
    notes = json.loads((tmp_path / "a" / "data.json").read_text())["notes"]
    assert notes["large JPEG, decoded at a reduced size"] == 8
    assert call(capsys, "encode", tmp_path / "a", "--features", "z_mean", "--out", tmp_path / "f.csv")[0] == 0
    for path in folder.iterdir():
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    code, _, err = call(capsys, *train, "--out", tmp_path / "b", "--set", *few)
    assert (code, "limit 0.0003: reduce the image or raise data.max_pixels" in err) == (2, True)
    assert call(capsys, *train, "--out", tmp_path / "b", "--set", *few[:-1], "data.max_pixels=2000")[0] == 0
    code, _, err = call(capsys, "encode", tmp_path / "b", "--features", "z_mean", "--out", tmp_path / "f.csv")
    assert code == 0, err  # by the setting of the run


def test_help_says_what_a_run_may_be_and_breaks_no_word(capsys):
    for verb in ("encode", "evaluate", "predict", "cluster", "serve"):
        words = " ".join(call(capsys, verb, "--help")[1].split())
        assert "exported folder" in words
        assert "owner/name on the Hugging Face Hub" in words
    assert "cc-by-4.0 (" in " ".join(call(capsys, "export", "--help")[1].split())
    assert ".gif" in call(capsys, "interpolate", "--help")[1].rpartition("examples:")[2]
    assert "TensorBoard" in call(capsys, "train", "--help")[1]


def test_a_file_that_the_run_was_trained_on_is_not_replaced(of_photos, capsys):
    """The labels file that a run records is one of its inputs, also where no option names it."""
    labels = of_photos / "here" / "own.csv"
    before = labels.read_bytes()
    run = of_photos / "labelled"
    for command in (["classify", run, "--labels-per-class", 2], ["encode", run, "--features", "z_mean"]):
        code, _, err = call(capsys, *command, "--out", labels, "--quiet")
        assert (code, "is a file that" in err) == (2, True)
    assert labels.read_bytes() == before


@pytest.mark.parametrize("command", ["evaluate", "classify"])
def test_lines_are_written_once_to_the_results_of_a_run(of_photos, capsys, tmp_path, command):
    run = shutil.copytree(of_photos / "run", tmp_path / "run")
    (run / "results.jsonl").unlink(missing_ok=True)
    more = {
        "evaluate": ["--metrics", "knn1_l2_avepool"],
        "classify": ["--labels-per-class", 2, "--out", tmp_path / "p.csv"],
    }
    words = [command, run, "--data", of_photos / "here" / "photos", *more[command], "--quiet"]
    assert call(capsys, *words, "--results", run / "results.jsonl")[0] == 0
    lines = (run / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) > 0
