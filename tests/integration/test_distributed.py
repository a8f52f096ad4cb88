"""Several processes under torchrun do what one does; any of them may be stopped or killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from bigbigan.data.batches import Batches
from bigbigan.errors import UserError
from bigbigan.training import checkpoint as ck
from bigbigan.training import distributed, precision
from tiny import ADDITIONS, tiny_config, write_npz

SCRIPT = Path(__file__).parents[1] / "helpers" / "train_ranks.py"
SETTINGS = ["training.steps=20", "log.every=1", "log.checkpoint_every=10", "data.augment=flip"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_npz(tmp_path_factory.mktemp("data") / "rows.npz"))


def start(run: Path, data: str, ranks: int = 1, *settings: str, restarts: int = 0, trouble: str = ""):
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        f"--max-restarts={restarts}",
    ]
    command = [sys.executable, *(torchrun if ranks > 1 else []), str(SCRIPT), str(run), data, *SETTINGS, *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TROUBLE": trouble}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen) -> int:
    output, _ = process.communicate(timeout=600)
    print(output)
    return process.returncode


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    assert ended(start(run, data)) == 0
    return run


def assert_equal_runs(run: Path, reference: Path, bound: float) -> None:
    ours, theirs = (load_file(r / "checkpoints" / "step-00000020" / "weights.safetensors") for r in (run, reference))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=bound, msg=name)
    ours, theirs = ([json.loads(line) for line in (r / "metrics.jsonl").open()] for r in (run, reference))
    assert [line["step"] for line in ours] == list(range(1, 21))
    for a, b in zip(ours, theirs, strict=True):
        for name in ("loss_d", "loss_eg", "grad_norm_d", "grad_norm_g", "grad_norm_e", "s_xz_enc", "s_xz_gen"):
            assert a[name] == pytest.approx(b[name], abs=bound), (name, a["step"])


# -- whose rows ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 6), st.integers(1, 7))
def test_each_row_of_a_batch_is_in_one_chunk_of_one_rank(count, chunks, ranks):
    whose = [distributed.rows_of_rank(count, chunks, rank, ranks) for rank in range(ranks)]
    rows = [i for c in range(chunks) for mine in whose for i in range(count)[mine[c]]]
    assert rows == list(range(count))
    sizes = [part.stop - part.start for mine in whose for part in mine]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("augment", ["none", "flip", "resnet_crop"])
def test_the_ranks_images_are_those_of_the_one_batch(augment):
    pixels = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batches = Batches(pixels, 12, seed=0, augment=augment, labels=torch.arange(30))
    for number in (0, 2, 7):  # 2 spans two epochs
        pieces = [part for rank in range(3) for part in distributed.rows_of_rank(12, 2, rank, 3)]
        pieces.sort(key=lambda part: part.start)
        whole = batches.batch(number)
        torch.testing.assert_close(torch.cat([batches.batch(number, part) for part in pieces]), whole)
        assert torch.equal(torch.cat([batches.labels(number, part) for part in pieces]), batches.labels(number))
        assert torch.equal(torch.cat([batches.indices(number)[part] for part in pieces]), batches.indices(number))


def test_a_batch_that_cannot_be_cut_for_the_ranks_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(UserError, match=r"training.batch_size=16 .* 3 processes .* expected a multiple of 6"):
        precision.check_devices(tiny_config("training.accumulate=2"), torch.device("cpu"))
    with pytest.raises(UserError, match=r"leaves one image for each of 3 processes .* expected at least 6"):
        precision.check_devices(tiny_config("training.batch_size=3"), torch.device("cpu"))
    precision.check_devices(tiny_config("training.batch_size=48"), torch.device("cpu"))


# -- a rank that hangs --------------------------------------------------------------------------------------


def heartbeats(size, patience=0.0):
    store = dist.HashStore()
    return [distributed.Heartbeat(store, rank, size, patience) for rank in range(size)]


def looks(beats, now, of=None):
    """What each rank says at this time, by rank."""
    found = {beat.rank: beat.check(now) for beat in (of or beats)}
    return {rank: answer for rank, answer in found.items() if answer != ("", False)}


def test_the_first_waiting_rank_names_the_rank_that_hangs():
    beats = heartbeats(4)
    for beat in beats:
        beat.count = 7
    assert looks(beats, 0) == {}
    for beat in (beats[0], beats[2], beats[3]):
        beat.count = 8
    said = [looks(beats, now) for now in range(5, 240, 5)]
    line = "rank 1 of 4 has kept the others waiting for {} s"
    assert [answer for answer in said if answer] == [{0: (line.format(n), False)} for n in (60, 120)]
    beats[1].count = 8
    assert looks(beats, 240) == {}
    for beat in beats[1:]:
        beat.count = 9  # now it is rank 0 that hangs: rank 1 speaks
    assert [next(iter(found)) for now in range(245, 340, 5) if (found := looks(beats, now))] == [1]


def test_a_rank_that_is_stopped_is_named_and_a_slow_step_is_not():
    beats = heartbeats(3)
    looks(beats, 0)
    assert [looks(beats, now) for now in range(5, 600, 5)] == [{}] * 119  # all are in the same long exchange
    alive = beats[:2]
    said = [found for now in range(600, 700, 5) if (found := looks(beats, now, alive))]
    assert said == [{0: ("rank 2 of 3 has kept the others waiting for 660 s", False)}]


def test_the_end_comes_unless_there_is_a_reason():
    beats = heartbeats(2, patience=100)
    beats[1].count = 1
    ends = [now for now in range(0, 200, 5) if any(end for _, end in looks(beats, now).values())]
    assert ends[0] == 100
    beats = heartbeats(2, patience=100)
    beats[1].count, beats[0].doing = 1, "measuring fid"
    said = [found[1] for now in range(0, 200, 5) if (found := looks(beats, now))]
    assert said[0] == ("rank 0 (measuring fid) of 2 has kept the others waiting for 60 s", False)
    assert not any(end for _, end in said)


def test_the_thread_has_ended_when_a_heartbeat_has_stopped(monkeypatch):
    monkeypatch.setattr(distributed, "EVERY", 0.001)
    (beat,) = heartbeats(1)
    beat.start()
    beat.stop()
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["SIGSTOP@5", "hang@5"])
def test_a_hanging_rank_is_named_and_the_run_ends(data, tmp_path, trouble):
    process = start(tmp_path / "run", data, 2, "log.hang_minutes=0.3", trouble=trouble)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert re.search(r"rank 1 of 2 has kept the others waiting for \d+ s\n", output), output
    assert "this run ends (log.hang_minutes)" in output


# -- torchrun -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_ranks_equal_one_with_all_additions(data, tmp_path):
    runs = [tmp_path / "alone", tmp_path / "ranks"]
    assert [ended(start(run, data, ranks, *ADDITIONS)) for run, ranks in zip(runs, (1, 2), strict=True)] == [0, 0]
    assert_equal_runs(runs[1], runs[0], 1e-7)


def test_two_ranks_equal_one(data, alone, tmp_path):
    assert ended(start(tmp_path / "two", data, 2)) == 0
    assert_equal_runs(tmp_path / "two", alone, 1e-7)
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_four_ranks_with_chunks_equal_one_with_chunks(data, tmp_path):
    settings = ["training.accumulate=2", "encoder.block=reversible"]
    for name, ranks in (("one", 1), ("four", 4)):
        assert ended(start(tmp_path / name, data, ranks, *settings)) == 0
    assert_equal_runs(tmp_path / "four", tmp_path / "one", 1e-7)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_at_one_step(data, alone, tmp_path):
    run = tmp_path / "run"
    assert ended(start(run, data, 2, trouble="SIGTERM@7")) != 0
    assert [c.step for c in ck.checkpoints(run)] == [7]
    assert ended(start(run, data, 4, trouble="SIGINT@13")) != 0
    assert ck.newest_checkpoint(run).step == 13
    assert ended(start(run, data)) == 0
    assert_equal_runs(run, alone, 1e-7)


@pytest.mark.slow
def test_a_killed_rank_restarts_without_changing_the_run(data, alone, tmp_path):
    assert ended(start(tmp_path / "run", data, 2, restarts=1, trouble="SIGKILL@14")) == 0
    assert_equal_runs(tmp_path / "run", alone, 1e-7)


@pytest.mark.slow
def test_a_signal_to_torchrun_saves(data, tmp_path):
    process = start(tmp_path / "run", data, 2, "training.steps=100000", "log.checkpoint_every=100000")
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not (tmp_path / "run" / "metrics.jsonl").read_text():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) != 0
    newest = ck.newest_checkpoint(tmp_path / "run")
    assert newest is not None
    assert newest.step < 100_000


@pytest.mark.slow
def test_ranks_with_other_images_are_refused(data, tmp_path):
    other = write_npz(tmp_path / "other.npz", seed=1)
    script = tmp_path / "ranks.py"
    script.write_text(
        f"import os, runpy, sys\nif os.environ['RANK'] == '1':\n    sys.argv[2] = {str(other)!r}\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    run = [*command, str(tmp_path / "run"), data, *SETTINGS]
    done = subprocess.run(run, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    assert "the processes of torchrun find different images there" in done.stderr
