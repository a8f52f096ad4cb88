"""Measure how long `make demo` takes in a clean clone: with a new environment, and again with that environment.

    python -m reproduction.benchmark.demo_time

What is committed in this repository is cloned into a temporary folder. The first time includes the installation, from
the package index that pip is set to and its cache.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bigbigan.errors import UserError
from reproduction.common import ROOT, Script, run_program


def main(arguments: Sequence[str] | None = None) -> int:
    return Script(__spec__, __doc__, "results/demo_time.jsonl").run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    if not (ROOT / ".git").exists():
        raise UserError(f"{ROOT} is not a git repository; run this in a clone of the project")
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "bigbigan"
        run_program(["git", "clone", "--quiet", str(ROOT), str(clone)])
        measured = {"demo_seconds_with_installation": seconds_of_demo(clone)}
        measured["demo_seconds"] = seconds_of_demo(clone, "RUN=runs/again")
    script.append(
        script.result_lines(
            measured,
            subject="program",
            experiment="small/digits",
            dataset="digits",
            split="test",
            n=1,
            device=f"cpu, {os.cpu_count()} threads",
            digits=4,
        )
    )


def seconds_of_demo(clone: Path, *options: str) -> float:
    """Return the seconds that `make demo` takes in a clone.

    Raises:
        RunError: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    start = time.perf_counter()
    print(run_program(["make", "demo", *options], cwd=clone, env=environment), flush=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
