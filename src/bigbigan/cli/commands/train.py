"""`bigbigan train`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from bigbigan.cli.common import AS_JSON, LABELS_FILE, QUIET, SOURCES, device_option
from bigbigan.errors import UserError

EXAMPLES = (
    "train small/digits --out runs/digits",
    "train small/folder64 --data photos/ --out runs/photos --minutes 60",
    "train table1/base --scale 32 --data cifar10 --out runs/base --set log.every=10",
    "train small/mnist --dry-run",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment",
        metavar="EXPERIMENT",
        nargs="?",
        help="such as small/mnist, see: bigbigan list; or your own, MODULE:NAME (default: that of --config, or of the "
        "run in --out, which is continued)",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings in a YAML or JSON file, such as a run's config.json"
    )
    parser.add_argument("--data", metavar="SOURCE", help=f"images (default: the experiment's own): {SOURCES}")
    parser.add_argument("--labels", **LABELS_FILE)
    parser.add_argument("--out", type=Path, metavar="RUN", help="run folder to create, or to continue")
    parser.add_argument(
        "--scale", type=int, default=0, metavar="S", help="scale it down: S px (16, 32 or 64) in place of 128"
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="a.b=value", help="change settings")
    parser.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="NAME",
        help="send metrics and pictures to wandb too, or to a logger of your own, python:MODULE:NAME; metrics.jsonl "
        "is always written, TensorBoard by default",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, metavar="N", help="short for --set training.steps=N")
    length.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="train for about M minutes: the number of steps that fit is measured when training starts",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the settings and the cost of a step, without training"
    )
    device_option(parser)
    parser.add_argument(
        "--print-config", action="store_true", help="print all settings as YAML, for --config, without training"
    )
    parser.add_argument("--json", **AS_JSON)
    parser.add_argument("--quiet", **QUIET)


def run(options: argparse.Namespace) -> int | None:
    """Train an experiment; the same command continues a run that was stopped."""
    from bigbigan.cli.settings import default_data, settings_of

    config = settings_of(options)
    if options.print_config:
        from bigbigan.config.files import as_yaml

        print(as_yaml(config), end="")
        return None
    what = options.experiment or options.config
    if options.out is None and not options.dry_run:
        raise UserError(f"train {what}: --out RUN is missing; expected a folder to train in")
    default = default_data(options, config)
    if options.dry_run:
        from bigbigan.apps.dry_run import dry_run, report
        from bigbigan.config import named_settings

        found = dry_run(config, options.data, default, options.labels)
        print(json.dumps(found, indent=2) if options.json else report(config, found))
        if config.additions and not options.json:
            print(f"not in the paper: {named_settings(config.additions)} (docs/deviations.md: 2, 3 and 55)")
        return None
    data, labels = options.data or default, options.labels
    if (options.out / "data.json").exists():
        from bigbigan.training.run_folder import source_and_labels

        data, labels = source_and_labels(options.out, options.data, labels)
        if what is None and not options.quiet:
            from bigbigan.data.names import shown

            print(f"{options.out} is continued: {shown(config.experiment)} on {shown(data)}", file=sys.stderr)
    elif data is None:
        raise UserError(
            f"train {what or f'--out {options.out}'}: --data SOURCE is missing; expected images, such as a folder or "
            "an archive"
        )
    from bigbigan.apps.train import train
    from bigbigan.training.distributed import is_first_rank

    ended = train(config, data, options.out, progress=not options.quiet, labels=labels)
    if not is_first_rank():  # only one process of torchrun prints
        return None if ended is None else 128 + ended
    steps = config.training.steps
    if config.training.minutes and ended is None:
        from bigbigan.training.run_folder import read_config

        steps = read_config(options.out).training.steps  # chosen when training started
    if options.json:
        print(json.dumps({"run": str(options.out), "steps": steps, "ended_by_signal": ended}))
    elif ended is None:
        run = shlex.quote(str(options.out))
        counted = f"{steps:,} step{'s' if steps > 1 else ''}"
        print(f"trained {counted}; next: bigbigan evaluate {run}; bigbigan report {run}")
    return None if ended is None else 128 + ended
