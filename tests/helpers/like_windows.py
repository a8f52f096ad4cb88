"""Use the program as if this were Windows: without the modules, functions and signals that Windows lacks, and with
files and folders that behave as there, as far as the program meets that.

    python tests/helpers/like_windows.py FOLDER

Prints a line of JSON for each command: its words and its exit code.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys
import types
import warnings
from pathlib import Path

# Other libraries choose by what they find when they are imported, so they are imported first.
import matplotlib.pyplot
import numpy
import safetensors.torch
import scipy.optimize
import sklearn.cluster
import torch.distributed
import torch.utils.tensorboard

MODULES = ("fcntl", "resource", "pwd", "grp", "termios")
SIGNALS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGQUIT", "SIGALRM", "SIGPIPE")
FUNCTIONS = ("killpg", "getuid", "geteuid", "getpgid", "setsid", "statvfs", "uname", "mkfifo", "fchmod", "getpriority")
FLAGS = ("O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_SYNC")
LIBRARIES = (matplotlib.pyplot, numpy, safetensors.torch, scipy.optimize, sklearn.cluster, torch.distributed)

locked: dict[tuple[int, int], int] = {}  # device and inode of locked files, and the descriptors


def is_open(descriptor: int, key: tuple[int, int]) -> bool:
    """Return whether a descriptor is still that of the file it locked; closing a file object is not seen."""
    try:
        state = os.fstat(descriptor)
    except OSError:
        return False
    return (state.st_dev, state.st_ino) == key


class Locking(types.ModuleType):
    """The locks of Windows, within one process."""

    LK_NBLCK = 2

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        state = os.fstat(descriptor)
        assert os.path.isfile(f"/proc/self/fd/{descriptor}"), "Windows locks no folders"
        key = state.st_dev, state.st_ino
        if locked.get(key, descriptor) != descriptor and is_open(locked[key], key):
            raise PermissionError(errno.EACCES, "Permission denied")
        locked[key] = descriptor


def hide() -> None:
    """Take away what Windows lacks."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    sys.modules["msvcrt"] = Locking("msvcrt")
    for owner, names in ((signal, SIGNALS), (os, (*FUNCTIONS, *FLAGS)), (select, ("poll", "epoll"))):
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)
    open_file, close, rename, fsync = os.open, os.close, os.rename, os.fsync
    writable: set[int] = set()

    def windows_open(path, flags, mode=0o777, *, dir_fd=None):  # type: ignore[no-untyped-def]
        if dir_fd is None and os.path.isdir(path) and "bigbigan" in sys._getframe(1).f_code.co_filename:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        descriptor = open_file(path, flags, mode, dir_fd=dir_fd)
        if flags & (os.O_RDWR | os.O_WRONLY):
            writable.add(descriptor)
        else:
            writable.discard(descriptor)
        return descriptor

    def windows_close(descriptor: int) -> None:
        for key in [key for key, owner in locked.items() if owner == descriptor]:
            del locked[key]
        close(descriptor)

    def windows_fsync(descriptor: int) -> None:
        if isinstance(descriptor, int) and "bigbigan/io" in sys._getframe(1).f_code.co_filename:
            assert descriptor in writable, "Windows forces no file to disk that is open for reading only"
        fsync(descriptor)

    def windows_rename(old, new) -> None:  # type: ignore[no-untyped-def]
        if os.path.exists(new):
            raise FileExistsError(errno.EEXIST, "File exists", str(new))
        inside = [
            f
            for key, f in locked.items()
            if is_open(f, key) and os.readlink(f"/proc/self/fd/{f}").startswith(f"{old}{os.sep}")
        ]
        if inside:
            raise PermissionError(errno.EACCES, "Permission denied", str(old))
        rename(old, new)

    os.open, os.close, os.rename, os.fsync = windows_open, windows_close, windows_rename, windows_fsync


def main() -> None:
    folder = Path(sys.argv[1])
    hide()
    warnings.filterwarnings("error", category=EncodingWarning, module="bigbigan")  # text in the code page of Windows
    import bigbigan.io.files

    bigbigan.io.files.WINDOWS = True  # before others import it
    from bigbigan.cli import main as run
    from bigbigan.data.shards import remote
    from tiny import TINY, write_npz

    remote.RETRY_DELAYS = (0.0,)
    data = write_npz(folder / "rows.npz", count=60)
    out = folder / "run"
    train = ["train", "small/digits", "--data", data, "--out", out, "--quiet", "--set", *TINY, "log.keep_checkpoints=1"]
    (folder / "exported").mkdir()  # empty
    shards = ["data", "shard", data, "--out", folder / "shards", "--images", 20, "--quiet"]
    piped = [f"pipe:cat {folder}/none-{{0..1}}.tar"]  # ends with code 1
    commands = [
        ["list"],
        [*train, "--steps", 4],
        [*train, "--steps", 8],
        ["evaluate", out, "--quiet", "--metrics", "knn1_l2_*,reconstruction_ratio"],
        ["encode", out, "--quiet", "--out", folder / "features.csv"],
        ["generate", out, "--quiet", "--out", folder / "samples.png"],
        ["reconstruct", out, "--quiet", "--out", folder / "pairs.png"],
        ["classify", out, "--quiet", "--labels-per-class", 3, "--trials", 1, "--out", folder / "predictions.csv"],
        ["report", out, "--quiet"],
        ["export", out, "--quiet", "--out", folder / "exported"],
        ["generate", folder / "exported", "--quiet", "--out", folder / "again.png"],
        ["data", "inspect", data],
        shards,
        shards,
        ["data", "inspect", folder / "shards"],
        ["data", "inspect", *piped],
        ["evaluate", folder],
    ]
    for words in commands:
        code = run([str(word) for word in words])
        print(json.dumps({"command": " ".join(map(str, words)), "code": code}), flush=True)
    from bigbigan.apps.benchmark import peak_memory_mib

    Path.exists = lambda self, **given: str(self) != "/proc/self/status" and os.path.exists(self)  # type: ignore
    print(json.dumps({"command": "memory", "code": str(peak_memory_mib(torch.device("cpu")))}))


if __name__ == "__main__":
    main()
