"""Every verb that reads a run has the same options, and they do what they say."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import pytest
import torch

from bigbigan.cli import build_parser, main
from bigbigan.cli.main import COMMANDS
from bigbigan.compute import chosen_device, computing, encoder_batch_size, images_per_pass
from bigbigan.errors import UserError
from bigbigan.evaluation import features
from bigbigan.inference import model as inference
from bigbigan.training import devices
from tiny import TINY, write_npz

OF_RUNS = {"--checkpoint", "--json", "--quiet"}
OF_NETWORKS = {"--device", "--batch-size"}
COMPUTE_NOTHING = {"list", "table", "compare"}


def parsers() -> dict[str, argparse.ArgumentParser]:
    (actions,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {name: parser for name, parser in actions.choices.items() if name != "data"}


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {word for action in parser._actions for word in action.option_strings}


@pytest.mark.parametrize("verb", [name for name, parser in parsers().items() if "run" in
                                  {a.dest for a in parser._actions} and name not in COMPUTE_NOTHING])  # fmt: skip
def test_verbs_that_read_a_run_share_options(verb):
    assert options(parsers()[verb]) >= OF_RUNS | OF_NETWORKS


def test_all_verbs_that_compute_have_device():
    assert set(COMMANDS) == {*parsers(), "data"}
    without = {name for name, parser in parsers().items() if "--device" not in options(parser)}
    assert without == COMPUTE_NOTHING


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    data = write_npz(folder / "rows.npz", count=60)
    words = ["train", "small/digits", "--data", data, "--out", folder / "tiny", "--quiet", "--device", "cpu",
             "--steps", 6, "--set", *TINY]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    return folder / "tiny"


USES = {
    "evaluate": ["--metrics", "knn1_l2_*,reconstruction_ratio"],
    "encode": ["--out", "features.npz"],
    "generate": ["--out", "samples.png", "--count", "7"],
    "reconstruct": ["--out", "pairs.png", "--refine", "2", "--count", "7"],
    "interpolate": ["--out", "rows.png", "--count", "2"],
    "neighbours": ["--out", "neighbours.png"],
    "classify": ["--out", "predictions.csv", "--labels-per-class", "3", "--trials", "1"],
    "cluster": ["--out", "clusters.csv", "--clusters", "3"],
    "report": ["--out", "report.html"],
    "export": ["--out", "exported"],
}


@pytest.mark.parametrize("verb", USES)
def test_json_of_a_chosen_checkpoint_is_all_output(verb, run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded, passed = [], []
    load, outputs = inference.Model.__init__, features.outputs
    monkeypatch.setattr(inference.Model, "__init__", lambda self, *a: (loaded.append(a[2]), load(self, *a))[1])
    monkeypatch.setattr(features, "outputs", lambda E, x, *a: (passed.append(len(x)), outputs(E, x, *a))[1])
    computes = ["--device", "cpu", "--batch-size", "5"]
    words = [verb, str(run), *USES[verb], "--checkpoint", "4", "--quiet", "--json", *computes]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)
    assert err == ""
    assert loaded == [4]
    assert set(passed) <= {1, 2, 3, 4, 5}


@pytest.mark.parametrize("verb", USES)
def test_a_step_that_was_not_saved_is_refused(verb, run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([verb, str(run), *USES[verb], "--checkpoint", "99", "--quiet"]) == 2
    assert "99" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("verb", USES)
def test_a_device_that_is_missing_is_refused(verb, run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([verb, str(run), *USES[verb], "--device", "cuda:1", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("bigbigan: --device cuda:1: ")
    assert "expected another of auto, cpu, cuda, cuda:N or mps" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--device", "gpu"], "--device gpu: expected auto, cpu, cuda, cuda:N or mps"),
        (["--device", "cuda:"], "--device cuda:: expected"),
        (["--batch-size", "0"], "--batch-size 0: expected at least 1"),
        (["--batch-size", "few"], "invalid int value: 'few'"),
    ],
)
def test_wrong_values_of_common_options(words, expected, run, capsys, tmp_path):
    assert main(["encode", str(run), "--out", str(tmp_path / "f.npz"), *words]) == 2
    assert expected in capsys.readouterr().err


def test_quiet_hides_each_progress_bar(run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for verb in ("encode", "generate", "reconstruct", "interpolate", "report"):
        assert main([verb, str(run), *USES[verb], "--checkpoint", "4"]) == 0
        shown = capsys.readouterr().err
        assert "100%" in shown, verb
        assert main([verb, str(run), *USES[verb], "--checkpoint", "4", "--quiet"]) == 0
        assert capsys.readouterr().err == "", verb


def test_choices_end_with_the_command():
    def fail():
        with computing("cpu", 3):
            assert (chosen_device(), images_per_pass(64)) == ("cpu", 3)
            raise UserError("some mistake")

    with pytest.raises(UserError, match="some mistake"):
        fail()
    assert (chosen_device(), images_per_pass(64)) == ("auto", 64)


def test_larger_images_get_a_smaller_encoder_batch_size():
    assert [encoder_batch_size(side, "cpu") for side in (8, 32, 64, 128, 256)] == [128, 128, 32, 8, 8]
    assert encoder_batch_size(128, "cuda") == 500
    with computing("cpu", 3):
        assert encoder_batch_size(32, "cpu") == 3


def test_default_device_follows_the_choice(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.default_device() == torch.device("cuda")
    with computing("cpu"):
        assert devices.default_device() == torch.device("cpu")
        assert devices.default_device().type != "cuda"
        assert devices.device_name().startswith("cpu, ")
    monkeypatch.setattr(torch, "empty", lambda *a, **k: None)  # every device there is
    with computing("mps"):
        assert devices.default_device() == torch.device("mps")
        assert devices.device_name() == "mps"
        monkeypatch.setattr(devices, "is_torchelastic_launched", lambda: True)
        with pytest.raises(UserError, match="--device mps: under torchrun"):
            devices.default_device()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize(("given", "expected"), [({}, True), ({"MALLOC_ARENA_MAX": "2"}, False)])
def test_freed_memory_is_kept_for_the_next_tensors(given, expected):
    """A large block that is freed and taken again costs no new pages, unless the user has chosen otherwise."""
    code = """
import resource, numpy
from bigbigan.compute import reuse_freed_memory
print(reuse_freed_memory())
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
numpy.ones(2**24); before = faults(); numpy.ones(2**24)
print(faults() - before < 30)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | given
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [str(expected)] * 2
