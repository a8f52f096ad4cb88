"""What is trained on one data set can be measured on any other: another size, other channels; and the lines say so."""

import json

import numpy as np
import pytest

from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.evaluation.published_tables import fill
from reproduction.measure import transfer
from tiny import tiny_config, write_npz

FORMS = {"grey": (8, 1), "colour": (8, 3), "larger": (20, 1), "smaller, in colour": (6, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    for name, (side, channels) in FORMS.items():
        write_npz(folder / f"{name}.npz", side=side, channels=channels)
    for name, channels in (("grey", 1), ("colour", 3)):
        config = tiny_config("training.steps=2", f"data.channels={channels}")
        train(config, str(folder / f"{name}.npz"), folder / f"run {name}", progress=False)
    return folder


@pytest.mark.parametrize("other", FORMS)
@pytest.mark.parametrize("own", ["grey", "colour"])
def test_a_run_is_measured_on_any_form_of_images(own, other, folder, capsys):
    call = ["evaluate", str(folder / f"run {own}"), "--data", str(folder / f"{other}.npz"), "--quiet", "--json"]
    assert main([*call, "--metrics", "top1_linear_bn_crelu_10perclass,knn1_l2_pixels"]) == 0
    lines = json.loads(capsys.readouterr().out)
    few = "top1_linear_bn_crelu_10perclass"
    assert {(x["metric"], x["subject"], x["steps"]) for x in lines} == {
        ("knn1_l2_pixels", "pixels", 0), (few, "untrained", 0), (few, "trained", 2)
    }  # fmt: skip
    assert {x["protocol"].get("trained_on") for x in lines} == {own if other != own else None}
    pixels = next(x["value"] for x in lines if x["metric"] == "knn1_l2_pixels")
    assert pixels > 90  # a bright row tells the classes apart; it must survive another size and other channels


def test_grey_images_and_their_colour_copies_give_equal_results(folder, tmp_path, capsys):
    """Grey is repeated for a colour encoder; grey in three channels comes back as it was for a grey one."""
    with np.load(folder / "grey.npz") as arrays:
        tripled = {k: np.repeat(v[..., None], 3, axis=-1) if k.endswith("images") else v for k, v in arrays.items()}
    np.savez(tmp_path / "grey.npz", **tripled)
    for own in ("grey", "colour"):
        found = []
        for data in (folder / "grey.npz", tmp_path / "grey.npz"):
            call = ["evaluate", str(folder / f"run {own}"), "--data", str(data), "--quiet", "--json"]
            assert main([*call, "--metrics", "top1_linear_bn_crelu_10perclass"]) == 0
            found.append([x["trials"] for x in json.loads(capsys.readouterr().out)])
        assert found[0] == found[1]


def test_lines_of_other_data_stay_out_of_published_tables():
    line = {"study": "evaluation", "subject": "trained",
            "experiment": "table1/base", "metric": "top1_table1_avepool", "steps": 9, "value": 77.77, "std": None,
            "dataset": "other", "split": "train_val", "settings": {}, "protocol": {}, "n": 9,
            "images_seen": 9, "seed": 0}  # fmt: skip
    assert "77.7" in str(fill("1", [line]))
    assert "77.7" not in str(fill("1", [line | {"protocol": {"trained_on": "imagenet"}}]))


@pytest.mark.long
def test_transfer_measures_every_run_on_every_source(folder, tmp_path):
    out = tmp_path / "lines.jsonl"
    runs = [folder / "run grey", folder / "run colour"]
    sources = [folder / "grey.npz", folder / "larger.npz"]
    arguments = ["--max-images", "45", "--results", out, "--runs", *runs, "--sources", *sources]
    assert transfer.main(list(map(str, arguments))) == 0
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    found = {
        (x["protocol"]["trained_on"], x["protocol"]["channels"], x["dataset"], x["metric"], x["subject"]) for x in lines
    }
    assert len(found) == len(lines) == 2 * 2 * 2 * 4  # runs, sources, protocols; pixels, PCA pixels, untrained, trained
    assert {x["protocol"]["train_images"] for x in lines} == {45}
    assert {x["study"] for x in lines} == {"transfer"}
    (command,) = {x["command"] for x in lines}
    assert command.startswith(
        "python -m reproduction.measure.transfer --max-images 45 --results lines.jsonl --runs 'run grey'"
    )
    assert {x["n"] for x in lines} == {45}


def test_a_run_that_is_none_is_refused_in_one_line(tmp_path, capsys):
    arguments = ["--runs", str(tmp_path / "none"), "--sources", "digits", "--results", str(tmp_path / "lines")]
    assert transfer.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
