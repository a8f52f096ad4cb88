"""Define the options and checks that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigbigan.compute import AUTO, DEVICES
from bigbigan.errors import UserError, not_a_run
from bigbigan.inference.exported import EXPORTED

if TYPE_CHECKING:
    from bigbigan.data import Source

SOURCES = (
    "digits, mnist, cifar10, a folder or archive of images, a folder of idx files, .npz, tar shards, hf:NAME, "
    "python:MODULE:NAME"
)
RUN = (
    "trained model: run folder (train --out), exported folder, model of this package (small/fashion_mnist), or "
    "owner/name on the Hugging Face Hub"
)
RUN_OR_ENCODER = f"{RUN}; or a frozen encoder: timm:NAME, hub:REPO:ENTRY, python:MODULE:NAME"
OWN_DATA = f"images (default: the run's own): {SOURCES}"
LABELS_FILE: dict[str, Any] = {
    "metavar": "FILE.csv",
    "help": "CSV file of labels (instead of the source's own), groups and splits: columns file, label, group, split",
}
RESULTS: dict[str, Any] = {"type": Path, "metavar": "FILE", "help": "append the result lines to this file too"}
QUIET: dict[str, Any] = {"action": "store_true", "help": "show no progress bar"}
AS_JSON: dict[str, Any] = {"action": "store_true", "help": "print the result as JSON"}
RAW_CELLS: dict[str, Any] = {
    "action": "store_true",
    "help": "write names that begin with = + - @ unchanged, without the apostrophe that keeps spreadsheets from "
    "running them as formulas",
}
READING: dict[str, Any] = {
    "action": "extend",
    "nargs": "+",
    "default": [],
    "metavar": "data.NAME=VALUE",
    "help": "setting of how images are read: data.window=[200,3900], data.window_percentiles=[0.1,99.9], "
    "data.frames=all, data.max_pixels=N",
}
TRUST: dict[str, Any] = {
    "action": "append",
    "default": [],
    "metavar": "MODULE",
    "help": "let the settings of somebody else's run or file import this module or package",
}
CHECKPOINT: dict[str, Any] = {
    "default": "newest",
    "metavar": "WHICH",
    "help": "checkpoint of the run: newest (default), best, or a step",
}


def run_and_data(parser: argparse.ArgumentParser, data: str | None, out: str | None, run: str = RUN) -> None:
    """Add RUN (its help in `run`) and, if given, --data (its help) with --labels, and --out ("METAVAR help")."""
    parser.add_argument("run", type=Path, metavar="RUN", help=run)
    if data:
        parser.add_argument("--data", metavar="SOURCE", help=data)
        parser.add_argument("--labels", **LABELS_FILE)
    if out:
        parser.add_argument("--out", type=Path, required=True, metavar=out.split()[0], help=out.partition(" ")[2])


def device_option(parser: argparse._ActionsContainer) -> None:
    """Add --device, for every command that computes."""
    parser.add_argument(
        "--device",
        default=AUTO,
        metavar="DEVICE",
        help=f"device to compute on: {DEVICES} (default auto: a GPU if there is one, else the CPU)",
    )


def run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all commands share that read a run, as a group of their own in the help.

    They are --checkpoint, --device, --batch-size, --json and --quiet. `main` sets the device and the batch size, so
    `bigbigan.training.devices.default_device` and `bigbigan.compute.images_per_pass` return them; a command itself
    passes on `options.checkpoint`, `options.json` and `options.quiet`.
    """
    group = parser.add_argument_group("options of all commands that read a run")
    group.add_argument("--checkpoint", **CHECKPOINT)
    device_option(group)
    group.add_argument(
        "--batch-size", type=int, metavar="N", help="images to pass through a network at once; fewer need less memory"
    )
    group.add_argument("--json", **AS_JSON)
    group.add_argument("--quiet", **QUIET)


def open_to_read(options: argparse.Namespace) -> Source:
    """Open SOURCE with --labels and --set (`READING`), and measure the window if they ask for it.

    Raises:
        UserError: there is no such source, or a setting is wrong or not one of how images are read.
    """
    from bigbigan.config import Config, override
    from bigbigan.data import open_source
    from bigbigan.data.loading import measure_window
    from bigbigan.data.window import Window
    from bigbigan.training.run_folder import limits_of

    names = ("data.window", "data.window_percentiles", "data.frames", "data.max_pixels")
    for setting in options.set:
        if setting.partition("=")[0].strip() not in names:
            raise UserError(f"--set {setting}: expected a setting of how images are read: {', '.join(names)}")
    config = override(Config(), options.set)
    source = open_source(options.source, labels=options.labels, limits=limits_of(config))
    if config.data.window_percentiles and not config.data.window:
        source.set_window(Window(*measure_window(source, source.splits["train"], config.data.window_percentiles)))
    return source


def at_least(minimum: int, **given: int | None) -> None:
    """Raise UserError if an option is given and below the minimum."""
    for name, value in given.items():
        if value is not None and value < minimum:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected at least {minimum}")


def check_ending(options: argparse.Namespace, name: str, *endings: str) -> None:
    """Raise UserError if the file that an option names, if any, has none of the endings."""
    path: Path | None = getattr(options, name)
    if path is not None and path.suffix.lower() not in endings:
        raise UserError(f"--{name} {path}: expected a name ending in {' or '.join(endings)}")


def check_run(run: object) -> None:
    """Raise UserError if RUN is a folder that does not exist, before torch is loaded.

    Names of trained models of this package have become folders before (`pretrained_folder`). Names on the Hub and of
    external encoders (timm:NAME) are looked up later.
    """
    if ":" not in str(run) and not Path(str(run)).is_dir():
        from bigbigan.inference.hub import is_hub_name

        if not is_hub_name(str(run)):
            raise not_a_run(run)


def writable(path: Path, remedy: str = "choose another path") -> None:
    """Create the folder of a file to write; raise UserError if the file cannot be written, before any work."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be created: {error.strerror}") from None
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected the name of a file to write")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{path} cannot be written: permission denied; {remedy}")


def is_own_results(results: Path, run: str | Path, out: Path | None = None) -> bool:
    """Return whether a command has written to `results` already: its lines go to the run folder, or to `out`.

    Exported models and external encoders have no such file.
    """
    folder = out or Path(run)
    is_run = (Path(run) / "config.json").is_file() and not (Path(run) / EXPORTED).exists()
    return (out is not None or is_run) and results.resolve() == (folder / "results.jsonl").resolve()
