"""Read what settings mean from their comments in `bigbigan.config.schema`."""

from __future__ import annotations

import ast
import inspect
import re

__all__ = ["meanings"]


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
