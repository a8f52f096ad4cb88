"""Check what users pass to a model: tensors, ranges, counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bigbigan.errors import UserError

__all__ = ["as_tensor", "check_at_least", "check_label", "check_number", "check_range", "is_whole"]


def as_tensor(given: Any, name: str, expected: str) -> Tensor:
    """Return a tensor or numeric array as a tensor; raise UserError for anything else."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        return torch.from_numpy(np.array(given, dtype=given.dtype.newbyteorder("="), order="C"))
    if not isinstance(given, Tensor):
        kind = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else f"a {type(given).__name__}"
        raise UserError(f"{name}: {kind}; expected a tensor or array, {expected}")
    return given


def check_range(value_range: Any) -> tuple[float, float]:
    """Return black and white as floats; raise UserError unless black is below white and both are finite."""
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not -math.inf < low < high < math.inf:
        raise UserError(f"value_range is {value_range}; expected black and white, such as (0, 1)")
    return low, high


def check_label(label: int | None, classes: int, needed: bool = False) -> int | None:
    """Return `label`; raise UserError unless it is a class from 0 to `classes` - 1, or None if it is not `needed`."""
    if label is None and needed:
        raise UserError(f"label is missing; expected the class of the images, 0 to {classes - 1}")
    if label is not None and (classes == 1 or not is_whole(label) or not 0 <= label < classes):
        known = f"0 to {classes - 1}" if classes > 1 else "none: this model was trained without labels"
        raise UserError(f"label is {label}; expected {known}")
    return label


def is_whole(number: Any) -> bool:
    """Return whether this is a whole number, and not a bool."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def check_at_least(minimum: int, **given: Any) -> None:
    """Raise UserError unless each named value is a whole number of at least `minimum`."""
    for name, value in given.items():
        if not is_whole(value) or value < minimum:
            raise UserError(f"{name} is {value}; expected a whole number, at least {minimum}")


def check_number(fits: Callable[[float], bool], expected: str, **given: Any) -> None:
    """Raise UserError, with what was expected, unless each named value is a real number that fits."""
    for name, value in given.items():
        real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not real or not fits(float(value)):
            raise UserError(f"{name} is {value!r}; expected {expected}")
