"""Share what all scripts need: arguments, the recorded command, and the result lines they write.

A script is a module that is run from the root of the repository:

    python -m reproduction.measure.anomaly RUN --anomalies SOURCE

Its result lines carry its name as their `study`, and the command as it was typed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from statistics import median, stdev
from typing import Any

import torch
from torch import Tensor

from bigbigan.cli import main
from bigbigan.config import Config, override
from bigbigan.data import ImageSet, Source
from bigbigan.errors import RunError, UserError
from bigbigan.evaluation import records
from bigbigan.evaluation.metric_names import PIXELS, parse_metrics
from bigbigan.evaluation.records import Measurement, ResultLine, Subject, append_results, read_results
from bigbigan.evaluation.targets import Target
from bigbigan.experiments import find
from bigbigan.image import pool_to
from bigbigan.inference.model import Model
from bigbigan.training.run_folder import changed_settings

__all__ = [
    "ROOT",
    "Script",
    "as_seen",
    "bigbigan",
    "is_finished",
    "measured",
    "serving",
    "split_of",
    "train_and_evaluate",
]

ROOT = Path(__file__).parents[1]
BY_DATA = {"data.classes", "data.mirror", "data.pad", "data.window"}  # settings that training resolves from the data


class Script:
    """Run one script: parse its command line, and make its result lines.

    Args:
        spec: the script's `__spec__`, which names its module.
        doc: its docstring, which --help shows.
        results: the file that its result lines are appended to unless --results names another; None for a script that
            measures nothing.

    Attributes:
        parser: takes the script's own arguments.
        study: the name of the script, recorded in its result lines.
        command: the command as it was typed, without the folders of this machine.
    """

    def __init__(self, spec: ModuleSpec | None, doc: str | None, results: str | None = None) -> None:
        assert spec is not None, (
            f"run a script as a module: python -m reproduction.FOLDER.NAME; see {ROOT.name}/README.md"
        )
        self.module, self.study = spec.name, spec.name.rpartition(".")[2]
        self.parser = argparse.ArgumentParser(
            prog=f"python -m {self.module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.command, self.started = "", time.perf_counter()
        self.results: Path | None = None
        if results is not None:
            self.parser.add_argument(
                "--results", type=Path, default=Path(results), metavar="FILE",
                help=f"file to append result lines to (default {results})",
            )  # fmt: skip

    def run(self, work: Callable[[Script, argparse.Namespace], None], arguments: Sequence[str] | None = None) -> int:
        """Parse the arguments, by default those of the command line, and do the work.

        Returns:
            The exit code: 0 done, 1 the work failed, 2 the user made a mistake.
        """
        words = list(sys.argv[1:] if arguments is None else arguments)
        options = self.parser.parse_args(words)
        self.command = shlex.join(["python", "-m", self.module, *map(_portable, words)])
        self.results = getattr(options, "results", None)
        try:
            work(self, options)
        except (UserError, RunError, OSError) as error:
            print(f"{self.study}: {error}", file=sys.stderr)
            return 2 if isinstance(error, UserError) else 1
        return 0

    def result_lines(
        self, measurements: Mapping[str, Measurement | float], *, seconds: float | None = None, **fields: Any
    ) -> list[ResultLine]:
        """Return result lines of this script; `seconds` are by default those since its start.

        For the fields see `bigbigan.evaluation.records.result_lines`.
        """
        seconds = time.perf_counter() - self.started if seconds is None else seconds
        return records.result_lines(measurements, study=self.study, command=self.command, seconds=seconds, **fields)

    def target_lines(
        self,
        target: Target,
        measurements: Mapping[str, Measurement | float],
        *,
        source: Source,
        split: str,
        n: int,
        subject: Subject = "trained",
        start: float | None = None,
    ) -> list[ResultLine]:
        """Return result lines of a model under evaluation; see `bigbigan.evaluation.targets.Target.result_lines`."""
        return target.result_lines(
            measurements,
            source=source,
            split=split,
            n=n,
            subject=subject,
            start=self.started if start is None else start,
            study=self.study,
            command=self.command,
        )

    def append(self, lines: Sequence[ResultLine], show: bool = True) -> None:
        """Append result lines to the file of --results, and print them."""
        assert self.results is not None
        append_results(self.results, lines)
        for line in lines if show else ():
            spread = "" if line.std is None else f" ± {line.std:g}"
            print(f"{line.experiment}: {line.metric} ({line.subject}): {line.value:g}{spread}", flush=True)

    def in_subprocess(self, *arguments: str) -> str:
        """Run this script in another process, for a peak of memory of its own; return what it prints.

        Raises:
            RunError: it failed.
        """
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return run_program([sys.executable, "-m", self.module, *arguments], env=os.environ | {"PYTHONPATH": path})


def run_program(words: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program; return what it prints.

    Raises:
        RunError: it failed.
    """
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"{shlex.join(words)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def _portable(word: str) -> str:
    """Return a word of the command line, with an absolute path in it reduced to its name: mnist:/home/me/mnist."""
    return re.sub(r"(?<![^:=])/(?!/)(?:[^/]*/)*", "", word.rstrip("/") if len(word) > 1 else word)


def bigbigan(*arguments: str) -> None:
    """Run a command of the package in this process; end with its exit code if it is not 0."""
    if code := main(arguments):
        sys.exit(code)


def metrics_of(run: Path, config: Config, steps: int, dataset: str) -> set[str]:
    """Return the metrics of a run that was trained with these settings on a data set for at least `steps` steps."""
    wanted = changed_settings(config)
    ignored = BY_DATA - wanted.keys()
    if config.training.precision == "auto":  # a run records which precision it took
        ignored |= {"training.precision"}

    def chosen(settings: Mapping[str, Any]) -> str:
        return json.dumps({name: value for name, value in settings.items() if name not in ignored}, sort_keys=True)

    same = (config.experiment, config.scale, config.training.seed, dataset, chosen(wanted))
    return {
        x["metric"]
        for x in read_results(run / "results.jsonl")
        if x["subject"] == "trained"
        and x["steps"] >= steps
        and (x["experiment"], x.get("scale", 0), x["seed"], x["dataset"], chosen(x["settings"])) == same
    }


def is_finished(run: Path, config: Config, steps: int, dataset: str, metrics: Sequence[str] = ()) -> bool:
    """Return whether a run of these settings was trained on a data set for at least `steps` steps and measured.

    Of `metrics`, all that name one metric of the trained run must have been measured; by default any.
    """
    found = metrics_of(run, config, steps, dataset)
    named = [name for names in metrics for name in names.split(",") if "*" not in name]
    needed = {m.name for m in parse_metrics(named) if m.feature not in PIXELS}
    return bool(found) and needed <= found


def train_and_evaluate(
    experiment: str,
    run: Path,
    *,
    scale: int = 0,
    steps: int,
    dataset: str,
    metrics: Sequence[str],
    study: str,
    results: Path | None,
    settings: Sequence[str],
    train: Callable[[], Sequence[str]] = tuple,
    evaluate: Sequence[str] = (),
) -> None:
    """Train a run and measure it, unless it is finished; an unfinished one continues.

    Args:
        experiment: the name of the experiment.
        run: the folder of the run.
        scale: the size of the experiment; 0 is its own.
        steps: the number of training steps.
        dataset: the name of the data set, as result lines have it.
        metrics: what to measure.
        study: recorded in the result lines.
        results: the file of the result lines, apart from that of the run.
        settings: of --set of `train`.
        train: gives further arguments of `train`, and may make what they name.
        evaluate: further arguments of `evaluate`.
    """
    config = override(find(experiment).config(scale), list(settings))
    if is_finished(run, config, steps, dataset, metrics):
        print(f"{run}: finished, skipped", flush=True)
        return
    words = ["train", experiment, "--out", str(run), "--scale", str(scale), "--quiet", "--steps", str(steps)]
    words += train()
    bigbigan(*words, "--set", *settings)
    words = ["evaluate", str(run), "--quiet", "--metrics", ",".join(metrics), *evaluate]
    bigbigan(*words, "--study", study, "--results", str(results))


def split_of(source: Source, name: str) -> ImageSet:
    """Return a split of a source.

    Raises:
        UserError: it has none of this name.
    """
    if name not in source.splits:
        raise UserError(f"{source.spec} has no {name} images; give a source that has")
    return source.splits[name]


def as_seen(model: Model, source: Source, images: ImageSet, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Return images as E sees them, uint8 [N, C, R_E, R_E], and pooled to G, float [N, C, R_G, R_G] in [-1, 1].

    They are all images of a split, or `count` images spread evenly over it. Unreadable ones are replaced by others.
    """
    from bigbigan.apps.visualize import spread  # imports matplotlib, which would count as memory of benchmarks

    pixels = torch.from_numpy(spread(model, source, images, len(images) if count is None else count)[0])
    return pixels, pool_to(model.prepare(pixels), model.config.generator.resolution)


def measured(values: Sequence[float], protocol: dict[str, Any] | None = None) -> Measurement:
    """Return the median of one or more values, with their standard deviation if there are several."""
    return Measurement(median(values), stdev(values) if len(values) > 1 else None, list(values), protocol)


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, int]]:
    """Run `bigbigan serve` with arguments on a free port; yield the address of its page and its process ID.

    Raises:
        RunError: it ended before it served; it has printed why.
    """
    command = [sys.executable, "-m", "bigbigan", "serve", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not (words := process.stdout.readline().split()):
                raise RunError("bigbigan serve ended before it served")
            yield words[0], process.pid
        finally:
            process.terminate()
