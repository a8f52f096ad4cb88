"""Write files atomically, lock them, and read files, JSON and safetensors with checks. Nothing read here runs code."""

from bigbigan.io.files import (
    DISK_FULL,
    lock,
    open_regular,
    regular_bytes,
    sha256_of,
    sync,
    write_error,
    write_text,
    writing,
    writing_folder,
)
from bigbigan.io.json_files import (
    append_lines,
    checked,
    parse_json,
    read_json,
    read_lines,
    stamped,
    unstamped,
    warn_of_change,
    warn_of_damage,
    write_json,
)

__all__ = [
    "DISK_FULL",
    "append_lines",
    "checked",
    "lock",
    "open_regular",
    "parse_json",
    "read_json",
    "read_lines",
    "regular_bytes",
    "sha256_of",
    "stamped",
    "sync",
    "unstamped",
    "warn_of_change",
    "warn_of_damage",
    "write_error",
    "write_json",
    "write_text",
    "writing",
    "writing_folder",
]
