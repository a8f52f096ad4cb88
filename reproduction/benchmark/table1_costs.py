"""Count what each row of Table 1 costs, without running it (docs/notes/table1.md).

python -m reproduction.benchmark.table1_costs                           at full size, takes three minutes
python -m reproduction.benchmark.table1_costs --scale 16                scaled down; results/table1_plan.jsonl
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bigbigan.config import override
from bigbigan.evaluation.records import ResultLine
from bigbigan.experiments import EXPERIMENTS
from bigbigan.training.flops import step_cost
from bigbigan.training.run_folder import changed_settings
from reproduction.common import Script


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__)
    add = script.parser.add_argument
    add("--scale", type=int, default=0, metavar="S")
    add("--batch", type=int, metavar="N", help="default: the experiment's own")
    add("--results", type=Path, metavar="FILE", help="default: table1_costs.jsonl in results/, or table1_plan.jsonl")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    lines: list[ResultLine] = []
    script.results = options.results or Path(f"results/table1_{'plan' if options.scale else 'costs'}.jsonl")
    for name, experiment in EXPERIMENTS.items():
        if not name.startswith("table1/") if options.scale else experiment.table_row is None:
            continue
        start = time.perf_counter()
        config = experiment.config(options.scale)
        if options.batch is not None:
            config = override(config, [f"training.batch_size={options.batch}"])
        cost = step_cost(config)
        counts = {f"parameters_{part}": count for part, count in cost["parameters"].items()}
        counts |= {"flops_per_step": cost["flops_per_step"], "memory_bytes": cost["memory_bytes"]}
        lines += script.result_lines(
            counts,
            subject="program",
            experiment=name,
            scale=options.scale,
            settings=changed_settings(config),
            dataset="none",
            split="none",
            n=1,
            seconds=time.perf_counter() - start,
            device="none",
        )
        print(name, flush=True)
    script.append(lines, show=False)


if __name__ == "__main__":
    sys.exit(main())
