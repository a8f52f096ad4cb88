"""The scripts of reproduction/: their shared command line, and what a rerun does."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bigbigan.cli import main
from bigbigan.config import override
from bigbigan.errors import RunError, UserError
from bigbigan.evaluation.records import read_results
from bigbigan.experiments import EXPERIMENTS, find
from bigbigan.experiments.published import PUBLISHED
from bigbigan.image.grid import grid, save_image
from reproduction import common
from reproduction.common import Script, _portable, is_finished, measured, serving
from reproduction.render import label_grid, table2_chart, tables
from reproduction.render.cells import cell_of_seeds
from reproduction.render.table2_chart import task_titles
from reproduction.train import ablations, table
from tiny import write_npz

SPEC = tables.__spec__


@pytest.mark.parametrize(
    ("word", "portable"),
    [
        ("/home/me/mnist", "mnist"),
        ("/home/me/mnist/", "mnist"),
        ("mnist:/home/me/data/mnist", "mnist:mnist"),
        ("--data=/home/me/mnist", "--data=mnist"),
        ("runs/mnist", "runs/mnist"),
        ("../data/mnist", "../data/mnist"),
        ("a.b=[1,2]", "a.b=[1,2]"),
        ("https://host/a/b", "https://host/a/b"),
    ],
)
def test_recorded_words_name_no_folder_of_a_machine(word, portable):
    assert _portable(word) == portable


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("said"), 2), (RunError("said"), 1), (FileNotFoundError("said"), 1), (None, 0)]
)
def test_script_exit_code_tells_mistakes_from_failures(error, code, capsys):
    def work(script, options):
        if error:
            raise error

    assert Script(SPEC, "doc").run(work, []) == code
    assert capsys.readouterr().err == ("tables: said\n" if error else "")


def test_script_writes_lines_of_its_name_and_command(tmp_path, capsys):
    def work(script, options):
        script.append(
            script.result_lines(
                {"seconds": 1.5}, subject="program", experiment="bench/x", dataset="noise", split="train", n=1
            )
        )

    results = tmp_path / "lines.jsonl"
    assert Script(SPEC, "doc", "results/none.jsonl").run(work, ["--results", str(results)]) == 0
    (line,) = read_results(results)
    assert (line["study"], line["subject"], line["value"]) == ("tables", "program", 1.5)
    assert line["command"] == "python -m reproduction.render.tables --results lines.jsonl"
    assert capsys.readouterr().out == "bench/x: seconds (program): 1.5\n"


def test_script_runs_again_in_another_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the modules are found from any folder
    script = Script(SPEC, tables.__doc__)
    assert "--check" in script.in_subprocess("--help")
    with pytest.raises(RunError, match="unrecognized arguments: --nothing"):
        script.in_subprocess("--nothing")


def test_table_check_names_the_page_that_is_out_of_date(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "FILES", ["page.md"])
    page.write_text("before\n<!-- table anomaly -->\nold\n<!-- end -->\nafter\n")
    assert tables.main(["--check"]) == 1
    assert "out of date: page.md" in capsys.readouterr().err
    assert "old" in page.read_text()
    assert tables.main([]) == 0
    assert page.read_text().startswith("before\n<!-- table anomaly -->\n| score |")
    assert tables.main(["--check"]) == 0


@pytest.fixture
def commands(monkeypatch):
    """The commands that the scripts would run, without running them."""
    given = []
    monkeypatch.setattr(common, "bigbigan", lambda *words: given.append(words))
    return given


def test_ablations_skip_what_is_finished(tmp_path, monkeypatch, commands, capsys):
    monkeypatch.chdir(tmp_path)
    assert ablations.main(["nothing"]) == 2
    assert ablations.main(["narrow_e", "wide_f"]) == 0
    assert [words[0] for words in commands] == ["train", "evaluate"] * 2
    assert commands[1][commands[1].index("--study") + 1] == "ablations"
    commands.clear()
    run = tmp_path / "runs" / "ablations" / "narrow_e"
    run.mkdir(parents=True)
    line = {
        "study": "ablations", "subject": "trained", "experiment": "small/digits", "dataset": "digits", "split": "test",
        "value": 1.0, "seed": 0, "steps": 600, "images_seen": 9,
        "settings": {"encoder.widths": [16, 32, 64], "data.mirror": "never"},
    }  # fmt: skip
    lines = [json.dumps(line | {"metric": metric}) + "\n" for metric in ablations.METRICS]
    (run / "results.jsonl").write_text("".join(lines))
    assert ablations.main(["narrow_e", "wide_f"]) == 0
    assert {words[words.index("--out") + 1] for words in commands if words[0] == "train"} == {"runs/ablations/wide_f"}
    assert "runs/ablations/narrow_e: finished, skipped" in capsys.readouterr().out


def test_run_with_automatic_precision_is_finished_in_either(tmp_path):
    config = find("small/mnist").config()
    assert config.training.precision == "auto"
    line = {
        "study": "hinges", "subject": "trained", "experiment": "small/mnist", "dataset": "mnist", "split": "test",
        "metric": "x", "value": 1.0, "seed": 0, "steps": 600, "images_seen": 9,
        "settings": {"training.precision": "bf16", "data.mirror": "never"},
    }  # fmt: skip
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
    assert is_finished(tmp_path, config, 600, "mnist")
    assert not is_finished(tmp_path, override(config, ["training.precision=float32"]), 600, "mnist")
    assert not is_finished(tmp_path, config, 601, "mnist")


def test_server_that_does_not_start_is_a_failure(tmp_path):
    with pytest.raises(RunError, match="ended before it served"), serving(str(tmp_path / "none")):
        pass


def test_chart_without_result_lines_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table2_chart, "ROOT", tmp_path)
    assert table2_chart.main([str(tmp_path / "chart.png")]) == 2
    assert "no result lines" in capsys.readouterr().err
    assert not (tmp_path / "chart.png").exists()


ROW = ["bigan", "mnist", "--seeds", "2"]
NARROW = [
    "latent.dim=4",
    "generator.channels=[8,8]",
    "training.batch_size=8",
    "log.standing_batches=1",
    "optimizer.lr_final=1",
]


def test_table_rerun_skips_finished_and_continues_unfinished(tmp_path, monkeypatch, capsys):
    """Seed 0 is trained and measured, seed 1 is stopped half-way; then the same command finishes the table."""
    monkeypatch.chdir(tmp_path)
    data = str(write_npz(tmp_path / "mnist.npz", side=28))
    monkeypatch.setattr(table, "metrics", lambda *given: ["knn1_euclidean_avepool"])
    call = [*ROW, "--data", data, "--steps", "4", "--results", "lines.jsonl", "--set", *NARROW]
    train = ["train", "bigan/mnist", "--data", data, "--quiet", "--scale", "0"]
    settings = ["log.validate_every=0", "training.seed=1", *NARROW]
    assert main([*train, "--out", "runs/bigan/mnist-seed1", "--steps", "2", "--set", *settings]) == 0
    assert table.main([*call[:2], "--seeds", "1", *call[4:]]) == 0
    capsys.readouterr()
    assert table.main(call) == 0
    assert capsys.readouterr().out.splitlines()[0] == "runs/bigan/mnist: finished, skipped"
    lines = read_results(tmp_path / "lines.jsonl")
    assert {(x["seed"], x["subject"], x["steps"]) for x in lines} == {
        (seed, subject, steps) for seed in (0, 1) for subject, steps in (("untrained", 0), ("trained", 4))
    }
    assert {x["study"] for x in lines} == {"bigan"}
    logged = (tmp_path / "runs/bigan/mnist-seed1/metrics.jsonl").read_text().splitlines()
    assert [json.loads(text)["step"] for text in logged] == sorted({json.loads(text)["step"] for text in logged})
    assert table.main(call) == 0
    assert len(read_results(tmp_path / "lines.jsonl")) == len(lines)


def test_each_task_of_a_method_has_a_bar_of_its_own_in_the_chart_of_table_2():
    tasks = [("rotation", "rotation"), ("combination", "exemplar"), ("combination", "colorization"), ("cpc", "cpc")]
    assert task_titles(tasks) == ["rotation", "combination: exemplar", "combination: colorization", "CPC"]


def test_a_cell_sums_up_seeds_and_takes_the_last_line_of_each():
    lines = [{"seed": seed, "value": value, "std": 0.25} for seed, value in ((0, 9.0), (0, 1.0), (1, 2.0), (2, 3.0))]
    assert cell_of_seeds(lines, 2) == "2.00 ± 1.00"
    assert cell_of_seeds(lines[:2], 2) == "1.00 ± 0.25"
    assert cell_of_seeds([]) == "not run"


def test_every_row_of_a_published_table_can_be_trained():
    """All rows of Tables 1 to 3 have scaled-down versions, except bigan/imagenet in Table 2."""
    for name, published in PUBLISHED.items():
        plan = table.PLANS[name]
        rows = {row.experiment for row in published.rows if row.experiment}
        assert rows <= set(plan.rows)
        assert len({row.split("/")[1] for row in plan.rows}) == len(plan.rows)  # they are named by this part
        one_size = {row for row in plan.rows if plan.scaled and 32 not in EXPERIMENTS[row].scales}
        assert one_size == ({"bigan/imagenet"} if name == "2" else set())


@pytest.mark.parametrize(
    ("words", "experiment", "run"),
    [
        (["1", "revnet_x4"], "table1/revnet_x4", "runs/table1/revnet_x4_32"),
        (["2", "resnet_up_encoder_lr"], "table1/resnet_up_encoder_lr", "runs/table2/resnet_up_encoder_lr_32"),
        (["2", "imagenet"], "bigan/imagenet", "runs/table2/imagenet"),
        (["3", "bigbigan_sl", "--network", "mnist-cnn"], "table3/bigbigan_sl", "runs/table3/bigbigan_sl_32"),
        (["bigan", "autoencoder_l1"], "bigan/autoencoder_l1", "runs/bigan/autoencoder_l1"),
    ],
)
def test_one_command_trains_and_measures_one_row(words, experiment, run, tmp_path, monkeypatch, commands):
    monkeypatch.chdir(tmp_path)
    assert table.main([*words, "--data", "digits", "--steps", "5"]) == 0
    train, evaluate = commands
    assert train[:2] == ("train", experiment)
    assert train[train.index("--out") + 1] == evaluate[1] == run


def test_table_does_not_reuse_a_run_of_other_settings(tmp_path, monkeypatch, commands):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "metrics", lambda *arguments: ["top1_linear_avepool"])
    run = tmp_path / "runs" / "table1" / "base_32"
    run.mkdir(parents=True)
    line = {
        "study": "table1", "subject": "trained", "experiment": "table1/base", "dataset": "digits", "split": "test",
        "metric": "top1_linear_avepool", "value": 1.0, "seed": 0, "steps": 5, "images_seen": 9,
        "settings": {"data.classes": 10, "data.mirror": "never", "training.batch_size": 4}, "scale": 32,
    }  # fmt: skip
    (run / "results.jsonl").write_text(json.dumps(line) + "\n")
    call = ["1", "base", "--data", "digits", "--steps", "5", "--set", "training.batch_size=4"]
    assert table.main(call) == 0
    assert commands == []
    np.savez(tmp_path / "other.npz", train_images=np.zeros((8, 8, 8), dtype=np.uint8))
    for other in (["training.batch_size=8"], ["data.mirror=always"]):
        assert table.main([*call, *other]) == 0
        assert [words[0] for words in commands] == ["train", "evaluate"]
        commands.clear()
    call[3] = "other.npz"
    assert table.main(call) == 0
    assert [words[0] for words in commands] == ["train", "evaluate"]


@pytest.mark.parametrize(
    "other", [{"scale": 16}, {"seed": 1}, {"experiment": "table1/revnet"}, {"dataset": "mnist"}, {"steps": 4}]
)
def test_run_of_another_size_seed_or_experiment_is_not_finished(tmp_path, other):
    line = {
        "study": "table1", "subject": "trained", "experiment": "table1/base", "dataset": "digits", "split": "test",
        "metric": "x", "value": 1.0, "seed": 0, "steps": 5, "images_seen": 9, "settings": {}, "scale": 32,
    }  # fmt: skip
    config = find("table1/base").config(32)
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
    assert is_finished(tmp_path, config, 5, "digits")
    (tmp_path / "results.jsonl").write_text(json.dumps(line | other) + "\n")
    assert not is_finished(tmp_path, config, 5, "digits")


def test_clusters_of_another_run_or_of_other_images_are_not_reused(tmp_path, monkeypatch):
    made = []

    def cluster(*words):
        made.append(words[1])
        (tmp_path / "clusters.csv").write_text("file,label\n")

    monkeypatch.setattr(table, "bigbigan", cluster)
    options = argparse.Namespace(clusters_of="runs/a", results=tmp_path / "lines.jsonl")
    ours, others = (str(write_npz(tmp_path / name, count=n)) for name, n in (("ours.npz", 8), ("others.npz", 12)))
    for _ in range(2):
        assert table.train_words("table3/biggan_clustering", ours, tmp_path, options)[2] == "--labels"
    assert made == ["runs/a"]
    with pytest.raises(UserError, match=r"clusters\.csv: made from another run or other images"):
        table.train_words("table3/biggan_clustering", others, tmp_path, options)
    options.clusters_of = "runs/b"
    with pytest.raises(UserError, match=r"clusters\.csv: made from another run or other images"):
        table.train_words("table3/biggan_clustering", ours, tmp_path, options)


def test_one_round_has_no_deviation():
    assert measured([3.0])[:3] == (3.0, None, [3.0])
    assert measured([3.0, 1.0, 8.0], {"images": 2})[:2] == (3.0, pytest.approx(3.606, abs=1e-3))


def test_label_grid_cuts_and_names_rows(tmp_path):
    images = torch.arange(8).view(8, 1, 1, 1).expand(8, 1, 4, 4) / 4 - 1
    save_image(grid(images, 4, min_side=8), tmp_path / "grid.png")
    rows = label_grid.cut(np.asarray(Image.open(tmp_path / "grid.png")), side=8, scale=2)
    assert [[int(tile.pixels[0, 0, 0]) for tile in row] for row in rows] == [[0, 32, 64, 96], [128, 160, 192, 224]]
    assert rows[0][0].pixels.shape == (3, 4, 4)
    out = tmp_path / "sheet.png"
    words = [str(tmp_path / "grid.png"), str(out), "--side", "8", "--scale", "2", "--columns", "2"]
    assert label_grid.main([*words, "--rows", "x", "G(E(x))", "--title", "pairs"]) == 0
    assert Image.open(out).height > 4 * 64  # two groups of two rows
    assert label_grid.main([words[0], str(out), "--side", "9"]) == 2


def test_a_run_is_finished_when_all_its_metrics_are_measured(tmp_path):
    line = {
        "study": "table1", "subject": "trained", "experiment": "small/mnist", "dataset": "mnist", "split": "test",
        "metric": "top1_linear_avepool", "value": 1.0, "seed": 0, "steps": 600, "images_seen": 9,
        "settings": {"data.mirror": "never"},
    }  # fmt: skip
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
    config = find("small/mnist").config()
    measured = ["top1_linear_avepool", "top1_linear_pixels", "reconstruction_*"]
    assert is_finished(tmp_path, config, 600, "mnist", measured)
    assert not is_finished(tmp_path, config, 600, "mnist", [*measured, "fid10k_train_mnist-cnn"])


def test_drawn_images_of_each_size_have_a_file_of_their_own(tmp_path):
    source = str(write_npz(tmp_path / "rows.npz", side=32))
    files = [table.drawn(source, find("small/mnist").config(), side, tmp_path, 20, None) for side in (16, 32, 16)]
    assert [np.load(file)["train_images"].shape[1] for file in files] == [16, 32, 16]
    (tmp_path / "others").mkdir()
    source = str(write_npz(tmp_path / "others" / "rows.npz", side=32, seed=1))
    other = table.drawn(source, find("small/mnist").config(), 16, tmp_path, 20, None)
    assert other not in files
    assert Path(other).name == Path(files[0]).name
