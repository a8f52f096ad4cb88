"""Comparison of runs: what differs, results side by side, means over seeds, and the page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from test_report import Page, line

from bigbigan.apps.compare import comparable, compare
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.evaluation.records import append_results
from tiny import tiny_config, write_npz


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs: two that differ in their seed, and one with another batch size too."""
    folder = tmp_path_factory.mktemp("compare")
    data = write_npz(folder / "rows.npz")
    for name, *settings in (("a",), ("b", "training.seed=1"), ("c", "training.batch_size=20", "log.every=2")):
        config = tiny_config("training.steps=4", "log.every=1", "log.pictures_every=2", *settings)
        train(config, str(data), folder / name, progress=False)
    few = "top1_linear_bn_crelu_10perclass"
    append_results(folder / "a" / "results.jsonl", [line(few, 11.0, 2.0, 4), line("knn5_l2_avepool", 9.0, steps=4)])
    append_results(folder / "a" / "results.jsonl", [line(few, 50.0, 2.0, 4), line("reconstruction_ratio", 0.5)])
    append_results(folder / "b" / "results.jsonl", [line(few, 54.0, 1.0, 4), line("top1", 1.0, dataset="elsewhere")])
    append_results(folder / "c" / "results.jsonl", [line(few, 60.0, 1.5, 6), line("reconstruction_ratio", 0.75)])
    return folder


def test_only_settings_that_differ_are_listed(runs):
    found = compare([runs / "a", runs / "b", runs / "c"])
    assert found.differing == {"training.seed": [0, 1, 0], "training.batch_size": [16, 16, 20]}
    assert compare([runs / "a", runs / "b"]).differing == {"training.seed": [0, 1]}


def test_results_are_the_newest_lines_of_each_run(runs):
    found = compare([runs / "a", runs / "b", runs / "c"])
    values = {key: [x and x["value"] for x in lines] for key, lines in found.results.items()}
    assert values == {
        ("top1_linear_bn_crelu_10perclass", "trained"): [50.0, 54.0, 60.0],
        ("reconstruction_ratio", "trained"): [0.5, None, 0.75],
        ("knn5_l2_avepool", "trained"): [9.0, None, None],
    }


def test_runs_that_differ_in_their_seed_get_a_mean(runs):
    found = compare([runs / "a", runs / "b", runs / "c"])
    assert found.repeats == {"a, 2 seeds": [0, 1]}
    few, ratio, _ = found.results.values()
    assert found.spread(few, [0, 1]) == "52.0 ± 2.8"
    assert found.spread(ratio, [0, 1]) == ""  # b lacks it
    assert compare([runs / "a", runs / "c"]).repeats == {}


def test_command_prints_a_table_and_json(runs, capsys):
    names = [str(runs / name) for name in ("a", "b", "c")]
    assert main(["compare", *names]) == 0
    lines = [text.split() for text in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["a", "b", "c", "a,", "2", "seeds"]
    assert ["training.batch_size", "16", "16", "20"] in lines
    assert ["reconstruction,", "matched", "/", "mismatched", "0.5", "-", "0.75", "-"] in lines
    assert ["linear,", "10", "labels", "per", "class,", "%"] in lines
    assert [
        "trained",
        "E,",
        "BN+CReLU",
        "50.0",
        "±",
        "2.0",
        "54.0",
        "±",
        "1.0",
        "60.0",
        "±",
        "1.5",
        "52.0",
        "±",
        "2.8",
    ] in lines
    assert main(["compare", *names, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["settings"]["training.seed"] == [0, 1, 0]
    assert printed["results"][0]["values"] == [50.0, 54.0, 60.0]
    assert printed["results"][0]["std"] == [2.0, 1.0, 1.5]
    assert printed["repeats"] == {"a, 2 seeds": ["a", "b"]}


def test_table_is_short_in_words_and_at_most_100_columns(runs, tmp_path, capsys):
    copies = [shutil.copytree(runs / "c", tmp_path / f"a_run_with_a_long_name_{i}") for i in range(6)]
    for i, copy in enumerate(copies):
        config = json.loads((copy / "config.json").read_text())
        del config["crc32"]
        config["training"]["seed"] = i
        (copy / "config.json").write_text(json.dumps(config))
        few = [line(f"auroc_linear_pixels_{n}perclass", 0.5, steps=4) for n in (1, 2, 5, 20)]
        append_results(copy / "results.jsonl", [*few, line("fid10k_train_mnist-cnn", 4.25, steps=4)])
    assert main(["compare", *map(str, copies)]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert "auroc" not in text
    assert "4 more values: --json prints them" in text
    assert "FID, 10k samples, train, mnist-cnn" in text
    for i in range(6):
        assert f"ng_name_{i}" in text
    assert len(text.splitlines()) < 40


def test_runs_of_the_same_seed_are_not_averaged(runs, tmp_path, capsys):
    copy = shutil.copytree(runs / "a", tmp_path / "copy")
    assert compare([runs / "a", copy]).repeats == {}
    assert compare([runs / "a", runs / "b", copy]).repeats == {}
    assert main(["compare", str(runs / "a"), str(copy)]) == 0
    assert "seeds" not in capsys.readouterr().out


def test_an_exported_model_shows_the_results_it_has(runs, tmp_path, capsys):
    assert main(["export", str(runs / "a"), "--out", str(tmp_path / "model"), "--quiet"]) == 0
    found = compare([tmp_path / "model", runs / "c"])
    assert [x["value"] for x in found.results["top1_linear_bn_crelu_10perclass", "trained"]] == [50.0, 60.0]
    assert "data" not in found.differing


def test_page_lists_only_what_differs_and_names_short_runs(runs, tmp_path):
    train(tiny_config("training.steps=4", "log.every=1"), str(runs / "rows.npz"), tmp_path / "d", progress=False)
    main(["compare", str(runs / "a"), str(runs / "c"), str(tmp_path / "d"), "--out", str(tmp_path / "page.html")])
    page = Page(tmp_path / "page.html")
    assert "experiment" not in page.text("Settings that differ")
    assert "device" not in page.text("Settings that differ")
    assert "Without a curve, as fewer than 4 steps are logged: c (2)." in page.text("Curves")
    assert ["trained E, BN+CReLU", "50.0 ± 2.0", "60.0 ± 1.5", "–"] in page.rows


def test_page_has_tables_curves_and_samples(runs, tmp_path, capsys):
    out = tmp_path / "pages" / "page.html"
    assert main(["compare", str(runs / "a"), str(runs / "c"), "--out", str(out)]) == 0
    page = Page(out)
    assert list(page.texts)[1:] == ["Settings that differ", "Results", "Curves", "Samples", "Reconstructions"]
    assert ["training.batch_size", "16", "20"] in page.rows
    assert ["top1_linear_bn_crelu_10perclass", "50.0 ± 2.0", "60.0 ± 1.5"] in page.rows
    assert "after different numbers of steps" in page.text("Results")
    assert any("Losses: D; last: a" in svg["aria-label"] for svg in page.named("svg"))
    captions = page.text("Samples")
    assert "a, step 4" in captions
    assert "c, step 4" in captions
    assert "://" not in page.source
    assert "#00000" not in page.source
    assert page.named("script") == []


def test_best_value_is_bold_and_lower_errors_are_better(runs, tmp_path):
    main(["compare", str(runs / "a"), str(runs / "c"), "--out", str(tmp_path / "page.html")])
    source = (tmp_path / "page.html").read_text()
    assert "<b>60.0 ± 1.5</b>" in source
    assert "<b>0.5</b>" in source
    assert "<b>0.75</b>" not in source


def test_values_without_a_better_direction_are_not_bold(runs, tmp_path):
    for name, value in (("a", 3.25), ("c", 4.5)):
        shutil.copytree(runs / name, tmp_path / name)
        metrics = ("reconstruction_error_mismatched", "unlike_head", "ece_head")
        append_results(tmp_path / name / "results.jsonl", [line(m, value, steps=4) for m in metrics])
    main(["compare", str(tmp_path / "a"), str(tmp_path / "c"), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    rows = {m: row for row in page.split("</tr>") for m in metrics if f">{m}<" in row}
    assert {m: row.count("<b>") for m, row in rows.items()} == dict.fromkeys(metrics, 0) | {"ece_head": 1}


def test_runs_that_have_just_begun_are_compared(runs, tmp_path, capsys):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        shutil.copy(runs / "a" / "config.json", tmp_path / name)
    assert main(["compare", str(tmp_path / "x"), str(tmp_path / "y"), "--out", str(tmp_path / "p.html")]) == 0
    assert "no setting differs" in capsys.readouterr().out
    text = Page(tmp_path / "p.html").text("Curves")
    assert "Too early for curves" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a"], "one run is given"),
        (["a", "a"], "the same run is given twice"),
        (["a", "none"], "is not a folder"),
        (["a", "b", "--out", "page.png"], "expected a name ending in .html"),
    ],
)
def test_mistakes_are_one_line(runs, arguments, expected, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    assert main(["compare", *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_values_by_different_feature_extractors_are_not_compared(runs, tmp_path, capsys):
    """The same classifier trained on two machines has other weights, and gives another FID for the same images."""
    for name, value, digest in (("a", 2.5, "82bebcadd55a"), ("b", 3.5, "fbb4a3f973bf")):
        shutil.copytree(runs / name, tmp_path / name)
        fid = replace(line("fid10k_train_mnist-cnn", value, steps=4), protocol={"network": digest})
        append_results(tmp_path / name / "results.jsonl", [fid])
    found = compare([tmp_path / "a", tmp_path / "b"])
    expected = "fid10k_train_mnist-cnn: measured by different feature extractors, so the values do not compare."
    assert expected in found.warnings
    assert found.spread(found.results["fid10k_train_mnist-cnn", "trained"], [0, 1]) == ""
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c.html")]) == 0
    assert expected in capsys.readouterr().out
    assert expected in Page(tmp_path / "c.html").text("Results")
    same = replace(line("fid10k_train_mnist-cnn", 4.5, steps=4), protocol={"network": "82bebcadd55a"})
    append_results(tmp_path / "b" / "results.jsonl", [same])
    assert expected not in compare([tmp_path / "a", tmp_path / "b"]).warnings


def test_values_of_other_images_are_not_compared(runs, tmp_path):
    for name, count in (("a", 60), ("b", 50)):
        shutil.copytree(runs / name, tmp_path / name)
        append_results(
            tmp_path / name / "results.jsonl", [replace(line("top1_linear_avepool", 90.0, steps=4), n=count)]
        )
    found = compare([tmp_path / "a", tmp_path / "b"])
    assert "The runs were measured on different images or labels: no best value is marked." in found.warnings
    assert not comparable(found.results["top1_linear_avepool", "trained"])


def test_hostile_names_are_escaped(runs, tmp_path):
    evil = tmp_path / "<script>a"
    shutil.copytree(runs / "a", evil)
    append_results(evil / "results.jsonl", [replace(line("top1", 1.0, steps=4), metric="<script>alert(1)")])
    main(["compare", str(evil), str(runs / "c"), "--out", str(tmp_path / "p.html")])
    assert Page(tmp_path / "p.html").named("script") == []
