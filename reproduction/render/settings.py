"""Render the tables of docs/configuration.md: every setting with its values, default and meaning.

All is read from bigbigan/config/schema.py: the comment above a setting, or on its line, says what it means.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from bigbigan.config import Config, schema
from bigbigan.config.comments import meanings

__all__ = ["settings_tables"]

KINDS = {"int": "whole number", "float": "number", "bool": "`true`, `false`", "str": "text"}


def settings_tables() -> str:
    """Return a heading and a table for each group of settings, in Markdown."""
    out = _table("", Config, {f.name: f for f in dataclasses.fields(Config) if f.default is not dataclasses.MISSING})
    for group in dataclasses.fields(Config):
        if group.default is dataclasses.MISSING:
            kind = group.default_factory
            assert isinstance(kind, type)
            assert dataclasses.is_dataclass(kind)
            about = " ".join((kind.__doc__ or "").split())
            out += ["", f"## {group.name}", "", about, ""]
            out += _table(f"{group.name}.", kind, {f.name: f for f in dataclasses.fields(kind)})
    return "\n".join(out)


def _table(prefix: str, group: type, fields: dict[str, dataclasses.Field[Any]]) -> list[str]:
    comments = meanings(group)
    out = ["| setting | values | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = f"`{json.dumps(field.default)}`".replace('"', "")
        cells = (
            f"`{prefix}{name}`",
            _values(str(field.type)),
            "" if default == "``" else default,
            _linked(comments[name]),
        )
        out.append(f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |")
    return out


def _values(annotation: str) -> str:
    """Return an annotation, such as "Literal['none', 'flip']", in words."""
    if annotation == "tuple[Task, ...]":
        return f"list of {_values(str(schema.Task).removeprefix('typing.'))}"
    if choices := re.fullmatch(r"Literal\[(.*)\]", annotation):
        return ", ".join(f"`{choice}`" for choice in re.findall(r"[\w]+", choices[1]))
    if items := re.fullmatch(r"tuple\[(.*), \.\.\.\]", annotation):
        words = _values(items[1])
        return f"list of {words}s" if items[1] in ("int", "float") else f"list of {words}"
    if annotation == "tuple[float, float]":
        return "two numbers"
    if annotation.startswith("Literal") and annotation.endswith(" | str"):
        return f"{_values(annotation.removesuffix(' | str'))} or `MODULE:NAME`"
    return " or ".join(KINDS[part] if part in KINDS else _values(part) for part in annotation.split(" | "))


def _linked(text: str) -> str:
    """Return a meaning as Markdown: a capital if it begins with a word, no full stop, pages of docs/ as links."""
    text = text.removesuffix(".")
    if re.match(r"[a-z]+ (?!=)", text):
        text = text[0].upper() + text[1:]
    text = re.sub(r"docs/([\w/]+\.md)", r"[\1](\1)", text)
    return re.sub(r"(?<![\w`])((?:data|encoder|system)\.\w+(?:=\w+)?|system=\w+|--\w+)", r"`\1`", text)
