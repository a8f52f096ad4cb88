"""Count what each row of Table 1 costs at full size, without running it (docs/notes/table1.md).

python -m reproduction.benchmark.table1_costs       takes three minutes; the file of results is replaced
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from bigbigan.evaluation.records import ResultLine
from bigbigan.experiments import EXPERIMENTS
from bigbigan.training.flops import step_cost
from reproduction.common import Script


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/table1_costs.jsonl")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    lines: list[ResultLine] = []
    for name, experiment in EXPERIMENTS.items():
        if experiment.table_row is None:
            continue
        start = time.perf_counter()
        cost = step_cost(experiment.config())
        counts = {f"parameters_{part}": count for part, count in cost["parameters"].items()}
        counts |= {"flops_per_step": cost["flops_per_step"], "memory_bytes": cost["memory_bytes"]}
        lines += script.result_lines(
            counts,
            subject="program",
            experiment=name,
            dataset="none",
            split="none",
            n=1,
            seconds=time.perf_counter() - start,
            device="none",
        )
        print(name, flush=True)
    options.results.unlink(missing_ok=True)
    script.append(lines, show=False)


if __name__ == "__main__":
    sys.exit(main())
