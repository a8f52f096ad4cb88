"""What the command line prints for people: help, lists and tables."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys

import pytest

from bigbigan.cli import build_parser, main
from bigbigan.cli.main import COMMANDS, DATA_COMMANDS
from bigbigan.config import override
from bigbigan.evaluation.metric_glossary import GLOSSARY, glossary_text
from bigbigan.evaluation.metric_names import parse_metrics
from bigbigan.evaluation.records import Measurement, result_lines
from bigbigan.evaluation.results_text import classifiers_table, results_table
from bigbigan.experiments import EXPERIMENTS, find

MODULES = {**COMMANDS, **{f"data {name}": module for name, module in DATA_COMMANDS.items()}}
VERBS = [name for name, module in MODULES.items() if module is not None]
COMMON = {
    "study": "evaluation", "experiment": "small/digits", "dataset": "digits", "split": "test", "n": 1234,
    "seconds": 1.0, "command": "bigbigan evaluate run",
}  # fmt: skip


def shown(capsys, *words: str) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("words", [[], ["data"]])
def test_no_verb_prints_help_and_is_a_mistake(words, capsys):
    code, out, err = shown(capsys, *words)
    assert (code, out) == (2, "")
    assert err == shown(capsys, *words, "--help")[1]


def test_help_lists_verbs_in_order_of_use(capsys):
    _, out, _ = shown(capsys, "--help")
    verbs = re.findall(r"^    ([a-z-]+)\b", out, flags=re.M)
    assert verbs == list(COMMANDS)
    assert verbs[:5] == ["list", "data", "train", "evaluate", "report"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "bigbigan: there is no command trian; did you mean train?; see: bigbigan --help\n"),
        (["data", "inspekt"], "there is no command inspekt; did you mean inspect?; see: bigbigan data --help\n"),
        (["zzz"], "bigbigan: there is no command zzz; see: bigbigan --help\n"),
    ],
)
def test_a_verb_that_is_misspelt_is_suggested(words, expected, capsys):
    code, _, err = shown(capsys, *words)
    assert code == 2
    assert err.endswith(expected)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb_has_examples_that_parse(verb, capsys):
    code, out, _ = shown(capsys, *verb.split(), "--help")
    assert code == 0
    examples = re.findall(r"^  bigbigan (.*)$", out.partition("\nexamples:\n")[2], flags=re.M)
    assert examples == list(MODULES[verb].EXAMPLES)
    assert examples
    for example in examples:
        assert len(f"  bigbigan {example}") < 100
        words = shlex.split(example)
        assert words[: len(verb.split())] == verb.split()
        if "--list-metrics" in words:  # prints and exits
            assert shown(capsys, *words)[0] == 0
            continue
        options = build_parser().parse_args(words)
        if hasattr(options, "experiment"):
            override(find(options.experiment).config(options.scale), options.set)
        if getattr(options, "metrics", None):
            parse_metrics(options.metrics.split(","))


def test_every_option_is_explained():
    (actions,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for verb, parser in actions.choices.items():
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), f"{verb} {action.dest}"


def test_list_has_groups_with_newcomers_first(capsys):
    _, out, _ = shown(capsys, "list")
    lines = out.splitlines()
    assert lines[0].startswith("small: ")
    assert lines[1].startswith("small/digits ")
    names = re.findall(r"^(\w+/\w+) ", out, flags=re.M)
    assert sorted(names) == sorted(EXPERIMENTS)
    groups = [name.partition("/")[0] for name in names]
    assert groups == sorted(groups, key=groups.index)
    assert [e["name"] for e in json.loads(shown(capsys, "list", "--json")[1])] == names
    assert "48.10" not in out
    long = shown(capsys, "list", "--long")[1]
    assert "Table 1, Base: IS 22.66 ± 0.18, FID 31.19 ± 0.37, Cls. 48.10 ± 0.13" in long
    assert max(len(line) for line in (out + long).splitlines()) < 100


def test_list_metrics_explains_every_name(capsys):
    code, out, _ = shown(capsys, "evaluate", "--list-metrics")
    assert (code, out) == (0, glossary_text() + "\n")
    assert all(name in out for entry in GLOSSARY for name in entry.names)
    assert max(map(len, out.splitlines())) < 101
    assert "](" not in out


def lines_of(values, subject, **more):
    return result_lines(values, subject=subject, **COMMON | more)


def test_evaluate_prints_one_small_table():
    lines = []
    for feature, subject, more in (("pixels", "pixels", 0), ("bn_crelu", "untrained", -5), ("bn_crelu", "trained", 9)):
        values = [40.0 + more, 41.0 + more, 42.0 + more + (more > 0)]
        few = {f"top1_linear_{feature}_10perclass": Measurement(41.0 + more, 1.0, values)}
        lines += lines_of({f"top1_linear_{feature}": 80.0 + more, f"knn1_l2_{feature}": 70.0} | few, subject)
    quality = {"reconstruction_ratio": 0.5, "fid10k_train_encoder": 12.0, "kid10k_train_encoder": 0.2}
    lines += lines_of(quality, "trained")
    text = results_table(lines, everything=False)
    assert text.splitlines() == [
        "top-1 accuracy, %                   linear            linear",
        "                                all labels      10 per class",
        "raw pixels                            80.0        41.0 ± 1.0",
        "untrained E, BN+CReLU                 75.0        36.0 ± 1.0",
        "trained E, BN+CReLU                   89.0        50.0 ± 1.0",
        "with 10 labels per class, E is 9.3 ± 0.6 points above the better of the two kinds of pixels",
        "reconstruction error, matched / mismatched: 0.500 (1 = nothing learned)",
        "fid10k_train_encoder: 12.0",
        "4 more values: --json prints them, and bigbigan evaluate --list-metrics explains them",
    ]
    assert "knn1_l2_bn_crelu (untrained): 70.0" in results_table(lines)


def test_classify_prints_one_table_with_pixels():
    lines = []
    for name, subject in (
        ("frozen_pixels", "pixels"), ("frozen_pca_pixels", "pca_pixels"), ("frozen_bn_crelu", "untrained"),
        ("frozen_bn_crelu", "trained"), ("finetuned", "trained"),
    ):  # fmt: skip
        lines += lines_of({f"top1_{name}_20perclass": Measurement(50.0, 1.5, [48.5, 51.5]),
                           f"auroc_{name}_20perclass": 0.75}, subject)  # fmt: skip
    lines[0].labels["without"] = 7
    assert classifiers_table(lines).splitlines() == [
        "20 labels per class; 1,234 test images",
        "classifier                        accuracy             AUROC",
        "                                         %            0 to 1",
        "raw pixels                      50.0 ± 1.5             0.750",
        "PCA-whitened pixels             50.0 ± 1.5             0.750",
        "untrained E                     50.0 ± 1.5             0.750",
        "trained E                       50.0 ± 1.5             0.750",
        "trained E, fine-tuned           50.0 ± 1.5             0.750",
        "skipped 7 images without a label",
    ]


@pytest.mark.parametrize("words", [["--help"], ["evaluate", "--list-metrics"], ["list"]])
def test_a_reader_that_closes_the_pipe_is_no_error(words):
    command = [sys.executable, "-m", "bigbigan", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("words", "seconds"), [(["--help"], 0.2), (["train", "--help"], 0.2), (["trian"], 0.3), (["list"], 0.3)]
)
def test_start_up_is_quick(words, seconds):
    """By CPU time, as other programs may run on this machine; the fastest of three."""
    code = f"from bigbigan.cli import main; import time; main({words!r}); print('CPU', time.process_time())"
    command = [sys.executable, "-c", code]
    taken = [subprocess.run(command, capture_output=True, text=True).stdout.rpartition("CPU ")[2] for _ in range(3)]
    assert min(map(float, taken)) < seconds
