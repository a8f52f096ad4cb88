"""Read zip and tar files of images in place, without unpacking them to disk.

Archives are untrusted. Names of members are data, never paths; links and devices are not followed; the sizes that a
header claims are checked against limits. Damage is reported: neither zipfile nor tarfile says that members are missing.
"""

import contextlib
import functools
import gzip
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from bigbigan.data.decode import DecodeLimits
from bigbigan.data.formats import HEAD, Unreadable
from bigbigan.data.image_set import Source, memory_free
from bigbigan.data.names import shown
from bigbigan.data.readers.folders import Entry, Reader, is_candidate
from bigbigan.errors import UserError

__all__ = ["list_tar", "list_zip"]

# Python unpacks more methods, but without a limit: a file of a kilobyte could fill the memory.
_METHODS = {0, 8}  # of zip: stored and Deflate
_METHOD_NAMES = {1: "Shrink", 6: "Implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 20: "Zstandard", 93: "Zstandard"}
_METHOD_NAMES |= {94: "MP3", 95: "XZ", 96: "JPEG", 97: "WavPack", 98: "PPMd", 99: "AES encryption"}
_BOMB_FROM, _BOMB_RATIO = 2**30, 200  # images hardly compress: beyond 1 GiB, 200 to 1 is not an archive of images


def _parts(name: str, source: Source) -> tuple[str, ...] | None:
    """Return the parts of a member's name; if it is an unsafe path, record that in the source and return None."""
    parts = tuple(p for p in name.split("/") if p not in ("", "."))
    if not parts or name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        source.refuse(shown(name), Unreadable("unsafe name in archive"))
        return None
    return parts


def list_zip(path: Path, source: Source, limits: DecodeLimits) -> tuple[list[Entry], Reader]:
    """List the candidate images of a zip file."""

    @functools.cache
    def archive(pid: int) -> zipfile.ZipFile:  # one a process: a forked worker shares its parent's file position
        return zipfile.ZipFile(path)

    def read(member: zipfile.ZipInfo, size: int = limits.max_bytes + 1) -> bytes:
        with archive(os.getpid()).open(member) as f:
            return f.read(size)

    try:
        members = archive(os.getpid()).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as e:
        raise UserError(f"{shown(path)} is not a readable zip file (cut short or damaged?)") from e
    with open(path, "rb") as f:  # zipfile accepts missing members; the end record has the right count
        f.seek(-min(path.stat().st_size, 66_000), os.SEEK_END)
        count = int.from_bytes(f.read().rpartition(b"PK\5\6")[2][6:8], "little")
    # 0xFFFF means "see the zip64 record"; macOS writes the count modulo 65,536 and no zip64 record.
    if count not in (len(members) % 2**16, 0xFFFF):
        damage = f"lists {len(members):,} of its {count:,} members"
        source.refuse(shown(path), Unreadable(f"archive damaged or cut short ({damage})"))
    entries: list[Entry] = []
    for member in members:
        name = _name(member).replace("\\", "/")
        parts = None if name.endswith("/") else _parts(name, source)
        if parts and is_candidate(parts, source.notes, read, member):
            handle: Any = member
            if member.flag_bits & 1 or member.compress_type == 99:
                handle = Unreadable("encrypted")
            elif member.compress_type not in _METHODS:
                method = _METHOD_NAMES.get(member.compress_type, f"method {member.compress_type}")
                handle = Unreadable(f"compressed by {method} (pack the archive anew with Deflate, the usual method)")
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                handle = Unreadable("link or device in archive")
            entries.append((parts, handle))
    return entries, read


def _name(member: zipfile.ZipInfo) -> str:
    """Return the name of a member. Some programs, as on macOS, write UTF-8 without saying so."""
    if not member.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            return member.filename.encode("cp437").decode("utf-8")
    return member.filename


class _Forward:
    """A file, gzipped or not, that a tar reader can only read forwards, which bounds the cost of hostile archives.

    Backward jumps (negative sizes, endless loops), reads larger than any valid header or image, and decompression
    bombs raise an error.
    """

    def __init__(self, file: IO[bytes], packed_bytes: int, max_read: int) -> None:
        self.gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        self.file: Any = gzip.GzipFile(fileobj=file) if self.gzipped else file
        self.max_read = max_read
        self.limit = max(_BOMB_FROM, packed_bytes * _BOMB_RATIO)
        self.at = 0

    def tell(self) -> int:
        """Return the position, in bytes of the unpacked archive."""
        return self.at

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        if not 0 <= size <= self.max_read:
            raise ValueError(f"a record claims {size:,} bytes")
        data: bytes = self.file.read(size)
        self.at += len(data)
        if self.gzipped and self.at > self.limit:
            raise UserError(f"archive unpacks to more than {self.limit / 2**30:.3g} GiB: refused")
        return data

    def seek(self, position: int) -> None:
        """Move forwards to `position`."""
        if position < self.at:
            raise ValueError("a record points backwards")
        if not self.gzipped:
            self.file.seek(position)
            self.at = position
        while self.at < position and self.read(min(position - self.at, 2**20)):
            pass


def list_tar(
    path: Path, source: Source, limits: DecodeLimits, also: Callable[[str], bool]
) -> tuple[list[Entry], Reader]:
    """List the candidate images of a tar file, and the files whose name without folders satisfies `also`.

    Handles are encoded bytes if the file is gzipped, else (offset, size) in it. Python's tarfile stops silently at a
    damaged header. Therefore the bytes after the last member are read too: they must be the zeros that mark the end of
    an archive (reading them also checks gzip's own trailer).
    """

    def read(handle: Any, _: int = 0) -> bytes:
        if isinstance(handle, bytes):
            return handle
        offset, size = handle
        with open(path, "rb") as f:
            f.seek(offset)
            return f.read(size)

    entries: list[Entry] = []
    count = total_bytes = 0
    max_bytes = memory_free()
    with open(path, "rb") as file:
        stream = _Forward(file, path.stat().st_size, max(limits.max_bytes, 2**20) + 512)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
                while (member := archive.next()) is not None:
                    archive.members = []  # else every TarInfo stays in memory
                    count += 1
                    parts = None if member.isdir() else _parts(member.name, source)
                    if parts is None:
                        continue
                    handle, head = _tar_handle(stream, member, limits)
                    if not also(parts[-1]) and not is_candidate(parts, source.notes, read, head):
                        continue
                    total_bytes += len(handle) if isinstance(handle, bytes) else 0
                    if total_bytes > max_bytes:
                        raise UserError(
                            f"contains more than {max_bytes / 2**30:.3g} GiB of images; unpack it to a folder"
                        )
                    entries.append((parts, handle))
                damage = _after_last_member(stream)
        except UserError as e:
            raise UserError(f"{shown(path)}: {e}") from e
        except Exception as e:  # ReadError, EOFError, BadGzipFile, zlib.error, ValueError, OverflowError, ...
            damage = " ".join(str(e).split()) or type(e).__name__
    if damage:
        if count == 0:
            raise UserError(f"{shown(path)} is not a readable tar file ({damage})")
        source.refuse(shown(path), Unreadable(f"archive damaged or cut short (after member {count:,}: {damage})"))
    return entries, read


def _tar_handle(stream: _Forward, member: tarfile.TarInfo, limits: DecodeLimits) -> tuple[Any, bytes]:
    """Return (handle, first bytes) of the member at the stream's position."""
    if not member.isreg() or member.issparse():
        return Unreadable("link or device in archive"), b""
    stream.seek(member.offset_data)
    size = min(member.size, limits.max_bytes + 1)
    data = stream.read(size if stream.gzipped else min(size, HEAD))
    return (data if stream.gzipped else (member.offset_data, size)), data[:HEAD]


def _after_last_member(stream: _Forward) -> str:
    """Return what is wrong with the end of a tar file, "" if nothing. The stream is after the last header read."""
    zeros = 0
    while chunk := stream.read(2**20):
        if chunk.count(0) != len(chunk):
            return "damaged header, the members after it are lost"
        zeros += len(chunk)
    if stream.at % 512:
        return "its length is not a multiple of 512, bytes are missing"
    return "" if zeros else "no end mark"
