"""A run that is damaged, or somebody else's: each part that is read is a sound value or one line that names it."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import resource
import shutil
import threading
import warnings
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file, save_file

from bigbigan import load
from bigbigan.apps.report import write_report
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.errors import UserError
from bigbigan.evaluation.records import append_results
from bigbigan.inference.model import Model
from bigbigan.training import checkpoint as ck
from bigbigan.training.state import TrainingState
from tiny import RESULT_LINE, TINY, tiny_config, write_npz

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    data = str(write_npz(folder / "rows.npz", count=24))
    train(tiny_config("training.steps=2", "log.checkpoint_every=1"), data, folder / "run", progress=False)
    (folder / "run" / "results.jsonl").write_text(json.dumps(RESULT_LINE) + "\n")
    ck.save_best(folder / "run", 1, "top1", 50.0)
    return folder / "run", data


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "run")


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes most of a report's time."""
    from bigbigan.apps.report import curves, probe

    for module in (curves, probe):
        monkeypatch.setattr(module, "svg", lambda draw, *_: "chart")


def newest(run):
    return ck.checkpoints(run)[-1].path


def seal(checkpoint):
    """Give a checkpoint a manifest that fits what is in it."""
    files = {
        n: {
            "bytes": (checkpoint / n).stat().st_size,
            "sha256": hashlib.sha256((checkpoint / n).read_bytes()).hexdigest(),
        }
        for n in ck.FILES
    }
    (checkpoint / "manifest.json").write_text(json.dumps({"schema": 1, "files": files}))


def change_tensors(run, change, file="weights.safetensors"):
    for checkpoint in ck.checkpoints(run):
        save_file(change(load_file(checkpoint.path / file)), checkpoint.path / file)
        seal(checkpoint.path)


def resume(run, data):
    train(tiny_config("training.steps=3", "log.checkpoint_every=1"), data, run, progress=False)


# -- weights ----------------------------------------------------------------------------------------------------


def cast(tensors, dtype):
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}


G_BIAS, E_BIAS = "G_ema.seed.bias", "E_ema.latent.bias"
TENSORS = {
    "NaN in G": (lambda t: t | {G_BIAS: t[G_BIAS] * float("nan")}, "seed.bias .*not finite"),
    "infinite E": (lambda t: t | {E_BIAS: t[E_BIAS] + float("inf")}, "latent.bias .*not finite"),
    "float16": (lambda t: cast(t, torch.float16), "is float16; expected float32"),
    "float64": (lambda t: cast(t, torch.float64), "is float64; expected float32"),
    "int8": (lambda t: cast(t, torch.int8), "is int8; expected"),
    "one missing": (lambda t: {k: v for k, v in t.items() if k != G_BIAS}, "seed.bias is missing"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_weights_that_do_not_fit_are_refused(kind, run, made):
    change, said = TENSORS[kind]
    change_tensors(run, change)
    with pytest.raises(UserError, match=said):
        load(run)
    with pytest.raises(UserError, match=said):
        resume(run, made[1])


def test_networks_that_have_diverged_end_each_verb_in_one_line(run, tmp_path, capsys):
    """Their weights are finite; what they give is not."""
    change_tensors(run, lambda t: {k: v * 1e30 if v.is_floating_point() and v.ndim > 1 else v for k, v in t.items()})
    outputs = {"generate": "g.png", "encode": "f.npz", "reconstruct": "r.png", "interpolate": "i.png"}
    outputs |= {"neighbours": "n.png", "cluster": "c.csv", "classify": "p.csv"}
    for verb, out in outputs.items():
        more = {"classify": ["--labels-per-class", "2"], "cluster": ["--clusters", "2"]}.get(verb, [])
        assert main([verb, str(run), "--out", str(tmp_path / out), "--quiet", *more]) == 2, verb
        said = [line for line in capsys.readouterr().err.splitlines() if "warning: " not in line]
        assert len(said) == 1, said
        assert "not finite" in said[0]
        assert not (tmp_path / out).exists()
    model = load(run)
    for call in (lambda: model.generate(2), lambda: model.encode(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))):
        with pytest.raises(UserError, match="not finite: it has diverged"):
            call()


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq", "step"])
def test_moments_that_do_not_fit_are_refused(key, run, made):
    for change, said in (
        (lambda t: t | {f"D.head_x.weight.{key}": t[f"D.head_x.weight.{key}"].half()}, "float16; expected float32"),
        (lambda t: {k: v for k, v in t.items() if k != f"D.head_x.weight.{key}"}, "is missing"),
    ):
        copied = shutil.copytree(run, run.with_name(said[:2]))
        change_tensors(copied, change, "optimizer.safetensors")
        with pytest.raises(UserError, match=rf"D.head_x.weight.{key} is {said.removeprefix('is ')}"):
            resume(copied, made[1])


@pytest.mark.parametrize("setting", ["latent.dim", "encoder.head_width", "encoder.head_layers", "generator.shared_dim"])
@pytest.mark.parametrize("value", [10**9, 10**30])
def test_settings_of_enormous_networks_are_refused(setting, value, run):
    config = json.loads((run / "config.json").read_text())
    group, name = setting.split(".")
    config[group][name] = value
    (run / "config.json").write_text(json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=setting):
        load(run)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


# -- JSON -------------------------------------------------------------------------------------------------------


WRONG = [None, [[]], {"a": {"b": []}}, "x", 1e400, True, 10**25]


def changed(content, wrongs=(*WRONG, ...), each=4):
    """`content` with each of its parts, in turn, replaced by some of the wrong values, or missing (...).

    Each part has `each` of the values, the next part the next ones: the campaign of damages tries many more.
    """
    values = itertools.cycle(wrongs)
    places = [()]
    for place in places:
        part = content
        for key in place:
            part = part[key]
        keys = part if isinstance(part, dict) else range(min(2, len(part))) if isinstance(part, list) else ()
        places.extend((*place, key) for key in keys)
    for place in places:
        for wrong in itertools.islice(values, each):
            whole = copy.deepcopy(content)
            part = whole
            for key in place[:-1]:
                part = part[key]
            if not place:
                whole = wrong
            elif wrong is ...:
                del part[place[-1]]
            else:
                part[place[-1]] = wrong
            if whole is not ...:
                yield place, whole


@pytest.mark.parametrize(
    "name",
    [
        "data.json", "environment.json", "checkpoints/best.json", "metrics.jsonl", "results.jsonl", "state.json",
        "manifest.json",
    ],
)  # fmt: skip
def test_any_part_of_another_type_is_one_line(name, run, no_pictures, monkeypatch):
    from bigbigan.apps.report import contents as gathered
    from bigbigan.apps.report import page

    def no_model(*_, **__):
        raise UserError("not looked at")

    # Networks, and sections that look at images, read none of these files.
    monkeypatch.setattr(gathered, "load", no_model)
    monkeypatch.setattr(page, "SECTIONS", {k: v for k, v in page.SECTIONS.items() if k in ("Curves", "Settings")})
    of_checkpoint = name in ("state.json", "manifest.json")
    path = (newest(run) if of_checkpoint else run) / name
    text = path.read_text()
    content, tried = json.loads(text.splitlines()[-1] if name.endswith("l") else text), 0
    for place, whole in changed(content):
        path.write_text(json.dumps(whole) + "\n")
        if name == "state.json":
            seal(newest(run))
        print(f"{name}: {place} as in {whole!r:.200}")  # shown if the next fails
        with warnings.catch_warnings(), suppress(UserError):
            warnings.simplefilter("ignore")
            if of_checkpoint:
                ck.chosen_checkpoint(run, "2").info()
            else:
                write_report(run, data=str(run / "none"))
        tried += 1
    assert tried >= 12


def test_json_nested_too_deeply_is_one_line(run, made, capsys):
    for name in ("config.json", "data.json", "environment.json", "metrics.jsonl", "results.jsonl"):
        copied = shutil.copytree(run, run.with_name(name))
        (copied / name).write_text("[" * 10**5)
        outputs = {"export": run / f"model {name}", "encode": run / "f.npz"}
        for verb in (["report", copied], *([verb, copied, "--out", out] for verb, out in outputs.items())):
            assert main([str(word) for word in verb]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_that_is_nearly_a_checkpoint_is_skipped(run):
    for name in ("step-²", "step-", "step-1e3", "step-00000002.old", f"step-{'9' * 30}"):
        (run / "checkpoints" / name).mkdir()
    assert [c.step for c in ck.checkpoints(run)] == [1, 2]
    assert load(run).step == 2


def test_a_checkpoint_is_named_by_a_number_too(run):
    assert load(run, checkpoint=1).step == load(run, checkpoint="1").step == 1


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_settings_that_are_not_the_checkpoints_are_reported(run, made):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(run)
        more = tiny_config("training.steps=3", "log.checkpoint_every=9", "log.every=1")
        train(more, made[1], run, progress=False)  # what may change
        load(run)
        load(run, checkpoint=1)
    change(run / "config.json", '"standing_batches": 2', '"standing_batches": 7')
    with pytest.warns(UserWarning, match="config.json: changed since it was written"):
        load(run)
    change(run / "config.json", '"seed": 0', '"seed": 9')
    with pytest.warns(UserWarning, match=r"the checkpoint \(training.seed was 0, now 9\): results may be wrong"):
        load(run)


RELIED_ON = {
    "data.json": {"spec": "x"},
    "environment.json": {"device": "cpu"},
    "checkpoints/best.json": {"step": 1, "metric": "top1", "value": 50.0},
    "results.jsonl": RESULT_LINE,
}


@pytest.mark.parametrize("name", RELIED_ON)
def test_what_a_report_cannot_rely_on_is_reported(name, run, no_pictures):
    (run / name).write_text(json.dumps(RELIED_ON[name] | {"crc32": "0"}))
    with pytest.warns(UserWarning, match=f"{name}.*changed since it was written"):
        write_report(run, data=str(run / "none"))
    if name != "results.jsonl":  # of which the page says so
        (run / name).write_text("{")
        with pytest.warns(UserWarning, match=f"{name} cannot be read"):
            write_report(run, data=str(run / "none"))


def test_a_damaged_best_json_costs_no_checkpoint(run, made):
    """Report it, neither use the best as the newest nor remove it, and log which it was."""
    best = run / "checkpoints" / "best.json"
    name = "top1_linear_bn_crelu_10perclass"
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, name: value}) + "\n" for step, value in ((1, 100.0), (2, 10.0)))
    )
    best.write_text("{")
    with pytest.warns(UserWarning, match="best.json cannot be read"), pytest.raises(UserError, match="choose newest"):
        load(run, "best")
    steps = ["training.steps=3", "log.checkpoint_every=3", "log.keep_checkpoints=1", "log.validate_every=3"]
    with pytest.warns(UserWarning, match="best.json cannot be read"):
        train(tiny_config(*steps), made[1], run, progress=False)
    assert json.loads(best.read_text())["step"] == 1
    assert load(run, "best").step == 1


@pytest.mark.parametrize("kind", ["a file", "a link to itself"])
def test_what_stands_in_place_of_a_checkpoint_is_reported(kind, run):
    path = newest(run)
    shutil.rmtree(path)
    path.write_text("x") if kind == "a file" else path.symlink_to(path.name)
    with pytest.warns(UserWarning, match="damaged checkpoint skipped: .*step-00000002"):
        assert load(run).step == 1


# -- result lines -----------------------------------------------------------------------------------------------


def test_table_takes_the_result_lines_of_a_run(run, capsys):
    assert main(["table", "1", "--results", str(run)]) == 0
    (run / "results.jsonl").unlink()
    assert main(["table", "1", "--results", str(run)]) == 2
    assert "has no results.jsonl; measure the run first: bigbigan evaluate" in capsys.readouterr().err


def test_a_torn_result_line_stops_no_verb(run, capsys):
    text = (run / "results.jsonl").read_text()
    (run / "results.jsonl").write_text(text + text[:-30])
    append_results(run / "results.jsonl", [])
    assert main(["export", str(run), "--out", str(run / "model")]) == 0
    assert main(["table", "1", "--results", str(run)]) == 0
    assert capsys.readouterr().err.count("results.jsonl: line 2 cannot be read (it is not JSON): skipped") == 2


# -- checkpoints that come and go -------------------------------------------------------------------------------


def test_removing_a_checkpoint_leaves_no_half_of_it(run, monkeypatch):
    def die(path, *_, **__):
        raise KeyboardInterrupt

    (run / "checkpoints" / "best.json").unlink()
    monkeypatch.setattr(ck.shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        ck.remove_old(run, keep=1)
    monkeypatch.undo()
    for checkpoint in ck.checkpoints(run):
        assert checkpoint.problem() is None
    ck.remove_old(run, keep=1)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_start_removes_what_a_death_left(run, made):
    folder = run / "checkpoints"
    shutil.copytree(newest(run), folder / ".removing-step-00000001")
    (folder / ".writing-1-step-00000003").mkdir()
    (folder / "best.json").unlink()
    train(tiny_config("training.steps=2", "log.checkpoint_every=1", "log.keep_checkpoints=1"), made[1], run, False)
    assert [p.name for p in folder.iterdir()] == ["step-00000002"]


def test_a_damaged_checkpoint_does_not_push_out_a_valid_one(run, made):
    settings = ["training.steps=3", "log.checkpoint_every=1", "log.keep_checkpoints=1"]
    folder = run / "checkpoints"
    (folder / "best.json").unlink()
    before = sorted(p.name for p in folder.glob("step-*"))
    assert len(before) == 2
    weights = folder / before[-1] / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        train(tiny_config(*settings), made[1], run, False)
    assert [p.name for p in folder.glob("step-*")] == ["step-00000003"]


def test_a_run_is_read_while_checkpoints_are_removed(run, monkeypatch):
    state, checked = TrainingState(tiny_config(), torch.device("cpu")), ck.Checkpoint.problem
    ck.load_state(state, ck.newest_checkpoint(run))
    ended, failures = threading.Event(), []

    def write():
        while not ended.is_set():
            state.step += 1
            ck.save_checkpoint(state, run, {}, keep=1)

    def slow(checkpoint):  # so that it is often gone before it is read
        problem = checked(checkpoint)
        ended.wait(0.02)
        return problem

    monkeypatch.setattr(ck.Checkpoint, "problem", slow)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            steps = [load(run, "newest").step for _ in range(10)]
    except Exception as error:
        failures.append(error)
    finally:
        ended.set()
        writer.join()
    assert not failures, failures
    assert steps == sorted(steps)
    assert steps[-1] > steps[0]


# -- many images ------------------------------------------------------------------------------------------------


def test_many_samples_pass_through_g_in_batches(run, monkeypatch, tmp_path, capsys):
    model, sizes = load(run), []
    model.generator.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    z = model.sample_prior(200)
    images = model.generate(z)
    assert sizes == [64, 64, 64, 8]
    torch.testing.assert_close(images, torch.cat([model.generator(part) for part in z.split(50)]))
    torch.testing.assert_close(model.generate(200), images)
    sizes.clear()
    model.reconstruct(images)
    model.interpolate(images[:50], images[50:100], 4)
    assert max(sizes) == 64
    written = []
    original = Model.generate_batches

    def watched(*arguments, **named):
        for batch in original(*arguments, **named):
            written.append(len(list((tmp_path / "many").iterdir())) if (tmp_path / "many").exists() else 0)
            yield batch

    monkeypatch.setattr(Model, "generate_batches", watched)
    assert main(["generate", str(run), "--count", "150", "--out", str(tmp_path / "many")]) == 0
    assert written == [0, 64, 128]  # each batch is written before the next is drawn


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_refine_makes_its_own_gradients(run, mode):
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    expected = load(run).refine(images, 3, features="encoder")
    with mode():
        model = load(run)
        refined = model.refine(images.clone(), 3, features="encoder")
        torch.testing.assert_close(
            model.refine(images, 3, z=model.encode(images).z_mean, features="encoder").z, refined.z
        )
    torch.testing.assert_close(refined.z, expected.z)
    assert not torch.equal(refined.errors[0], refined.errors[-1])


# -- the command line -------------------------------------------------------------------------------------------


def test_a_full_disk_ends_each_verb_in_one_line(run, made, tmp_path, monkeypatch, capsys):
    """Every write of every verb fails in turn; nothing half-written is left."""
    import errno
    import os
    from pathlib import Path

    from bigbigan.io import files

    fail_at, calls = [0], [0]

    def counted(original):
        def act(*arguments, **named):
            calls[0] += 1
            if calls[0] == fail_at[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*arguments, **named)

        return act

    monkeypatch.setattr(files, "sync", counted(files.sync))
    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(Path, "mkdir", counted(Path.mkdir))
    tiny = ["--quiet", "--steps", "1", "--set", *TINY]
    verbs = {
        "train": ["train", "small/digits", "--data", made[1], "--out", tmp_path / "new", *tiny],
        "encode": ["encode", run, "--out", tmp_path / "o" / "f.npz", "--quiet"],
        "generate": ["generate", run, "--out", tmp_path / "o" / "g.png", "--quiet"],
        "reconstruct": ["reconstruct", run, "--out", tmp_path / "o" / "r.png", "--quiet"],
        "export": ["export", run, "--out", tmp_path / "o" / "model", "--quiet"],
        "evaluate": ["evaluate", run, "--metrics", "recon*", "--quiet", "--results", tmp_path / "o" / "r"],
        "inspect": ["data", "inspect", made[1], "--out", tmp_path / "o" / "sheet.png"],
    }  # fmt: skip
    failed = dict.fromkeys(verbs, 0)
    for name, verb in verbs.items():
        for fail_at[0] in range(1, 40):
            if name == "train" and fail_at[0] > 1 and fail_at[0] % 5:
                continue  # each try takes a step; a fifth of the places will do
            calls[0] = 0
            for left in (tmp_path / "o", tmp_path / "new"):
                shutil.rmtree(left, ignore_errors=True)
            code = main([str(word) for word in verb])
            err = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
            if calls[0] < fail_at[0]:
                assert code == 0, err
                break
            failed[name] += 1
            assert (code in (1, 2), len(err)) == (True, 1), (name, fail_at[0], err)
            assert "No space left on device" in err[0]
            left = list(tmp_path.rglob(f"{files.TEMPORARY}*"))
            assert not left, (name, fail_at[0])
    assert all(failed.values()), failed


def test_out_of_memory_is_one_line(run, made, tmp_path, monkeypatch, capsys):
    def too_much(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("bigbigan.training.loop.training_step", too_much)
    code = main(["train", "small/digits", "--data", made[1], "--out", str(tmp_path / "x"), "--quiet", "--set", *TINY])
    assert code == 1
    assert "lower training.batch_size=16, raise training.accumulate=1" in capsys.readouterr().err
    monkeypatch.setattr(Model, "generate_batches", too_much)
    assert main(["generate", str(run), "--out", str(tmp_path / "g.png")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("bigbigan: out of memory")
    assert err.count("\n") == 1
