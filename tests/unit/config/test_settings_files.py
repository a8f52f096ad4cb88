"""Settings in YAML and JSON files: --config reads what --print-config prints, and mistakes name the line."""

import json
import shutil

import pytest
import yaml

from bigbigan.cli import main
from bigbigan.config import Config, override
from bigbigan.config.comments import meanings
from bigbigan.config.files import as_yaml, read_settings
from bigbigan.config.schema import EncoderConfig, flat
from bigbigan.errors import UserError
from bigbigan.experiments import EXPERIMENTS, find


@pytest.fixture
def file(tmp_path):
    def write(text, name="mine.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_print_config_is_read_back_for_each_experiment(name, file):
    """The values, with their types; `Config` from equal values is tested in tests/unit/experiments."""
    config = find(name).config()
    found = read_settings(file(as_yaml(config)))
    assert found.complete
    wanted = flat(config.to_dict())
    assert {k: (type(v), v) for k, v in found.values.items()} == {k: (type(v), v) for k, v in wanted.items()}


@pytest.mark.parametrize("name", ["table1/revnet_x4", "pretext/cpc", "biggan/128", "small/digits"])
def test_print_config_gives_the_same_config(name, capsys, file, tmp_path):
    settings = ["optimizer.eps=1e-08", "optimizer.lr_g=3e-05", "log.loggers=[]", "training.seed=7"]
    assert main(["train", name, "--set", *settings, "--print-config"]) == 0
    printed = capsys.readouterr().out
    config = override(find(name).config(), settings)
    assert read_settings(file(printed)).config(find("small/mnist").config()) == config
    assert main(["train", "--config", str(tmp_path / "mine.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == printed


def test_print_config_has_the_comment_of_each_setting():
    words = " ".join(as_yaml(Config()).replace("#", " ").split())
    for group in (Config, EncoderConfig):
        for name, text in meanings(group).items():
            assert " ".join(text.split()) in words, name


def test_a_file_is_put_on_its_experiment(file):
    text = "experiment: small/digits\ntraining:\n  steps: 5\nencoder.widths: [8, 16, 32]\noptimizer: {eps: 1e-7}\n"
    found = read_settings(file(text))
    wanted = ["training.steps=5", "encoder.widths=[8,16,32]", "optimizer.eps=1e-7"]
    assert found.config(find("small/digits").config()) == override(find("small/digits").config(), wanted)
    as_json = json.dumps({"experiment": "small/digits", "training": {"steps": 5}})
    assert read_settings(file(as_json, "a.json")).config(Config()).training.steps == 5
    assert read_settings(file('{"data": {}}', "b.json")).config(Config()) == Config()


def test_config_is_combined_with_an_experiment_and_set(file, capsys):
    path = file("training: {steps: 5, seed: 3}\ndata.augment: flip\n")
    command = ["train", "small/folder64", "--config", str(path), "--set", "training.seed=4", "--print-config"]
    assert main(command) == 0
    wanted = ["training.steps=5", "data.augment=flip", "training.seed=4"]
    assert yaml.safe_load(capsys.readouterr().out) == override(find("small/folder64").config(), wanted).to_dict()


def test_config_json_of_a_run_is_read(tmp_path, capsys):
    config = override(find("table1/base").config(32), ["training.steps=3"])
    config.save(tmp_path / "config.json")
    before = json.loads((tmp_path / "config.json").read_text())
    del before["log"]["loggers"]  # as an earlier version wrote it
    (tmp_path / "config.json").write_text(json.dumps(before))
    assert main(["train", "--config", str(tmp_path / "config.json"), "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == config.to_dict()


MISTAKES = {
    "trainin:\n  steps: 3": "line 1: there is no setting trainin; did you mean training?",
    "training:\n  stepps: 3": "line 2: there is no setting training.stepps; did you mean training.steps?",
    "training:\n  steps: many": "line 2: training.steps: expected a whole number, got many",
    "\n\nencoder:\n  block: basik": "line 4: encoder.block: expected one of basic, bottleneck",
    "training.steps: -3": "line 1: training.steps must be positive",
    "training: 3": "line 1: expected settings, as name: value",
    "training:\n  steps: 3\n  steps: 4": "line 3: training.steps is there twice, first in line 2",
    "training: {steps: {a: 1}}": "line 1: training.steps is {'a': 1}; expected a value",
    "training: [": "line 1: this is not YAML",
    "encoder.widths: !!python/name:os.system": "line 1: this is not YAML",
    "- training": "line 1: expected settings, as name: value",
    "experiment: small/digit\n": "there is no experiment small/digit; did you mean small/digits?",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_file_names_its_line(text, file, capsys):
    assert main(["train", "--config", str(file(text)), "--out", "never"]) == 2
    said = capsys.readouterr().err
    assert MISTAKES[text] in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"training": {"stepps": 3}}', "there is no setting training.stepps; did you mean training.steps?"),
        ('{"training": {"steps": "x"}}', "training.steps: expected a whole number, got x"),
        ('{"training": {"steps": 3}', "line 1: this is not JSON"),
        ("[1]", "expected a JSON object with settings"),
        ('{"data": 3}', "data is 3; expected settings, as name: value"),
    ],
)
def test_a_mistake_in_json_is_one_line(text, message, file):
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as error:
        read_settings(file(text, "mine.json")).config(Config())
    assert "\n" not in str(error.value)


def test_settings_come_from_one_place(file, tmp_path, capsys):
    complete = file(as_yaml(find("small/digits").config()), "all.yaml")
    for words, message in (
        (["small/mnist", "--config", complete], "has all settings; remove EXPERIMENT, small/mnist"),
        (["--config", complete, "--scale", "32"], "--scale 32 goes with EXPERIMENT"),
        (["--config", tmp_path / "none.yaml"], "there is no such file"),
        (["--config", tmp_path], "cannot be read"),
        (["--out", tmp_path / "none"], "there is no run to continue"),
        ([], "expected EXPERIMENT, such as small/digits"),
        (
            ["small/digits", "--log", "tensorbord"],
            "--log tensorbord: expected tensorboard, wandb or python:MODULE:NAME",
        ),
        (["small/digits", "--log", "no_such_module:X"], "there is no module no_such_module"),
    ):
        assert main(["train", *map(str, words)]) == 2
        assert message in capsys.readouterr().err
    shutil.rmtree(tmp_path / "none", ignore_errors=True)


def test_the_experiment_on_the_command_line_is_the_one_that_is_recorded(tmp_path, capsys):
    """A file's own `experiment` and `scale` say where its settings come from, if the command line does not."""
    (tmp_path / "mine.yaml").write_text("experiment: table1/base\nscale: 16\ntraining.steps: 7\n")
    words = ["train", "table1/revnet", "--scale", "32", "--config", str(tmp_path / "mine.yaml"), "--print-config"]
    assert main(words) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["experiment"], printed["scale"], printed["training"]["steps"]) == ("table1/revnet", 32, 7)
    assert printed["encoder"]["block"] == "reversible"
