"""Loggers: what they are given, once for each step, and that none of them ends a training."""

import json
import sys
import time
import warnings
from types import SimpleNamespace

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bigbigan.apps.train import train
from bigbigan.config import Config, override
from bigbigan.errors import UserError
from bigbigan.training.monitor import Monitor, read_metrics
from tiny import tiny_config, write_npz

NAME = "doors_logger:Recorder"


class Recorder:
    """A logger that remembers what it is given; `fails` is the method that raises."""

    calls: list = []  # noqa: RUF012
    fails = ""

    def __init__(self, run, config, step):
        self._note("init", run, config.experiment, step)

    def _note(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name == self.fails:
            raise OSError(28, "No space left on device")

    def scalars(self, step, values):
        self._note("scalars", step, sorted(values))

    def pictures(self, step, pictures):
        assert all(isinstance(picture, Image.Image) for picture in pictures.values())
        self._note("pictures", step, sorted(pictures))

    def text(self, name, text):
        self._note("text", name, text)

    def close(self):
        self._note("close")


@pytest.fixture
def recorder(monkeypatch):
    kind = type("Recorder", (Recorder,), {"calls": []})
    monkeypatch.setitem(sys.modules, "doors_logger", SimpleNamespace(Recorder=kind, __spec__=None))
    return kind


@pytest.fixture
def config():
    return override(Config(), [f"log.loggers=[tensorboard,{NAME}]"])


def given(recorder, name):
    return [call[1] for call in recorder.calls if call[0] == name]


def board(run):
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def picture():
    return {"samples": Image.new("RGB", (4, 4))}


def test_a_training_gives_scalars_pictures_and_text(tmp_path, recorder):
    data = write_npz(tmp_path / "rows.npz", count=30)
    settings = ["training.steps=4", "log.every=1", "log.pictures_every=2", f"log.loggers=[tensorboard,{NAME}]"]
    assert train(tiny_config(*settings), str(data), tmp_path / "run", progress=False) is None
    assert recorder.calls[0] == ("init", tmp_path / "run", "small/digits", 0)
    assert given(recorder, "scalars") == [1, 2, 3, 4]
    assert given(recorder, "pictures") == [0, 2, 4]
    assert ("pictures", 4, ["reconstructions", "samples"]) in recorder.calls
    (settings_text,) = [call[2] for call in recorder.calls if call[:2] == ("text", "settings")]
    assert "  batch_size: 16\n" in settings_text
    assert recorder.calls[-1] == ("close",)
    events = board(tmp_path / "run")
    assert {tag: [e.step for e in events.Images(tag)] for tag in events.Tags()["images"]} == {
        "data": [0],
        "samples": [2, 4],
        "reconstructions": [2, 4],
    }
    assert [e.step for e in events.Scalars("loss_d")] == [1, 2, 3, 4]
    assert "settings/text_summary" in events.Tags()["tensors"]


def test_steps_that_are_repeated_are_not_given_twice(tmp_path, recorder, config):
    def log(start, steps):
        monitor = Monitor(tmp_path, start, 20, progress=False, config=config)
        for step in steps:
            monitor.log(step, {"loss_d": float(step)})
            if step % 2 == 0:
                Image.new("RGB", (4, 4)).save(tmp_path / "samples" / f"samples-{step:08d}.png")
                monitor.pictures(step, picture())
        monitor.close()

    (tmp_path / "samples").mkdir()
    log(0, range(1, 9))
    time.sleep(1.01)  # TensorBoard reads files in the order of the second in their names
    log(4, range(5, 7))  # crashed after step 8 and again after step 6, with a checkpoint of step 4
    time.sleep(1.01)
    log(4, range(5, 11))
    assert given(recorder, "scalars") == list(range(1, 11))
    assert given(recorder, "pictures") == [2, 4, 6, 8, 10]
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(1, 11))
    events = board(tmp_path)
    assert [e.step for e in events.Scalars("loss_d")] == list(range(1, 11))
    assert [e.step for e in events.Images("samples")] == [2, 4, 6, 8, 10]


def test_a_validation_measured_after_a_resume_is_passed_on(tmp_path, recorder, config):
    monitor = Monitor(tmp_path, 0, 20, progress=False, config=config)
    monitor.log(4, {"loss_d": 1.0})
    monitor.close()
    monitor = Monitor(tmp_path, 4, 20, progress=False, config=config)
    monitor.log(4, {"top1_linear_bn_crelu_10perclass": 90.0})
    monitor.close()
    assert given(recorder, "scalars") == [4, 4]


def test_a_new_run_in_a_run_s_place_is_not_muted(tmp_path, recorder, config):
    Monitor(tmp_path, 0, 9, progress=False, config=config).close()
    monitor = Monitor(tmp_path, 0, 9, progress=False, config=config)
    monitor.log(1, {"loss_d": 1.0})
    assert given(recorder, "scalars") == [1]


@pytest.mark.parametrize("method", ["init", "scalars", "pictures", "text", "close"])
def test_a_logger_that_fails_is_left_out_with_one_warning(tmp_path, recorder, config, method):
    recorder.fails = method
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        monitor = Monitor(tmp_path, 0, 9, progress=False, config=config)
        monitor.text("settings", "a: 1")
        for step in (1, 2, 3):
            monitor.log(step, {"loss_d": 1.0})
            monitor.pictures(step, picture())
        monitor.close()
    (only,) = [str(w.message) for w in said if "logger" in str(w.message)]
    assert f"the logger {NAME} failed and is disabled (OSError: [Errno 28]" in only
    assert "\n" not in only
    assert [call[0] for call in recorder.calls].count(method) == 1
    assert recorder.calls[-1][0] == method
    assert len(read_metrics(tmp_path)) == 3
    assert [e.step for e in board(tmp_path).Scalars("loss_d")] == [1, 2, 3]  # the other logger goes on


def test_a_logger_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="there is no module no_such_logger"):
        train(tiny_config("log.loggers=[no_such_logger:X]"), "digits", tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_log_adds_a_logger_to_those_of_the_settings(recorder, capsys):
    import yaml

    from bigbigan.cli import main

    command = ["train", "small/digits", "--print-config", "--log", f"python:{NAME}"]
    assert main(command) == 0
    assert yaml.safe_load(capsys.readouterr().out)["log"]["loggers"] == ["tensorboard", f"python:{NAME}"]
    assert main([*command, "--set", "log.loggers=[]"]) == 2
    assert "--log and --set log.loggers=...: expected one of them" in capsys.readouterr().err


def test_without_loggers_nothing_is_written_but_metrics(tmp_path):
    monitor = Monitor(tmp_path, 0, 9, progress=False, config=override(Config(), ["log.loggers=[]"]))
    monitor.log(1, {"loss_d": 1.0})
    monitor.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1
