"""The few-label curve: its points, its table, and its advice."""

from __future__ import annotations

import re

import pytest

from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.evaluation import label_curve
from bigbigan.evaluation.metric_names import KNOWN, default_metrics, parse_metrics
from bigbigan.evaluation.records import read_results
from tiny import tiny_config, write_npz

NUMBERS = (1, 2, 5, 10, 20, 50, 100)


def lines(feature, subject, accuracies, numbers=NUMBERS):
    return [
        {"metric": f"top1_linear_{feature}_{n}perclass", "subject": subject, "value": value, "std": 1.0}
        for n, value in zip(numbers, accuracies, strict=True)
    ]


RISING = (10.0, 20, 30, 40, 50, 60, 70)


def test_curve_names_all_amounts_of_labels_for_three_features():
    names = {m.name for m in parse_metrics(["curve"])}
    assert len(names) == 3 * (1 + 7 + 2)
    assert {"top1_linear_pixels_1perclass", "top1_linear_bn_crelu_10percent", "top1_linear_pca_pixels"} <= names


def test_only_patterns_that_say_per_match_the_curve():
    assert "top1_linear_bn_crelu_5perclass" not in {m.name for m in parse_metrics(["top1_linear_*"])}
    assert "top1_linear_bn_crelu_10perclass" in {m.name for m in parse_metrics(["top1_linear_*"])}
    found = {m.name for m in parse_metrics(["top1_linear_avepool_*per*"])}
    assert found == {n for n in KNOWN if n.startswith("top1_linear_avepool_")}
    assert not [m for m in default_metrics(()) if m.percent or m.per_class not in (0, 10)]


def test_curves_are_sorted_and_the_last_of_equals_counts():
    given = lines("bn_crelu", "trained", (30.0, 10.0), (5, 1)) + lines("bn_crelu", "trained", (20.0,), (1,))
    given += [{"metric": "top1_linear_bn_crelu_1percent", "subject": "trained", "value": 3.0, "std": None}]
    given += [{"metric": "knn5_l2_bn_crelu_10perclass", "subject": "trained", "value": 3.0, "std": None}]
    assert label_curve.curves(given) == {"trained E": [(1, 20.0, 1.0), (5, 30.0, 1.0)]}


def test_table_has_a_column_for_each_amount():
    given = lines("bn_crelu", "trained", (20.0, 30.0), (1, 5)) + lines("pixels", "pixels", (12.0,), (5,))
    given += [
        {"metric": "top1_linear_bn_crelu_1percent", "subject": "trained", "value": 40.0},
        {"metric": "top1_linear_bn_crelu", "subject": "trained", "value": 50.0},
    ]
    text = label_curve.text(given).splitlines()
    assert text[1].split() == ["1", "5", "1", "%", "100", "%"]
    assert text[2].split() == ["raw", "pixels", "-", "12.0", "-", "-"]
    assert text[3].split() == ["trained", "E", "20.0", "30.0", "40.0", "50.0"]


def test_ten_labels_a_class_alone_are_no_curve():
    assert label_curve.text(lines("bn_crelu", "trained", (50.0,), (10,))) == ""


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        (RISING, "More labels are worth having: up to 100 per class, the most measured, .* still adds 10.0 points"),
        ((10, 20, 30, 40, 40.5, 41, 41.5), r"Beyond 10 per class \(40.0 %\), more .* up to 100, doubling"),
        ((10, 20, 19, 40, 50, 50, 50), r"Beyond 20 per class \(50.0 %\), more labels are hardly worth"),
        ((50, 50, 50, 50, 50, 50, 50), r"Beyond 1 per class"),
    ],
)
def test_advice_follows_the_gain_of_doubling(accuracies, expected):
    first, *_ = label_curve.advice(label_curve.curves(lines("bn_crelu", "trained", accuracies)))
    assert re.match(expected, first)


def test_advice_compares_with_pixels():
    ours = lines("bn_crelu", "trained", RISING)
    few = ours + lines("pixels", "pixels", (5, 10, 15, 20, 25, 30, 35))
    assert label_curve.advice(label_curve.curves(few))[1] == (
        "With 10 labels per class the encoder reaches 40.0 %; raw pixels reach 35.0 % with 100."
    )
    better = ours + lines("pca_pixels", "pca_pixels", [v + 5 for v in RISING])
    assert "does not reach the best of PCA-whitened pixels: 75.0 %" in label_curve.advice(label_curve.curves(better))[1]
    assert label_curve.advice(label_curve.curves(lines("pixels", "pixels", RISING))) == []


def test_evaluate_measures_the_curve_as_far_as_there_are_labels(tmp_path, capsys):
    data = write_npz(tmp_path / "rows.npz")  # 20 training images of each class
    train(tiny_config("training.steps=2"), str(data), tmp_path / "run", progress=False)
    assert main(["evaluate", str(tmp_path / "run"), "--metrics", "curve", "--quiet"]) == 0
    printed = capsys.readouterr().out
    found = {(x["metric"], x["subject"]): x for x in read_results(tmp_path / "run" / "results.jsonl")}
    rows = (("pixels", "pixels"), ("pca_pixels", "pca_pixels"), ("bn_crelu", "untrained"), ("bn_crelu", "trained"))
    amounts = ["", *(f"_{n}perclass" for n in (1, 2, 5, 10, 20)), "_1percent", "_10percent"]
    assert set(found) == {(f"top1_linear_{feature}{n}", subject) for feature, subject in rows for n in amounts}
    assert found["top1_linear_pixels_20perclass", "pixels"]["value"] > 95  # a bright row tells the class
    labels = {m: found[f"top1_linear_pixels_{m}", "pixels"]["protocol"]["labels"] for m in ("5perclass", "10percent")}
    assert labels == {"5perclass": 15, "10percent": 6}
    assert len(found["top1_linear_bn_crelu_1perclass", "trained"]["trials"]) == 5
    # With all labels of each class there is nothing to choose, and one trial.
    assert found["top1_linear_pixels_20perclass", "pixels"]["std"] is None
    assert "accuracy, %, over labels per class" in printed
    assert "trained E" in printed
    assert main(["evaluate", str(tmp_path / "run"), "--metrics", "top1_linear_pixels_50perclass", "--quiet"]) == 2
    assert "needs more labelled images of a class than" in capsys.readouterr().err
