"""Count what each row of Table 1 costs at full size, without running it: writes results/table1_costs.jsonl.

python tools/table1_costs.py       three minutes; docs/table1.md shows them
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bigbigan.evaluation.records import ResultLine, append_results
from bigbigan.experiments import EXPERIMENTS
from bigbigan.training.flops import step_cost
from bigbigan.training.run_folder import commit

RESULTS = Path("results/table1_costs.jsonl")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    aside = RESULTS.with_suffix(".aside")
    aside.unlink(missing_ok=True)
    for name, experiment in EXPERIMENTS.items():
        if experiment.table_row is None:
            continue
        start = time.perf_counter()
        cost = step_cost(experiment.config())
        figures = {f"parameters_{part}": count for part, count in cost["parameters"].items()}
        figures |= {"flops_per_step": cost["flops_per_step"], "memory_bytes": cost["memory_bytes"]}
        seconds = round(time.perf_counter() - start, 1)
        append_results(
            aside,
            [
                ResultLine(
                    experiment=name, scale=0, table_row=experiment.table_row, settings={}, dataset="none", split="none",
                    metric=metric, value=value, std=None, n=1, seed=0, steps=0, images_seen=0, seconds=seconds,
                    device="none", commit=commit(), command="python tools/table1_costs.py",
                )
                for metric, value in figures.items()
            ],
        )  # fmt: skip
    aside.replace(RESULTS)


if __name__ == "__main__":
    main()
