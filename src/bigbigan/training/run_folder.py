"""Define the run folder: its files, and how a run is opened, locked and continued.

config.json       complete, resolved settings        environment.json  versions, device, commit
data.json         the data card: source, counts      metrics.jsonl     one line for each log step
results.jsonl     result lines of evaluations        checkpoints/      see bigbigan.training.checkpoint
samples/          grids by step                      tensorboard/      the same curves
report.html       everything on one page             train_val.json    images held out for validation
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import bigbigan
from bigbigan.config import Config, config_from_dict, flat
from bigbigan.data import DecodeLimits, Source, open_source, quick_fingerprint
from bigbigan.data.names import shown
from bigbigan.data.readers.download import REMOTE
from bigbigan.data.sources import absolute_source, source_exists
from bigbigan.data.window import Window
from bigbigan.errors import UserError, not_a_run
from bigbigan.experiments import EXPERIMENTS
from bigbigan.io import lock, read_json, write_error, write_json
from bigbigan.io.files import TEMPORARY
from bigbigan.training import distributed
from bigbigan.training.devices import default_device, device_name
from bigbigan.training.seal import is_sealed

__all__ = [
    "changed_settings",
    "environment",
    "has_trained",
    "limits_of",
    "open_data",
    "open_for_training",
    "read_card",
    "read_config",
    "read_environment",
    "source_and_labels",
    "warn_of_other_settings",
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
    "code?": ([str], None),
}
ENVIRONMENT: dict[Any, Any] = {"device?": str, "started?": str, "earlier?": [{"started?": str}], str: (str, int)}


def read_card(run: Path) -> dict[str, Any]:
    """Return the data card of a run.

    Raises:
        UserError: data.json is missing or damaged.
    """
    card = read_json(run / "data.json", CARD)
    if any(len(pair) != 2 for pair in card.get("skipped", [])):
        raise UserError(f"{run / 'data.json'} cannot be read (skipped has no pairs); restore it from a copy")
    return card


def read_environment(run: Path) -> dict[str, Any]:
    """Return the content of environment.json; empty if it is missing or, with a warning, damaged."""
    if not (run / "environment.json").exists():
        return {}
    try:
        return read_json(run / "environment.json", ENVIRONMENT)
    except UserError as error:
        warnings.warn(str(error), stacklevel=2)
        return {}


def read_config(run: Path) -> Config:
    """Return the settings of a run.

    Raises:
        UserError: there is no such run, or its config.json is damaged.
    """
    if not run.is_dir():
        raise not_a_run(run)
    # Its errors come first; a change since it was written is reported after use (`warn_of_other_settings`).
    return config_from_dict(read_json(run / "config.json", warn=False), str(run / "config.json"))


def source_and_labels(run: Path, data: str | None, labels: str | None) -> tuple[str, str | None]:
    """Return the source and the labels file to use: the given ones, or else the run's own.

    The run's labels file is used only with its own source. Names that are not given must be sealed
    (`bigbigan.training.seal`): the run may come from someone else, and could name any file or address. Data sets known
    by name need no seal.

    Raises:
        UserError: no source is given, and the run does not record its own; or its names are neither given nor sealed.
    """
    try:
        card = read_card(run)
        recorded, file = card["spec"], (card.get("labels") or {}).get("path")
    except (UserError, KeyError):
        if data is None:
            raise UserError(f"{run} does not record what it was trained on; give --data SOURCE") from None
        return data, labels
    if data is None and recorded.startswith("dataset:"):
        raise UserError(f"{run} was trained on a data set in Python, {shown(recorded)}; give --data SOURCE")
    own_labels = file if labels is None and data in (None, recorded) else None
    if ((data is None and recorded not in KNOWN) or own_labels is not None) and not is_sealed(card):
        raise UserError(
            f"{run} was not trained here by you, so the data it names are not opened; to open them, give "
            f"--data {_quoted(data or recorded)}"
            + (f" --labels {_quoted(own_labels)}" if own_labels is not None else "")
        )
    if own_labels is not None:
        labels = _current_path(own_labels, card["labels"].get("from_run"), run)
    return data or _current_path(_harmless(recorded, run), card.get("from_run"), run), labels


def _current_path(recorded: str, from_run: Any, run: Path) -> str:
    """Return where a recorded source or file is now.

    A relative name was given in the folder where training began, so the place relative to the run is tried first. An
    absolute path is kept, unless it no longer exists.
    """
    if not isinstance(from_run, str):  # not recorded
        return recorded
    there = absolute_source(from_run, run)
    here = source_exists(recorded)
    if not source_exists(there) or (
        here and (os.path.isabs(recorded) or absolute_source(recorded, Path.cwd()) == there)
    ):
        return recorded
    return there


def limits_of(config: Config) -> DecodeLimits:
    """Return how the settings of a run say that images are decoded."""
    d = config.data
    window = Window(*d.window) if d.window else None
    return DecodeLimits(max_pixels=d.max_pixels, window=window, all_frames=d.frames == "all")


def open_data(
    run: Path,
    data: str | None,
    labels: str | None,
    config: Config | None = None,
    max_unreadable: float | None = None,
    needs_labels: bool = False,
) -> Source:
    """Open the source and the labels to use, see `source_and_labels`.

    If they are the run's own, warn if the images have changed since it was trained, and continue without labels if its
    labels file is missing.

    Args:
        run: run folder.
        data, labels: as given; by default the run's own.
        config: the run's settings, for the limits of reading.
        max_unreadable: replaces the setting in `config`.
        needs_labels: whether a missing labels file is an error.

    Raises:
        UserError: the source cannot be opened, or does not exist.
    """
    spec, file = source_and_labels(run, data, labels)
    if data is None and not source_exists(spec):
        raise UserError(
            f"{run} was trained on {shown(spec)}, relative to the folder where training began; it does not exist: "
            "give --data SOURCE"
        )
    labelled = True
    if labels is None and file is not None and not Path(file).exists():
        gone = f"the labels file {shown(file)} of {run} does not exist"
        if needs_labels:
            raise UserError(f"{gone}; give --labels FILE.csv")
        warnings.warn(f"{gone}: continuing without labels, and without the splits it defined", stacklevel=2)
        file, labelled = None, False
    share = max_unreadable if max_unreadable is not None else config.data.max_unreadable if config else 0.05
    limits = limits_of(config) if config else DecodeLimits()
    source = open_source(spec, labels=file, max_unreadable=share, limits=limits, labelled=labelled)
    if config is not None:
        source.set_padding(config.data.pad)
    if data is None and labels is None and labelled:
        _compare(run, source)
    return source


def _compare(run: Path, source: Source) -> None:
    """Warn if a run's own source or labels file has changed."""
    try:
        card = read_card(run)
    except UserError:
        return
    before, labels = card.get("glance"), card.get("labels") or {}
    if source.labels is not None and labels.get("sha256") != source.labels.sha256:
        warnings.warn(f"the labels file {shown(source.labels.path)} has changed since {run} was trained", stacklevel=3)
    elif before is not None and before != quick_fingerprint(source.splits["train"]):
        warnings.warn(f"the images of {source.spec} are not those {run} was trained on", stacklevel=3)


def is_own_data(run: Path, source: Source) -> bool:
    """Return whether the training images of a source are those a run was trained on, as far as it records them."""
    try:
        before = read_card(run).get("glance")
    except UserError:
        return False
    return before is not None and before == quick_fingerprint(source.splits["train"])


def _harmless(spec: str, run: Path) -> str:
    """Return a source that a run names, unless it is a command: the run may come from someone else.

    Raises:
        UserError: it is a command.
    """
    if spec.startswith("pipe:"):
        raise UserError(
            f"{run} was trained on the output of a command; to run the command, give --data {_quoted(spec)}"
        )
    return spec


def _quoted(word: object) -> str:
    """Return a word of a command line, safe to print."""
    return shlex.quote(shown(word))


KNOWN = ("digits", *REMOTE)  # sources without a path: safe to open, whoever made the run

# Settings that may differ when a run is continued: they do not change a step (except steps, if rates depend on them).
CHANGEABLE = ("training.steps", "training.minutes", "log.", "data.max_unreadable")


@contextmanager
def open_for_training(run: Path, config: Config) -> Iterator[None]:
    """Create the run folder, or continue in an existing one; no two processes train in one folder.

    Raises:
        UserError: another process trains there, or the folder holds something else, or a run with other settings.
    """
    if run.exists() and not run.is_dir():
        raise UserError(f"--out {run} is a file; expected a folder for the run")
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not (run / "config.json").exists() and any(p.name != ".lock" for p in run.iterdir()):
            raise UserError(f"--out {run} is not empty and holds no run (no config.json); choose another folder")
        lock_file = (run / ".lock").open("w", encoding="ascii")
    except OSError as error:
        raise write_error(error, run / ".lock") or error from None
    with lock_file:
        if not lock(lock_file.fileno(), run):
            raise UserError(f"another process is training in {run}; wait for it or choose another --out")
        for left in (*run.glob(f"{TEMPORARY}*"), *run.glob(f"samples/{TEMPORARY}*")):
            left.unlink(missing_ok=True)
        if has_trained(run):
            _refuse_changes(read_config(run), config, run)
        config.save(run / "config.json")
        write_json(run / "environment.json", environment() | {"earlier": _environments(run)}, stamp=True)
        try:
            (run / "samples").mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(error, run / "samples") or error from None
        yield


def has_trained(run: Path) -> bool:
    """Return whether a run has begun to train. If its first start failed, other settings and data are fine."""
    log = run / "metrics.jsonl"
    begun = any((run / "checkpoints").glob("*")) or (log.exists() and log.stat().st_size > 0)
    return begun and (run / "config.json").exists()


def _environments(run: Path) -> list[dict[str, Any]]:
    """Return the environments of earlier parts of a run that is continued, oldest first."""
    before = read_environment(run)
    return [*before.pop("earlier", []), before] if before else []


def _refuse_changes(before: Config, now: Config, run: Path) -> None:
    if changed := _changes(before.to_dict(), now):
        # "scale" first: a forgotten --scale changes most other settings
        changed.sort(key=lambda text: not text.startswith("scale "))
        raise UserError(f"{run} holds a run with other settings ({_first_changes(changed)}); choose another --out")


def _changes(before: Mapping[str, Any], now: Config) -> list[str]:
    """Return the settings that differ and may not, each as "NAME was A, now B"."""
    old, new = flat(before), flat(now.to_dict())
    schedule_depends_on_steps = now.optimizer.lr_final < 1 or now.loss.latent_regression_final < 1
    return [
        f"{name} was {old.get(name)}, now {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        and (not name.startswith(CHANGEABLE) or (name == "training.steps" and schedule_depends_on_steps))
    ]


def _first_changes(changes: list[str]) -> str:
    return "; ".join(changes[:4]) + (f"; and {len(changes) - 4} more" if len(changes) > 4 else "")


def warn_of_other_settings(run: Path, trained_with: Mapping[str, Any], config: Config) -> None:
    """Warn if config.json of a run has changed since it was written, or does not match a checkpoint.

    Args:
        run: run folder.
        trained_with: settings in the checkpoint; one of an older version has fewer.
        config: the settings in config.json.
    """
    ours = flat(config.to_dict())
    if changed := _changes(ours | {k: v for k, v in flat(trained_with).items() if k in ours}, config):
        warnings.warn(
            f"{run / 'config.json'} does not match the checkpoint ({_first_changes(changed)}): results may be wrong; "
            "restore it from a copy",
            stacklevel=3,
        )
    else:
        read_json(run / "config.json")  # warns of a change


def changed_settings(config: Config) -> dict[str, Any]:
    """Return the settings in which a run differs from its experiment, for result lines.

    Steps and seed are omitted, since a result line has fields for them, and `log`, which changes no weight. A budget of
    time is included.
    """
    known = EXPERIMENTS.get(config.experiment)  # settings of experiments of your own are compared with the defaults
    base = Config() if known is None else known.config(config.scale)
    defined, ours = flat(base.to_dict()), flat(config.to_dict())
    # Class sizes follow from the data and the labels.
    omitted = (*CHANGEABLE, "training.seed", "data.class_sizes", "experiment", "scale")
    return {
        k: v for k, v in ours.items() if defined.get(k) != v and (k == "training.minutes" or not k.startswith(omitted))
    }


def environment() -> dict[str, Any]:
    """Return versions, device, commit and time, without names of users, hosts or folders."""
    return {
        "bigbigan": bigbigan.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(default_device()),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def commit() -> str:
    """Return the commit of the source tree this package runs from, "-dirty" if changed; "" if installed without git."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here)]
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10)
        if tracked.returncode:
            return ""
        text = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10, encoding="utf-8",
        )  # fmt: skip
        return text.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
