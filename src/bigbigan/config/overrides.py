"""Make a `Config` from --set settings on top of another one, or from a file; mistakes are reported in plain words."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from bigbigan.config.schema import Config, flat
from bigbigan.errors import UserError

__all__ = ["config_from_dict", "follow_augment", "named_settings", "override", "resolve"]


def resolve(
    tree: Mapping[str, Any], settings: list[str], file: str = "", lines: Mapping[str, int] | None = None
) -> Config:
    """Return typed settings from a tree, with "a.b=value" on top. jsonargparse checks it.

    Args:
        tree: settings, nested.
        settings: as given to --set.
        file: the file that the tree was read from, for messages.
        lines: the lines of settings in this file by dotted name, if known.

    Raises:
        UserError: a value of the wrong type or range, or settings that do not go together.
    """
    arguments = [f"--config.{setting}" for setting in settings]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=Config)
    try:
        namespace = parser.parse_object({"config": dict(tree)})
        namespace = parser.parse_args(arguments, namespace=namespace)
        return parser.instantiate(namespace).config
    except (ArgumentError, ValueError, TypeError) as error:
        text = " ".join(str(error).replace("config.", "").split())
        concerned = [s for s in settings if s.partition("=")[0] in text] or settings
        line = next((f", line {n}" for name, n in (lines or {}).items() if re.search(rf"\b{name}\b", text)), "")
        given = f"{file}{line}" if file else "--set " + " ".join(concerned)
        raise UserError(f"{given}: {_in_words(text, keys=len(concerned) != 1)}") from None


KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "tuple": "a list, such as [1,2]"}


def _in_words(text: str, keys: bool) -> str:
    """Reword jsonargparse's message about a value of the wrong type; `keys` says whether to name the setting."""
    text = re.sub(r'Parser key "([^"]*)": ', r"\1: " if keys else "", text)
    union = r"Does not validate against any of the Union subtypes .* Given value: "  # encoder.blocks
    text = re.sub(union, "expected a whole number or a list, such as [1,2], got ", text)
    text = re.sub(r"Expected a tuple with (\d+) elements", r"expected a list of \1 numbers", text)
    text = re.sub(r"Expected a <class '(\w+)'>", lambda m: f"expected {KINDS.get(m[1], m[1])}", text)
    return re.sub(r"Expected a typing\.Literal\[(.*?)\]", r"expected one of \1", text).replace(". Got value:", ", got")


def override(config: Config, settings: list[str]) -> Config:
    """Return `config` with settings such as "training.steps=500".

    Raises:
        UserError: unknown setting (the nearest known one is named), a value of the wrong type or range, or
            settings that do not go together.
    """
    known = list(flat(config.to_dict()))
    for setting in settings:
        name, equals, _ = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected name=value, for example training.steps=500")
        if name in ("experiment", "scale"):
            way = "--scale S" if name == "scale" else "the experiment as the first argument"
            raise UserError(f"--set {setting}: {name} cannot be set like this; give {way}")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "--dry-run prints all settings"
            raise UserError(f"--set {setting}: there is no setting {name}; {hint}")
    tree, given = config.to_dict(), dict(setting.split("=", 1) for setting in settings)
    follow_augment(tree, given)
    if "training.steps" in given and "training.minutes" not in given:  # a number of steps replaces a time budget
        tree["training"]["minutes"] = 0.0
    return resolve(tree, settings)


def follow_augment(tree: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Set data.mirror in a tree of settings if only data.augment is given: a flip that is set by name is done."""
    if "data.augment" in given and "data.mirror" not in given:
        tree["data"]["mirror"] = "always" if given["data.augment"] == "flip" else "auto"


def config_from_dict(tree: Any, origin: str) -> Config:
    """Return the `Config` that `Config.to_dict` wrote; `origin` names the file in messages.

    Raises:
        UserError: unknown keys, wrong types, values out of range.
    """
    if not isinstance(tree, Mapping):
        raise UserError(f"{origin}: expected a JSON object with the settings of a run")
    if unknown := sorted(set(flat(tree)) - set(flat(Config().to_dict()))):
        raise UserError(f"{origin}: there is no setting {unknown[0]}, or it is not of the right shape")
    config = resolve(tree, [], origin)
    if "mirror" not in tree.get("data", {}) and config.can_mirror:
        # Written by a version without this setting, whose augmentations always mirrored.
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, mirror="always"))
    return config


def named_settings(settings: Mapping[str, Any]) -> str:
    """Return settings as text: a.b=value, ..."""
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())
