"""Result lines as text; tests/integration/test_cli_output.py has the whole tables."""

from bigbigan.evaluation.records import Measurement, result_lines
from bigbigan.evaluation.results_text import head_text, results_table

COMMON = {
    "study": "evaluation", "experiment": "small/digits", "dataset": "digits", "split": "test", "n": 9, "seconds": 1.0,
    "command": "bigbigan evaluate run",
}  # fmt: skip


def lines_of(values, subject, **more):
    return result_lines(values, subject=subject, **COMMON | more)


def test_results_table_names_rows_of_pixels_as_such():
    lines = lines_of({"top1_frozen_pixels_10perclass": 50.0}, "pixels")
    lines += lines_of({"top1_frozen_pca_pixels_10perclass": 51.0}, "pca_pixels")
    lines += lines_of({"top1_frozen_bn_crelu_10perclass": 52.0}, "untrained")
    lines += lines_of({"top1_frozen_bn_crelu_10perclass": 53.0}, "trained", steps=9)
    assert results_table(lines).splitlines() == [
        "top1_frozen_pixels_10perclass (raw pixels): 50.0",
        "top1_frozen_pca_pixels_10perclass (PCA-whitened pixels): 51.0",
        "top1_frozen_bn_crelu_10perclass (untrained): 52.0",
        "top1_frozen_bn_crelu_10perclass: 53.0",
    ]


def test_table_separates_a_run_of_no_steps_from_the_untrained():
    lines = lines_of({"top1_linear_bn_crelu": 10.0}, "untrained") + lines_of({"top1_linear_bn_crelu": 20.0}, "trained")
    *table, hint = results_table(lines).splitlines()
    rows = {row[:24].strip(): row.split()[-1] for row in table[2:]}
    assert rows == {"untrained E, BN+CReLU": "10.0", "trained E, BN+CReLU": "20.0"}
    assert hint.endswith("were not measured: --metrics top1_linear_pixels,top1_linear_pca_pixels")


def test_the_lead_is_that_of_the_verdict():
    metric = "top1_linear_{}_10perclass"
    lines = lines_of({metric.format("pixels"): Measurement(50.0, 1.0, [49.0, 51.0])}, "pixels")
    lines += lines_of({metric.format("avepool"): Measurement(60.0, 1.0, [59.0, 61.0])}, "trained")
    lines += lines_of({metric.format("bn_crelu"): Measurement(55.0, 1.0, [53.0, 57.0])}, "trained")
    assert "E is 5.0 ± 1.4 points above" in results_table(lines)


def test_scores_of_a_saved_head_are_in_words():
    values = {"top1_head": 96.25, "balanced_head": 96.0, "auroc_head": 0.998, "ece_head": 1.2, "unlike_head": 0.5}
    text = head_text(lines_of(values, "trained"))
    assert "accuracy 96.2%, balanced accuracy 96.0%, AUROC 0.998, calibration error 1.2%; 0.5% found unlike" in text


def test_results_table_of_an_external_encoder_has_its_own_rows():
    lines = lines_of({"top1_linear_pixels": 10.0}, "pixels") + lines_of({"top1_linear_avepool": 20.0}, "external")
    rows = {row[:24].strip(): row.split()[-1] for row in results_table(lines).splitlines()[2:]}
    assert rows == {"raw pixels": "10.0", "AvePool": "20.0"}


def test_titles_of_columns_stand_apart():
    names = ["top1_linear_{}", "top1_linear_{}_10perclass", "knn5_l2_{}", "knn5_l2_{}_10perclass"]
    lines = [line for name in names for line in lines_of({name.format("bn_crelu"): 20.0}, "trained")]
    first, second, *_ = results_table(lines).splitlines()
    assert first.split() == ["top-1", "accuracy,", "%", "linear", "linear", "5-NN", "5-NN"]
    assert second.split() == ["all", "labels", "10", "per", "class"] * 2
    assert max(map(len, (first, second))) <= 100
