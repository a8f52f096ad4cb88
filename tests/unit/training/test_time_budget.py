"""A budget of time: the number of steps is chosen once, and the run is the one of that many steps."""

import json
import math
import shutil
import time
from pathlib import Path

import pytest
import torch

from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.config import override
from bigbigan.errors import UserError
from bigbigan.training import loop, time_budget
from bigbigan.training.run_folder import changed_settings, read_config
from bigbigan.training.state import TrainingState
from bigbigan.training.time_budget import choose_steps, duration, keep_chosen_steps, seconds_per_step
from tiny import TINY, tiny_config, write_npz

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path):
    return str(write_npz(tmp_path / "rows.npz"))


def weights(run: Path) -> bytes:
    return (sorted((run / "checkpoints").glob("step-*"))[-1] / "weights.safetensors").read_bytes()


def test_a_run_of_minutes_is_the_run_of_its_steps(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "choose_steps", lambda *a: choose_steps(*a) and 7)
    decay = ("optimizer.lr_final=0.01", "training.steps=1000")  # rates that depend on the number of steps
    train(tiny_config(*decay, "training.minutes=0.01"), data, tmp_path / "minutes", progress=False)
    train(tiny_config("optimizer.lr_final=0.01", "training.steps=7"), data, tmp_path / "steps", progress=False)
    assert weights(tmp_path / "minutes") == weights(tmp_path / "steps")
    config = read_config(tmp_path / "minutes")
    assert (config.training.steps, config.training.minutes) == (7, 0.01)
    assert changed_settings(config)["training.minutes"] == 0.01
    assert "training.minutes" not in changed_settings(read_config(tmp_path / "steps"))


def test_a_resumed_run_keeps_the_steps_that_were_chosen(data, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = tiny_config("optimizer.lr_final=0.01", "training.minutes=1")
    monkeypatch.setattr(loop, "choose_steps", lambda *a: 6)
    train(config, data, whole, progress=False)
    step = loop.training_step

    def interrupted(state, batches):
        if state.step == 5:
            raise KeyboardInterrupt
        return step(state, batches)

    monkeypatch.setattr(loop, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):  # the newest checkpoint is of step 4
        train(config, data, parts, progress=False)
    monkeypatch.setattr(loop, "training_step", step)
    monkeypatch.setattr(loop, "choose_steps", lambda *a: pytest.fail("chosen again"))
    train(config, data, parts, progress=False)
    assert weights(parts) == weights(whole)
    with pytest.raises(UserError, match=r"was given 1 minutes, which were 6 steps; continue it with the same option"):
        train(override(config, ["training.minutes=2"]), data, parts, progress=False)


def test_a_run_without_a_budget_gets_none_later(data, tmp_path):
    train(tiny_config("training.steps=2"), data, tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="was given no budget of time but 2 steps"):
        keep_chosen_steps(tiny_config("training.minutes=2"), tmp_path / "run")


class Clock:
    """Time that passes by what is done: each step and each filling of statistics takes a second."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time_budget.time, "perf_counter", lambda: self.now)

    def takes(self, seconds):
        def work(*arguments):
            self.now += seconds

        return work


@pytest.mark.parametrize(
    ("seconds", "settings", "expected"),
    [
        (1000, [], 990),  # 4 measured steps, 4 of statistics, and the statistics after the last step
        (1000, ["log.pictures_every=10"], 714),  # 1.4 seconds per step, for statistics that take 4
        (1000, ["log.validate_every=100"], 870),  # a validation of 5 seconds
        (3, [], 1),
    ],
)
def test_steps_fit_the_budget(seconds, settings, expected, monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(time_budget, "training_step", clock.takes(1.0))
    monkeypatch.setattr(TrainingState, "fill_standing_statistics", clock.takes(4.0))
    config = tiny_config("log.checkpoint_every=1000000", "log.pictures_every=1000000", *settings)
    validate = clock.takes(5.0) if "log.validate_every=100" in settings else None
    found = choose_steps(config, None, CPU, validate, seconds)
    assert found == pytest.approx(expected, rel=0.05)
    log = config.log  # what the steps take in all
    events = found / log.pictures_every + found / log.checkpoint_every + 1
    total = found + 4 * events + (9 * found / log.validate_every + 5 if log.validate_every else 0)
    assert total <= seconds or found == 1


@pytest.mark.parametrize("intervals", [[500, 300], [100, 100, 50], [7], [4, 6, 10]])
def test_statistics_are_filled_once_if_several_are_due(intervals):
    steps = range(1, 2 * math.lcm(*intervals) + 1)
    due = sum(any(step % n == 0 for n in intervals) for step in steps)
    assert time_budget._share_due(intervals) == pytest.approx(due / len(steps))


def test_a_step_is_measured_until_it_is_known(monkeypatch):
    clock = Clock(monkeypatch)
    taken = []
    lengths = iter([9.0, 1.0, 3.0, 1.0])  # the first warms up

    def step(state, batches):
        taken.append(next(lengths))
        clock.now += taken[-1]

    monkeypatch.setattr(time_budget, "training_step", step)
    state = TrainingState(tiny_config(), CPU)
    assert seconds_per_step(state, None, max_seconds=1.0) == 1.0  # the median of 1, 3 and 1
    assert len(taken) == 4


@pytest.mark.parametrize("faster", ["float32", "bf16"])
def test_auto_precision_is_that_of_the_faster_step(faster, data, tmp_path, monkeypatch, capsys):
    seconds = {"float32": 2.0, "bf16": 2.0} | {faster: 1.0}
    monkeypatch.setattr(time_budget, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(
        time_budget, "seconds_per_step", lambda state, *a, **k: seconds[state.config.training.precision]
    )
    train(tiny_config("training.precision=auto", "training.steps=2"), data, tmp_path / "run")
    assert f"training.precision=auto: {faster} on this machine" in capsys.readouterr().err
    assert read_config(tmp_path / "run").training.precision == faster
    train(tiny_config(f"training.precision={faster}", "training.steps=2"), data, tmp_path / "given", progress=False)
    assert weights(tmp_path / "run") == weights(tmp_path / "given")


def test_a_resumed_run_keeps_its_precision(data, tmp_path, monkeypatch):
    auto = "training.precision=auto"
    monkeypatch.setattr(time_budget, "has_bfloat16", lambda device: False)
    train(tiny_config(auto, "training.steps=2"), data, tmp_path / "run", progress=False)
    monkeypatch.setattr(loop, "choose_precision", lambda *a: pytest.fail("chosen again"))
    monkeypatch.setattr(loop, "measure_choices", lambda *a: pytest.fail("measured again"))
    train(tiny_config(auto, "training.steps=4"), data, tmp_path / "run", progress=False)
    assert read_config(tmp_path / "run").training.precision == "float32"
    with pytest.raises(UserError, match="precision"):
        train(tiny_config("training.precision=bf16", "training.steps=4"), data, tmp_path / "run", progress=False)


def test_a_run_killed_before_a_checkpoint_keeps_its_precision(data, tmp_path, monkeypatch):
    auto = "training.precision=auto"
    monkeypatch.setattr(time_budget, "has_bfloat16", lambda device: False)
    train(tiny_config(auto, "training.steps=2"), data, tmp_path / "run", progress=False)
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # as if killed before the first
    train(tiny_config(auto, "training.steps=2"), data, tmp_path / "run", progress=False)
    assert read_config(tmp_path / "run").training.precision == "float32"


def test_minutes_end_to_end(data, tmp_path, capsys):
    run = tmp_path / "run"
    tiny = ["latent.dim=8", "generator.channels=[8,8]", "discriminator.channels=[8,8]", "encoder.widths=[8,8]",
            "training.batch_size=16", "log.validate_every=0", "log.standing_batches=1"]  # fmt: skip
    command = ["train", "small/digits", "--data", data, "--out", str(run), "--minutes", "0.1", "--set", *tiny]
    start = time.perf_counter()
    assert main([*command, "--json"]) == 0
    took = time.perf_counter() - start
    captured = capsys.readouterr()
    steps = json.loads(captured.out)["steps"]
    assert steps == read_config(run).training.steps >= 1  # one on a machine that is busy
    assert f"training.minutes=0.1: {steps:,} steps fit, as measured on this machine" in captured.err
    assert took < 60
    assert main(command) == 0  # done already
    assert f"trained {steps:,} steps" in capsys.readouterr().out
    assert main([*command, "--steps", "3"]) == 2
    assert main(["train", "small/digits", "--out", str(run), "--minutes", "0"]) == 2


def test_the_time_left_is_printed_after_the_first_steps(data, tmp_path, capsys):
    train(tiny_config("training.steps=30", "log.pictures_every=100"), data, tmp_path / "run")
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "s per step:" in line)
    assert line.split(":")[1].startswith(" 19 more take about ")


def test_the_first_look_comes_soon(data, tmp_path):
    settings = ("training.steps=12", "log.every=50", "log.pictures_every=500")
    train(tiny_config(*settings), data, tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 12]
    assert {"loss_d", "reconstruction_ratio", "images_per_second"} <= set(lines[0])
    pictures = sorted(p.name for p in (tmp_path / "run" / "samples").glob("samples-*"))
    assert pictures == ["samples-00000010.png", "samples-00000012.png"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.2, "3 s"), (89, "89 s"), (700, "12 min"), (12_000, "3 h 20 min"), (439_300, "5 days 2 h")],
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("given", [["--steps", "2"], ["--set", "training.steps=2"]])
def test_steps_on_the_command_line_replace_a_time_budget(given, data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "choose_steps", lambda *args: 4)
    run = tmp_path / "run"
    command = ["train", "small/digits", "--data", data, "--out", str(run), "--quiet", "--minutes", "5", "--set", *TINY]
    assert main(command) == 0
    assert (read_config(run).training.steps, read_config(run).training.minutes) == (4, 5.0)
    given = [word.replace("2", "6") for word in given]
    assert main(["train", "--data", data, "--out", str(run), "--quiet", *given]) == 0
    assert (read_config(run).training.steps, read_config(run).training.minutes) == (6, 0.0)
