"""A run that was killed and continued ends as one that was not: bit by bit, whatever was being done.

And the test of that test: forget any one piece of state at resume, and it must be seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from bigbigan.apps.report import write_report
from bigbigan.apps.train import train
from bigbigan.data.batches import Batches
from bigbigan.data.decode import decode
from bigbigan.errors import RunError, UserError
from bigbigan.io import files, tensors
from bigbigan.training import checkpoint as ck
from bigbigan.training.signals import Stop, Stopped
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step
from tiny import tiny_config, write_npz
from train_and_die import MOMENTS

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 12
SCRIPT = Path(__file__).parents[1] / "helpers" / "train_and_die.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_npz(tmp_path_factory.mktemp("data") / "rows.npz"))


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """The run that nothing happened to."""
    run = tmp_path_factory.mktemp("reference") / "run"
    assert train(tiny_config(f"training.steps={STEPS}"), data, run, progress=False) is None
    return digest(run)


def digest(run: Path) -> dict[str, str]:
    """What a finished run is, by part: each network, each optimiser's moments, and the logged history."""
    newest = ck.newest_checkpoint(run)
    assert newest is not None
    assert newest.step == STEPS
    parts = {}
    for file in ("weights", "optimizer"):
        for name, tensor in newest.tensors(f"{file}.safetensors").items():
            digest = parts.setdefault(f"{file} {name.split('.')[0]}", hashlib.sha256())
            digest.update(name.encode() + tensor.numpy().tobytes())
    history = [
        {k: v for k, v in json.loads(line).items() if k != "images_per_second"}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    parts["history"] = hashlib.sha256(json.dumps(history).encode())
    return {name: d.hexdigest() for name, d in parts.items()}


def spawn(run: Path, data: str, *moment: str) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), str(run), data, str(STEPS), *moment]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def assert_no_half_checkpoint(run: Path) -> None:
    for c in ck.checkpoints(run):
        assert c.problem() is None


# -- kill -9 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("moment", "count"), [("step", 7), ("tensors", 2), ("rename", 2)])
def test_killed_and_continued_equals_uninterrupted(moment, count, data, reference, tmp_path):
    run = tmp_path / "run"
    assert spawn(run, data, moment, str(count)).wait(600) == -signal.SIGKILL
    assert_no_half_checkpoint(run)
    assert train(tiny_config(f"training.steps={STEPS}"), data, run, progress=False) is None
    assert digest(run) == reference


@pytest.mark.slow
def test_thirty_kills_at_random_moments(data, reference, tmp_path):
    """Chains of kills, at random times and at every named moment, until at least 30 have hit."""
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"kill plan seed {seed}")
    rng, kills, chains = random.Random(seed), 0, 0
    named = list(MOMENTS) * 3
    rng.shuffle(named)
    while kills < 30 or named:
        run = tmp_path / f"chain-{chains}"
        chains += 1
        for _ in range(rng.randint(1, 5)):
            if named and rng.random() < 0.6:
                moment = named.pop()
                child = spawn(run, data, moment, str(rng.randint(1, 5)))
                child.wait(600)
            else:
                child = spawn(run, data)
                time.sleep(rng.uniform(1.5, 5.0))
                child.kill()
                child.wait(600)
            kills += child.returncode == -signal.SIGKILL
            if run.exists():
                assert_no_half_checkpoint(run)
            if child.returncode == 0:
                break
        assert spawn(run, data).wait(600) == 0, f"chain {chains}, kill plan seed {seed}"
        assert digest(run) == reference, f"chain {chains}, kill plan seed {seed}"
    print(f"{kills} kills in {chains} chains, all ended bit-identical")


# -- signals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signal_saves_and_ends_cleanly(number, data, reference, tmp_path, monkeypatch):
    run, config = tmp_path / "run", tiny_config(f"training.steps={STEPS}")
    calls = []
    before = signal.signal(number, signal.default_int_handler)  # under nohup, SIGHUP would be ignored

    def step_then_signal(state, batches):
        values = training_step(state, batches)
        calls.append(state.step)
        if state.step == 6:  # not a checkpoint step
            os.kill(os.getpid(), number)
        return values

    try:
        with monkeypatch.context() as patch:
            patch.setattr("bigbigan.training.loop.training_step", step_then_signal)
            assert train(config, data, run, progress=False) == number
    finally:
        signal.signal(number, before)
    assert calls[-1] == 6
    assert ck.newest_checkpoint(run).step == 6
    assert train(config, data, run, progress=False) is None
    assert digest(run) == reference


def test_second_signal_ends_at_once(data, tmp_path, monkeypatch):
    def impatient(state, batches):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        raise AssertionError("still here")

    monkeypatch.setattr("bigbigan.training.loop.training_step", impatient)
    with pytest.raises(SystemExit) as end:
        train(tiny_config(), data, tmp_path / "run", progress=False)
    assert end.value.code == 130


def test_a_hangup_is_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
            assert stop.signal is None
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
            assert stop.signal == signal.SIGUSR1
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_images_are_read_ends_at_once(number, data, tmp_path, monkeypatch, capsys):
    from bigbigan.data.image_set import ImageSet

    load, seen = ImageSet.load_noted, []

    def load_then_signal(images, i):
        seen.append(i)
        if len(seen) == 3:
            os.kill(os.getpid(), number)
        return load(images, i)

    monkeypatch.setattr(ImageSet, "load_noted", load_then_signal)
    assert train(tiny_config(), data, tmp_path / "run", progress=False) == number
    assert len(seen) < 60  # of 60; threads that decode ahead finish their image
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert "before the first step: there is nothing to save" in capsys.readouterr().err


def test_a_signal_ends_threads_that_decode(tmp_path, monkeypatch):
    from bigbigan.data.image_set import FileStore

    (tmp_path / "files").mkdir()
    for i in range(100):
        Image.new("L", (8, 8), i).save(tmp_path / "files" / f"{i}.png")
    load, seen = FileStore.get, []

    def slowly(store, i):
        seen.append(i)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return load(store, i)

    monkeypatch.setattr(FileStore, "get", slowly)
    assert train(tiny_config(), str(tmp_path / "files"), tmp_path / "run", progress=False) == signal.SIGINT
    assert len(seen) <= 3 + 2 * (os.cpu_count() or 1)  # and not all that have been handed out


def test_a_signal_amid_decoding_is_no_damaged_image(monkeypatch):
    """Decoding takes whatever it meets for damage: it must not take a signal for it."""

    def open_then_signal(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    file = BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    monkeypatch.setattr(Image, "open", open_then_signal)
    with Stop(nothing_to_save=True), pytest.raises(Stopped):
        decode(file.getvalue())


def test_a_closed_terminal_saves(data, tmp_path):
    """The terminal's end is a SIGHUP, and no line can be written there any more."""
    import pty

    run, (here, there) = tmp_path / "run", pty.openpty()
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # pytest may run under nohup
    script += "import sys, pathlib, bigbigan.apps.train as t, tiny; t.train(tiny.tiny_config('training.steps=100000', "
    script += "'log.checkpoint_every=100000', 'log.every=1'), sys.argv[1], pathlib.Path(sys.argv[2]))"
    child = subprocess.Popen(
        [sys.executable, "-c", script, data, str(run)], stdin=there, stdout=there, stderr=there, cwd=SCRIPT.parent,
        start_new_session=True,
    )  # fmt: skip
    os.close(there)
    os.set_blocking(here, False)
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        time.sleep(0.1)
        with contextlib.suppress(BlockingIOError):
            os.read(here, 10**6)
        assert child.poll() is None
    os.close(here)
    child.send_signal(signal.SIGHUP)
    assert child.wait(120) == 0
    assert ck.newest_checkpoint(run).step > 0


# -- damage -------------------------------------------------------------------------------------------------


def damage_truncate(path):
    file = path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def damage_flip_bit(path):
    file = path / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def damage_empty(path):
    (path / "weights.safetensors").write_bytes(b"")


def damage_missing(path):
    (path / "optimizer.safetensors").unlink()


def damage_no_manifest(path):
    (path / "manifest.json").unlink()


def damage_garbage_manifest(path):
    (path / "manifest.json").write_text("{]")


def damage_state_json(path):
    (path / "state.json").write_text(json.dumps({"step": 99}))


def damage_other_step(path):
    shutil.rmtree(path)
    shutil.copytree(path.parent / "step-00000008", path)


def damage_empty_folder(path):
    shutil.rmtree(path)
    path.mkdir()


DAMAGES = [f for name, f in globals().items() if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__.removeprefix("damage_"))
def test_damaged_newest_checkpoint_falls_back_to_the_one_before(damage, data, reference, tmp_path):
    run, config = tmp_path / "run", tiny_config(f"training.steps={STEPS}")
    train(config, data, run, progress=False)
    damage(run / "checkpoints" / f"step-{STEPS:08d}")
    with pytest.warns(UserWarning, match="damaged checkpoint skipped"):
        assert train(config, data, run, progress=False) is None
    assert digest(run) == reference


def test_only_damaged_checkpoints_never_start_over_silently(data, tmp_path):
    run, config = tmp_path / "run", tiny_config("training.steps=4")
    train(config, data, run, progress=False)
    damage_truncate(run / "checkpoints" / "step-00000004")
    with pytest.raises(UserError, match=r"no checkpoint in .* is valid"):
        train(config, data, run, progress=False)


@pytest.mark.parametrize("kind", ["file", "link to itself"])
def test_checkpoints_that_are_no_folder_are_reported(kind, data, tmp_path):
    run, config = tmp_path / "run", tiny_config("training.steps=4")
    train(config, data, run, progress=False)
    shutil.rmtree(run / "checkpoints")
    if kind == "file":
        (run / "checkpoints").write_text("not a folder")
    else:
        (run / "checkpoints").symlink_to("checkpoints")
    with pytest.raises(UserError, match="checkpoints is not a folder"):
        train(config, data, run, progress=False)
    write_report(run)
    assert "checkpoints is not a folder" in (run / "report.html").read_text()


def test_disk_error_keeps_the_checkpoint_before(data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(tiny_config("training.steps=4"), data, run, progress=False)

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(RunError, match=r"not saved to .*MiB free.*No space left"):
        train(tiny_config("training.steps=8"), data, run, progress=False)
    assert [c.step for c in ck.checkpoints(run)] == [4]
    assert not list((run / "checkpoints").glob(".writing-*"))


def test_files_are_forced_to_disk_before_the_rename(data, tmp_path, monkeypatch):
    calls, sync, rename = [], files.sync, os.rename
    monkeypatch.setattr(files, "sync", lambda p: (calls.append(f"sync {p.name}"), sync(p)))
    monkeypatch.setattr(os, "rename", lambda a, b: (calls.append("rename"), rename(a, b)))
    train(tiny_config("training.steps=4"), data, tmp_path / "run", progress=False)
    at = calls.index("rename")
    assert calls[at - 1 : at + 2] == [f"sync .writing-{os.getpid()}-step-00000004", "rename", "sync checkpoints"]
    assert set(calls[at - 5 : at - 1]) == {f"sync {n}" for n in (*ck.FILES, "manifest.json")}


def test_last_n_and_best_are_kept(data, tmp_path):
    run = tmp_path / "run"
    settings = ["log.checkpoint_every=2", "log.keep_checkpoints=2"]
    train(tiny_config("training.steps=4", *settings), data, run, progress=False)
    with pytest.warns(UserWarning, match="has no best step .* the newest is used"):
        assert ck.chosen_checkpoint(run, "best").step == 4
    ck.save_best(run, 2, "top1_linear_bn_crelu_10perclass", 50.0)
    train(tiny_config("training.steps=10", *settings), data, run, progress=False)
    assert [c.step for c in ck.checkpoints(run)] == [2, 8, 10]
    found = {which: ck.chosen_checkpoint(run, which).step for which in ("newest", "best", "8")}
    assert found == {"newest": 10, "best": 2, "8": 8}
    with pytest.raises(UserError, match=r"keeps steps 2, 8, 10; expected one of these, newest or best"):
        ck.chosen_checkpoint(run, "9")
    (run / "checkpoints" / "step-00000008" / "state.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        ck.chosen_checkpoint(run, "8")


# -- the test of the test -----------------------------------------------------------------------------------


def _forget(*names: str):
    """Leaves these tensors as they are before loading."""

    def mutant(state: TrainingState, load):
        before = {k: t.clone() for k, t in state.weights().items()}
        load()
        hit = 0
        with torch.no_grad():
            for key, tensor in state.weights().items():
                network, _, rest = key.partition(".")
                if (network, rest.rsplit(".", 1)[-1]) in [tuple(n.split(".")) for n in names] or network in names:
                    tensor.copy_(before[key])
                    hit += 1
        assert hit

    return mutant


def _forget_moment(player: str, key: str):
    def mutant(state, load):
        load()
        for slot in state.optimizers[player].state.values():
            slot[key].zero_()

    return mutant


def _forget_all_moments(state, load):
    load()
    for optimizer in state.optimizers.values():
        optimizer.state.clear()


def _forget_step(state, load):
    load()
    state.step -= 1  # of the noise, the data order and the averages' decay


def _other_seed(state, load):
    load()
    import dataclasses

    training = dataclasses.replace(state.config.training, seed=1)
    state.config = dataclasses.replace(state.config, training=training)


MUTANTS = {
    "G's weights": _forget("G.weight"),
    "E's weights": _forget("E.weight"),
    "D's weights": _forget("D.weight"),
    "biases of D": _forget("D.bias"),
    "average of G": _forget("G_ema"),
    "average of E": _forget("E_ema"),
    "spectral norm vectors of G": _forget("G.u"),
    "spectral norm vectors of D": _forget("D.u"),
    "batch norm means of G": _forget("G.running_mean"),
    "batch norm variances of E": _forget("E.running_var"),
    "batch norm counters of E": _forget("E.num_batches_tracked"),
    "D's first moments": _forget_moment("d", "exp_avg"),
    "D's second moments": _forget_moment("d", "exp_avg_sq"),
    "D's Adam step": _forget_moment("d", "step"),
    "G's and E's first moments": _forget_moment("eg", "exp_avg"),
    "G's and E's second moments": _forget_moment("eg", "exp_avg_sq"),
    "G's and E's Adam step": _forget_moment("eg", "step"),
    "all moments": _forget_all_moments,
    "step": _forget_step,
    "seed": _other_seed,
}


def _two_steps(tmp_path: Path, data: str, mutant=None) -> dict[str, torch.Tensor]:
    """Two steps of training after a checkpoint at step 4, and everything there is then."""
    config = tiny_config("training.steps=4")
    run = tmp_path / "run"
    if not run.exists():
        train(config, data, run, progress=False)
    state = TrainingState(config, torch.device("cpu"))

    def load():
        ck.load_state(state, ck.newest_checkpoint(run))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mutant(state, load) if mutant else load()
    pixels = torch.arange(30 * 64, dtype=torch.int64).remainder(251).to(torch.uint8).view(30, 1, 8, 8)
    batches = Batches(pixels, 16, state.config.training.seed, augment="none")
    for _ in range(2):
        training_step(state, batches)
    state.fill_standing_statistics(batches)
    return {**state.weights(), **state.moments()}


@pytest.fixture(scope="module")
def two_steps(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutants")
    reference = {k: t.clone() for k, t in _two_steps(folder, data).items()}
    again = _two_steps(folder, data)
    assert all(torch.equal(t, again[k]) for k, t in reference.items())
    return folder, reference


@pytest.mark.parametrize("piece", MUTANTS)
def test_forgetting_a_piece_of_state_is_seen(piece, data, two_steps):
    folder, reference = two_steps
    mutated = _two_steps(folder, data, MUTANTS[piece])
    assert any(not torch.equal(t, mutated[k]) for k, t in reference.items()), f"nobody missed {piece}"


# -- what must not matter, and what must be refused ---------------------------------------------------------


def test_logging_and_global_random_state_do_not_matter(data, reference, tmp_path):
    torch.manual_seed(123)
    random.seed(5)
    run = tmp_path / "run"
    quiet = tiny_config(f"training.steps={STEPS}", "log.every=2", "log.checkpoint_every=3", "log.validate_every=5")
    train(quiet, data, run, progress=False)
    ours = digest(run)
    assert {k: v for k, v in ours.items() if k != "history"} == {k: v for k, v in reference.items() if k != "history"}


def test_training_uses_no_label(data, reference, tmp_path):
    import numpy as np

    arrays = dict(np.load(data))
    rng = np.random.default_rng(0)
    arrays["train_labels"] = rng.permutation(arrays["train_labels"])
    np.savez(tmp_path / "shuffled.npz", **arrays)
    run = tmp_path / "run"
    train(tiny_config(f"training.steps={STEPS}"), str(tmp_path / "shuffled.npz"), run, progress=False)
    assert digest(run) == reference


def test_other_seed_gives_other_weights(data, reference, tmp_path):
    run = tmp_path / "run"
    train(tiny_config(f"training.steps={STEPS}", "training.seed=1"), data, run, progress=False)
    assert not set(digest(run).values()) & set(reference.values())


def test_resume_refuses_changed_settings_but_not_more_steps(data, tmp_path):
    run = tmp_path / "run"
    train(tiny_config("training.steps=4"), data, run, progress=False)
    with pytest.raises(UserError, match=r"training.batch_size was 16, now 8.*choose another --out"):
        train(tiny_config("training.steps=4", "training.batch_size=8"), data, run, progress=False)
    other = write_npz(tmp_path / "other.npz", seed=1)
    with pytest.raises(UserError, match="images are not those"):
        train(tiny_config("training.steps=8"), str(other), run, progress=False)
    assert train(tiny_config("training.steps=5", "log.every=1"), data, run, progress=False) is None
    assert ck.newest_checkpoint(run).step == 5


def test_two_processes_do_not_train_in_one_folder(data, tmp_path):
    import fcntl

    run = tmp_path / "run"
    train(tiny_config("training.steps=4"), data, run, progress=False)
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is training"):
            train(tiny_config("training.steps=8"), data, run, progress=False)


# -- numbers that are not finite ----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["image", "D", "G", "E", "gradient of D", "gradient of G"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_update_stops_before_a_weight_changes(where, value, tmp_path):
    state = TrainingState(tiny_config(), torch.device("cpu"))
    batches = Batches(torch.randint(0, 255, (30, 1, 8, 8), dtype=torch.uint8), 16, 0, augment="none")
    training_step(state, batches)
    G, E, D = state.networks
    if where == "image":
        original = batches.batch
        batches.batch = lambda *which: original(*which).index_fill(0, torch.tensor([3]), value)
    elif where.startswith("gradient"):
        parameter = next({"D": D, "G": G}[where[-1]].parameters())
        parameter.register_hook(lambda g: g + value)
    else:
        network = {"D": D.head_xz, "G": G.to_image, "E": E.latent}[where]
        network.register_forward_hook(lambda m, i, o: o * value)
    # tanh hides infinite images from D; they show as gradients of G.
    late = where == "gradient of G" or (where == "G" and value == float("inf"))
    touched_by = [G, E] if late else [D]
    before = {id(n): [p.clone() for p in n.parameters()] for n in touched_by}
    with pytest.raises(RunError, match=r"step 2: .*before any weight was changed"):
        training_step(state, batches)
    for network in touched_by:
        assert all(torch.equal(a, b) for a, b in zip(before[id(network)], network.parameters(), strict=True))


def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path):
    state = TrainingState(tiny_config(), torch.device("cpu"))
    with torch.no_grad():
        state.G_ema.seed.bias[0] = float("nan")
    with pytest.raises(RunError, match=r"G_ema.seed.bias is not finite"):
        ck.save_checkpoint(state, tmp_path, {}, keep=1)
    assert not (tmp_path / "checkpoints").exists()
