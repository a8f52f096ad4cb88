"""The run folder: what lies where, and how a run is opened, held and continued.

config.json       complete, resolved settings        environment.json  versions, device, commit
data.json         the data card: source, counts      metrics.jsonl     one line a log step
results.jsonl     result lines of evaluations        checkpoints/      see bigbigan.training.checkpoint
samples/          grids by step                      tensorboard/      the same curves
report.html       everything on one page
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.distributed import is_torchelastic_launched

import bigbigan
from bigbigan.config import Config, config_from_dict, flat
from bigbigan.data import DecodeLimits, Source, glance, open_source
from bigbigan.data.image_set import shown
from bigbigan.data.readers.download import REMOTE
from bigbigan.data.sources import from_folder, is_there
from bigbigan.errors import UserError
from bigbigan.experiments import EXPERIMENTS
from bigbigan.io import TEMPORARY, lock, read_json, write_error, write_json
from bigbigan.training import distributed
from bigbigan.training.seal import is_sealed

__all__ = [
    "Stop",
    "Stopped",
    "changed_settings",
    "environment",
    "limits_of",
    "open_data",
    "open_for_training",
    "read_card",
    "read_config",
    "read_environment",
    "read_json",
    "source_and_labels",
    "source_of",
    "warn_of_other_settings",
    "write_json",
]


# What is read from a run folder, see `bigbigan.io.checked`.
CARD = {
    "spec?": str,
    "from_run?": (str, None),
    "name?": str,
    "side?": int,
    "classes?": ([str], None),
    "images?": int,
    "fingerprint?": str,
    "labels?": ({"path": str, "sha256?": str}, None),
    "skipped?": [[str]],
    "notes?": {str: int},
}
ENVIRONMENT: dict[Any, Any] = {"device?": str, "started?": str, "earlier?": [{"started?": str}], str: (str, int)}


def read_card(run: Path) -> dict[str, Any]:
    """The data card of a run.

    Raises:
        UserError: data.json is missing, or not one.
    """
    card = read_json(run / "data.json", CARD)
    if any(len(pair) != 2 for pair in card.get("skipped", [])):
        raise UserError(f"{run / 'data.json'} cannot be read (skipped has no pairs); restore it from a copy")
    return card


def read_environment(run: Path) -> dict[str, Any]:
    """The content of environment.json; empty where it is missing or, with a warning, damaged."""
    if not (run / "environment.json").exists():
        return {}
    try:
        return read_json(run / "environment.json", ENVIRONMENT)
    except UserError as error:
        warnings.warn(str(error), stacklevel=2)
        return {}


def read_config(run: Path) -> Config:
    """The settings of a run.

    Raises:
        UserError: there is no such run, or its config.json is not one.
    """
    if not run.is_dir():
        raise UserError(f"{run} is not a folder; expected a run, as made by: bigbigan train EXPERIMENT --out {run}")
    # What is wrong with it comes first; that it has changed, when it has been used (`warn_of_other_settings`).
    return config_from_dict(read_json(run / "config.json", warn=False), str(run / "config.json"))


def source_of(run: Path) -> str:
    """The source a run was trained on.

    Raises:
        UserError: it does not say.
    """
    return source_and_labels(run, None, None)[0]


def source_and_labels(run: Path, data: str | None, labels: str | None) -> tuple[str, str | None]:
    """The source and the labels file to look at: those given, or else those the run was trained on. Its labels file
    goes with its own source alone.

    What is not given must be sealed (`bigbigan.training.seal`): the run may be somebody else's, and could name any
    file or address. Data sets known by name need no seal.

    Raises:
        UserError: no source is given, and the run does not say what it was trained on; or what it names is neither
            given nor sealed.
    """
    try:
        card = read_card(run)
        recorded, file = card["spec"], (card.get("labels") or {}).get("path")
    except (UserError, KeyError):
        if data is None:
            raise UserError(f"{run} does not say what it was trained on; give --data SOURCE") from None
        return data, labels
    of_run = file if labels is None and data in (None, recorded) else None
    if ((data is None and recorded not in KNOWN) or of_run is not None) and not is_sealed(card):
        raise UserError(
            f"{run} was not trained here by you, so what it names is not opened; to open it, say it: "
            f"--data {_quoted(data or recorded)}" + (f" --labels {_quoted(of_run)}" if of_run is not None else "")
        )
    if of_run is not None:
        labels = _where(of_run, card["labels"].get("from_run"), run)
    return data or _where(_harmless(recorded, run), card.get("from_run"), run), labels


def _where(recorded: str, from_run: Any, run: Path) -> str:
    """A recorded source or file where it is now: a relative name was given in the folder where training began, so where
    it lies as seen from the run comes first; an absolute one stands, unless it has gone."""
    if not isinstance(from_run, str):  # of a run that does not say
        return recorded
    there = from_folder(from_run, run)
    here = is_there(recorded)
    if not is_there(there) or (here and (os.path.isabs(recorded) or from_folder(recorded, Path.cwd()) == there)):
        return recorded
    return there


def limits_of(config: Config) -> DecodeLimits:
    """What an image may cost to decode, by the settings of a run."""
    return DecodeLimits(max_pixels=config.data.max_pixels)


def open_data(
    run: Path,
    data: str | None,
    labels: str | None,
    config: Config | None = None,
    max_unreadable: float | None = None,
    needs_labels: bool = False,
) -> Source:
    """Open the source and the labels to look at, see `source_and_labels`. Of the run's own, warn if the images are not
    those it was trained on; where its labels file has gone, go on without labels.

    Args:
        run: run folder.
        data, labels: given; by default those of the run.
        config: the run's settings, for the limits of reading.
        max_unreadable: in place of the one in `config`.
        needs_labels: a labels file that has gone is an error.

    Raises:
        UserError: the source cannot be opened, or is not there.
    """
    spec, file = source_and_labels(run, data, labels)
    if data is None and not is_there(spec):
        raise UserError(
            f"{run} was trained on {shown(spec)}, named from the folder where training began; it is not there: "
            "give --data SOURCE"
        )
    labelled = True
    if labels is None and file is not None and not Path(file).exists():
        gone = f"the labels file {shown(file)} of {run} has gone"
        if needs_labels:
            raise UserError(f"{gone}; give --labels FILE.csv")
        warnings.warn(f"{gone}: going on without labels, and without the splits it made", stacklevel=2)
        file, labelled = None, False
    share = max_unreadable if max_unreadable is not None else config.data.max_unreadable if config else 0.05
    limits = limits_of(config) if config else DecodeLimits()
    source = open_source(spec, labels=file, max_unreadable=share, limits=limits, labelled=labelled)
    if data is None and labels is None and labelled:
        _compare(run, source)
    return source


def _compare(run: Path, source: Source) -> None:
    """Warn where a run's own source or labels file is not what it was."""
    try:
        card = json.loads((run / "data.json").read_text())
        before, labels = card.get("glance"), card.get("labels") or {}
    except (OSError, ValueError, AttributeError):
        return
    if source.labels is not None and labels.get("sha256") != source.labels.sha256:
        warnings.warn(f"the labels file {shown(source.labels.path)} has changed since {run} was trained", stacklevel=3)
    elif before is not None and before != glance(source.splits["train"]):
        warnings.warn(f"the images of {source.spec} are not those {run} was trained on", stacklevel=3)


def _harmless(spec: str, run: Path) -> str:
    """A source that a run names, if to open it executes nothing: the run may be somebody else's.

    Raises:
        UserError: it is a command.
    """
    if spec.startswith("pipe:"):
        raise UserError(f"{run} was trained on what a command gives; to run it, say it: --data {_quoted(spec)}")
    return spec


def _quoted(word: object) -> str:
    """A word of a command line, fit to print."""
    return shlex.quote(shown(word))


KNOWN = ("digits", *REMOTE)  # sources without a path: of these a run may be anybody's

# May differ when a run is continued: they do not change what a step does (but for steps when rates fall with them).
CHANGEABLE = ("training.steps", "log.", "data.max_unreadable", "data.max_pixels")


@contextmanager
def open_for_training(run: Path, config: Config) -> Iterator[None]:
    """Make the run folder, or go on in the one that is there; no two processes train in one folder.

    Raises:
        UserError: another process trains here, the folder holds something else, or a run of other settings.
    """
    if run.exists() and not run.is_dir():
        raise UserError(f"--out {run} is a file; expected a folder for the run")
    try:
        run.mkdir(parents=True, exist_ok=True)
        held = (run / ".lock").open("w")
    except OSError as error:
        raise write_error(error, run / ".lock") or error from None
    with held:
        if not lock(held.fileno(), run):
            raise UserError(f"another process is training in {run}; wait for it or choose another --out")
        for left in (*run.glob(f"{TEMPORARY}*"), *run.glob(f"samples/{TEMPORARY}*")):
            left.unlink(missing_ok=True)
        if (run / "config.json").exists():
            _refuse_changes(read_config(run), config, run)
        elif any(p.name != ".lock" for p in run.iterdir()):
            raise UserError(f"--out {run} is not empty and holds no run (no config.json); choose another folder")
        config.save(run / "config.json")
        write_json(run / "environment.json", environment() | {"earlier": _environments(run)}, stamp=True)
        try:
            (run / "samples").mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(error, run / "samples") or error from None
        yield


def _environments(run: Path) -> list[dict[str, Any]]:
    """Where the run was trained before it was continued, oldest first; empty for a new run."""
    before = read_environment(run)
    return [*before.pop("earlier", []), before] if before else []


def _refuse_changes(before: Config, now: Config, run: Path) -> None:
    if changed := _changes(before.to_dict(), now):
        # "scale" first: forgotten, it changes most others
        changed.sort(key=lambda text: not text.startswith("scale "))
        raise UserError(f"{run} holds a run of other settings ({_some(changed)}); choose another --out")


def _some(changes: list[str]) -> str:
    return "; ".join(changes[:4]) + (f"; and {len(changes) - 4} more" if len(changes) > 4 else "")


def _changes(before: Mapping[str, Any], now: Config) -> list[str]:
    """What differs between the settings that a run had and those of now, but for what may: "NAME was A, now B"."""
    old, new = flat(before), flat(now.to_dict())
    return [
        f"{name} was {old.get(name)}, now {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        and (not name.startswith(CHANGEABLE) or (name == "training.steps" and now.optimizer.lr_final < 1))
    ]


def warn_of_other_settings(run: Path, trained_with: Mapping[str, Any], config: Config) -> None:
    """Warn if config.json of a run, which says `config`, has changed since it was written, or is not what a checkpoint
    was `trained_with`, but for what may change. A checkpoint of an older version has fewer settings."""
    ours = flat(config.to_dict())
    if changed := _changes(ours | {k: v for k, v in flat(trained_with).items() if k in ours}, config):
        warnings.warn(
            f"{run / 'config.json'} is not what the checkpoint was trained with ({_some(changed)}): what follows may "
            "be wrong; restore it from a copy",
            stacklevel=3,
        )
    else:
        read_json(run / "config.json")  # warns


def changed_settings(config: Config) -> dict[str, Any]:
    """Settings in which a run differs from the experiment it is named for, leaving out those that a result line
    states anyway (steps, seed) and those that change no weight (log)."""
    if config.experiment not in EXPERIMENTS:
        return {}
    defined, ours = flat(EXPERIMENTS[config.experiment].config(config.scale).to_dict()), flat(config.to_dict())
    stated = (*CHANGEABLE, "training.seed", "data.class_sizes")  # the last is of the data and its labels
    return {k: v for k, v in ours.items() if defined.get(k) != v and not k.startswith(stated)}


def environment() -> dict[str, Any]:
    """Versions, device, commit and time, without names of users, hosts or folders."""
    return {
        "bigbigan": bigbigan.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "processes": distributed.ranks(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def default_device() -> torch.device:
    """The GPU where there is one (`CUDA_VISIBLE_DEVICES` says which), else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"


def commit() -> str:
    """The commit of the source tree this package runs from, "-dirty" when changed; "" when installed without git."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here)]
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10)
        if tracked.returncode:
            return ""
        text = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10,
        )  # fmt: skip
        return text.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


class Stopped(BaseException):
    """A signal came before the first step: there is nothing to save. Like KeyboardInterrupt it is no `Exception`, which
    the decoding of images would take for a damaged image."""


class Stop:
    """Turns a signal into a request to save and end; a second one ends at once. Signals are SIGINT, SIGTERM, SIGHUP
    (the terminal was closed; left alone under nohup) and SIGUSR1 (schedulers send it before they take a machine away).

    A second signal is not obeyed under torchrun, which passes on what its processes may have received already, and
    itself ends them after 30 seconds. While there is `nothing_to_save`, the first signal raises `Stopped`.

    Use as a context manager. `signal` is the number of the signal received, or None.
    """

    def __init__(self, nothing_to_save: bool = False) -> None:
        self.signal: int | None = None
        self.nothing_to_save = nothing_to_save
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and not is_torchelastic_launched():
            sys.exit(128 + number)
        first, self.signal = self.signal is None, number
        if first and self.nothing_to_save:
            raise Stopped

    def __enter__(self) -> Stop:
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not in the main thread: signals stay the caller's business
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
