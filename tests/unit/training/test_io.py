"""Files of our own: whole or not there, readable by whom the umask allows, damaged parts named and left out."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
import warnings

import pytest
import torch

from bigbigan.data.shards import writer as sharding
from bigbigan.errors import RunError, UserError
from bigbigan.evaluation.records import read_results
from bigbigan.io import (
    append_lines,
    checked,
    files,
    json_files,
    locking,
    read_json,
    read_lines,
    stamped,
    unstamped,
    write_json,
    writing,
    writing_folder,
)
from bigbigan.io.tensors import check_tensors, read_tensors, save_tensors
from bigbigan.training.monitor import Monitor, read_metrics
from tiny import RESULT_LINE


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def write_in_part(target, then):
    with writing(target) as aside:
        aside.write_bytes(b"half")
        if then:
            then()


# -- writing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_have_the_permissions_of_the_umask(tmp_path, umask, mask, expected):
    os.umask(mask)
    save_tensors(tmp_path / "a.safetensors", {"w": torch.ones(2)})
    write_json(tmp_path / "a.json", {})
    assert mode(tmp_path / "a.safetensors") == mode(tmp_path / "a.json") == expected


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("moment", ["block", "sync", "replace"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, number, moment):
    target = tmp_path / "out" / "features.npz"
    write_json(target, "before")

    def full(*_):
        raise OSError(number, os.strerror(number))

    if moment != "block":
        monkeypatch.setattr(files, "sync", full) if moment == "sync" else monkeypatch.setattr(os, "replace", full)
    said = rf"features.npz cannot be written to .*out .*MiB free.*{os.strerror(number)}"
    with pytest.raises(RunError, match=said):
        write_in_part(target, full if moment == "block" else None)
    assert [p.name for p in target.parent.iterdir()] == ["features.npz"]
    assert json.loads(target.read_text()) == "before"


def test_any_error_removes_the_temporary_file(tmp_path):
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), writing(tmp_path / "a.png"):
            raise error
        with pytest.raises(error), writing_folder(tmp_path / "model"):
            raise error
    assert not list(tmp_path.iterdir())


def test_a_killed_writers_file_is_removed_later(tmp_path):
    old, young = tmp_path / ".writing-1-a.json", tmp_path / ".writing-2-a.json"
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (time.time() - 2 * files.STALE,) * 2)
    write_json(tmp_path / "a.json", {})
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", young.name}  # the young one's writer may be at work


def test_what_is_no_file_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("folder", "a directory"), ("pipe", "not a regular file")):
        with pytest.raises(UserError, match=f"cannot be written: it is {what}"):
            write_json(tmp_path / name, {})


def test_a_folder_that_cannot_be_forced_to_disk_is_no_error(tmp_path, monkeypatch):
    fsync = os.fsync

    def without_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", without_folders)
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, number):
    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locking.fcntl, "flock", none)
    with (tmp_path / ".lock").open("w") as file, pytest.warns(UserWarning, match="cannot be locked"):
        assert files.lock(file.fileno(), tmp_path)
    with pytest.warns(UserWarning, match="cannot be locked"), sharding._locked(tmp_path):
        pass


# -- JSON lines -------------------------------------------------------------------------------------------------


def test_a_line_after_a_torn_one_is_on_its_own(tmp_path):
    path = tmp_path / "results.jsonl"
    append_lines(path, [RESULT_LINE, RESULT_LINE])
    path.write_bytes(path.read_bytes()[:-20])
    append_lines(path, [RESULT_LINE | {"value": 2.0}])
    with pytest.warns(UserWarning, match=r"results.jsonl: line 2 cannot be read \(it is not JSON\): skipped"):
        assert [line["value"] for line in read_results(path)] == [1.0, 2.0]


def test_lines_for_which_there_is_no_room_are_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    append_lines(path, [RESULT_LINE])
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(RunError, match="No space left"):
        append_lines(path, [RESULT_LINE])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damaged",
    [
        b"{", b"\xff\xfe", b"[1]", b"null", b'{"step": "7"}', b'{"step": 7, "loss_d": []}', b'{"loss_d": 1.0}',
        b"[" * 10**5,
    ],
    ids=["torn", "bytes", "list", "null", "text", "list for number", "no step", "deep"],
)  # fmt: skip
def test_one_damaged_line_of_metrics_loses_no_other(tmp_path, damaged):
    lines = [json.dumps({"step": n, "loss_d": n / 2}).encode() for n in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([lines[0], damaged, *lines[1:]]) + b"\n")
    with pytest.warns(UserWarning, match="metrics.jsonl: line 2 cannot be read"):
        assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    with pytest.warns(UserWarning, match="line 2 cannot be read"):
        monitor = Monitor(tmp_path, 2, 9, progress=False)
    monitor.log(3, {"loss_d": 7.0})
    monitor.close()
    assert [(line["step"], line["loss_d"]) for line in read_metrics(tmp_path)] == [(1, 0.5), (2, 1.0), (3, 7.0)]


@pytest.mark.parametrize("key", ["value", "steps", "metric", "settings", "trials", "protocol", "std", "n"])
@pytest.mark.parametrize("wrong", [[["x"]], {"x": [1]}, "x"], ids=["list", "object", "text"])
def test_result_lines_of_another_form_are_left_out(tmp_path, key, wrong):
    changed = RESULT_LINE | {key: wrong}
    fits = (key, str(wrong)) in {("metric", "x"), ("settings", "{'x': [1]}"), ("protocol", "{'x': [1]}")}
    append_lines(tmp_path / "results.jsonl", [changed, RESULT_LINE])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert len(read_results(tmp_path / "results.jsonl")) == 1 + fits
    assert len(said) == 1 - fits


def test_a_changed_result_line_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    append_lines(path, [RESULT_LINE, RESULT_LINE, RESULT_LINE], stamp=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_results(path) == [RESULT_LINE] * 3
    path.write_text(path.read_text().replace('"value": 1.0', '"value": 7.0', 2))
    with pytest.warns(UserWarning, match=r"results.jsonl: lines 1, 2: changed since it was written"):
        assert [line["value"] for line in read_results(path)] == [7.0, 7.0, 1.0]


def test_without_its_log_a_continued_run_says_so(tmp_path):
    with pytest.warns(UserWarning, match=r"metrics.jsonl has no lines of the 4 earlier steps"):
        Monitor(tmp_path, 4, 9, progress=False).close()


# -- JSON -------------------------------------------------------------------------------------------------------


def test_any_changed_digit_of_stamped_json_is_seen(tmp_path):
    content = {"step": 12, "value": 0.25, "indices": (3, 14), "by": {7: "x", 12: None}, "name": "é"}
    content["nan"] = float("nan")
    path = tmp_path / "a.json"
    write_json(path, content, stamp=True)
    text = path.read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_json(path)["indices"] == [3, 14]
        assert "crc32" not in read_json(path)
        path.write_text(json.dumps(json.loads(text)))  # the same in another layout
        assert read_json(path)["by"] == {"7": "x", "12": None}
    for i in (i for i, c in enumerate(text.partition('"crc32"')[0]) if c.isdigit()):
        path.write_text(text[:i] + str(9 - int(text[i])) + text[i + 1 :])
        with pytest.warns(UserWarning, match=r"a.json: changed since it was written.*remove \"crc32\""):
            read_json(path)


def test_json_without_a_checksum_is_taken_as_it_is():
    assert unstamped([1]) == ([1], False)
    assert unstamped({"a": 1}) == ({"a": 1}, False)
    assert unstamped(stamped({"a": 1})) == ({"a": 1}, False)
    assert unstamped(stamped({"a": 1}) | {"a": 2}) == ({"a": 2}, True)
    assert unstamped({"a": 1, "crc32": []}) == ({"a": 1}, True)


def test_forms():
    form = {"step": int, "labels?": ({"path": str}, None), "skipped?": [[str]], str: float}
    assert checked({"step": 1, "labels": None, "skipped": [["a", "b"]], "x": 2}, form)["x"] == 2
    for value, said in (
        ({"step": True}, "step is True; expected a whole number"),
        ({"step": 1.0}, "step is 1.0; expected a whole number"),
        ({"step": 2**63}, "expected a whole number"),
        ({}, "it has no step"),
        ({"step": 1, "labels": 3}, "labels is 3; expected an object or null"),
        ({"step": 1, "skipped": [["a"], "b"]}, r"skipped\[1\] is 'b'; expected a list"),
        ({"step": 1, "x": "2"}, "x is '2'; expected a number"),
        ([], r"it is \[\]; expected an object"),
    ):
        with pytest.raises(ValueError, match=said):
            checked(value, form)


def test_json_that_cannot_be_read_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "deep.json").write_text("[" * 10**6)
    (tmp_path / "digits.json").write_text("9" * 10**5)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(json_files.MAX_JSON_BYTES + 1)
    for name, said in {
        "pipe": "not a regular file", "zero": "not a regular file", "deep": "nested too deeply",
        "digits": "digits", "huge": "over 256 MiB", "none": "does not exist",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=rf"{name}.json .*{said}"):
            read_json(tmp_path / f"{name}.json")
    with pytest.raises(UserError, match="not a regular file"):
        read_lines(tmp_path / "zero.json", {})


# -- tensors ----------------------------------------------------------------------------------------------------


def test_one_flipped_bit_is_seen_by_the_digest(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"n": torch.tensor(3), "w": torch.randn(50)}, {"kept": "yes"}, digest=True)
    assert read_tensors(path, digest=True)[1]["kept"] == "yes"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="content has changed since it was written"):
        read_tensors(path)
    save_tensors(path, {"w": torch.ones(2)})
    assert read_tensors(path)[0]["w"].tolist() == [1, 1]
    with pytest.raises(UserError, match="no SHA-256"):
        read_tensors(path, digest=True)


def test_tensor_files_that_cannot_be_read_are_one_line(tmp_path):
    path = tmp_path / "a.safetensors"
    entry = b'"w%d": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}, '
    header = b"{" + entry * (2**24 // len(entry) + 1) + b"}"
    for content, said in {
        b"": "is damaged",
        (2**40).to_bytes(8, "little") + b"{}": "does not begin as a safetensors file",
        (2).to_bytes(8, "little") + b"[]": "is damaged",
        len(header).to_bytes(8, "little") + header: "does not begin as a safetensors file",
    }.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_tensors(path)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_tensors(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t | {"w": t["w"].half()}, "w is float16; expected float32"),
        (lambda t: t | {"w": t["w"].double()}, "w is float64; expected float32"),
        (lambda t: t | {"n": t["n"].to(torch.int8)}, "n is int8; expected int64"),
        (lambda t: t | {"w": t["w"][:2]}, r"w has shape \[2\]; expected \[3\]"),
        (lambda t: {"n": t["n"]}, "w is missing"),
        (lambda t: t | {"x": t["n"]}, "x is unknown"),
        (lambda t: t | {"w": t["w"] * float("nan")}, "not finite"),
        (lambda t: t | {"w": t["w"] / 0}, "not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, said):
    expected = {"w": torch.empty(3, device="meta"), "n": torch.empty((), dtype=torch.int64, device="meta")}
    sound = {"w": torch.ones(3), "n": torch.tensor(2)}
    check_tensors(sound, expected, "it does not fit")
    with pytest.raises(UserError, match=f"it does not fit: {said}|it does not fit: w has values that are {said}"):
        check_tensors(change(sound), expected, "it does not fit")
