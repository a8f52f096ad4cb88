"""Measure a training step on a machine that others use too, with OpenMP's threads spinning and sleeping.

    python -m reproduction.benchmark.busy_machine [--busy 1] [--threads 2] [--pairs 5] [--experiment small/digits]

By default the threads of torch's OpenMP spin while they wait for each other. On a busy machine `import bigbigan` sets
OMP_WAIT_POLICY=passive, so that they sleep. Steps of both kinds are measured in turns, while N other processes (--busy)
use the CPU. On a machine that nobody else uses, --busy 0 measures what the sleep costs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import torch  # before bigbigan, which then does not change OpenMP's policy

from bigbigan.apps.benchmark import random_batches
from bigbigan.experiments import find
from bigbigan.training.state import TrainingState
from bigbigan.training.time_budget import seconds_per_step
from reproduction.common import Script, measured

POLICIES = {"spinning": None, "sleeping": "passive"}


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/busy_machine.jsonl")
    script.parser.add_argument("--experiment", default="small/digits", metavar="EXPERIMENT")
    script.parser.add_argument(
        "--busy", type=int, default=1, metavar="N", help="other processes that use the CPU (default 1)"
    )
    script.parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of torch (default 2)")
    script.parser.add_argument("--pairs", type=int, default=5, metavar="N", help="rounds (default 5)")
    script.parser.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="duration of a measurement, at least 3 steps, at most 10 seconds (default 5)",
    )
    script.parser.add_argument("--steps-alone", action="store_true", help=argparse.SUPPRESS)
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    if options.steps_alone:
        torch.set_num_threads(options.threads)
        config, device = find(options.experiment).config(), torch.device("cpu")
        print(seconds_per_step(TrainingState(config, device), random_batches(config, device), options.seconds))
        return
    asked = ["--experiment", options.experiment, "--threads", str(options.threads), "--seconds", str(options.seconds)]
    seconds: dict[str, list[float]] = {kind: [] for kind in POLICIES}
    with busy(options.busy):
        for _ in range(options.pairs):
            for kind, policy in POLICIES.items():
                with wait_policy(policy):
                    seconds[kind].append(float(script.in_subprocess("--steps-alone", *asked)))
            print({kind: round(values[-1], 3) for kind, values in seconds.items()}, flush=True)
    ratios = [a / b for a, b in zip(seconds["spinning"], seconds["sleeping"], strict=True)]
    protocol = {"busy": options.busy, "threads": options.threads, "load": round(os.getloadavg()[0], 1)}
    rates = {
        "step_speed_sleeping_over_spinning": ratios,
        **{f"seconds_per_step_{kind}": values for kind, values in seconds.items()},
    }
    script.append(
        script.result_lines(
            {name: measured(values, protocol) for name, values in rates.items()},
            subject="program",
            experiment=options.experiment,
            dataset="noise",
            split="train",
            n=options.pairs,
            device=f"cpu, {options.threads} threads",
            digits=4,
        )
    )


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run `count` processes that use the CPU within the context."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextlib.contextmanager
def wait_policy(policy: str | None) -> Iterator[None]:
    """Set OMP_WAIT_POLICY for processes that are started within the context; None: unset."""
    before = os.environ.pop("OMP_WAIT_POLICY", None)
    if policy is not None:
        os.environ["OMP_WAIT_POLICY"] = policy
    try:
        yield
    finally:
        os.environ.pop("OMP_WAIT_POLICY", None)
        if before is not None:
            os.environ["OMP_WAIT_POLICY"] = before


if __name__ == "__main__":
    sys.exit(main())
