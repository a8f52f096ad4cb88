"""Draw Table 2 scaled down: the linear accuracy of each method's features, and whether it learned its task.

    python -m reproduction.render.table2_chart docs/pictures/table2_small.png

From results/table2_small.jsonl, which `reproduction.train.table 2` writes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bigbigan.evaluation.records import read_results
from reproduction.common import Script

LINEAR, TASK = "top1_sweep5k_bn_crelu", "task_accuracy_"


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__)
    script.parser.add_argument("picture", type=Path, metavar="CHART.png")
    return script.run(draw, arguments)


def draw(script: Script, options: argparse.Namespace) -> None:
    lines = [x for x in read_results(Path("results/table2_small.jsonl")) if x["study"] == "table2"]
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
    named = {"BigBiGAN" if name == "table1/base" else name.split("/")[1]: name for name in best_last}
    figure = Figure(figsize=(11, 0.4 * max(len(named), len(tasks)) + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.barh(list(named), [trained[name] for name in named.values()], color="#3b6ea5", label="trained")
    left.plot([untrained[name] for name in named.values()], range(len(named)), "k|", ms=16, label="untrained")
    left.set_xlabel("linear top-1 on BN+CReLU, %")
    titles = [task if method == task else f"{method}: {task}" for method, task in tasks]
    right.barh(titles, [value for value, _ in tasks.values()], color="#c2803c", label="right answers")
    right.plot([chance for _, chance in tasks.values()], range(len(tasks)), "k|", ms=16, label="by chance")
    right.set_xlabel("the task itself, on test images, %")
    for ax in (left, right):
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.picture, dpi=90)


if __name__ == "__main__":
    sys.exit(main())
