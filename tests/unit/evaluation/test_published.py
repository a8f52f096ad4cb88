"""The published numbers: each cell is the paper's, and they stand in one module alone."""

import json
import re
from pathlib import Path

import pytest

from bigbigan.cli import main
from bigbigan.evaluation.published_tables import TABLES, fill
from bigbigan.experiments import EXPERIMENTS, find
from bigbigan.experiments.published import PUBLISHED

ROOT = Path(__file__).parents[3]
REFERENCE = Path(__file__).parents[4] / "shared" / "reference" / "published-tables.json"


@pytest.fixture
def reference():
    if not REFERENCE.is_file():
        pytest.skip(f"the reference tables are not at {REFERENCE}")
    return json.loads(REFERENCE.read_text())


def row(table, title):
    (found,) = [r for r in PUBLISHED[table].rows if r.title == title]
    return found


def cells(name):
    """Printed cells of a table, by row and column; a cell that the table does not have is left out."""
    table = PUBLISHED[name]
    return {(r.title, c): n for r in table.rows for c, n in zip(table.columns, r.numbers, strict=False)}


def test_table_1_has_the_57_cells_of_the_reference(reference):
    expected = {
        (experiment, column): number
        for experiment, numbers in reference["table1"]["rows"].items()
        for column, number in zip(reference["table1"]["columns"], numbers, strict=True)
    }
    table = PUBLISHED["1"]
    ours = {
        (r.experiment.removeprefix("table1/"), column): number
        for r in table.rows
        for column, number in zip(table.columns, r.numbers, strict=True)
    }
    assert len(expected) == 19 * 3
    assert ours == expected
    assert [r.experiment for r in table.rows] == [f"table1/{name}" for name in reference["table1"]["rows"]]


def test_table_2_has_the_26_cells_of_the_reference(reference):
    expected = {}
    for method, architecture, feature, *numbers in reference["table2"]["rows"]:
        title = f"{method}, {architecture}".replace(" x4", " ×4")
        if feature == "conv3":
            title, feature = f"{title}, conv3", "AvePool"
        if method.startswith("Combination"):
            title += " (ours: Ex+RP+Col)"
        expected |= {(title, f"{feature} {top}"): n for top, n in zip(("top-1", "top-5"), numbers, strict=True)}
    assert len(expected) == 13 * 2
    assert cells("2") == expected
    assert find("bigan/imagenet").published == {"conv3 top-1": "31.0"}


def test_table_3_has_the_15_cells_of_the_reference(reference):
    table3 = reference["table3"]
    expected = {
        (f"{method}, {steps} steps", column): number
        for method, steps, *numbers in table3["rows"]
        for column, number in zip(table3["columns"][2:], numbers, strict=True)
    }
    assert len(expected) == 5 * 3
    assert cells("3") == expected


def test_bigan_s_row_has_the_6_cells_of_the_reference(reference):
    expected = {k: v for k, v in reference["bigan_1nn_mnist"].items() if k != "notes"}
    assert len(expected) == 6
    assert {title: n for (title, column), n in cells("bigan").items() if column == "1-NN"} == expected


def test_what_was_wrong_before_is_right():
    assert row("1", "x Unary Only").numbers == ("23.19 ± 0.28", "31.99 ± 0.30", "47.74 ± 0.20")
    assert row("1", "z Unary Only").numbers == ("19.52 ± 0.39", "39.48 ± 1.00", "47.78 ± 0.28")
    assert find("table3/biggan_sl").published == {"IS": "20.4 (15.4 ± 7.57)", "FID vs. val": "25.3 (71.7 ± 66.32)"}
    assert "FID vs. train" not in find("table3/biggan_clustering").published
    assert not find("biggan/256").published
    assert not any("SS-GAN" in r.title for r in TABLES["2"].published.rows)


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_of_a_table_are_its_experiments(name):
    table = PUBLISHED[name]
    assert tuple(c.title for c in TABLES[name].columns if c.title in table.columns) == table.columns
    for r in table.rows:
        assert 1 <= len(r.numbers) <= len(table.columns)
        if r.experiment:
            assert find(r.experiment).table_rows[f"{table.name}, {r.title}"]
    assert len({r.title for r in table.rows}) == len(table.rows)
    filled = fill(name, [])
    shown = {
        (title, c): cell.published
        for title, _, line in filled.rows
        for c, cell in zip(filled.columns, line, strict=True)
    }
    assert {k: v for k, v in shown.items() if v} == {k: v for k, v in cells(name).items() if v != "-"}


def test_list_shows_all_rows_of_an_experiment(capsys):
    assert main(["list", "--long"]) == 0
    line = " ".join(capsys.readouterr().out.partition("table3/bigbigan_high_res_e_sl ")[2].split())
    assert "500K steps: IS 25.43 (25.45 ± 0.04)" in line
    assert "1M steps: IS 27.94 (27.80 ± 0.21), FID vs. train 20.32 (20.27 ± 0.09), FID vs. val 21.61" in line
    assert main(["list", "--json"]) == 0
    entries = {e["name"]: e for e in json.loads(capsys.readouterr().out)}
    assert set(entries) == set(EXPERIMENTS)
    assert list(entries["table1/resnet_up_encoder_lr"]["table_rows"]) == [
        "Table 1, ResNet (↑ E LR)",
        "Table 2, BigBiGAN, ResNet-50",
    ]


def test_published_numbers_stand_in_one_module():
    numbers = {n for name in PUBLISHED for n in cells(name).values() if len(n) > 4}  # "55.4" may be anything
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "reproduction").rglob("*.py")]
    found = {
        path.name
        for path in files
        if any(re.search(rf"(?<![\d.]){re.escape(n)}(?![\d.])", path.read_text()) for n in numbers)
    }
    assert found == {"published.py"}
