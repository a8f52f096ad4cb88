"""Resident memory of `bigbigan serve` under load: after a warm-up and after many more requests, as a result line.

    python tools/serve_memory.py RUN [--requests N] [--warm-up N] [--results FILE]

Each visitor opens the page, uploads an image, has it read and compared, and draws samples and an interpolation.
gradio must be installed. `serve_memory_growth` is in percent of the resident size after the warm-up.
"""

from __future__ import annotations

import argparse
import io
import json
import secrets
import shlex
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bigbigan.evaluation.records import ResultLine, append_results
from bigbigan.experiments import EXPERIMENTS
from bigbigan.training.run_folder import changed_settings, commit, device_name, read_config

LOOKS = ("show", "samples", "interpolate")  # what a visitor asks for after an upload


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--requests", type=int, default=2_000, metavar="N", help="after the warm-up (default 2000)")
    parser.add_argument("--warm-up", type=int, default=600, metavar="N", help="requests before (default 600)")
    parser.add_argument("--results", type=Path, default=Path("results/serve_memory.jsonl"), metavar="FILE")
    options = parser.parse_args()
    start = time.perf_counter()
    command = [sys.executable, "-m", "bigbigan", "serve", str(options.run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[0]
            visit(url, options.warm_up)
            before = resident_mib(process.pid)
            visit(url, options.requests)
            after = resident_mib(process.pid)
        finally:
            process.terminate()
    config = read_config(options.run)
    experiment = EXPERIMENTS.get(config.experiment)
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    figures = {"serve_memory_mib": after, "serve_memory_growth": 100 * (after / before - 1)}
    lines = [
        ResultLine(
            experiment=config.experiment,
            scale=config.scale,
            settings=changed_settings(config),
            table_row=None if experiment is None else experiment.table_row,
            dataset="noise",
            split="none",
            metric=metric,
            value=float(f"{value:.4g}"),
            std=None,
            protocol={"warm_up": options.warm_up},
            n=options.requests,
            seed=config.training.seed,
            steps=config.training.steps,
            images_seen=0,
            device=device_name(),
            seconds=round(time.perf_counter() - start, 1),
            commit=commit(),
            command=shlex.join(["python", "tools/serve_memory.py", *words]),
        )
        for metric, value in figures.items()
    ]
    append_results(options.results, lines)
    print(f"{before:.1f} MiB after {options.warm_up:,} requests, {after:.1f} MiB after {options.requests:,} more")


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB, as Linux counts it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 2**10


def visit(url: str, requests: int) -> None:
    """Make so many requests, a new visitor after each round of them."""
    visitor = Visitor(url)
    while visitor.requests < requests:
        visitor.session = secrets.token_hex(8)
        visitor.get("/")
        visitor.event("read", visitor.upload(png(visitor.requests)))
        for name in LOOKS:
            visitor.event(name)


def png(seed: int) -> bytes:
    """An image file of noise."""
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (28, 28), dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


@dataclass
class Visitor:
    """Does what a browser does with the page at `url`; `requests` counts uploads, events and pages."""

    url: str
    session: str = "visitor"
    requests: int = 0
    events: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        config = json.loads(self.get("/config"))
        self.kinds = {part["id"]: part for part in config["components"]}
        for event in config["dependencies"]:
            self.events.setdefault(event["api_name"], event)

    def get(self, path: str) -> bytes:
        self.requests += 1
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return answer.read()

    def post(self, path: str, body: bytes, kind: str = "application/json") -> Any:
        self.requests += 1
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())

    def upload(self, content: bytes, name: str = "x.png") -> str:
        """The path that an uploaded file has on the server."""
        edge = secrets.token_hex(16)
        head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
        return self.post("/gradio_api/upload", body, f"multipart/form-data; boundary={edge}")[0]

    def event(self, name: str, path: str | None = None, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """The outcome of an event of the page, its inputs as they are when the page opens; `path` is that of the
        file, where it takes one; `data` describes the event itself, such as what was clicked."""
        event = self.events[name]
        file = {"path": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
        values = {"state": None, "file": file}
        parts = [self.kinds[i] for i in event["inputs"]]
        inputs = [values.get(part["type"], part["props"].get("value")) for part in parts]
        body = {"data": inputs, "fn_index": event["id"], "session_hash": self.session, "event_data": data}
        asked = self.post("/gradio_api/queue/join", json.dumps(body).encode())["event_id"]
        where = f"{self.url}/gradio_api/queue/data?session_hash={self.session}"
        with urllib.request.urlopen(where, timeout=120) as answer:
            for line in answer:
                if line.startswith(b"data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed" and message["event_id"] == asked:
                        return message
        raise RuntimeError(f"{name} gave no answer")


if __name__ == "__main__":
    main()
