"""Decide which requests reach the page: a guard in front of any ASGI application, without gradio or models.

Three rules, each a function of its own:

- `Names`: a request must be addressed to this server by one of its names, and so must the page it comes from. Otherwise
  a malicious page, opened in a browser on this machine, could reach a server that listens only on the loopback address
  (DNS rebinding).
- `foreign_files`: a request may name files only if they were uploaded before: regular files inside the upload folder.
- `POSTS`: a request may only ask for the actions that the page uses.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

__all__ = ["Names", "foreign_files", "guard", "is_upload"]

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
POSTS = ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset")
UPLOAD = POSTS[0]
MAX_JSON = 2**20  # bytes of a request that is not an upload: a few numbers and a file name
AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s\[\]:/@?#\\]+)(?::\d{0,5})?")
ORIGIN = re.compile(r"https?://([^\s/@?#\\]+)")


# -- who may ask ---------------------------------------------------------------------------------------------------


class Names:
    """Hold the names by which a server may be addressed, with any port.

    Args:
        host: what it listens on as given, a name or an address.
        address: the address it listens on.
        others: further names, such as the name of a proxy in front of it.

    On a loopback address these are localhost, 127.0.0.1 and [::1]; on any other address, the address and `host`. A
    server that listens on all addresses (0.0.0.0 or ::) answers to localhost, to this machine's name and to every
    numeric address: a malicious page cannot pose as a numeric address of this machine.
    """

    def __init__(self, host: str, address: str, others: Iterable[str] = ()) -> None:
        listens = ipaddress.ip_address(address.partition("%")[0])
        names = {host, address.partition("%")[0], *others}
        self._numeric = listens.is_unspecified
        if listens.is_loopback or listens.is_unspecified:
            names |= LOOPBACK
        if listens.is_unspecified:
            names.add(socket.gethostname())
        self._names = {name for given in names if (name := _plain(given))}

    def takes_host(self, host: str) -> bool:
        """Return whether a request with this Host header is for this server."""
        name = _name(host)
        return name is not None and (name in self._names or (self._numeric and _is_address(name)))

    def takes_origin(self, origin: str, host: str) -> bool:
        """Return whether a request with this Origin header comes from a page of this server.

        If every numeric address is a name of it, the origin must be the address that was requested, `host`.
        """
        match = ORIGIN.fullmatch(origin)
        name = None if match is None else _name(match[1])
        return name is not None and (name in self._names or (self._numeric and name == _name(host)))


def _name(authority: str) -> str | None:
    """Return the host of HOST or HOST:PORT; None if the text is neither."""
    match = AUTHORITY.fullmatch(authority)
    return None if match is None else _plain(match[1])


def _plain(name: str) -> str:
    """Return a name or address in the normal form in which names are compared."""
    name = name.strip("[]").lower()
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# -- which files it may name ---------------------------------------------------------------------------------------


def is_upload(path: object, folder: Path, suffixes: Iterable[str]) -> bool:
    """Return whether `path` is the absolute path of a regular file with one of these suffixes inside `folder`.

    Links are resolved first.
    """
    if not isinstance(path, str) or "\0" in path or not os.path.isabs(path):
        return False
    try:
        real = Path(os.path.realpath(path, strict=True))
        regular = stat.S_ISREG(real.lstat().st_mode)
    except (OSError, ValueError):
        return False
    inside = real.is_relative_to(os.path.realpath(folder))
    return inside and regular and real.suffix.lower() in set(suffixes)


def foreign_files(body: object, folder: Path, suffixes: Iterable[str]) -> Iterator[object]:
    """Yield the files that a request names although they are not uploads (`is_upload`).

    They are the "path" of every object in it, and None for objects that are marked as files and have no path.
    """
    remaining = [body]
    while remaining:
        part = remaining.pop()
        if isinstance(part, dict):
            marked = isinstance(part.get("meta"), dict)
            if ("path" in part or marked) and not is_upload(part.get("path"), folder, suffixes):
                yield part.get("path")
            remaining += part.values()
        elif isinstance(part, list):
            remaining += part


# -- the guard -----------------------------------------------------------------------------------------------------


def guard(app: App, names: Names, folder: Path, suffixes: Iterable[str], max_upload: int) -> App:
    """Return `app` behind the rules of this module.

    It refuses other names and origins, and files that are not uploads (403); other methods and actions (405); uploads
    without a length (411) or of more than `max_upload` bytes (413); other bodies that are too large (413) or not JSON
    (400). The application gets the checked JSON written again, so that it cannot be parsed in another way.
    """
    suffixes = frozenset(suffixes)

    async def guarded(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
        elif scope["type"] != "http":  # the page uses no websockets
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            refusal = _refused(scope, names, max_upload)
            if refusal is None and scope["method"] == "POST" and scope["path"] != UPLOAD:
                refusal, scope, receive = await _checked_body(scope, receive, folder, suffixes)
            if refusal is None:
                await app(scope, receive, send)
            else:
                await _answer(send, *refusal)

    return guarded


def _refused(scope: Message, names: Names, max_upload: int) -> tuple[int, str] | None:
    """Return the status and reason for which a request is refused by its headers, or None."""
    hosts, origins, lengths = (
        [value.decode("latin-1").strip() for name, value in scope["headers"] if name.lower() == wanted]
        for wanted in (b"host", b"origin", b"content-length")
    )
    if len(hosts) != 1 or not names.takes_host(hosts[0]):
        return 403, "this server does not have that name; bigbigan serve --host adds names"
    if not all(names.takes_origin(origin, hosts[0]) for origin in origins):
        return 403, "requests from pages of other sites are refused"
    path = scope["path"].rstrip("/")
    if scope["method"] not in ("GET", "HEAD", "POST") or (scope["method"] == "POST" and path not in POSTS):
        return 405, "this page makes no such requests"
    if scope["method"] == "POST" and path == UPLOAD:
        if len(lengths) != 1 or not lengths[0].isdecimal():
            return 411, "an upload needs a Content-Length"
        if int(lengths[0]) > max_upload:
            return 413, f"uploads are limited to {max_upload / 2**20:g} MiB"
    return None


async def _checked_body(
    scope: Message, receive: Any, folder: Path, suffixes: frozenset[str]
) -> tuple[tuple[int, str] | None, Message, Any]:
    """Return why the body is refused, or None; and the scope and the `receive` for the application."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the client disconnected
            return (400, "no body"), scope, receive
        body += message.get("body", b"")
        if len(body) > MAX_JSON:
            return (413, "too large"), scope, receive
        if not message.get("more_body"):
            break
    try:
        content = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return (400, "not JSON"), scope, receive
    if any(True for _ in foreign_files(content, folder, suffixes)):
        return (403, "a request may only name files that were uploaded here"), scope, receive
    clean = json.dumps(content).encode()
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in (b"content-length",)]
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": clean, "more_body": False}

    return None, {**scope, "headers": [*headers, (b"content-length", str(len(clean)).encode())]}, replay


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def _answer(send: Any, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
