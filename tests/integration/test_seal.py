"""What a run names is opened only if it was trained here by this user, or if the user names it."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from bigbigan.apps.report.contents import gather
from bigbigan.apps.serve import ServedModel
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.errors import UserError
from bigbigan.training import seal as seal_module
from bigbigan.training.run_folder import source_and_labels
from bigbigan.training.seal import is_sealed, key_file, seal
from tiny import tiny_config, write_npz

OPENED: list[str] = []  # every path that was opened since it was emptied


def _note(event, arguments):
    if event == "open" and isinstance(arguments[0], str | bytes):
        OPENED.append(os.fsdecode(arguments[0]))


sys.addaudithook(_note)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seal")
    data = write_npz(folder / "rows.npz", count=30)
    table = folder / "labels.csv"
    names = [f"{split}/{i:05d}" for split in ("train", "test") for i in range(30)]
    table.write_text("file,label\n" + "".join(f"{name},k{i % 3}\n" for i, name in enumerate(names)))
    train(tiny_config("training.steps=2"), str(data), folder / "run", progress=False, labels=str(table))
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run, labels file and all, that was trained here."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def rewrite(run, **changes):
    card = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(card | changes))


def verbs(run, out):
    yield ["evaluate", run, "--metrics", "knn5_l2_avepool"]
    yield ["encode", run, "--out", out / "f.npz"]
    yield ["reconstruct", run, "--out", out / "r.png"]
    yield ["interpolate", run, "--out", out / "i.png"]
    yield ["neighbours", run, "--out", out / "n.png"]
    yield ["classify", run, "--labels-per-class", "3", "--out", out / "p.csv"]
    yield ["cluster", run, "--clusters", "2", "--out", out / "c.csv"]
    yield ["train", "small/digits", "--out", run]


def ask(words):
    return main([str(word) for word in words])


def test_a_run_of_ones_own_needs_no_data(run, tmp_path, capsys):
    assert is_sealed(json.loads((run / "data.json").read_text()))
    for words in list(verbs(run, tmp_path))[1:5]:
        assert ask(words) == 0, capsys.readouterr().err
    moved = run.rename(tmp_path / "moved")
    assert ask(["encode", moved, "--out", tmp_path / "g.npz"]) == 0
    source = gather(moved, None).source
    assert source is not None
    assert source.splits["train"].classes == ["k0", "k1", "k2"]
    assert ServedModel(moved).finds_neighbours


@pytest.fixture
def listener():
    """An address that notes who asks it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        calls = []

        def note():
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return
                calls.append(1)

        threading.Thread(target=note, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/set/index.json", calls


def test_addresses_of_a_foreign_run_are_not_asked(run, tmp_path, listener, capsys):
    url, calls = listener
    rewrite(run, spec=url, labels=None)
    start = time.perf_counter()
    for words in verbs(run, tmp_path):
        assert ask(words) == 2, words
        said = capsys.readouterr().err
        assert f"{run} was not trained here by you, so the data it names are not opened" in said
        assert f"--data {url}" in said
    assert "not trained here by you" in gather(run, None).no_source
    assert "not trained here by you" in ServedModel(run).missing
    assert ask(["report", run]) == 0
    assert not calls
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize("kind", ["text", "images", "/dev/zero", "fifo"])
def test_files_of_a_foreign_run_are_not_opened(run, tmp_path, kind, capsys):
    secret = tmp_path / "secret.csv"
    secret.write_text("password hunter2\n")
    if kind == "images":
        secret = write_npz(tmp_path / "secret.npz", count=30)
        rewrite(run, spec=str(secret), labels=None)
    else:
        if kind == "fifo":
            os.mkfifo(secret := tmp_path / "secret.pipe")
        secret = kind if kind.startswith("/dev") else secret
        rewrite(run, labels={"path": str(secret), "sha256": "0" * 64})
    OPENED.clear()
    for words in verbs(run, tmp_path):
        assert ask(words) == 2, words
        assert str(secret) in capsys.readouterr().err
    assert ask(["report", run]) == 0
    assert "not trained here by you" in ServedModel(run).missing
    assert str(secret) not in OPENED
    assert "hunter2" not in (run / "report.html").read_text()


def test_what_the_user_names_is_opened(run, trained, tmp_path):
    data, labels = str(trained.parent / "rows.npz"), str(trained.parent / "labels.csv")
    rewrite(run, seal="0" * 64)
    assert source_and_labels(run, data, labels) == (data, labels)
    assert source_and_labels(run, "digits", None) == ("digits", None)
    for given in ((None, None), (None, labels), (data, None)):  # the labels go with the run's own source
        with pytest.raises(UserError, match="not trained here by you"):
            source_and_labels(run, *given)
    assert ask(["encode", run, "--data", data, "--labels", labels, "--out", tmp_path / "f.npz"]) == 0


def test_known_data_sets_need_no_seal(run):
    rewrite(run, spec="digits", labels=None, seal=None)
    assert source_and_labels(run, None, None) == ("digits", None)
    rewrite(run, spec="mnist:/somewhere", labels=None)
    with pytest.raises(UserError, match="--data mnist:/somewhere"):
        source_and_labels(run, None, None)


@pytest.mark.parametrize("found", [None, "", 7, ["x"], "é", "0" * 64])
def test_a_seal_that_is_none_does_not_count(found):
    assert not is_sealed({"spec": "a", "labels": None, "seal": found})


def test_a_seal_is_of_all_that_is_named():
    card = {"spec": "a", "labels": {"path": "b", "sha256": "c"}, "notes": {}}
    card["seal"] = seal(card)
    assert is_sealed(card)
    assert is_sealed(card | {"notes": {"x": 1}, "skipped": [["y", "z"]]})
    for change in ({"spec": "b"}, {"labels": None}, {"labels": {"path": "a"}}, {"labels": 7}, {"from_run": "../x"}):
        assert not is_sealed(card | change)


def test_the_message_has_no_control_characters(run):
    rewrite(run, spec="/a\x1b]0;x\x07\nb", labels=None)
    with pytest.raises(UserError, match=r"--data '/a\\x1b\]0;x\\x07\\nb'") as caught:
        source_and_labels(run, None, None)
    assert str(caught.value).isprintable()


# -- the key --------------------------------------------------------------------------------------------------


def test_the_key_is_the_users_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert not is_sealed({"spec": "a", "seal": "0" * 64})
    assert not key_file().exists()  # to look makes none
    first = seal({"spec": "a"})
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    assert [path.name for path in key_file().parent.iterdir()] == ["key"]
    assert seal({"spec": "a"}) == first
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert seal({"spec": "a"}) != first
    assert not is_sealed({"spec": "a", "seal": first})


@pytest.mark.parametrize("damage", ["short", "folder"])
def test_a_damaged_key_seals_nothing(monkeypatch, tmp_path, damage):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    key_file().parent.mkdir()
    key_file().write_bytes(b"short") if damage == "short" else key_file().mkdir()
    assert seal({"spec": "a"}) == ""
    assert not is_sealed({"spec": "a", "seal": ""})


def test_processes_that_start_together_share_a_key(tmp_path):
    code = "from bigbigan.training.seal import seal; print(seal({'spec': 'a'}))"
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    assert len({process.communicate(timeout=300)[0] for process in started}) == 1


def test_where_no_key_can_be_kept_training_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(seal_module, "_key", lambda make: None)
    data = write_npz(tmp_path / "rows.npz", count=20)
    with pytest.warns(UserWarning, match="no key can be stored in .*: commands will ask for --data"):
        train(tiny_config("training.steps=1"), str(data), tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="--data"):
        source_and_labels(tmp_path / "run", None, None)


# -- labels that are no file ----------------------------------------------------------------------------------


def test_a_labels_file_is_a_regular_file(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in ("/dev/zero", tmp_path / "pipe.csv"):
        assert ask(["data", "inspect", "digits", "--labels", path]) == 2
        assert capsys.readouterr().err == f"bigbigan: --labels {path} cannot be read: it is not a regular file\n"
