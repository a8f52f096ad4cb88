"""The settings of a run: what they are, their checks, and how they are set."""

from __future__ import annotations

import bigbigan.config.compatibility as _compatibility  # noqa: F401  (registers the check of Config)
import bigbigan.config.validate as _checks  # noqa: F401  (registers the checks of the other classes below)
from bigbigan.config.overrides import config_from_dict, named_settings, override
from bigbigan.config.schema import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    EncoderConfig,
    GeneratorConfig,
    LatentConfig,
    LogConfig,
    LossConfig,
    OptimizerConfig,
    PretextConfig,
    Task,
    TrainingConfig,
    flat,
)

__all__ = [
    "Config",
    "DataConfig",
    "DiscriminatorConfig",
    "EncoderConfig",
    "GeneratorConfig",
    "LatentConfig",
    "LogConfig",
    "LossConfig",
    "OptimizerConfig",
    "PretextConfig",
    "Task",
    "TrainingConfig",
    "config_from_dict",
    "flat",
    "named_settings",
    "override",
]
