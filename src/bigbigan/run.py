"""The run folder: what lies where, and how a run is opened, held and continued.

config.json       complete, resolved settings        environment.json  versions, device, commit
data.json         the data card: source, counts      metrics.jsonl     one line a log step
results.jsonl     result lines of evaluations        checkpoints/      see bigbigan.checkpoint
samples/          grids by step                      tensorboard/      the same curves
report.html       everything on one page
"""

from __future__ import annotations

import fcntl
import json
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.distributed import is_torchelastic_launched

import bigbigan
from bigbigan import distributed
from bigbigan.config import Config, config_from_dict, flat
from bigbigan.data.download import REMOTE
from bigbigan.data.image_set import shown
from bigbigan.errors import UserError
from bigbigan.experiments import EXPERIMENTS
from bigbigan.seal import is_sealed

__all__ = [
    "Stop",
    "changed_settings",
    "environment",
    "open_for_training",
    "read_config",
    "read_json",
    "source_and_labels",
    "source_of",
    "write_json",
]


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is {path.parent} the folder of a run (train --out)?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); restore it from a copy") from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is whole or not there."""
    aside = path.with_name(f".{path.name}")
    aside.write_text(json.dumps(content, indent=2) + "\n")
    aside.replace(path)


def read_config(run: Path) -> Config:
    """The settings of a run.

    Raises:
        UserError: there is no such run, or its config.json is not one.
    """
    if not run.is_dir():
        raise UserError(f"{run} is not a folder; expected a run, as made by: bigbigan train EXPERIMENT --out {run}")
    return config_from_dict(read_json(run / "config.json"), str(run / "config.json"))


def source_of(run: Path) -> str:
    """The source a run was trained on.

    Raises:
        UserError: it does not say.
    """
    return source_and_labels(run, None, None)[0]


def source_and_labels(run: Path, data: str | None, labels: str | None) -> tuple[str, str | None]:
    """The source and the labels file to look at: those given, or else those the run was trained on. Its labels file
    goes with its own source alone.

    What is not given must be sealed (`bigbigan.seal`): the run may be somebody else's, and could name any file or
    address. Data sets known by name need no seal.

    Raises:
        UserError: no source is given, and the run does not say what it was trained on; or what it names is neither
            given nor sealed.
    """
    try:
        card = json.loads((run / "data.json").read_text())
        recorded, file = str(card["spec"]), (card.get("labels") or {}).get("path")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if data is None:
            raise UserError(f"{run} does not say what it was trained on; give --data SOURCE") from None
        return data, labels
    of_run = file if labels is None and data in (None, recorded) else None
    if ((data is None and recorded not in KNOWN) or of_run is not None) and not is_sealed(card):
        raise UserError(
            f"{run} was not trained here by you, so what it names is not opened; to open it, say it: "
            f"--data {_quoted(data or recorded)}" + (f" --labels {_quoted(of_run)}" if of_run is not None else "")
        )
    return data or _harmless(recorded, run), labels or of_run


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
CHANGEABLE = ("training.steps", "log.", "data.max_unreadable")


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
        lock = (run / ".lock").open("w")
    except OSError as error:
        raise UserError(f"--out {run} cannot be written to: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process is training in {run}; wait for it or choose another --out") from None
        if (run / "config.json").exists():
            _refuse_changes(read_config(run), config, run)
        elif any(p.name != ".lock" for p in run.iterdir()):
            raise UserError(f"--out {run} is not empty and holds no run (no config.json); choose another folder")
        write_json(run / "config.json", config.to_dict())
        write_json(run / "environment.json", environment() | {"earlier": _environments(run)})
        (run / "samples").mkdir(exist_ok=True)
        yield


def _environments(run: Path) -> list[dict[str, Any]]:
    """Where the run was trained before it was continued, oldest first; empty for a new run."""
    try:
        before = json.loads((run / "environment.json").read_text())
        return [*before.pop("earlier", []), before]
    except (OSError, ValueError, AttributeError):
        return []


def _refuse_changes(before: Config, now: Config, run: Path) -> None:
    old, new = flat(before.to_dict()), flat(now.to_dict())
    changed = [
        f"{name} was {old.get(name)}, now {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        and (not name.startswith(CHANGEABLE) or (name == "training.steps" and now.optimizer.lr_final < 1))
    ]
    if changed:
        # "scale" first: forgotten, it changes most others
        changed.sort(key=lambda text: not text.startswith("scale "))
        more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise UserError(f"{run} holds a run of other settings ({'; '.join(changed[:4])}{more}); choose another --out")


def changed_settings(config: Config) -> dict[str, Any]:
    """Settings in which a run differs from the experiment it is named for, leaving out those that a result line
    states anyway (steps, seed) and those that change no weight (log)."""
    if config.experiment not in EXPERIMENTS:
        return {}
    defined, ours = flat(EXPERIMENTS[config.experiment].config(config.scale).to_dict()), flat(config.to_dict())
    stated = (*CHANGEABLE, "training.seed")
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


class Stop:
    """Turns SIGINT and SIGTERM into a request to save and end; a second one ends at once. Not so under torchrun, which
    passes on what its processes may have received already, and itself ends them after 30 seconds.

    Use as a context manager. `signal` is the number of the signal received, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and not is_torchelastic_launched():
            sys.exit(128 + number)
        self.signal = number

    def __enter__(self) -> Stop:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not in the main thread: signals stay the caller's business
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
