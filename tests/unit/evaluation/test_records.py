"""Result lines: how they are made, read and printed."""

import json
from dataclasses import asdict, fields

import pytest

from bigbigan.evaluation.records import (
    Measurement,
    ResultLine,
    append_results,
    read_results,
    result_lines,
)
from bigbigan.evaluation.targets import Target
from bigbigan.training.devices import device_name
from bigbigan.training.run_folder import commit
from tiny import RESULT_LINE

COMMON = {
    "study": "evaluation", "experiment": "small/digits", "dataset": "digits", "split": "test", "n": 9, "seconds": 1.0,
    "command": "bigbigan evaluate run",
}  # fmt: skip


def lines_of(values, subject, **more):
    return result_lines(values, subject=subject, **COMMON | more)


def test_result_lines_say_how_they_were_made():
    measured = {"b": 1.23456, "a": Measurement(2.0, 0.123456, [1.5, 2.5], {"references": 7})}
    first, second = lines_of(measured, "untrained")
    assert (first.metric, first.value, first.std, first.trials) == ("a", 2.0, 0.1235, [1.5, 2.5])
    assert first.protocol == {"references": 7}
    assert (second.metric, second.value, second.std, second.trials, second.protocol) == ("b", 1.2346, None, None, {})
    for line in (first, second):
        assert (line.device, line.commit, line.command) == (device_name(), commit(), COMMON["command"])
        assert (line.steps, line.images_seen, line.subject) == (0, 0, "untrained")


def test_result_lines_have_the_row_of_their_experiment():
    (line,) = lines_of({"x": 123_456.0}, "program", experiment="table1/base", digits=4)
    assert (line.table_row, line.value) == ("Table 1, Base", 123_500.0)
    assert lines_of({"x": 1.0}, "external", experiment="timm:resnet50")[0].table_row is None


def test_result_lines_begin_with_study_and_subject(tmp_path):
    append_results(tmp_path / "lines.jsonl", lines_of({"x": 1.0}, "pixels"))
    (line,) = read_results(tmp_path / "lines.jsonl")
    assert list(line) == [f.name for f in fields(ResultLine)]
    assert list(line)[:2] == ["study", "subject"]


@pytest.mark.parametrize("key", ["study", "subject"])
def test_read_results_skips_lines_without_the_fields(tmp_path, key):
    path = tmp_path / "lines.jsonl"
    older = {k: v for k, v in RESULT_LINE.items() if k != key}
    path.write_text("".join(json.dumps(line) + "\n" for line in (older, RESULT_LINE, older)))
    with pytest.warns(UserWarning, match=rf"lines.jsonl: lines 1, 3 cannot be read \(it has no {key}\): skipped"):
        assert read_results(path) == [RESULT_LINE]


def test_target_counts_steps_for_trained_networks_alone():
    class Digits:
        name, labels = "digits", None

    target = Target("small/digits", None, None, seed=3, steps=9, images_seen=90, trained_on="digits")
    found = {}
    for subject in ("pixels", "untrained", "trained"):
        (line,) = target.result_lines(
            {"x": 1.0}, source=Digits, split="test", n=5, subject=subject, start=0.0, study="s", command="c"
        )
        found[subject] = (line.steps, line.images_seen)
        assert (line.seed, line.study, line.command, line.protocol) == (3, "s", "c", {})
    assert found == {"pixels": (0, 0), "untrained": (0, 0), "trained": (9, 90)}


def test_lines_are_json():
    (line,) = lines_of({"x": 1.0}, "pixels")
    assert json.loads(json.dumps(asdict(line))) == asdict(line)
