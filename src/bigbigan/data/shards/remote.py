"""Elsewhere: shards on another machine, fetched whole over http(s) or from what a command writes to its output.

    https://host/set/shard-000000.tar            pipe:aws s3 cp s3://bucket/set/shard-000000.tar -

A bounded number of them lies in a temporary folder of the cache, those used last; threads fetch ahead. A fetch that
breaks off, stalls or brings other bytes than the index promises is tried again, and then it is an error of each image.
Commands are split into words and run without a shell.
"""

import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections import OrderedDict
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import IO

from bigbigan.data.readers.download import cache_folder
from bigbigan.io import lock

__all__ = ["Elsewhere", "is_elsewhere", "read_location"]

PATIENCE = 120.0  # seconds without a byte
WAITS = (1.0, 5.0, 30.0)  # seconds before another try
AT_ONCE = 4  # fetches


def is_elsewhere(spec: str) -> bool:
    return spec.startswith(("pipe:", "http://", "https://"))


def read_location(location: str) -> Generator[bytes, None, None]:
    """What lies there, in pieces.

    Raises:
        OSError, http.client.HTTPException, ValueError: it is not there, or not all of it.
    """
    return _from_command(location[5:]) if location.startswith("pipe:") else _from_url(location)


def _from_url(url: str) -> Generator[bytes, None, None]:
    request = urllib.request.Request(url, headers={"User-Agent": "bigbigan"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        left = response.length  # None where the server does not say
        while chunk := response.read(2**20):
            left = None if left is None else left - len(chunk)
            yield chunk
    if left:
        raise OSError(errno.EIO, f"broke off {left:,} bytes before the end")


def _from_command(command: str) -> Generator[bytes, None, None]:
    with tempfile.TemporaryFile() as errors:
        words = shlex.split(command)
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        except FileNotFoundError as e:
            raise FileNotFoundError(errno.ENOENT, f"no such command: {words[0]}") from e
        assert process.stdout is not None
        ready = select.poll()
        ready.register(process.stdout, select.POLLIN)
        try:
            while True:
                if not ready.poll(PATIENCE * 1000):
                    raise TimeoutError(errno.ETIMEDOUT, f"the command wrote nothing for {PATIENCE:g} seconds")
                chunk = os.read(process.stdout.fileno(), 2**20)
                if not chunk:
                    break
                yield chunk
            process.wait(PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it has started
                process.wait()
            process.stdout.close()
        if process.returncode:
            errors.seek(0)
            said = errors.read().decode(errors="replace").split("\n")
            last = next((line for line in reversed(said) if line.strip()), "")
            raise OSError(errno.EIO, f"the command ended with code {process.returncode}: {last.strip()[:200]}")


class Elsewhere:
    """Local copies of shards that lie elsewhere.

    Args:
        locations: of each shard.
        sizes: bytes of each; 0 where unknown.
        digests: sha256 of each; empty where unknown. They become known when shards are fetched.
    """

    def __init__(self, locations: list[str], sizes: list[int], digests: list[str]) -> None:
        self.locations, self.sizes, self.digests = locations, sizes, digests
        self.limit = 34  # how many are held
        self._held: OrderedDict[int, Future[Path]] = OrderedDict()
        self._lock, self._slots = threading.Lock(), threading.Semaphore(AT_ONCE)
        self._folder: Path | None = None
        self._count = 0

    def fetch(self, numbers: Iterable[int]) -> None:
        """Begin to fetch these shards, where they are not here."""
        for number in numbers:
            self._copy(number)

    def open(self, number: int) -> IO[bytes]:
        """Shard `number`, fetched if need be.

        Raises:
            OSError: it cannot be fetched.
        """
        while True:
            path = self._copy(number).result()
            with contextlib.suppress(FileNotFoundError):  # given up just now for others
                return open(path, "rb")

    def _copy(self, number: int) -> Future[Path]:
        with self._lock:
            if number not in self._held:
                self._folder = self._folder or _temporary(self)
                target = self._folder / f"{number:06d}-{self._count}.tar"  # a name is never used twice
                self._count += 1
                future: Future[Path] = Future()
                self._held[number] = future
                # Threads that nobody waits for when the program ends
                threading.Thread(target=self._fetch, args=(number, target, future), daemon=True).start()
            self._held.move_to_end(number)
            while len(self._held) > self.limit:
                _, old = self._held.popitem(last=False)
                old.add_done_callback(_forget)
            return self._held[number]

    def _fetch(self, number: int, target: Path, future: "Future[Path]") -> None:
        with self._slots:
            for wait in (*WAITS, None):
                try:
                    self._download(number, target)
                except (OSError, ValueError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
                    target.unlink(missing_ok=True)
                    if wait is None or _in_vain(error):
                        reason = (
                            " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
                        )
                        future.set_exception(OSError(errno.EIO, f"cannot be fetched: {reason}"))
                        return
                    time.sleep(wait)
                else:
                    future.set_result(target)
                    return

    def _download(self, number: int, target: Path) -> None:
        digest, size, expected = hashlib.sha256(), 0, self.sizes[number]
        with open(target, "wb") as out, contextlib.closing(read_location(self.locations[number])) as chunks:
            for chunk in chunks:
                out.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                if expected and size > expected:
                    break
        if expected and size != expected:
            raise ValueError(f"{'more' if size > expected else 'fewer'} bytes than the {expected:,} it should have")
        if self.digests[number] not in ("", digest.hexdigest()):
            raise ValueError("wrong checksum")
        self.sizes[number], self.digests[number] = size, digest.hexdigest()


def _in_vain(error: Exception) -> bool:
    """Whether to ask again would be of no use."""
    told = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in (408, 429)
    return told or isinstance(error, FileNotFoundError)  # no such command


def _forget(future: "Future[Path]") -> None:
    if future.exception() is None:
        future.result().unlink(missing_ok=True)


def _temporary(owner: Elsewhere) -> Path:
    """A folder that goes with its owner; those of owners that were killed are removed now."""
    root = cache_folder() / "shards"
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob("held-*"):
        with contextlib.suppress(OSError):  # held by its owner, or gone
            handle = os.open(old, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old)
            finally:
                os.close(handle)
    while True:
        folder = Path(tempfile.mkdtemp(prefix="held-", dir=root))
        handle = os.open(folder, os.O_RDONLY)
        held = lock(handle, folder)
        weakref.finalize(owner, _remove, folder, handle)
        if held and folder.exists():  # else removed by another process before it was locked
            return folder


def _remove(folder: Path, handle: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(handle)
