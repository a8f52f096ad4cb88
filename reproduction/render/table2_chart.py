"""Draw Table 2 scaled down: what each method's features are worth, and whether it learned its task.

    python tools/table2_chart.py docs/pictures/table2_small.png

From results/table2_small.jsonl, which `tools/train_table.py 2` writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from bigbigan.evaluation.records import read_results

LINEAR, TASK = "top1_sweep5k_bn_crelu", "task_accuracy_"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("picture", type=Path, metavar="CHART.png")
    options = parser.parse_args()
    read = read_results(Path("results/table2_small.jsonl"))
    lines = [x for x in read if x["command"].startswith("bigbigan evaluate runs/table2/")]
    trained = {x["experiment"]: x["value"] for x in lines if x["metric"] == LINEAR and x["steps"]}
    untrained = {x["experiment"]: x["value"] for x in lines if x["metric"] == LINEAR and not x["steps"]}
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
    main()
