"""Write the tables of README.md and docs/: results from results/*.jsonl, settings from the schema,
metrics from their glossary.

    python -m reproduction.render.tables           rewrite
    python -m reproduction.render.tables --check   exit 1 if a table is not what the result lines or the schema say

A table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence

from bigbigan.errors import RunError
from bigbigan.evaluation import metric_glossary
from bigbigan.evaluation.records import read_results
from reproduction.common import ROOT, Script
from reproduction.render import bigan, costs, evaluation, published, robustness, settings, sources
from reproduction.render.cells import Line, readable
from reproduction.render.table1_claims import claims

FILES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
SMALL = {
    "small/digits": "evaluation",
    "small/mnist": "evaluation",
    "small/fashion_mnist": "fashion_mnist",
    "small/cifar10_16px": "cifar10_16px",
    "small/folder64": "caltech101",
}

TABLES: dict[str, Callable[[list[Line]], str]] = {
    "settings": lambda _: settings.settings_tables(),
    "metrics": lambda _: metric_glossary.glossary_table(),
    "metric_features": lambda _: metric_glossary.feature_table(),
    "data_speed": costs.data_speed,
    "probe_speed": costs.probe_speed,
    "probe": lambda lines: evaluation.probe_table(lines, SMALL),
    "cells": lambda lines: evaluation.probe_table(
        lines, dict.fromkeys(["small/folder64", "small/folder32"], "evaluation")
    ),
    "ablations": evaluation.ablation_table,
    "encoder_search": evaluation.search_table,
    "label_curve": lambda lines: evaluation.label_curve(lines, "fashion_mnist"),
    "label_curve_cifar": lambda lines: evaluation.label_curve(lines, "cifar10_16px"),
    "label_curve_caltech": lambda lines: evaluation.label_curve(lines, "caltech101"),
    "pneumonia": lambda lines: evaluation.classifiers(lines, "pneumoniamnist"),
    "blood": lambda lines: evaluation.classifiers(lines, "cells"),
    "bench": costs.bench,
    "minimal_flops": costs.minimal_flops,
    "encode_speed": costs.encode_speed,
    "evaluation_time": costs.evaluation_time,
    "busy_machine": costs.busy_machine,
    "demo_time": costs.demo_time,
    "peers": costs.peers,
    "campaigns": robustness.campaigns,
    "anomaly": evaluation.anomaly,
    "unlike": evaluation.unlike,
    "refinement": evaluation.refinement,
    "agreement": evaluation.agreement,
    "precisions": evaluation.precisions,
    "bigan": lambda lines: bigan.bigan(lines, "mnist"),
    "bigan_authors": bigan.bigan_authors,
    "bigan_fashion": lambda lines: bigan.bigan_other_data(lines, "fashion-mnist"),
    "bigan_left_out": bigan.bigan_left_out,
    "bigan_length": bigan.bigan_length,
    "bigan_more": bigan.bigan_more,
    "latent_shift": bigan.latent_shift,
    "pretext_longer": published.pretext_longer,
    "bigan_starts": bigan.bigan_starts,
    "bigan_speed": costs.bigan_speed,
    "table1": published.table1,
    "table1_plan": published.table1_plan,
    "table1_small": published.table1_small,
    "table1_claims": claims,
    "table2_small": published.table2_small,
    "pretext_small": published.pretext_small,
    "table3_small": published.table3_small,
    "table3_more": published.table3_more,
    "clusters": evaluation.clusters,
    "truncation": published.truncation,
    "small_data": published.small_data,
    "full_size": costs.full_size_table,
    "reversible": costs.reversible_table,
    "transfer_few": lambda lines: evaluation.transfer(lines, "top1_linear_{}_10perclass"),
    "transfer_linear": lambda lines: evaluation.transfer(lines, "top1_linear_{}"),
    "quality": evaluation.quality_table,
    "frozen": evaluation.frozen_table,
    "reconstructions": sources.reconstructions,
    "hinges": sources.hinges,
    "filters": sources.filters,
    "inversion": sources.inversion,
    "encoders": sources.encoders,
    "ancestors": sources.ancestors,
    "reconstruction": lambda lines: evaluation.reconstruction_table(lines, SMALL),
}


def render(text: str, lines: list[Line]) -> str:
    """Return `text` with each marked table rendered again."""
    return re.sub(
        r"(<!-- table (\w+) -->\n).*?(<!-- end -->)",
        lambda m: f"{m[1]}{TABLES[m[2]](lines)}\n{m[3]}",
        text,
        flags=re.DOTALL,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__)
    script.parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a table is out of date")
    return script.run(write, arguments)


def write(script: Script, options: argparse.Namespace) -> None:
    lines = [readable(line) for path in sorted((ROOT / "results").glob("*.jsonl")) for line in read_results(path)]
    stale = []
    for name in FILES:
        path = ROOT / name
        before = path.read_text()
        after = render(before, lines)
        if after != before:
            stale.append(name)
            if not options.check:
                path.write_text(after)
    if stale and options.check:
        raise RunError(f"out of date: {', '.join(stale)}; run {script.command.removesuffix(' --check')}")
    if stale:
        print(f"rewritten: {', '.join(stale)}")


if __name__ == "__main__":
    sys.exit(main())
