"""Read settings from a YAML or JSON file (`train --config`), and write them as YAML with comments (`--print-config`).

A file gives some or all settings, as groups or by dotted name:

    experiment: small/digits     # optional: the experiment that gives the other settings
    training:
      steps: 500
    encoder.widths: [64, 128]

A run's config.json is such a file, and has all of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import reprlib
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bigbigan.config.comments import meanings
from bigbigan.config.overrides import config_from_dict, follow_augment, resolve
from bigbigan.config.schema import Config, flat
from bigbigan.errors import UserError
from bigbigan.io import regular_bytes, unstamped
from bigbigan.io.json_files import MAX_JSON_BYTES, STAMP

__all__ = ["SettingsFile", "as_yaml", "read_settings"]

WIDTH = 100  # of the lines of comments


@dataclass(frozen=True)
class SettingsFile:
    """Hold the settings of a file.

    Attributes:
        path: the file.
        values: the settings by dotted name, such as {"training.steps": 500}.
        lines: the line of each, from 1; empty for JSON.
        complete: whether it has all settings: it is the config.json of a run, or --print-config wrote it.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]
    complete: bool

    @property
    def experiment(self) -> str | None:
        """The name of the experiment that the file names."""
        name = self.values.get("experiment")
        return name if isinstance(name, str) else None

    @property
    def scale(self) -> int:
        """The scale of that experiment, 0 by default."""
        scale = self.values.get("scale")
        return scale if isinstance(scale, int) else 0

    def config(self, base: Config) -> Config:
        """Return the settings of the file, and those of `base` for what the file does not have.

        Raises:
            UserError: a value of the wrong type or range, or settings that do not go together.
        """
        if self.complete:
            return config_from_dict(_tree(self.values), str(self.path))
        tree = base.to_dict()
        follow_augment(tree, self.values)
        for name, value in self.values.items():
            *group, leaf = name.split(".")
            if name not in ("experiment", "scale"):  # those of `base`
                (tree[group[0]] if group else tree)[leaf] = value
        return resolve(tree, [], str(self.path), self.lines)


def read_settings(path: Path) -> SettingsFile:
    """Read a file of settings.

    Raises:
        UserError: it cannot be read, is neither YAML nor JSON, or has a setting that does not exist; the message names
            the line, and the nearest setting.
    """
    try:
        text = regular_bytes(path, MAX_JSON_BYTES).decode()
        if path.suffix.lower() == ".json":
            values, lines, complete = _from_json(text, path)
        else:
            values, lines = _from_yaml(text, path)
            complete = values.keys() >= {*NAMES}
    except FileNotFoundError:
        raise UserError(f"--config {path}: there is no such file; expected settings as YAML or JSON") from None
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: this is not JSON: {error.msg}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: this is not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    return SettingsFile(path, values, lines, complete)


def as_yaml(config: Config, comments: bool = True) -> str:
    """Return settings as YAML that `read_settings` reads, each below its comment in `bigbigan.config.schema`."""
    lines: list[str] = []
    fields = dataclasses.fields(Config)
    described = meanings(Config) if comments else {}
    tree = config.to_dict()
    for field in fields:
        value = tree[field.name]
        if not isinstance(value, dict):
            lines += [*_comment(described.get(field.name, "")), f"{field.name}: {_scalar(value)}"]
            continue
        group = getattr(config, field.name)
        about = " ".join((type(group).__doc__ or "").split()) if comments else ""
        described_here = meanings(type(group)) if comments else {}
        lines += [*([""] if comments else []), *_comment(about), f"{field.name}:"]
        for name, leaf in value.items():
            lines += [*_comment(described_here.get(name, ""), "  "), f"  {name}: {_scalar(leaf)}"]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _scalar(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text else re.sub("e", ".0e", text)  # YAML takes 1e-08 for a text
    if isinstance(value, str) and re.fullmatch(r"[\w/.-]+", value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value)


def _tree(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *group, leaf = name.split(".")
        (tree.setdefault(group[0], {}) if group else tree)[leaf] = value
    return tree


def _from_json(text: str, path: Path) -> tuple[dict[str, Any], dict[str, int], bool]:
    parsed = json.loads(text)
    if not isinstance(parsed, dict):
        raise UserError(f"{path}: expected a JSON object with settings")
    content, _ = unstamped(parsed)
    values = flat({name: value for name, value in content.items() if name not in GROUPS or value != {}})
    for name in values:
        if name in GROUPS:
            raise UserError(f"{path}: {name} is {reprlib.repr(values[name])}; expected settings, as name: value")
        _known_name(name, str(path))
    return values, {}, STAMP in parsed or values.keys() >= {*NAMES}


def _from_yaml(text: str, path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the values and lines of settings in YAML, which is composed first, because a node knows its line."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return {}, {}
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}

        def add(node: Any, prefix: str) -> None:
            if not isinstance(node, yaml.MappingNode):
                raise UserError(f"{path}, line {node.start_mark.line + 1}: expected settings, as name: value")
            for key, value in node.value:
                line = key.start_mark.line + 1
                name = f"{prefix}{key.value if isinstance(key.value, str) else '?'}"
                if name in GROUPS:
                    add(value, f"{name}.")
                    continue
                _known_name(name, f"{path}, line {line}")
                if name in values:
                    raise UserError(f"{path}, line {line}: {name} is there twice, first in line {lines[name]}")
                values[name] = loader.construct_object(value, deep=True)
                if isinstance(values[name], dict | set):
                    raise UserError(f"{path}, line {line}: {name} is {reprlib.repr(values[name])}; expected a value")
                lines[name] = line

        add(root, "")
        return values, lines
    finally:
        loader.dispose()


DEFAULTS = Config().to_dict()
GROUPS = tuple(name for name, value in DEFAULTS.items() if isinstance(value, dict))
NAMES = tuple(flat(DEFAULTS))


def _known_name(name: str, where: str) -> None:
    if name not in NAMES:
        near = difflib.get_close_matches(name, [*NAMES, *GROUPS], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "--print-config prints all settings"
        raise UserError(f"{where}: there is no setting {name}; {hint}")
