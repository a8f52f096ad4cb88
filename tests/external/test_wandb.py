"""Weights & Biases with the real library, offline: what a run logs, and that a resumed run logs no step twice."""

import os
import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bigbigan.io import read_json
from tiny import TINY, write_npz

pytest.importorskip("wandb")


def records(path):
    """The records of a .wandb file: LevelDB's log format, blocks of 32 KiB after a header of 7 bytes."""
    data, place, parts = path.read_bytes(), 7, []
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield b"".join(parts)
            parts = []


def history(run):
    """The (step, names) of all records of a run's offline files, and the ids of the runs they are of."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows, ids = [], set()
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for data in records(path):
            record = Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                names = [".".join(item.nested_key) or item.key for item in record.history.item]
                names = {name.partition(".")[0] for name in names if not name.startswith("_")}
                rows += [(record.history.step.num, name) for name in names]
    return rows, ids


def train(folder, *words):
    """In a process of its own, as wandb keeps threads and a service."""
    command = [sys.executable, "-m", "bigbigan", "train", *words, "--out", "run", "--quiet"]
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "the logger wandb failed" not in done.stderr, done.stderr


def test_wandb_gets_each_step_once(tmp_path):
    write_npz(tmp_path / "rows.npz", count=30)
    settings = [*TINY, "log.every=1", "log.pictures_every=2", "log.checkpoint_every=2"]
    train(tmp_path, "small/digits", "--data", "rows.npz", "--log", "wandb", "--steps", "4", "--set", *settings)
    run = tmp_path / "run"
    assert read_json(run / "config.json")["log"]["loggers"] == ["tensorboard", "wandb"]
    rows, first = history(run)
    assert {step for step, name in rows if name == "loss_d"} == {1, 2, 3, 4}
    assert {step for step, name in rows if name == "samples"} == {2, 4}
    assert {step for step, name in rows if name == "data"} == {0}
    pictures = [path.name for path in run.glob("wandb/offline-run-*/files/media/images/*.png")]
    assert any(name.startswith("reconstructions_4") for name in pictures), pictures
    shutil.rmtree(run / "checkpoints" / "step-00000004")  # as if it had crashed after step 4 was logged
    train(tmp_path, "--steps", "6")
    rows, ids = history(run)
    assert ids == first == {Path(run / "wandb-id.txt").read_text()}
    assert {step for step, name in rows if name == "loss_d"} == {1, 2, 3, 4, 5, 6}
    assert set(Counter(rows).values()) == {1}
