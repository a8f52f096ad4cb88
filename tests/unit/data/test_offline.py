"""A Hub that is out of reach is found to be so within seconds; what was downloaded before is used then."""

import http.server
import socket
import sys
import threading
import time
from contextlib import suppress
from types import ModuleType

import pytest

from bigbigan.data.readers import offline
from bigbigan.data.readers.offline import is_reachable, offline_if_unreachable


class Answer(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site():
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_any_answer_counts(site, status):
    assert is_reachable(f"{site}/{status}", timeout=60)


def test_nobody_there_or_silent_is_unreached_soon():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.perf_counter()
        assert not is_reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.3)
        port = silent.getsockname()[1]
    assert not is_reachable(f"http://127.0.0.1:{port}", timeout=60)  # closed by now: refused at once
    assert not is_reachable("no address", timeout=60)
    assert time.perf_counter() - start < 20


def test_a_name_that_is_looked_up_without_end_is_unreached(monkeypatch):
    released = threading.Event()

    def stuck(*arguments, **options):
        released.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    start = time.perf_counter()
    assert not is_reachable("http://hub.example", timeout=0.3)
    assert time.perf_counter() - start < 10
    released.set()


@pytest.fixture
def constants(monkeypatch):
    """huggingface_hub's constants, without huggingface_hub."""
    hub, constants = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.constants")
    hub.constants, constants.ENDPOINT, constants.HF_HUB_OFFLINE = constants, "http://hub.example", False
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    return constants


@pytest.mark.parametrize("reached", [True, False])
def test_the_cache_alone_is_used_only_where_unreached(constants, monkeypatch, reached):
    monkeypatch.setattr(offline, "is_reachable", lambda url: reached)
    with suppress(ZeroDivisionError), offline_if_unreachable():
        assert constants.HF_HUB_OFFLINE is not reached
        _ = 1 / 0
    assert constants.HF_HUB_OFFLINE is False


def test_who_chose_to_be_offline_stays_so(constants, monkeypatch):
    monkeypatch.setattr(offline, "is_reachable", pytest.fail)
    constants.HF_HUB_OFFLINE = True
    with offline_if_unreachable():
        assert constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_OFFLINE


def test_without_the_library_nothing_changes(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with offline_if_unreachable():
        pass
