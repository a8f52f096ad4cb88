"""What `bigbigan serve` does with requests that no page of it makes, and under load."""

import contextlib
import io
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import PATIENCE, Server

from bigbigan.apps.serve import VISITORS
from bigbigan.apps.train import train
from reproduction.benchmark import serve_memory
from reproduction.benchmark.serve_memory import Visitor, png, resident_mib, visit
from tiny import tiny_config, write_npz

gradio = pytest.importorskip("gradio", reason="gradio is not installed: make test-interop")

ROOT = Path(__file__).parents[2]
JOIN = "/gradio_api/queue/join"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("requests")
    data = write_npz(folder / "rows.npz")
    train(tiny_config("training.steps=4"), str(data), folder / "run", progress=False)
    return folder / "run"


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    server = Server(run, tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def visitor(server, request):
    return Visitor(server.url, session=request.node.name)


def status(server, path="/", headers=(), body=None):
    """The status of an answer; headers as they are given, Host too."""
    head = {"Content-Type": "application/json", **dict(headers)}
    request = urllib.request.Request(server.url + path, body, head)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_an_upload_is_read_and_an_example_clicked(visitor):
    content = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(content, "PNG")
    path = visitor.upload(content.getvalue())
    assert visitor.event("read", path)["success"]
    picture = visitor.event("show")["output"]["data"][0]["path"]
    assert status(visitor, f"/gradio_api/file={picture}") == 200
    clicked = {"index": 3, "value": {"image": {"path": picture, "meta": {"_type": "gradio.FileData"}}}}
    assert visitor.event("pick", data=clicked)["success"]


def test_no_file_of_this_machine_is_taken_for_an_upload(visitor, server, tmp_path):
    secret = tmp_path / "secret.png"
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(secret)
    os.mkfifo(tmp_path / "pipe.png")
    upload = Path(visitor.upload(png(0)))
    places = [secret, tmp_path / "pipe.png", "/dev/zero", "/etc/hostname", "/proc/self/environ", upload.parent]
    places += [f"{upload.parent}/../../../{secret.name}", "http://localhost:1/x.png", "https://example.org/x.png"]
    for place in places:
        with pytest.raises(urllib.error.HTTPError) as refused:
            visitor.event("read", str(place))
        assert refused.value.code == 403, place
    assert visitor.event("samples")["success"]
    assert server.notes.read_text() == ""  # no address that was named was asked


def test_gradio_itself_refuses_what_is_no_upload(run, tmp_path):
    """The second lock: were the guard not there, gradio would say no."""
    server = Server(run, tmp_path, code="from bigbigan.apps.serve import server; server.guard = lambda app, *rest: app")
    try:
        visitor = Visitor(server.url)
        Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "secret.png")
        assert not visitor.event("read", str(tmp_path / "secret.png"))["success"]
        assert visitor.event("read", visitor.upload(png(0)))["success"]
    finally:
        server.kill()


def test_hosts_and_origins_of_others_are_refused(server):
    port = server.url.rpartition(":")[2]
    body = json.dumps({"data": [], "fn_index": 0, "session_hash": "x"}).encode()
    for name in ("localhost", "127.0.0.1", "[::1]"):
        assert status(server, headers={"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}) == 200
    for path, sent in (("/", None), ("/config", None), (JOIN, body)):
        assert status(server, path, {"Host": "evil.example"}, sent) == 403
        assert status(server, path, {"Host": f"evil.example:{port}"}, sent) == 403
        assert status(server, path, {"Origin": "http://evil.example"}, sent) == 403
        assert status(server, path, {"Origin": "null"}, sent) == 403


def test_with_a_host_it_answers_to_the_names_given(run, tmp_path):
    server = Server(run, tmp_path, "--host", "0.0.0.0", "--host", "box.example")
    try:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        for host, expected in (
            ("box.example", 200),
            ("127.0.0.1", 200),
            (socket.gethostname(), 200),
            ("a.example", 403),
        ):
            assert status(server, headers={"Host": host}) == expected
            assert status(server, headers={"Host": host, "Origin": f"http://{host}:80"}) == expected
        assert status(server, headers={"Host": "box.example", "Origin": "http://a.example"}) == 403
    finally:
        server.kill()


def test_sigterm_ends_it_while_a_request_hangs(run, tmp_path):
    hang = "import time, bigbigan.apps.serve; bigbigan.apps.serve.ServedModel.samples = lambda *a: time.sleep(3600)"
    server = Server(run, tmp_path, code=hang)
    try:
        visitor = Visitor(server.url)
        threading.Thread(target=_ask, args=(visitor,), daemon=True).start()
        time.sleep(2)
        start = time.perf_counter()
        assert server.end(signal.SIGTERM) == 0
        assert time.perf_counter() - start < 60
        assert list(server.temporary.iterdir()) == []
    finally:
        server.kill()


def _ask(visitor):
    with contextlib.suppress(OSError, RuntimeError):  # the server ends meanwhile
        visitor.event("samples")


COUNT = """
import gc, signal
def count(*_):
    from gradio.state_holder import StateHolder
    print(max(len(o.session_data) for o in gc.get_objects() if type(o) is StateHolder), flush=True)
signal.signal(signal.SIGUSR2, count)
"""


def test_of_many_visitors_few_are_kept(run, tmp_path):
    server = Server(run, tmp_path, code=COUNT)
    try:
        visitor = Visitor(server.url)
        for number in range(VISITORS + 6):
            visitor.session = f"visitor{number}"
            assert visitor.event("lambda")["success"]
        server.process.send_signal(signal.SIGUSR2)
        assert int(server.process.stdout.readline()) == VISITORS
    finally:
        server.kill()


@pytest.mark.slow
def test_memory_levels_off(run, tmp_path):
    server = Server(run, tmp_path)
    try:
        visit(server.url, 600)
        before = resident_mib(server.process.pid)
        visit(server.url, 2_000)
        assert resident_mib(server.process.pid) < 1.05 * before
    finally:
        server.kill()


def test_the_tool_writes_a_result_line(run, tmp_path):
    results = tmp_path / "memory.jsonl"
    numbers = ["--requests", "12", "--warm-up", "6"]
    assert serve_memory.main([str(run), *numbers, "--results", str(results)]) == 0
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert {line["metric"] for line in lines} == {"serve_memory_mib", "serve_memory_growth"}
