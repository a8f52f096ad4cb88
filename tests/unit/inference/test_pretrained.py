"""Trained models of the package whose weights are not in the wheel: fetched once, checked, and honest about failure."""

from __future__ import annotations

import shutil
import threading
from email.message import Message
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

import bigbigan
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.errors import UserError
from bigbigan.inference import pretrained
from bigbigan.integrations.export import export
from tiny import tiny_config, write_npz

NAME = "small/somewhere_else"


class Handler(SimpleHTTPRequestHandler):
    """Serves files without a log, and counts the requests."""

    requests = 0

    def do_GET(self):
        type(self).requests += 1
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(tiny_config("training.steps=2"), str(write_npz(folder / "rows.npz")), folder / "run", progress=False)
    export(folder / "run", folder / "exported", compact=True)
    return folder / "exported"


@pytest.fixture
def published(exported, tmp_path, monkeypatch):
    """A package without the weights of its model, and a server that has them."""
    shutil.copytree(exported, tmp_path / "server" / NAME)
    shutil.copytree(exported, tmp_path / "package" / NAME, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "package")
    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Handler, "requests", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "server")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("BIGBIGAN_MODELS", f"http://127.0.0.1:{server.server_port}/")
    yield tmp_path
    server.shutdown()
    server.server_close()


def test_weights_are_fetched_once_and_damage_is_mended(published, monkeypatch):
    assert bigbigan.load(NAME).step == 2
    assert bigbigan.load(NAME).step == 2
    assert Handler.requests == 1
    (weights,) = (published / "cache").rglob("model.safetensors")
    assert {file.name for file in weights.parent.iterdir()} == {
        file.name for file in (published / "server" / NAME).iterdir()
    }
    monkeypatch.delenv("BIGBIGAN_MODELS")
    assert bigbigan.load(NAME).step == 2  # from the cache, without an address
    monkeypatch.setenv("BIGBIGAN_MODELS", "http://127.0.0.1:1")
    weights.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"cannot download model\.safetensors"):
        bigbigan.load(NAME)
    assert not weights.exists()


def test_commands_fetch_too(published, capsys):
    assert main(["generate", NAME, "--out", str(published / "grid.png"), "--count", "2", "--quiet"]) == 0
    assert (published / "grid.png").exists()
    assert "downloading http://127.0.0.1" in capsys.readouterr().err


def test_other_weights_than_the_package_expects_are_refused(published):
    (published / "server" / NAME / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"cannot download model\.safetensors \(wrong checksum after 14 bytes\)"):
        bigbigan.load(NAME)
    assert not list((published / "cache").rglob("*.safetensors*"))


def test_without_an_address_the_message_says_what_to_do(published, monkeypatch):
    monkeypatch.delenv("BIGBIGAN_MODELS")
    monkeypatch.setattr(pretrained, "_published_at", lambda: "")
    with pytest.raises(UserError, match=r"its weights are not in this installation.*set BIGBIGAN_MODELS"):
        bigbigan.load(NAME)


@pytest.mark.parametrize(
    ("version", "home", "expected"),
    [
        ("1.2.3", "https://github.com/a/b", "https://raw.githubusercontent.com/a/b/v1.2.3/src/bigbigan/pretrained"),
        ("1.2.4.dev3", "https://github.com/a/b", "https://raw.githubusercontent.com/a/b/HEAD/src/bigbigan/pretrained"),
        ("1.2.3", "https://example.org/b", ""),
        ("1.2.3", None, ""),
    ],
)
def test_the_address_is_that_of_the_tag(version, home, expected, monkeypatch):
    package = Message()
    package["Version"] = version
    package["Project-URL"] = "Paper, https://arxiv.org/abs/1907.02544"
    if home:
        package["Project-URL"] = f"Homepage, {home}"
    monkeypatch.setattr(pretrained.metadata, "metadata", lambda name: package)
    assert pretrained._published_at() == expected
