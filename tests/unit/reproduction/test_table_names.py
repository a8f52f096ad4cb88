"""Baselines have one name and one place in all rendered tables."""

from reproduction.render import evaluation
from reproduction.render.cells import readable


def line(subject, metric, value, **fields):
    return {
        "study": "transfer", "subject": subject, "experiment": "small/x", "dataset": "digits", "metric": metric,
        "value": value, "std": None, "steps": 0, "seed": 0, "settings": {}, "scale": 0, "device": "cpu, 1 threads",
        "protocol": {"side": 8, "channels": 1, "trained_on": "mnist"},
    } | fields  # fmt: skip


def test_untrained_encoders_are_above_trained_ones():
    metric = "top1_linear_bn_crelu"
    measured = [line("trained", metric, 2.0, steps=9), line("untrained", metric, 1.0)]
    for lines in (measured, measured[::-1]):
        rows = evaluation.transfer(lines, "top1_linear_{}").splitlines()[2:]
        assert rows == [
            "| `small/x` on mnist, 8 px, grey: E untrained | 1.0 |",
            "| `small/x` on mnist, 8 px, grey: **E trained**, 9 steps | 2.0 |",
        ]


def test_rows_of_the_label_curve_have_the_names_of_other_tables():
    lines = [
        line(subject, f"top1_linear_{feature}_{size}perclass", 50.0)
        for size in (1, 10)
        for feature, subject in (("pca_pixels", "pca_pixels"), ("bn_crelu", "untrained"), ("bn_crelu", "trained"))
    ]
    rows = evaluation.label_curve(lines, "transfer").splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| PCA pixels", "| E untrained", "| **E trained**"]


def test_one_thread_is_singular():
    shown = {device: readable({"device": device})["device"] for device in ("cpu, 1 threads", "cpu, 11 threads", "none")}
    assert shown == {"cpu, 1 threads": "cpu, 1 thread", "cpu, 11 threads": "cpu, 11 threads", "none": "none"}
