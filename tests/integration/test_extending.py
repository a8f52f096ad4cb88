"""Code of one's own: the skeleton of docs/extending_skeleton, installed and run; and what is never run unasked."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import bigbigan
from bigbigan.cli import main
from bigbigan.config import override
from bigbigan.errors import UserError
from bigbigan.experiments import find
from bigbigan.methods import make_system
from bigbigan.models import build
from bigbigan.training.run_folder import read_config

SKELETON = Path(__file__).parents[2] / "docs" / "extending_skeleton"
DATA = "python:my_package.data:shapes"
SMALL = ["training.batch_size=8", "log.every=1", "log.pictures_every=2", "log.checkpoint_every=2",
         "log.validate_every=0", "log.standing_batches=2"]  # fmt: skip


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """The folder that the skeleton is installed into, as pip would install it for a user; no network is used."""
    folder = tmp_path_factory.mktemp("skeleton")
    shutil.copytree(SKELETON, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--target", folder / "installed", folder / "source"],
        check=True,
    )  # fmt: skip
    return folder / "installed"


@pytest.fixture(scope="module")
def run(target, tmp_path_factory):
    """A run of the skeleton's experiment, loss, encoder, data and logger, made in a process of its own."""
    folder = tmp_path_factory.mktemp("runs")
    path = os.pathsep.join([str(target), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    commands = [
        ["list"],
        ["train", "mine/denoising", "--data", DATA, "--log", "python:my_package.logger:CSV", "--out", "run", "--steps",
         "4", "--quiet", "--set", *SMALL],
    ]  # fmt: skip
    code = f"from bigbigan.cli import main\nassert [main(c) for c in {commands!r}] == [0, 0]"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("mine/denoising ") and "Train a denoising autoencoder" in line for line in lines)
    assert any(line.startswith("mine/wide_digits ") for line in lines)
    return folder / "run"


@pytest.fixture
def installed(target, monkeypatch):
    """The skeleton in this process."""
    monkeypatch.syspath_prepend(str(target))
    yield target
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


def ask(capsys, *words):
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_skeleton_trains_and_logs(run):
    config = json.loads((run / "config.json").read_text())
    assert config["experiment"] == "mine/denoising"
    assert config["system"] == "my_package.losses:Denoising"
    assert config["encoder"]["block"] == "my_package.encoders:Patches"
    with (run / "scalars.csv").open() as file:
        rows = list(csv.reader(file))
    assert {step for step, name, _ in rows if name == "latent_norm"} == {"1", "2", "3", "4"}
    assert {"data-0.png", "samples-2.png", "reconstructions-4.png"} <= {p.name for p in (run / "pictures").iterdir()}
    assert "system: " in (run / "settings.txt").read_text()


def test_skeleton_run_is_resumed_alone_without_double_steps(run, copy, installed, capsys):
    shutil.rmtree(copy / "checkpoints" / "step-00000004")  # as if it had crashed after step 4 was logged
    code, _, err = ask(capsys, "train", "--out", copy, "--steps", "6")
    assert code == 0, err
    assert f"{copy} is continued: mine/denoising on {DATA}" in err
    assert "continuing from step 2" in err
    with (copy / "scalars.csv").open() as file:
        times = Counter((row[0], row[1]) for row in csv.reader(file))
    assert {step for step, _ in times} == set("123456")
    assert set(times.values()) == {1}
    code, out, err = ask(capsys, "compare", run, copy)
    assert code == 0, err
    assert re.search(r"training\.steps\b.*\b4\b.*\b6\b", out)


def test_skeleton_metric_is_measured_with_its_baselines(copy, installed, capsys):
    code, _, err = ask(capsys, "evaluate", copy, "--metrics", "my_package.metrics:effective_dimension", "--quiet")
    assert code == 0, err
    lines = [json.loads(line) for line in (copy / "results.jsonl").read_text().splitlines()]
    found = {(line["subject"], line["metric"]): line for line in lines}
    assert set(found) == {
        ("pixels", "effective_dimension_pixels"),
        ("untrained", "effective_dimension_avepool"),
        ("trained", "effective_dimension_avepool"),
    }
    for line in lines:
        assert 1 <= line["value"] <= 3 * 16 * 16
        assert line["protocol"]["function"] == "my_package.metrics:effective_dimension"


def test_own_encoder_keeps_its_weights_and_depends_on_the_seed(installed):
    config = find("my_package.experiments:denoising").config()
    import torch

    torch.manual_seed(1)
    first = build(config).encoder.state_dict()
    torch.manual_seed(2)
    again = build(config).encoder.state_dict()
    other = build(override(config, ["training.seed=1"])).encoder.state_dict()
    name = "trunk.embed.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    flat = first["trunk.mix.2.weight"].flatten(1)
    assert not torch.allclose(flat @ flat.T / (flat @ flat.T).diag().mean(), torch.eye(len(flat)), atol=0.01)


def test_experiment_by_name_keeps_its_default_data(installed):
    named, listed = find("my_package.experiments:wide_digits"), find("mine/wide_digits")
    assert (named.data, listed.data) == ("digits", "digits")
    assert named.config().experiment == "my_package.experiments:wide_digits"
    assert named.config().encoder.widths == (96, 192, 384)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["system=my_package.losses:Denoise", "networks=GE"], "has no Denoise; did you mean Denoising?"),
        (["system=my_package.losses:Denoising"], "networks=GED, but my_package.losses:Denoising trains GE"),
        (["system=my_package.data:shapes", "networks=GE"], "expected a subclass of bigbigan.methods.System"),
        (["encoder.block=my_package.data:shapes"], "TypeError"),
        (["encoder.block=my_package.losses:pixel_loss"], "encoder.block=my_package.losses:pixel_loss"),
    ],
)
def test_mistakes_in_own_code_are_one_line(installed, settings, message):
    config = override(find("small/digits").config(), settings)
    with pytest.raises(UserError) as error:
        make_system(config, build(config))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_experiment_that_returns_no_config_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "doors_wrong.py").write_text(
        "from bigbigan.config import TrainingConfig\nvalue = 3\n"
        "def number(): return 3\ndef bad(): return TrainingConfig(steps=-1)\ndef more(x): return x\n"
    )
    (tmp_path / "doors_broken.py").write_text("import no_such_thing\n")
    (tmp_path / "doors_syntax.py").write_text("def x(:\n")
    monkeypatch.chdir(tmp_path)
    for name, message in (
        ("doors_wrong:value", "is a int; expected a function that returns a bigbigan.config.Config"),
        ("doors_wrong:number", "returns a int; expected a bigbigan.config.Config"),
        ("doors_wrong:bad", "training.steps must be positive"),
        ("doors_wrong:more", "TypeError"),
        ("doors_broken:x", "doors_broken imports no_such_thing, which is not installed"),
        ("doors_syntax:x", "SyntaxError"),
        ("doors_absent:x", "there is no module doors_absent"),
    ):
        code, _, err = ask(capsys, "train", name, "--out", tmp_path / "x", "--data", "digits")
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err
    assert not (tmp_path / "x").exists()


def test_an_entry_point_that_fails_is_a_warning(tmp_path, monkeypatch, capsys):
    info = tmp_path / "doors_points-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: doors-points\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[bigbigan.experiments]\nmine/lost = doors_lost:x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    code, out, err = ask(capsys, "list")
    assert code == 0
    assert "small/digits" in out
    assert "mine/lost" in err
    assert "there is no module doors_lost" in err
    assert "did you mean mine/lost?" in ask(capsys, "train", "mine/lots", "--out", tmp_path / "x")[2]


# -- what is not run unless the user trusts it -------------------------------------------------------------------


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    """Another user: the runs of this one are foreign to them."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module in the current folder that leaves a mark when it is imported, and fails."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doors_trap.py").write_text("open('sprung', 'w').close()\nraise RuntimeError('sprung')\n")
    return tmp_path / "sprung"


def test_code_of_a_run_of_ones_own_needs_no_trust(copy, installed):
    model = bigbigan.load(copy)
    assert model.encoder.num_features == 64
    assert len(model.generate(2, truncation=0.5)) == 2


def test_code_of_a_foreign_run_needs_trust(copy, installed, stranger, capsys, tmp_path):
    out = tmp_path / "g.png"
    refused = "names Python code, my_package.encoders:Patches, which is not run unless you trust it: --trust my_package"
    for verb in (["encode", copy, "--data", "digits", "--out", tmp_path / "f.npz"],
                 ["evaluate", copy, "--data", DATA], ["generate", copy, "--out", out]):  # fmt: skip
        code, _, err = ask(capsys, *verb)
        assert code == 2, verb
        assert refused in err
    assert ask(capsys, "report", copy)[0] == 0  # without what needs the model
    assert "names Python code" in (copy / "report.html").read_text()
    with pytest.raises(UserError, match=r"in Python: trust='my_package'"):
        bigbigan.load(copy)
    assert "my_package" not in sys.modules
    with pytest.raises(UserError, match="names Python code"):
        bigbigan.load(copy, trust="my_pack")
    assert ask(capsys, "generate", copy, "--out", out, "--trust", "my_package", "--count", 2)[0] == 0
    assert bigbigan.load(copy, trust="my_package").encoder.num_features == 64
    assert bigbigan.load(copy, trust=["my_package.encoders"]).encoder.num_features == 64
    with pytest.raises(UserError, match="names Python code"):  # trust ends with the command
        bigbigan.load(copy)


def test_training_a_foreign_run_needs_trust(copy, installed, stranger, capsys, tmp_path):
    for words in (["--out", copy], ["--config", copy / "config.json", "--out", tmp_path / "x", "--data", "digits"]):
        code, _, err = ask(capsys, "train", *words)
        assert code == 2
        assert "names Python code, my_package.losses:Denoising" in err
        assert err.count("\n") == 1
    code, _, err = ask(capsys, "train", "--out", copy, "--trust", "my_package")
    assert code == 2
    assert f"was not trained here by you, so the data it names are not opened; to open them, give --data {DATA}" in err
    assert "my_package" not in sys.modules
    command = ["train", "--out", copy, "--trust", "my_package", "--data", DATA, "--steps", "5", "--quiet"]
    assert ask(capsys, *command)[0] == 0
    assert read_config(copy).training.steps == 5


@pytest.mark.parametrize(
    ("setting", "command"),
    [
        ("encoder.block=doors_trap:Trunk", "generate"),
        ("encoder.block=doors_trap:Trunk", "train"),
        ("system=doors_trap:System", "train"),
        ("log.loggers=[doors_trap:Logger]", "train"),
    ],
)
def test_code_put_into_ones_own_run_is_not_run(copy, installed, trap, setting, command, capsys):
    """The seal of data.json does not cover it."""
    override(read_config(copy), [setting]).save(copy / "config.json")
    words = ["generate", copy, "--out", copy / "g.png"] if command == "generate" else ["train", "--out", copy]
    code, _, err = ask(capsys, *words)
    assert code == 2
    assert "names Python code, " in err
    code, _, err = ask(capsys, *words, "--trust", "my_package")
    assert code == 2
    assert "names Python code, doors_trap:" in err
    assert not trap.exists()
    assert ask(capsys, *words, "--trust", "doors_trap", "--trust", "my_package")[0] == 2
    assert trap.exists()


@pytest.mark.parametrize(
    "text",
    ["experiment: doors_trap:x", "system: doors_trap:System", "{log: {loggers: ['python:doors_trap:Logger']}}"],
)
def test_code_that_a_settings_file_names_needs_trust(trap, text, capsys):
    Path("mine.yaml").write_text(text)
    words = ["train", "--config", "mine.yaml", "--out", "x", "--data", "digits"]
    code, _, err = ask(capsys, *words)
    assert code == 2
    assert "mine.yaml names Python code, " in err
    assert "--trust doors_trap" in err
    assert not trap.exists()
    assert not Path("x").exists()
    assert ask(capsys, *words, "--trust", "doors_trap")[0] == 2
    assert trap.exists()


def test_a_name_typed_as_part_of_another_is_not_trusted(trap, capsys):
    Path("mine.yaml").write_text("system: doors_trap:System")
    words = ["train", "--config", "mine.yaml", "--out", "x", "--data", "digits", "--log", "python:doors_trap:Systems"]
    code, _, err = ask(capsys, *words)
    assert (code, "mine.yaml names Python code, doors_trap:System" in err) == (2, True)
    assert not trap.exists()


def test_an_exported_model_with_own_code_needs_trust(copy, installed, stranger, tmp_path, capsys):
    command = ["export", copy, "--out", tmp_path / "model", "--quiet"]
    assert ask(capsys, *command)[0] == 2
    assert ask(capsys, *command, "--trust", "my_package")[0] == 0
    with pytest.raises(UserError, match=r"names Python code, my_package\.encoders:Patches"):
        bigbigan.load(tmp_path / "model")
    assert bigbigan.load(tmp_path / "model", trust="my_package").encoder.num_features == 64


def test_a_run_whose_module_is_gone_says_so(copy, capsys, tmp_path):
    code, _, err = ask(capsys, "generate", copy, "--out", tmp_path / "g.png")
    assert code == 2
    assert "my_package.encoders:Patches: there is no module my_package, neither installed nor in the current" in err
    assert err.count("\n") == 1
