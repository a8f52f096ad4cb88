"""Measure the resident memory of `bigbigan serve` under load: after a warm-up, and after many more requests.

    python -m reproduction.benchmark.serve_memory RUN [--requests N] [--warm-up N]

Each visitor opens the page, uploads an image, reads it and compares it, and draws samples and an interpolation. gradio
must be installed. `serve_memory_growth` is in percent of the resident size after the warm-up.
"""

from __future__ import annotations

import argparse
import io
import json
import secrets
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bigbigan.evaluation.records import Measurement
from bigbigan.training.run_folder import changed_settings, read_config
from reproduction.common import Script, serving

EVENTS = ("show", "samples", "interpolate")  # what a visitor asks for after an upload


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/serve_memory.jsonl")
    script.parser.add_argument("run", type=Path)
    script.parser.add_argument(
        "--requests", type=int, default=2_000, metavar="N", help="after the warm-up (default 2000)"
    )
    script.parser.add_argument("--warm-up", type=int, default=600, metavar="N", help="requests before (default 600)")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    with serving(str(options.run)) as (url, pid):
        visit(url, options.warm_up)
        before = resident_mib(pid)
        visit(url, options.requests)
        after = resident_mib(pid)
    config = read_config(options.run)
    protocol = {"warm_up": options.warm_up}
    values = {"serve_memory_mib": after, "serve_memory_growth": 100 * (after / before - 1)}
    script.append(
        script.result_lines(
            {name: Measurement(value, protocol=protocol) for name, value in values.items()},
            subject="program",
            experiment=config.experiment,
            dataset="noise",
            split="none",
            n=options.requests,
            scale=config.scale,
            settings=changed_settings(config),
            seed=config.training.seed,
            steps=config.training.steps,
            digits=4,
        )
    )
    print(f"{before:.1f} MiB after {options.warm_up:,} requests, {after:.1f} MiB after {options.requests:,} more")


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB, as Linux counts it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 2**10


def visit(url: str, requests: int) -> None:
    """Make this many requests, as a new visitor after each round."""
    visitor = Visitor(url)
    while visitor.requests < requests:
        visitor.session = secrets.token_hex(8)
        visitor.get("/")
        visitor.event("read", visitor.upload(png(visitor.requests)))
        for name in EVENTS:
            visitor.event(name)


def png(seed: int) -> bytes:
    """Return an image file of noise."""
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (28, 28), dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


@dataclass
class Visitor:
    """Act like a browser with the page at `url`; `requests` counts uploads, events and pages."""

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
        """Upload a file and return its path on the server."""
        edge = secrets.token_hex(16)
        head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
        return self.post("/gradio_api/upload", body, f"multipart/form-data; boundary={edge}")[0]

    def event(self, name: str, path: str | None = None, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the outcome of an event of the page, with the inputs that the page has when it opens.

        `path` is the file, if the event takes one; `data` describes the event itself, such as what was clicked.
        """
        event = self.events[name]
        file = {"path": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
        values = {"state": None, "file": file}
        parts = [self.kinds[i] for i in event["inputs"]]
        inputs = [values.get(part["type"], part["props"].get("value")) for part in parts]
        body = {"data": inputs, "fn_index": event["id"], "session_hash": self.session, "event_data": data}
        asked = self.post("/gradio_api/queue/join", json.dumps(body).encode())["event_id"]
        queue = f"{self.url}/gradio_api/queue/data?session_hash={self.session}"
        with urllib.request.urlopen(queue, timeout=120) as answer:
            for line in answer:
                if line.startswith(b"data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed" and message["event_id"] == asked:
                        return message
        raise RuntimeError(f"{name} gave no answer")


if __name__ == "__main__":
    sys.exit(main())
