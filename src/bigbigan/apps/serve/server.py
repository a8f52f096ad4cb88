"""Run the page of a model on this machine until a signal ends it."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socket
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bigbigan.apps.serve.guard import Names, guard
from bigbigan.apps.serve.session import LIMITS, ServedModel
from bigbigan.apps.serve.widgets import CSS, SUFFIXES, model_hangs, page
from bigbigan.errors import RunError, UserError
from bigbigan.training.signals import Stop

__all__ = ["VISITORS", "serve"]

VISITORS = 64  # how many visitors' images are kept: about 100 kB each in gradio, whose default is 10,000 visitors
GRACE = 5  # seconds that requests may take when the server ends
# Whatever gradio's pages contain, a browser sends requests only to this server.
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; frame-ancestors 'self'"


def serve(
    run: Path,
    host: str,
    port: int,
    data: str | None = None,
    labels: str | None = None,
    names: Sequence[str] = (),
    checkpoint: str = "newest",
    progress: bool = True,
    as_json: bool = False,
    head: Path | None = None,
) -> None:
    """Serve the page of a model until a signal ends it; prints its address.

    Uploads are in a temporary folder, which is removed when the server ends.

    Args:
        run: see `bigbigan.load`.
        host: the name or address to listen on.
        port: to listen on; 0 chooses a free one.
        data, labels, head: see `ServedModel`.
        names: further host names by which visitors reach the server; see `bigbigan.apps.serve.guard.Names`.
        checkpoint: of a run, "newest", "best" or a step.
        progress: show a progress bar for reading the training images.
        as_json: print the address as JSON: {"url": "http://..."}.

    Raises:
        UserError: gradio is missing, the address cannot be bound, no such run, or unusable `data`, `labels` or `head`.
        RunError: the server did not start.
    """
    with _bound(host, port) as listener, TemporaryDirectory(prefix="bigbigan-") as folder:
        if not _is_loopback(host):
            warnings.warn(f"--host {host}: anyone who can reach it can use the page, without a password", stacklevel=2)
        address, bound_port = listener.getsockname()[:2]
        allowed = Names(host, address, names)
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}  # read on import
        try:
            import gradio as gr
            import uvicorn
            from fastapi import FastAPI
        except ImportError:
            raise UserError("serve needs gradio: pip install 'bigbigan[serve]'") from None
        served = ServedModel(run, data, labels, progress, checkpoint, head)
        theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no web fonts
        blocks = page(served)
        blocks.state_session_capacity = VISITORS
        app = gr.mount_gradio_app(
            FastAPI(docs_url=None, redoc_url=None, openapi_url=None), blocks, "/",
            max_file_size=LIMITS.max_bytes, footer_links=[], run_history=False, ssr_mode=False,
            theme=theme, css=CSS,
        )  # fmt: skip
        blocks.has_launched = True  # otherwise gradio accepts any path of this machine as an upload
        # Twice the largest file: gradio itself reports on the page that a single file is too large.
        guarded = guard(_with_policy(app), allowed, Path(folder), SUFFIXES, 2 * LIMITS.max_bytes)
        server = uvicorn.Server(uvicorn.Config(guarded, log_level="warning", timeout_graceful_shutdown=GRACE))
        listener.listen()
        url = f"http://{f'[{address}]' if ':' in address else address}:{bound_port}"
        print(json.dumps({"url": url}) if as_json else f"{url}  (Ctrl-C ends it)", flush=True)
        ended = _run_until_signal(server, listener)
    if not ended or model_hangs():  # a thread that never returns keeps the interpreter from ending
        print("bigbigan: a request did not finish and was abandoned", file=sys.stderr, flush=True)
        os._exit(0)


def _run_until_signal(server: Any, listener: socket.socket, grace: float = GRACE) -> bool:
    """Run a server in a thread until SIGINT or SIGTERM comes or it ends by itself.

    Signals are handled in this, the main thread, which no request can block.

    Returns:
        Whether the server ended within `grace` seconds and a few more.

    Raises:
        RunError: it ended before it had started.
    """
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    with Stop() as stop:
        thread.start()
        while thread.is_alive() and stop.signal is None:
            thread.join(0.2)
        server.should_exit = True
        thread.join(grace + 3)
    if stop.signal is None and not server.started:
        raise RunError("the server did not start; its messages are above")
    return not thread.is_alive()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, before anything slow is done."""
    if not 0 <= port <= 65_535:
        raise UserError(f"--port {port}: expected a number from 0 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
    except (OSError, UnicodeError) as error:  # UnicodeError: such as a..b
        reason = getattr(error, "strerror", None) or error
        message = f"--host {host}: {reason}; expected an address of this machine, such as 127.0.0.1"
        raise UserError(message) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        in_use = "another program uses it; choose another --port, or 0 for a free one"
        why = in_use if error.errno == errno.EADDRINUSE else error.strerror
        raise UserError(f"--host {host} --port {port} cannot bind: {why}") from None
    return bound


def _with_policy(app: Any) -> Any:
    """Add `POLICY` to the responses of an application."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        await app(scope, receive, send_with_policy)

    return wrapped
