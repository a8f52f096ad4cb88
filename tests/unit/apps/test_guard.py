"""What may reach the page of `serve`: by which name, from which page, which files, which requests."""

import asyncio
import json
import os
import socket

import pytest

from bigbigan.apps.serve.guard import MAX_JSON, Names, foreign_files, guard, is_upload
from bigbigan.io import regular_bytes

JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"
PNG = [".png"]

# -- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        ("localhost", True),
        ("LOCALHOST:7860", True),
        ("127.0.0.1", True),
        ("127.0.0.1:1", True),
        ("[::1]", True),
        ("[::1]:7860", True),
        ("[0:0:0:0:0:0:0:1]:7860", True),
        ("evil.example", False),
        ("evil.example:7860", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:7860", False),
        ("localhost.", False),
        ("10.0.0.1:7860", False),
        ("0.0.0.0:7860", False),
        ("localhost@evil.example", False),
        ("evil.example#localhost", False),
        ("evil.example/localhost", False),
        ("localhost:7860:1", False),
        ("localhost evil.example", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_loopback_answers_to_its_own_names(address, host, taken):
    assert Names("localhost", address).takes_host(host) is taken


@pytest.mark.parametrize(
    ("origin", "taken"),
    [
        ("http://localhost:7860", True),
        ("https://127.0.0.1", True),
        ("http://[::1]:80", True),
        ("http://evil.example", False),
        ("http://localhost.evil.example:7860", False),
        ("http://localhost@evil.example", False),
        ("http://localhost/x", False),
        ("file://localhost", False),
        ("localhost", False),
        ("null", False),
        ("", False),
    ],
)
def test_loopback_takes_requests_of_its_own_pages(origin, taken):
    assert Names("127.0.0.1", "127.0.0.1").takes_origin(origin, "localhost:7860") is taken


def test_another_address_answers_to_the_names_given():
    names = Names("box.example", "192.168.0.5", ["demo.example.org"])
    for host in ("box.example:7860", "192.168.0.5", "demo.example.org"):
        assert names.takes_host(host)
        assert names.takes_origin(f"http://{host}", host)
    for host in ("localhost", "192.168.0.6", "evil.example"):
        assert not names.takes_host(host)


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_all_addresses_answer_to_numbers_and_own_names(address):
    names = Names(address, address, ["box.example"])
    for host in ("192.168.0.5:7860", "[fe80::1]", "localhost", "box.example", socket.gethostname()):
        assert names.takes_host(host), host
        assert names.takes_origin(f"http://{host}", host), host
    assert not names.takes_host("evil.example")
    assert not names.takes_origin("http://6.6.6.6", "192.168.0.5:7860")  # the page of another machine


# -- files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    (folder / "x.png").write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    return folder


def test_only_regular_files_of_the_folder_are_uploads(folder, tmp_path):
    assert is_upload(str(folder / "x.png"), folder, PNG)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "own.png").symlink_to(folder / "x.png")
    (folder / "folder.png").mkdir()
    (folder / "page.html").write_bytes(b"x")
    os.mkfifo(folder / "pipe.png")
    assert is_upload(str(folder / "own.png"), folder, PNG)
    refused = [
        tmp_path / "secret.png", folder / ".." / "secret.png", folder / "link.png", folder / "zero.png",
        folder / "folder.png", folder / "pipe.png", folder / "page.html", folder / "none.png", folder, "/dev/zero",
        "x.png", "", "http://example.org/x.png", f"file://{folder}/x.png", f"{folder}/x.png\0", None, 7, ["x"],
    ]  # fmt: skip
    assert [path for path in refused if is_upload(path if path is None else _text(path), folder, PNG)] == []
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    assert is_upload(str(linked / "x.png"), linked, PNG)  # a temporary folder may lie behind a link


def _text(path):
    return path if isinstance(path, int | list) else str(path)


def test_files_are_found_wherever_a_request_names_them(folder):
    good = {"path": str(folder / "x.png"), "meta": {"_type": "gradio.FileData"}}
    assert list(foreign_files({"data": [good, [good], {"a": good}, 3, None]}, folder, PNG)) == []
    bad = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    for body in (bad, [bad], {"data": [1, {"image": bad}]}, {"event_data": {"value": [[bad]]}}, {**good, "more": bad}):
        assert list(foreign_files(body, folder, PNG)) == ["/etc/hostname"]
    for file in (
        {"path": None},
        {"path": ["/etc/hostname"]},
        {"url": "http://x", "meta": {"_type": "gradio.FileData"}},
    ):
        assert len(list(foreign_files([file], folder, PNG))) == 1


def test_only_regular_files_of_a_size_are_read(folder, tmp_path):
    assert regular_bytes(folder / "x.png", 1) == b"x"
    (folder / "x.png").write_bytes(b"xy")
    (folder / "big.png").write_bytes(bytes(2**20 + 1))
    with pytest.raises(ValueError, match=r"file too large \(over 1 MiB\)"):
        regular_bytes(folder / "big.png", 2**20)
    os.mkfifo(folder / "pipe.png")
    for path in (folder / "pipe.png", "/dev/zero"):
        with pytest.raises(ValueError, match="not a regular file"):
            regular_bytes(path, 2**20)
    with pytest.raises(IsADirectoryError):
        regular_bytes(folder, 2**20)


# -- requests -------------------------------------------------------------------------------------------------


class Site:
    """An application behind the guard: answers 200 and keeps what it was asked."""

    def __init__(self, folder):
        self.asked = []
        self.guarded = guard(self.app, Names("127.0.0.1", "127.0.0.1"), folder, PNG, 1000)

    async def app(self, scope, receive, send):
        if scope["type"] == "http":
            message = await receive() if scope["method"] == "POST" else {}
            self.asked.append((scope, message.get("body", b"")))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    def ask(self, method="GET", path="/", body=b"", kind="http", **headers):
        """The status, or the code with which a websocket is closed."""
        sent, pieces = [], [body[: len(body) // 2], body[len(body) // 2 :]]

        async def receive():
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message):
            sent.append(message)

        named = {"host": "localhost:7860", **headers}
        pairs = [(k.replace("_", "-").encode(), v.encode()) for k, v in named.items() if v is not None]
        scope = {"type": kind, "method": method, "path": path, "headers": pairs}
        asyncio.run(self.guarded(scope, receive, send))
        return sent[0].get("status") or sent[0].get("code")


@pytest.fixture
def site(folder):
    return Site(folder)


def test_foreign_hosts_and_origins_are_refused(site):
    assert site.ask() == 200
    assert site.ask(origin="http://127.0.0.1:7860") == 200
    for headers in ({"host": "evil.example"}, {"host": None}, {"origin": "http://evil.example"}, {"origin": "null"}):
        for method, path in (("GET", "/"), ("GET", "/config"), ("POST", JOIN), ("POST", UPLOAD), ("OPTIONS", "/")):
            assert site.ask(method, path, b"{}", **headers) == 403
    assert site.ask(kind="websocket", path=JOIN) == 1008
    assert len(site.asked) == 2


def test_what_the_page_does_not_use_is_refused(site):
    for path in ("/gradio_api/process_recording", "/gradio_api/call/samples", "/login", "/gradio_api/vibe-edit", "/"):
        assert site.ask("POST", path, b"{}") == 405
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert site.ask(method) == 405
    assert not site.asked


def test_a_request_that_names_a_foreign_file_is_refused(site, folder):
    def naming(path):
        file = {"path": str(path), "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
        return json.dumps({"data": [file], "fn_index": 1}).encode()

    for path in ("/etc/hostname", "/dev/zero", folder.parent / "secret.png", "http://example.org/x.png"):
        assert site.ask("POST", JOIN, naming(path)) == 403
    assert not site.asked
    assert site.ask("POST", JOIN, naming(folder / "x.png"), content_length="999") == 200
    scope, body = site.asked[0]
    assert json.loads(body) == json.loads(naming(folder / "x.png"))
    assert dict(scope["headers"])[b"content-length"] == str(len(body)).encode()


def test_the_request_that_is_passed_on_is_the_one_checked(site, folder):
    twice = f'{{"data": [{{"path": "/etc/hostname", "path": "{folder}/x.png"}}]}}'.encode()
    assert site.ask("POST", JOIN, twice) == 200
    assert b"hostname" not in site.asked[0][1]


def test_bodies_are_json_of_a_bounded_size(site):
    for body in (b"", b"{", b"data=1", b'{"data": NaN}', b'{"data": [Infinity]}', b"[" * 100_000, b"\xff"):
        assert site.ask("POST", JOIN, body) == 400
    assert site.ask("POST", JOIN, b" " * (MAX_JSON + 1)) == 413
    assert site.ask("POST", JOIN, b" " * (MAX_JSON - 2) + b"{}") == 200


def test_uploads_say_their_length_and_are_bounded(site):
    assert site.ask("POST", UPLOAD, b"x", content_length="1000") == 200
    assert site.ask("POST", UPLOAD, b"x", content_length="1001") == 413
    assert site.ask("POST", UPLOAD, b"x") == 411
    assert site.ask("POST", UPLOAD, b"x", content_length="-1") == 411
