"""What a step costs: parts that add up, FLOPs that are those counted elsewhere, and a step that does little more than
its game takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from bigbigan.apps.benchmark import Parts, bench, measure, now, result_lines
from bigbigan.cli import main
from bigbigan.experiments import find
from bigbigan.training.flops import step_cost
from reproduction.benchmark import minimal_flops
from reproduction.external import peers
from tiny import TINY, tiny_config


@pytest.mark.parametrize(
    "settings", [[], ["loss.s_z=false", "loss.s_xz=false", "data.labels=classes", "data.classes=3"]]
)
def test_parts_add_up_to_the_step(settings):
    config = tiny_config(*settings)
    cost = measure(config, steps=3)
    assert set(cost.parts) == {"data", "discriminator_update", "encoder_generator_update", "averages", "rest"}
    assert all(seconds >= 0 for seconds in cost.parts.values())
    assert cost.parts["discriminator_update"] > cost.parts["averages"]
    assert sum(cost.parts.values()) == pytest.approx(cost.seconds)
    assert cost.flops == step_cost(config)["flops_per_step"]
    assert cost.images_per_second == pytest.approx(16 * 3 / cost.seconds)
    metrics = {line.metric: line.value for line in result_lines(config, cost, 3, "bench")}
    assert metrics["share_of_matmul"] == pytest.approx(cost.tflops / cost.matmul_tflops, rel=1e-3)


def test_what_runs_within_a_part_counts_once():
    parts = Parts(torch.device("cpu"))
    inner = parts.timed(lambda: sum(range(10**5)))
    outer = parts.timed(lambda: 1, "outer")
    outer()
    start = parts.seconds["outer"]
    inner()
    assert set(parts.seconds) == {"outer"}
    assert parts.seconds["outer"] > start


def test_parts_of_several_updates_of_e_add_up_too():
    """The update of E and G contains an update of E, which is timed as a part of it."""
    cost = measure(tiny_config("training.e_steps=2"), steps=3)
    assert {"encoder_update", "encoder_generator_update"} < set(cost.parts)
    assert all(seconds >= 0 for seconds in cost.parts.values())
    assert sum(cost.parts.values()) == pytest.approx(cost.seconds)
    assert cost.parts["encoder_generator_update"] > cost.parts["encoder_update"]


def test_time_without_the_processor_does_not_count(monkeypatch):
    """Other programs hardly change what is measured on one thread of a shared machine."""
    device = torch.device("cpu")

    def waited(threads):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        start = now(device)
        time.sleep(0.3)
        return now(device) - start

    assert waited(1) < 0.1
    assert waited(2) >= 0.3


@pytest.mark.long
def test_a_measurement_is_made_in_a_process_of_its_own():
    held = torch.zeros(2**28)  # 1 GiB here is not its memory
    held += 1
    cost = bench(tiny_config("training.batch_size=4096"), steps=1)
    assert 0 < cost.before_mib + 50 < cost.peak_memory_mib < 1500
    del held


@pytest.mark.long
def test_the_command_varies_a_setting_and_draws_a_chart(tmp_path, capsys):
    picture, results = tmp_path / "p" / "chart.png", tmp_path / "r.jsonl"
    vary = ["--vary", "training.batch_size=4,8", "--steps", "1"]
    assert main(["bench", "small/digits", *vary, "--picture", str(picture), "--results", str(results), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["8"]["flops"] == 2 * found["4"]["flops"]
    assert Image.open(picture).width > 500
    lines = [json.loads(text) for text in results.read_text().splitlines()]
    assert {x["settings"]["training.batch_size"] for x in lines} == {4, 8}


@pytest.mark.long
def test_ranks_of_torchrun_are_measured_together(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "bigbigan", "bench", "small/digits", "--steps", "1", "--json"]
    command += ["--vary", "training.batch_size=16,32", "--results", str(tmp_path / "r.jsonl"), "--set", *TINY]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)["16"]  # reported by one of them
    assert cost["ranks"] == 2
    assert cost["images_per_second"] == pytest.approx(16 * 3 / cost["seconds"])
    lines = [json.loads(text) for text in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert {x["device"] for x in lines} == {"2 ranks, cpu, 1 threads each"}


@pytest.mark.parametrize("name", ["small/cifar10", "table1/base", "table1/revnet_x4"])
def test_a_step_does_hardly_more_than_its_game_takes(name):
    config = find(name).config()
    least, counted = minimal_flops.minimal(config), step_cost(config)["flops_per_step"]
    assert 0.995 * least <= counted <= 1.05 * least


def test_biggan_pytorch_network_has_equal_size_and_more_work():
    twin = peers.settings("biggan")
    cost = step_cost(twin)
    assert cost["parameters"]["G"] == 4_304_387
    assert cost["parameters"]["D"] == 4_207_361
    assert cost["flops_per_step"] / 64 <= 20.8e9  # of 30.7e9 there


def test_our_side_of_the_features_for_fid_has_random_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(peers.tempfile, "gettempdir", lambda: str(tmp_path))
    _, _, parameters = peers.ours("inception", torch.device("cpu"), "float32")
    assert parameters == {"network": 23_850_960}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vary", "training.batch_size"], "--vary training.batch_size: expected a.b=V1,V2,..."),
        (["--picture", "c.png"], "--picture c.png: expected a name ending in .png, and --vary"),
        (["--steps", "0"], "--steps 0: expected at least 1"),
        (["--set", "training.precision=auto"], "training.precision=auto: bench expects float32 or bf16"),
        (["--vary", "training.batch=1,2"], "there is no setting training.batch; did you mean training.batch_size?"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, capsys):
    assert main(["bench", "small/digits", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
