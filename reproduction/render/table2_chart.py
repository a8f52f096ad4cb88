"""Draw Table 2 scaled down: the linear accuracy of each method's features, and whether it learned its task.

    python -m reproduction.render.table2_chart docs/pictures/table2_small.png

From results/table2_small.jsonl, which `reproduction.train.table 2` writes.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bigbigan.errors import UserError
from bigbigan.evaluation.records import read_results
from reproduction.common import ROOT, Script
from reproduction.render.chart_style import FIRST, SECOND, chart_style

LINEAR, TASK = "top1_sweep5k_bn_crelu", "task_accuracy_"


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__)
    script.parser.add_argument("picture", type=Path, metavar="CHART.png")
    return script.run(draw, arguments)


def draw(script: Script, options: argparse.Namespace) -> None:
    lines = [x for x in read_results(ROOT / "results" / "table2_small.jsonl") if x["study"] == "table2"]
    if not lines:
        raise UserError(
            "results/table2_small.jsonl has no result lines; first run python -m reproduction.train.table 2"
        )
    trained, untrained = (
        {x["experiment"]: x["value"] for x in lines if (x["metric"], x["subject"]) == (LINEAR, subject)}
        for subject in ("trained", "untrained")
    )
    tasks = {
        (x["experiment"].split("/")[1], x["metric"].removeprefix(TASK)): (x["value"], x["protocol"]["chance"])
        for x in lines
        if x["metric"].startswith(TASK)
    }
    best_last = sorted(trained, key=lambda name: trained[name])
    named = {_title(name.split("/")[1]): name for name in best_last}
    order = {name.split("/")[1]: place for place, name in enumerate(best_last)}
    tasks = dict(sorted(tasks.items(), key=lambda item: order[item[0][0]]))  # methods as on the left
    with chart_style():
        _draw(named, trained, untrained, tasks, options.picture)


def _title(name: str) -> str:
    """Return the name of a method or task for readers."""
    known = {
        "base": "BigBiGAN, Base",
        "resnet_up_encoder_lr": "BigBiGAN, ResNet-50",
        "revnet_x4_up_encoder_lr": "BigBiGAN, RevNet-50 ×4",
        "cpc": "CPC",
        "efficient_cpc": "efficient CPC",
    }
    return known.get(name, name.replace("_", " "))


def task_titles(tasks: Iterable[tuple[str, str]]) -> list[str]:
    """Return a title for each (method, task): the method's, and the task's too if the method has several tasks."""
    tasks = list(tasks)
    counts = Counter(method for method, _ in tasks)
    return [_title(method) + (f": {_title(task)}" if counts[method] > 1 else "") for method, task in tasks]


def _draw(
    named: dict[str, str],
    trained: dict[str, float],
    untrained: dict[str, float],
    tasks: dict[tuple[str, str], tuple[float, float]],
    path: Path,
) -> None:
    figure = Figure(figsize=(11, 0.4 * max(len(named), len(tasks)) + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.barh(list(named), [trained[name] for name in named.values()], color=FIRST, label="trained backbone")
    left.plot(
        [untrained[name] for name in named.values()], range(len(named)), "k|", ms=16, mew=2, label="untrained backbone"
    )
    left.set_xlabel("linear top-1 on BN+CReLU, %")
    right.barh(task_titles(tasks), [value for value, _ in tasks.values()], color=SECOND, label="correct answers")
    right.plot([chance for _, chance in tasks.values()], range(len(tasks)), "k|", ms=16, mew=2, label="chance")
    right.set_xlabel("accuracy in the method's task, %")
    for ax in (left, right):
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
        ax.grid(visible=False, axis="y")
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
