"""Find the settings of `bigbigan train`: of an experiment, of a file, or of the run that is continued."""

from __future__ import annotations

import argparse
import json
import math
import re
from importlib.util import find_spec
from pathlib import Path

from bigbigan.config import Config, config_from_dict, override
from bigbigan.errors import UserError
from bigbigan.experiments import EXPERIMENTS, find
from bigbigan.io import read_json
from bigbigan.training.seal import refuse_foreign_code
from bigbigan.user_code import check_module, is_named, refuse_untrusted

__all__ = ["default_data", "settings_of"]


def settings_of(options: argparse.Namespace) -> Config:
    """Return the settings that the options of `train` name; torch is not imported.

    They come from EXPERIMENT, from --config FILE, or from the run in --out. FILE overrides EXPERIMENT, and --set both.

    Raises:
        UserError: no settings are named, one of them is wrong, or a file of others names code.
    """
    origin: Path | None = None
    if options.config is not None:
        base, origin = _of_file(options), options.config
    elif options.experiment is not None:
        base = find(options.experiment).config(options.scale)
    else:
        base, origin = _of_run(options.out), options.out / "config.json" if options.out else None
    if options.scale and options.experiment is None:
        raise UserError(f"--scale {options.scale} goes with EXPERIMENT, which is missing")
    settings = [*options.set, *_length(options), *_loggers(options, base)]
    config = override(base, settings)
    if origin is not None and not options.print_config:
        typed = re.findall(r"[\w.:]+", " ".join([*options.set, *options.log]))  # whole names only
        refuse_foreign_code([name for name in config.own_code if name not in typed], origin)
    for name in config.own_code:
        check_module(name)
    if "wandb" in config.log.loggers and find_spec("wandb") is None:
        raise UserError("log.loggers=wandb: Weights & Biases is not installed: pip install 'bigbigan[wandb]'")
    return config


def default_data(options: argparse.Namespace, config: Config) -> str | None:
    """Return the source of the experiment that was named, on the command line or in the file; None if it has none."""
    if options.experiment is not None:
        return find(options.experiment).data
    known = EXPERIMENTS.get(config.experiment)
    return None if known is None else known.data


def _of_file(options: argparse.Namespace) -> Config:
    from bigbigan.config.files import read_settings

    file = read_settings(options.config)
    if file.complete:
        if options.experiment is not None:
            raise UserError(f"--config {options.config} has all settings; remove EXPERIMENT, {options.experiment}")
        return file.config(Config())
    name = options.experiment or file.experiment
    if name in (None, Config().experiment):
        return file.config(Config())
    if options.experiment is None and is_named(name):
        refuse_untrusted([name], options.config)
    return file.config(find(name).config(options.scale or file.scale))


def _of_run(out: Path | None) -> Config:
    what = "EXPERIMENT, such as small/digits (see: bigbigan list), or --config FILE"
    if out is None:
        raise UserError(f"train: expected {what}, or --out RUN alone to continue a run")
    if not (out / "config.json").exists():
        raise UserError(f"train --out {out}: there is no run to continue; to start one give {what}")
    return config_from_dict(read_json(out / "config.json", warn=False), str(out / "config.json"))


def _length(options: argparse.Namespace) -> list[str]:
    """Return the settings that --steps and --minutes stand for."""
    if options.minutes is not None:
        if not 0 < options.minutes < math.inf:
            raise UserError(f"--minutes {options.minutes:g}: expected a number above 0")
        return [f"training.minutes={options.minutes}"]
    if options.steps is None:
        return []
    return [f"training.steps={options.steps}"]


def _loggers(options: argparse.Namespace, base: Config) -> list[str]:
    """Return the setting that --log stands for: the loggers of the settings and those of --log."""
    from bigbigan.config.validate import LOGGERS

    for name in options.log:
        if name not in LOGGERS and not is_named(name):
            raise UserError(f"--log {name}: expected {', '.join(LOGGERS)} or python:MODULE:NAME")
    if not options.log:
        return []
    if any(setting.startswith("log.loggers=") for setting in options.set):
        raise UserError("--log and --set log.loggers=...: expected one of them")
    return [f"log.loggers={json.dumps(list(dict.fromkeys([*base.log.loggers, *options.log])))}"]
