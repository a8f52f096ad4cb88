"""Fetch remote shards, each as a whole, over http(s) or from the output of a command.

    https://host/set/shard-000000.tar            pipe:aws s3 cp s3://bucket/set/shard-000000.tar -

The most recently used shards are cached in a temporary folder, up to a limit; threads fetch ahead. A fetch that breaks
off, stalls or has the wrong size or checksum is retried; if retries fail, each image of the shard is unreadable.
Commands are split into words and run without a shell.
"""

import contextlib
import errno
import hashlib
import http.client
import math
import os
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
from bigbigan.io.locking import lock_exclusive, open_to_lock

__all__ = ["RemoteShards", "is_remote", "read_location"]

TIMEOUT = 120.0  # seconds without a byte
RETRY_DELAYS = (1.0, 5.0, 30.0)  # seconds before each retry
MAX_FETCHES = 4  # at the same time
MAX_LOST = 3  # copies of a shard that somebody else may remove while it is opened


def is_remote(spec: str) -> bool:
    """Return whether a SOURCE is a URL or a command."""
    return spec.startswith(("pipe:", "http://", "https://"))


def read_location(location: str) -> Generator[bytes, None, None]:
    """Read a URL or the output of a command, in pieces.

    Raises:
        OSError, http.client.HTTPException, ValueError: it cannot be read, or not to its end.
    """
    return _from_command(location[5:]) if location.startswith("pipe:") else _from_url(location)


def _from_url(url: str) -> Generator[bytes, None, None]:
    request = urllib.request.Request(url, headers={"User-Agent": "bigbigan"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        left = response.length  # None if the server does not say
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
        watch = _Watch(process)
        try:
            while chunk := watch.read():
                yield chunk
            try:
                process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                raise TimeoutError(errno.ETIMEDOUT, "the command does not end after its output") from None
        finally:
            watch.end()
            if process.poll() is None:
                _kill(process)
                process.wait()
            process.stdout.close()
        if process.returncode:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "")
            raise OSError(errno.EIO, f"the command ended with code {process.returncode}: {last.strip()[:200]}")


class _Watch:
    """Read what a process writes, and kill it if it writes nothing for `TIMEOUT` seconds.

    A thread does that, as pipes cannot be read with a timeout on every system.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process, self.since, self.silent = process, math.inf, False  # when the current read began
        self.ended = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="shard command").start()

    def _run(self) -> None:
        while not self.ended.wait(min(1.0, TIMEOUT / 4)):
            if time.monotonic() - self.since > TIMEOUT:
                self.silent = True
                _kill(self.process)
                return

    def read(self) -> bytes:
        """Return what comes next; nothing at the end. Raises TimeoutError if the process was killed."""
        assert self.process.stdout is not None
        self.since = time.monotonic()
        chunk = os.read(self.process.stdout.fileno(), 2**20)
        self.since = math.inf  # the reader may take its time
        if self.silent:
            raise TimeoutError(errno.ETIMEDOUT, f"the command wrote nothing for {TIMEOUT:g} seconds")
        return chunk

    def end(self) -> None:
        """End the thread."""
        self.ended.set()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process, with its child processes unless this is Windows."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


class RemoteShards:
    """A cache of remote shards.

    Args:
        locations: URL or command of each shard.
        sizes: bytes of each; 0 if unknown.
        digests: sha256 of each; empty if unknown. Both are filled in when a shard is fetched.
    """

    def __init__(self, locations: list[str], sizes: list[int], digests: list[str]) -> None:
        self.locations, self.sizes, self.digests = locations, sizes, digests
        self.limit = 34  # number of cached shards
        self._copies: OrderedDict[int, Future[Path]] = OrderedDict()
        self._lock, self._slots = threading.Lock(), threading.Semaphore(MAX_FETCHES)
        self._folder: Path | None = None
        self._count = 0

    def fetch(self, numbers: Iterable[int]) -> None:
        """Begin to fetch these shards, unless they are cached."""
        for number in numbers:
            self._copy(number)

    def open(self, number: int) -> IO[bytes]:
        """Open shard `number`, after fetching it if it is not cached.

        Raises:
            OSError: it cannot be fetched, or its copies are removed again and again.
        """
        lost = 0
        while lost < MAX_LOST:
            future = self._copy(number)
            with contextlib.suppress(FileNotFoundError):  # removed just now to make room for others, or see below
                return open(future.result(), "rb")
            with self._lock:
                if self._copies.get(number) is future:  # removed by somebody else, such as a clean-up of the cache
                    del self._copies[number]
                    lost += 1
        message = f"{MAX_LOST} copies in {self._folder} were removed by another program; set BIGBIGAN_CACHE"
        raise OSError(errno.EIO, message)

    def _copy(self, number: int) -> Future[Path]:
        with self._lock:
            if number not in self._copies:
                self._folder = self._folder or _temporary(self)
                target = self._folder / f"{number:06d}-{self._count}.tar"  # a name is never used twice
                self._count += 1
                future: Future[Path] = Future()
                self._copies[number] = future
                # A daemon thread, so that the program does not wait for it when it ends.
                threading.Thread(target=self._fetch, args=(number, target, future), daemon=True).start()
            self._copies.move_to_end(number)
            while len(self._copies) > self.limit:
                _, old = self._copies.popitem(last=False)
                old.add_done_callback(_remove_copy)
            return self._copies[number]

    def _fetch(self, number: int, target: Path, future: "Future[Path]") -> None:
        try:
            self._try_to_fetch(number, target, future)
        except Exception as error:  # such as no memory for another thread: readers must not wait for ever
            future.set_exception(OSError(errno.EIO, f"cannot be fetched: {error or type(error).__name__}"))

    def _try_to_fetch(self, number: int, target: Path, future: "Future[Path]") -> None:
        with self._slots:
            for delay in (*RETRY_DELAYS, None):
                try:
                    self._download(number, target)
                except (OSError, ValueError, http.client.HTTPException) as error:
                    target.unlink(missing_ok=True)
                    if delay is None or _is_permanent(error):
                        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
                        message = f"cannot be fetched: {reason or type(error).__name__}"
                        future.set_exception(OSError(errno.EIO, message))
                        return
                    time.sleep(delay)
                else:
                    future.set_result(target)
                    return

    def _download(self, number: int, target: Path) -> None:
        digest, size, expected = hashlib.sha256(), 0, self.sizes[number]
        target.parent.mkdir(parents=True, exist_ok=True)  # somebody may have emptied the cache
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


def _is_permanent(error: Exception) -> bool:
    """Return whether retrying cannot help."""
    refused = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in (408, 429)
    return refused or isinstance(error, FileNotFoundError)  # no such command


def _remove_copy(future: "Future[Path]") -> None:
    if future.exception() is None:
        future.result().unlink(missing_ok=True)


def _temporary(owner: RemoteShards) -> Path:
    """Make a folder that is removed with its owner; remove the folders of processes that were killed."""
    root = cache_folder() / "shards"
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob("shards-*"):
        with contextlib.suppress(OSError):  # locked by its owner, or removed
            handle = open_to_lock(old)
            try:
                if lock_exclusive(handle):
                    shutil.rmtree(old)
            finally:
                os.close(handle)
    while True:
        folder = Path(tempfile.mkdtemp(prefix="shards-", dir=root))
        handle = open_to_lock(folder)
        locked = lock(handle, folder)
        weakref.finalize(owner, _remove, folder, handle)
        if locked and folder.exists():  # else removed by another process before it was locked
            return folder


def _remove(folder: Path, handle: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(handle)
    shutil.rmtree(folder, ignore_errors=True)  # on Windows the locked file was left
