"""`bigbigan train`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bigbigan.cli.common import AS_JSON, LABELS_FILE, OWN_DATA, QUIET, named_settings
from bigbigan.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="such as small/mnist; see: bigbigan list")
    parser.add_argument(
        "--data", metavar="SOURCE", help=OWN_DATA.replace("those of the run", "those the experiment is named for")
    )
    parser.add_argument("--labels", **LABELS_FILE)
    parser.add_argument("--out", type=Path, metavar="RUN", help="run folder; the same one again continues the run")
    parser.add_argument(
        "--scale", type=int, default=0, metavar="S", help="a row of Table 1 or 2 made smaller: S px stand for 128"
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="a.b=value", help="change settings")
    parser.add_argument("--steps", type=int, metavar="N", help="short for --set training.steps=N")
    parser.add_argument("--dry-run", action="store_true", help="print settings and costs of a step, and stop")
    parser.add_argument("--json", **AS_JSON)
    parser.add_argument("--quiet", **QUIET)


def run(options: argparse.Namespace) -> int | None:
    """Train an experiment; the same command again continues where it stopped."""
    from bigbigan.config import override
    from bigbigan.experiments import find

    experiment = find(options.experiment)
    if options.out is None and not options.dry_run:
        raise UserError(f"train {options.experiment}: --out RUN is missing: the folder to train in")
    steps = [] if options.steps is None else [f"training.steps={options.steps}"]
    config = override(experiment.config(options.scale), [*options.set, *steps])
    if options.dry_run:
        from bigbigan.training.flops import step_cost

        cost = step_cost(config)
        if options.json:
            print(json.dumps({"config": config.to_dict(), "additions": config.additions, **cost}, indent=2))
            return None
        print(json.dumps(config.to_dict(), indent=2))
        for name, count in cost["parameters"].items():
            print(f"{name:10} {count:>14,} parameters")
        print(f"one step of {config.training.batch_size} images: {cost['flops_per_step'] / 1e9:,.1f} GFLOP, "
              f"about {cost['memory_bytes'] / 2**20:,.0f} MiB")  # fmt: skip
        if config.additions:
            print(f"not in the paper: {named_settings(config.additions)} (docs/deviations.md, 2 and 3)")
        return None
    data, labels = options.data or experiment.data, options.labels
    if (options.out / "data.json").exists():
        from bigbigan.training.run_folder import source_and_labels

        data, labels = source_and_labels(options.out, options.data, labels)
    elif data is None:
        raise UserError(f"train {options.experiment}: --data SOURCE is missing: a folder or archive of images, say")
    from bigbigan.apps.train import train
    from bigbigan.training.distributed import is_first_rank

    ended = train(config, data, options.out, progress=not options.quiet, labels=labels)
    if not is_first_rank():  # of the processes of torchrun one speaks
        return None if ended is None else 128 + ended
    if options.json:
        print(json.dumps({"run": str(options.out), "steps": config.training.steps, "ended_by_signal": ended}))
    elif ended is None:
        run = options.out
        print(f"trained {config.training.steps} steps; next: bigbigan evaluate {run}; bigbigan report {run}")
    return None if ended is None else 128 + ended
