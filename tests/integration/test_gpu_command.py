"""`make gpu`, rehearsed on the CPU: every part runs, and what fails or takes too long does not stop the others."""

import json
import os
import re
import subprocess
import sys
import time
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


def fake_python(tmp_path, commands):
    """A Python that finds a device (python -c ...), and for python -m runs shell commands instead."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\n{commands}\n')
    python.chmod(0o755)
    return python


def test_a_part_that_fails_does_not_stop_the_others(tmp_path):
    done, parts = rehearse(tmp_path, PYTHON=fake_python(tmp_path, "exit 3"))
    assert done.returncode == 1
    assert parts.pop("device") == "done in"
    assert len(parts) == 8
    assert set(parts.values()) == {"failed with"}
    assert " 0 result lines" in done.stdout.splitlines()[-1]
    assert "-- no samples.png" in done.stdout
    assert done.stderr == ""


def test_nothing_runs_without_a_device(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    done, parts = rehearse(tmp_path, PYTHON=python)
    assert (done.returncode, parts) == (1, {"device": "failed with"})


def test_everything_ends_in_time(tmp_path):
    """How many parts end before the limit depends on the machine; what follows the one that is cut off never starts."""
    start = time.perf_counter()
    done, parts = rehearse(tmp_path, REHEARSE="", TOTAL=6, PYTHON=fake_python(tmp_path, "exec sleep 4"))
    assert time.perf_counter() - start < 20
    assert done.returncode == 1
    assert re.fullmatch("(done in,){1,2}(cut off,)?(no time,){6,7}", "".join(f"{how}," for how in parts.values()))
    assert len(parts) == 9
