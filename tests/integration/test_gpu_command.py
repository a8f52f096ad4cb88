"""`make gpu`, rehearsed on the CPU: every part runs, and what fails or takes too long does not stop the others."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import write_npz

ROOT = Path(__file__).parents[2]


def rehearse(tmp_path, **settings):
    data = write_npz(tmp_path / "rows.npz", count=240, side=32, channels=3)
    places = {"OUT": tmp_path / "out", "RUN": tmp_path / "runs" / "gpu", "DATA": data, "PYTHON": sys.executable}
    environment = os.environ | {"REHEARSE": "1"} | {k: str(v) for k, v in (places | settings).items()}
    command = ["bash", "reproduction/gpu.sh"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    parts = dict(re.findall(r"^-- (.+?): (\w+ \w+)", done.stdout, flags=re.MULTILINE))
    return done, parts


@pytest.mark.slow
def test_the_gpu_command_can_be_rehearsed(tmp_path):
    done, parts = rehearse(tmp_path)
    assert done.returncode == 0, done.stdout + (tmp_path / "out" / "log.txt").read_text()[-3000:]
    needed = ["device", "tests", "bench small/cifar10", "bench table1/base", "train", "probe", "export"]
    assert [parts[name] for name in needed] == ["done in"] * len(needed)
    compiled = {parts[f"bench {name}, compiled"] for name in ("small/cifar10", "table1/base")}
    assert compiled <= {"cut off", "done in", "failed with"}
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files >= {
        "log.txt",
        "results.jsonl",
        "metrics.jsonl",
        "samples.png",
        "reconstructions.png",
        "model.tar.gz.aa",
    }
    assert len(files) <= 8
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    metrics = {(line["experiment"], line["metric"]) for line in lines}
    assert {("small/cifar10", "seconds_per_step"), ("table1/base", "seconds_per_step")} <= metrics
    assert {("small/cifar10", "top1_linear_bn_crelu_10perclass"), ("small/cifar10", "reconstruction_ratio")} <= metrics
    assert all("training.minutes" in x["settings"] for x in lines if x["metric"] == "reconstruction_ratio")


def test_a_part_that_fails_does_not_stop_the_others(tmp_path):
    """With a Python that fails at everything, quickly."""
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\nexit 3\n")
    failing.chmod(0o755)
    done, parts = rehearse(tmp_path, PYTHON=failing)
    assert done.returncode == 1
    assert len(parts) == 9
    assert set(parts.values()) == {"failed with"}
    assert " 0 result lines" in done.stdout.splitlines()[-1]
    assert "-- no samples.png" in done.stdout
    assert done.stderr == ""
