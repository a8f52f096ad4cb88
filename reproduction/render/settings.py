"""Render the tables of docs/configuration.md: every setting with its values, default and meaning.

All is read from bigbigan/config/schema.py: the comment above a setting, or on its line, says what it means.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
from typing import Any

from bigbigan.config import Config, schema

__all__ = ["meanings", "settings_tables"]

KINDS = {"int": "whole number", "float": "number", "bool": "`true`, `false`", "str": "text"}


def meanings(group: type) -> dict[str, str]:
    """Return the comment of each field of a settings class, by name; one of several lines is joined."""
    lines = inspect.getsource(group).splitlines()
    found = {}
    (body,) = ast.parse("\n".join(lines)).body
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno is not None:
            before: list[str] = []
            for line in reversed(lines[: node.lineno - 1]):
                if not (comment := re.match(r"    # (.*)", line)):
                    break
                before.insert(0, comment[1])
            same_line = re.match(r"\s+# (.*)", lines[node.end_lineno - 1][node.end_col_offset :])
            found[node.target.id] = " ".join([*before, *([same_line[1]] if same_line else [])])
    return found


def settings_tables(_: object = None) -> str:
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
    return " or ".join(KINDS[part] if part in KINDS else _values(part) for part in annotation.split(" | "))


def _linked(text: str) -> str:
    """Return a meaning as Markdown: a capital if it begins with a word, no full stop, pages of docs/ as links."""
    text = text.removesuffix(".")
    if re.match(r"[a-z]+ (?!=)", text):
        text = text[0].upper() + text[1:]
    text = re.sub(r"docs/([\w/]+\.md)", r"[\1](\1)", text)
    return re.sub(r"(?<![\w`])((?:data|encoder|system)\.\w+(?:=\w+)?|system=\w+|--\w+)", r"`\1`", text)
