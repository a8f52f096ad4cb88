"""An exported model is the run's, loads anywhere, and says what it is; a damaged one is refused in one line."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bigbigan import load
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.config import override
from bigbigan.errors import UserError
from bigbigan.experiments import find
from bigbigan.inference.hub import is_hub_name
from bigbigan.inference.pretrained import FOLDER, pretrained_names
from bigbigan.integrations.export import _without_folder, _without_places, export
from bigbigan.models import build
from tiny import tiny_config, write_npz


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secret-project")
    train(tiny_config("training.steps=6"), str(write_npz(folder / "rows.npz")), folder / "run", progress=False)
    metrics = "knn5_l2_avepool,reconstruction_ratio"
    assert main(["evaluate", str(folder / "run"), "--quiet", "--metrics", metrics]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "model"
    assert main(["export", str(run), "--out", str(out)]) == 0
    return out


def test_the_exported_model_is_the_run_s(run, exported):
    ours, theirs = load(run), load(exported)
    x = torch.rand(5, 1, 8, 8) * 2 - 1
    assert torch.equal(ours.encode(x).bn_crelu_feat, theirs.encode(x).bn_crelu_feat)
    assert torch.equal(ours.reconstruct(x), theirs.reconstruct(x))
    z = torch.randn(5, 8)
    assert torch.equal(ours.discriminate(x, z).score_xz, theirs.discriminate(x, z).score_xz)
    assert (ours.step, ours.images_seen, ours.config) == (theirs.step, theirs.images_seen, theirs.config)


@pytest.fixture(scope="module")
def compact(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "model"
    assert main(["export", str(run), "--out", str(out), "--compact"]) == 0
    return out


def test_a_compact_model_is_small_and_nearly_the_same(exported, compact):
    size, whole = ((folder / "model.safetensors").stat().st_size for folder in (compact, exported))
    assert size < 0.6 * whole
    ours, theirs = load(exported), load(compact)
    assert theirs.networks.D is None
    assert {p.dtype for p in theirs.encoder.parameters()} == {torch.float32}
    x = torch.rand(5, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(theirs.encode(x).bn_crelu_feat, ours.encode(x).bn_crelu_feat, rtol=0.02, atol=0.02)
    assert not torch.equal(theirs.encode(x).bn_crelu_feat, ours.encode(x).bn_crelu_feat)
    assert json.loads((compact / "model.json").read_text())["weights_dtype"] == "float16"
    assert "float16" in (compact / "README.md").read_text()


def test_float16_weights_are_refused_unless_compact(compact, tmp_path):
    other = shutil.copytree(compact, tmp_path / "other")
    about = json.loads((other / "model.json").read_text())
    del about["weights_dtype"], about["crc32"]
    (other / "model.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="is float16; expected float32"):
        load(other)


def test_a_model_of_the_package_loads_by_name(compact, tmp_path, monkeypatch, capsys):
    shutil.copytree(compact, tmp_path / "shipped" / "small" / "digits")
    monkeypatch.setattr("bigbigan.inference.pretrained.FOLDER", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    assert pretrained_names() == ["small/digits"]
    assert load("small/digits").step == 6
    assert main(["generate", "small/digits", "--out", "grid.png", "--count", "2", "--quiet"]) == 0
    assert main(["report", "small/digits"]) == 2
    assert "--out is required for small/digits" in capsys.readouterr().err
    Path("small/digits").mkdir(parents=True)  # a local folder comes first
    with pytest.raises(UserError):
        load("small/digits")
    (tmp_path / "shipped/small/digits/model.safetensors").write_bytes(b"damaged")
    shutil.rmtree("small")
    with pytest.raises(UserError, match="SHA-256 differs"):
        load("small/digits")


def test_a_model_exported_by_its_name_keeps_what_is_known_of_it(tmp_path):
    name = pretrained_names()[0]
    by_name, by_folder = (export(run, tmp_path / f"{i}") for i, run in enumerate((Path(name), FOLDER / name)))
    for file in ("model.json", "README.md", "results.jsonl"):
        assert (by_name / file).read_bytes() == (by_folder / file).read_bytes()
    assert json.loads((by_name / "model.json").read_text())["data"]


def test_models_of_the_package_are_whole_and_small():
    for name in pretrained_names():
        model = load(name)
        assert model.config.experiment == {"small/caltech101": "small/folder64"}.get(name, name)
        assert sum(file.stat().st_size for file in (FOLDER / name).iterdir()) < 5 * 2**20


def test_the_folder_is_whole_and_names_no_place_of_the_machine(run, exported):
    names = {p.name for p in exported.iterdir()}
    assert names == {"model.safetensors", "config.json", "model.json", "results.jsonl", "README.md", "samples.png"}
    about = json.loads((exported / "model.json").read_text())
    assert about["data"]["images"] == 60
    for name in names - {"model.safetensors", "samples.png"}:
        text = (exported / name).read_text()
        assert "secret-project" not in text, name
        assert str(run.parents[1]) not in text, name


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("bigbigan evaluate '/home/al b/a' --data '/home/al b/My set'", "bigbigan evaluate a --data 'My set'"),
        ("bigbigan evaluate a --data=/home/alice/x", "bigbigan evaluate a --data=x"),
        ("bigbigan evaluate hub:/home/al/repo:enc --data mnist:/m", "bigbigan evaluate hub:repo:enc --data mnist:m"),
        ("bigbigan evaluate timm:local-dir:/home/alice/w", "bigbigan evaluate timm:local-dir:w"),
        ("bigbigan train x --set a.b=[1,2]", "bigbigan train x --set 'a.b=[1,2]'"),
        ("bigbigan evaluate 'open", "bigbigan evaluate ''\"'\"'open'"),
    ],
)  # fmt: skip
def test_commands_of_an_export_name_no_folder(command, expected):
    line = {"command": command, "subject": "external", "experiment": "hub:/home/alice/repo:enc"}
    assert _without_places(line) == line | {"command": expected, "experiment": "hub:repo:enc"}


def test_the_card_tells_what_was_measured_and_its_code_runs(exported):
    card = (exported / "README.md").read_text()
    assert "60 images, without labels" in card
    lines = [json.loads(line) for line in (exported / "results.jsonl").read_text().splitlines()]
    value = {(line["metric"], line["subject"]): line["value"] for line in lines}
    assert "| top-1 accuracy, % | 5-NN, all labels |" in card
    assert f"| trained E, AvePool | {value['knn5_l2_avepool', 'trained']:.1f} |" in card
    ratio = f"{value['reconstruction_ratio', 'trained']:.4g}"
    assert f"- reconstruction, matched / mismatched: {ratio}" in card
    assert "knn5_l2" not in card
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    code = code.replace("THIS FOLDER", str(exported))
    exec(compile(code, "README.md", "exec"), {"images": torch.zeros(2, 1, 8, 8)})


def test_the_card_tells_changed_settings_from_those_left_to_auto(tmp_path):
    config = tiny_config("training.steps=2")
    train(config, str(write_npz(tmp_path / "rows.npz")), tmp_path / "run", progress=False)
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text()) | {"experiment": "small/mnist"}
    stored["data"] |= {"window_percentiles": [0.1, 99.9], "window": [0.1 + 0.2, 3174.001000000004]}
    stored["loss"]["latent_regression"] = 3174.001000000004
    del stored["crc32"]
    path.write_text(json.dumps(stored))
    with pytest.warns(UserWarning, match="config.json"):
        card = (export(tmp_path / "run", tmp_path / "out") / "README.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]*) \| (.*) \|$", card, flags=re.MULTILINE))
    assert "training.precision" not in rows["changed settings"]
    assert "training.precision=" in rows["settings that are auto in the experiment"]
    assert "`loss.latent_regression=3174.0`" in rows["changed settings"]
    assert "`data.window_percentiles=[0.1, 99.9]`" in rows["changed settings"]
    assert "data.window=" not in card
    assert rows["window"] == "0.3 is black, 3174 white"


def test_verbs_take_an_exported_model(exported, run, tmp_path, capsys):
    data, folder = str(run.parent / "rows.npz"), str(exported)
    before = {p.name: p.read_bytes() for p in exported.iterdir()}
    for arguments in (
        ["generate", folder, "--count", "4", "--out", str(tmp_path / "g.png")],
        ["encode", folder, "--data", data, "--out", str(tmp_path / "f.npz")],
        ["reconstruct", folder, "--data", data, "--count", "4", "--out", str(tmp_path / "r.png")],
        ["evaluate", folder, "--data", data, "--quiet", "--metrics", "knn5_l2_avepool"],
    ):
        assert main(arguments) == 0
    assert {p.name: p.read_bytes() for p in exported.iterdir()} == before
    capsys.readouterr()
    assert main(["evaluate", folder, "--quiet"]) == 2
    assert "--data SOURCE is missing" in capsys.readouterr().err


def test_a_gan_and_an_unevaluated_run_are_exported_too(tmp_path, capsys):
    data = str(write_npz(tmp_path / "rows.npz"))
    gan = tiny_config("training.steps=2", "loss.s_z=false", "loss.s_xz=false")
    train(gan, data, tmp_path / "run", progress=False)
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    model = load(tmp_path / "out")
    assert model.networks.E is None
    card = (tmp_path / "out" / "README.md").read_text()
    assert "was not evaluated" in card
    assert "model.encode" not in card


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_package_that_onnx_needs_is_named(package, run, tmp_path, monkeypatch, capsys):
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None if name == package else ModuleType(name))
    assert main(["export", str(run), "--out", str(tmp_path / "out"), "--onnx"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'bigbigan[onnx]'" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_hub_name_without_its_package_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"owner/name@v1 is not a local folder.*pip install 'bigbigan\[hub\]'"):
        load("owner/name@v1")
    assert main(["generate", "owner/name", "--out", "grid.png"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_report_and_compare_take_a_name_on_the_hub(exported, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bigbigan.inference.loading.download", lambda name: exported)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "owner/name"]) == 2
    assert "--out is required for owner/name, a model on the Hugging Face Hub" in capsys.readouterr().err
    assert main(["report", "owner/name", "--out", "page.html", "--quiet"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "reconstruction_ratio" in page
    assert "on own-" in page
    assert "Not part of an exported model." in page
    assert "Not evaluated yet" not in page
    assert "<dd>0 s</dd>" not in page  # the training time is not recorded
    assert main(["compare", "owner/name", str(run)]) == 0
    assert "no setting differs" in capsys.readouterr().out


def test_a_path_is_not_taken_for_a_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    for name in ("owner/name", "owner/name@v1.0", "owner/name@refs/pr/1", "a_b.c/d-e"):
        assert is_hub_name(name), name
        assert is_hub_name(Path(name)), name
    paths = (
        "runs/digits",
        "runs/typo",
        "name",
        "a/b/c",
        "/a/b",
        "./a",
        "./a/b",
        "../a",
        "a/..",
        "~/a",
        "a/b c",
        "a/b@",
    )
    for name in (*paths, "owner/ñame", "owner/name\n", ""):
        assert not is_hub_name(name), name


CONVOLUTIONAL = ["generator.channels=[8,8,8]", "discriminator.channels=[8,8]", "encoder.widths=[8,8,8,8,8]"]
EXPORTABLE = {
    "bigbigan": tiny_config(),
    "z to the seed alone": tiny_config("generator.skip_z=false"),
    "bigan": override(find("bigan/imagenet").config(0), [*CONVOLUTIONAL, "encoder.resolution=32"]),
}


@pytest.mark.parametrize("kind", EXPORTABLE)
def test_torch_export_leaves_the_batch_free(kind):
    config = EXPORTABLE[kind]
    networks = build(config)
    for network, shape in (
        (networks.G, (config.latent.dim,)), (networks.E.trunk, (config.data.channels, *[config.encoder.resolution] * 2))
    ):  # fmt: skip
        network.eval().requires_grad_(False)
        shapes = ({0: torch.export.Dim("N")},)  # raises where N is not free
        program = torch.export.export(network, (torch.zeros(2, *shape),), dynamic_shapes=shapes).module()
        x = torch.rand(5, *shape)
        torch.testing.assert_close(program(x), network(x))


def damage(name, change):
    def apply(folder):
        path = folder / name
        change(path)

    return apply


@pytest.mark.parametrize("file", ["config.json", "model.json", "results.jsonl"])
def test_a_changed_digit_of_an_export_is_reported(file, exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    old, new = {"model.json": ('"step": 6', '"step": 9'), "results.jsonl": ('"seed": 0', '"seed": 9')}.get(
        file, ('"seed": 0', '"seed": 9')
    )
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    with pytest.warns(UserWarning, match=rf"{file}.* (changed since it was written|not the file that was exported)"):
        export(copy, tmp_path / "again")


DAMAGES = {
    "weights changed": (damage("model.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-1] + b"x")), "SHA-256"),
    "weights missing": (damage("model.safetensors", lambda p: p.unlink()), "not a complete exported model"),
    "about is no JSON": (damage("model.json", lambda p: p.write_text("{")), "cannot be read as JSON"),
    "about is empty": (damage("model.json", lambda p: p.write_text("{}")), "it has no schema"),
    "newer schema": (
        damage("model.json", lambda p: p.write_text(p.read_text().replace('"schema": 1', '"schema": 2'))), "reads 1"
    ),
    "settings missing": (damage("config.json", lambda p: p.unlink()), "does not exist"),
    "other settings": (
        damage("config.json", lambda p: p.write_text(p.read_text().replace('"shared_dim": 4', '"shared_dim": 6'))),
        "does not fit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(kind, exported, tmp_path):
    apply, message = DAMAGES[kind]
    copy = shutil.copytree(exported, tmp_path / "copy")
    apply(copy)
    with pytest.raises(UserError, match=message) as error:
        load(copy)
    assert "\n" not in str(error.value)


def test_nothing_is_overwritten(run, exported, tmp_path, capsys):
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    assert main(["export", str(run), "--out", str(full)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert [p.name for p in full.iterdir()] == ["thesis.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["export", str(run), "--out", str(empty)]) == 0
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".writing")]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("C:\\Users\\me\\photos", "photos"),
        ("--data=C:\\Users\\me\\photos", "--data=photos"),
        ("/home/me/photos", "photos"),
        ("--data=/home/me/photos", "--data=photos"),
        ("training.steps=5", "training.steps=5"),
    ],
)
def test_commands_of_exported_results_name_no_folder(word, expected):
    assert _without_folder(word) == expected


def test_private_data_get_a_neutral_name(tmp_path):
    data = write_npz(tmp_path / "patients_of_dr_smith.npz")
    run = tmp_path / "run"
    train(tiny_config("training.steps=2"), str(data), run, progress=False)
    other = write_npz(tmp_path / "other.npz", seed=1)
    for source in (other, data):
        call = ["evaluate", str(run), "--data", str(source), "--quiet", "--metrics", "knn5_l2_avepool"]
        assert main(call) == 0
    out = tmp_path / "model"
    assert main(["export", str(run), "--out", str(out)]) == 0
    name = json.loads((out / "model.json").read_text())["data"]["name"]
    assert re.fullmatch("own-[0-9a-f]{8}", name)
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {line["dataset"] for line in lines} == {name, "other"}
    for file in out.iterdir():
        assert b"dr_smith" not in file.read_bytes(), file
