"""The program imports and runs without what only some systems have; see like_windows.py."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import bigbigan
from bigbigan.io import lock, locking

SCRIPT = Path(__file__).parents[1] / "helpers" / "like_windows.py"
EXTRAS = ("bigbigan.apps.serve", "bigbigan.integrations.onnx", "bigbigan.integrations.timm")


def test_every_module_imports_without_posix():
    names = [m.name for m in pkgutil.walk_packages(bigbigan.__path__, "bigbigan.") if not m.name.endswith("__main__")]
    code = (
        "import sys, importlib, torch, sklearn.cluster, scipy.optimize, torch.distributed\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios'): sys.modules[name] = None\n"
        f"for name in {names!r}:\n    importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the helper looks up open files in /proc")
def test_commands_run_without_what_windows_lacks(tmp_path):
    environment = os.environ | {"PYTHONWARNDEFAULTENCODING": "1", "XDG_STATE_HOME": str(tmp_path / "state")}
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, env=environment)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"command"')]
    *commands, piped, no_run, memory = found
    assert done.returncode == 0, done.stderr[-2000:]
    assert {c["command"]: c["code"] for c in commands if c["code"] != 0} == {}, done.stderr[-2000:]
    assert len(commands) == 15
    assert (piped["code"], no_run["code"], memory["code"]) == (2, 2, "nan")
    assert "Traceback" not in done.stderr
    kept = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.is_dir()]
    assert kept == ["step-00000008"]  # the older ones were removed


def test_locks_without_fcntl_are_of_a_file_in_the_folder(tmp_path, monkeypatch):
    calls = []

    class Locks:
        LK_NBLCK = 2

        @staticmethod
        def locking(descriptor, mode, count):
            calls.append((os.fstat(descriptor).st_ino, mode, count))
            if len(calls) > 1:
                raise PermissionError("another process has it")

    monkeypatch.setattr(locking, "fcntl", None)
    monkeypatch.setattr(locking, "msvcrt", Locks)
    handle = locking.open_to_lock(tmp_path)
    assert locking.lock_exclusive(handle)
    assert not locking.lock_exclusive(handle)
    assert calls == [((tmp_path / ".lock").stat().st_ino, 2, 1)] * 2
    with pytest.raises(OSError, match="no shared locks"):
        locking.lock_shared(handle)
    monkeypatch.setattr(locking, "msvcrt", None)
    with pytest.warns(UserWarning, match="cannot be locked"):
        assert lock(handle, tmp_path)
    os.close(handle)
