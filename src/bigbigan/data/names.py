"""Store, print and order the names of files and classes."""

import math
import os
import unicodedata
from collections.abc import Sequence

__all__ = ["NO_LABEL", "class_order", "composed", "extension", "label_of", "listed", "shown", "stored_name"]

NO_LABEL = {"", "-1", "-1.0", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "NULL", "null"}  # as tables are written


def extension(name: str) -> str:
    """Return the ending of a file name, such as ".jpg" of "a/B.JPG"; "" if it has none."""
    return os.path.splitext(name)[1].lower()


def stored_name(name: object) -> str:
    """Return a file's or class's name as it is stored and written to files.

    Undecodable bytes, control characters, line separators and marks that reverse the direction of text are escaped as
    in `shown`; all other characters are kept.
    """
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or _belongs_to_names(c) else shown(c) for c in text)


def _belongs_to_names(c: str) -> bool:
    """Return whether to keep a character that is not printable: spaces, joiners of emoji, new Unicode characters."""
    return unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") and not (
        "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069"
    )


def composed(name: str) -> str:
    """Return a name in Unicode's composed form, to compare it: macOS writes é as two characters, others as one."""
    return unicodedata.normalize("NFC", name)


def label_of(text: str) -> str:
    """Return the class that a label names, without spaces around it and in composed form; "" if it means no label."""
    label = composed(text.strip())
    return "" if label in NO_LABEL else label


def class_order(name: object) -> tuple[int, float, str]:
    """Return a sort key of class names: numbers first, by value, then text."""
    try:
        value = float(str(name))
    except ValueError:
        value = math.nan
    return (0, value, str(name)) if math.isfinite(value) else (1, 0.0, str(name))


def listed(names: Sequence[object], limit: int = 5) -> str:
    """Return the first of some names, fit to print, and how many others there are: "a, b and 3 more"."""
    more = len(names) - limit
    return ", ".join(map(shown, names[:limit])) + (f" and {more:,} more" if more > 0 else "")


def shown(name: object) -> str:
    """Return a file name or path fit to print: one line, undecodable bytes and control characters escaped."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
