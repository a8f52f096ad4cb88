"""`bigbigan serve` as a process of its own, for the tests of its page."""

import os
import signal
import subprocess
import sys
from pathlib import Path

PATIENCE = 180  # seconds, on a machine that has other things to do
# The command, with a note of every other machine that the process turns to.
WATCHED = """
import sys
notes = open(sys.argv[1], "a", buffering=1)
def watch(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[0] if event == "socket.getaddrinfo" else arguments[1][0]
        if host not in ("127.0.0.1", "localhost"):
            notes.write(f"{event} {host}\\n")
sys.addaudithook(watch)
"""
MAIN = """
from bigbigan.cli import main
sys.exit(main(sys.argv[2:]))
"""


class Server:
    """`bigbigan serve RUN` on a free port; what it asked of other machines is in `notes`. `code` runs before it."""

    def __init__(self, run: Path, folder: Path, *arguments: str, code: str = "") -> None:
        self.notes, self.temporary = folder / "notes", folder / "tmp"
        self.temporary.mkdir()
        words = ["serve", str(run), "--port", "0", *arguments]
        command = [sys.executable, "-c", WATCHED + code + MAIN, str(self.notes), *words]
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[0]

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
