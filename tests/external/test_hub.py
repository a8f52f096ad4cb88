"""`bigbigan.load("owner/name")` with huggingface_hub itself, against a local server that answers as the Hub."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch

from bigbigan import load
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.errors import UserError
from tiny import tiny_config, write_npz

constants = pytest.importorskip(
    "huggingface_hub.constants", reason="huggingface_hub is not installed: make test-interop"
)

FILES = {"config.json", "model.json", "model.safetensors", "README.md"}  # fetched; the picture is not
NAME = "owner/name"


class FakeHub:
    """Repositories by name, each a folder by revision; `asked` is what was asked for."""

    def __init__(self) -> None:
        self.folders: dict[str, dict[str, Path]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.answer(self, urlsplit(unquote(self.path)).path.strip("/"))

            do_HEAD = do_GET

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fetched(self) -> set[str]:
        return {path.rpartition("/")[2] for path in self.asked if "/resolve/" in path}

    def answer(self, to: BaseHTTPRequestHandler, path: str) -> None:
        self.asked.append(path)
        kind, _, rest = path.partition("/") if path.startswith("api/") else ("", "", path)
        words = rest.removeprefix("models/").split("/")
        repo, (what, revision, *file) = "/".join(words[:2]), (words[2:] or ["revision", "main"])
        if repo not in self.folders:
            return self.refuse(to, 401, "RepoNotFound")
        if repo in self.gated:
            return self.refuse(to, 403, "GatedRepo")
        commits = {sha1(f"{repo}/{name}".encode()).hexdigest(): name for name in self.folders[repo]}
        commit = next((c for c, name in commits.items() if revision in (c, name)), None)
        if commit is None:
            return self.refuse(to, 404, "RevisionNotFound")
        folder = self.folders[repo][commits[commit]]
        contents = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
        if kind and what == "revision":
            siblings = [{"rfilename": name} for name in contents]
            return self.send(to, {"id": repo, "sha": commit, "siblings": siblings, "tags": [], "downloads": 0})
        if kind:
            return self.send(to, [
                {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
                for name, data in contents.items()
            ])  # fmt: skip
        if file[0] not in contents:
            return self.refuse(to, 404, "EntryNotFound")
        etag = sha1(contents[file[0]]).hexdigest()
        self.send(to, contents[file[0]], {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def refuse(self, to: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self.send(to, {"error": code}, {"X-Error-Code": code}, status)

    def send(self, to: BaseHTTPRequestHandler, content, headers=None, status: int = 200) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        to.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            to.send_header(key, value)
        to.end_headers()
        if to.command == "GET":
            to.wfile.write(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train(tiny_config("training.steps=4"), str(write_npz(folder / "rows.npz")), folder / "run", progress=False)
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """As it might lie on the Hub, with files beside it that are nobody's business here."""
    out = tmp_path_factory.mktemp("out") / "model"
    assert main(["export", str(run), "--out", str(out)]) == 0
    (out / "modeling.py").write_text("raise SystemExit('executed')")
    (out / ".gitattributes").write_text("*.safetensors filter=lfs")
    return out


def point_at(url: str, monkeypatch) -> None:
    """huggingface_hub reads its environment when it is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def fake(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    fake = FakeHub()
    fake.folders[NAME] = {"main": exported}
    point_at(fake.url, monkeypatch)
    yield fake
    fake.stop()


def refused(name: str) -> str:
    with pytest.raises(UserError) as error:
        load(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_model_from_the_hub_is_the_run_s(run, fake):
    ours, theirs = load(run), load(NAME)
    x, z = torch.rand(5, 1, 8, 8) * 2 - 1, torch.randn(5, 8)
    assert torch.equal(ours.encode(x).bn_crelu_feat, theirs.encode(x).bn_crelu_feat)
    assert torch.equal(ours.generate(z), theirs.generate(z))
    assert torch.equal(ours.discriminate(x, z).score_xz, theirs.discriminate(x, z).score_xz)
    assert (ours.config, ours.step) == (theirs.config, theirs.step)
    assert fake.fetched() == FILES


def test_a_revision_is_the_one_that_was_asked_for(fake, exported, tmp_path):
    other = shutil.copytree(exported, tmp_path / "other")
    about = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps(about | {"step": 77}))
    fake.folders[NAME] |= {"v2": other}
    assert load(NAME).step == 4
    assert load(f"{NAME}@v2").step == 77
    assert load(f"{NAME}@{sha1(f'{NAME}/v2'.encode()).hexdigest()}").step == 77
    assert "has no revision v3" in refused(f"{NAME}@v3")


def test_verbs_take_a_name_on_the_hub(run, fake, tmp_path):
    (tmp_path / "new").mkdir()
    data = str(run.parent / "rows.npz")
    for arguments in (
        ["generate", NAME, "--count", "4", "--out", "new/g.png"],
        ["encode", NAME, "--data", data, "--out", "new/f.npz"],
        ["reconstruct", NAME, "--data", data, "--count", "4", "--out", "new/r.png"],
        ["interpolate", NAME, "--data", data, "--count", "4", "--out", "new/i.png"],
        ["export", NAME, "--out", "new/again"],
    ):
        assert main(arguments) == 0, arguments
    assert torch.equal(load("new/again").generate(3), load(run).generate(3))


def test_the_environment_of_huggingface_hub_holds(fake, tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": fake.url, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bigbigan", "generate", NAME, "--count", "2", "--out", "grid.png"]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=600)
    assert (tmp_path / "grid.png").exists()
    assert list((tmp_path / "home").rglob("model.safetensors"))


def test_what_was_fetched_once_loads_without_the_hub(run, fake, monkeypatch):
    load(NAME)
    fake.stop()
    assert torch.equal(load(NAME).generate(3), load(run).generate(3))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(load(NAME).generate(3), load(run).generate(3))
    assert "cannot be fetched" in refused("owner/another")


def test_a_hub_that_is_down_or_silent_is_refused_in_one_line(fake, monkeypatch, capsys):
    fake.stop()
    assert "cannot be fetched from the Hugging Face Hub" in refused(NAME)
    assert main(["generate", NAME, "--out", "grid.png"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr("bigbigan.inference.hub.TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        assert "Timeout" in refused(NAME)


def test_an_unknown_or_gated_repository_is_refused_in_one_line(fake):
    assert "no such repository" in refused("owner/another")
    fake.gated.add(NAME)
    assert "is gated" in refused(NAME)


@pytest.mark.parametrize("name", ["config.json", "model.json", "model.safetensors"])
def test_a_foreign_repository_is_refused_before_its_weights(name, fake, exported, tmp_path):
    other = shutil.copytree(exported, tmp_path / "other")
    (other / name).unlink()
    fake.folders[NAME] = {"main": other}
    assert f"is not a model exported by bigbigan: it has no {name}" in refused(NAME)
    assert not fake.fetched()


@pytest.mark.parametrize(("name", "change", "message"), [
    ("model.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "SHA-256"),
    ("model.json", lambda b: b"{", "cannot be read as JSON"),
    ("config.json", lambda b: b.replace(b'"shared_dim": 4', b'"shared_dim": 6'), "does not fit"),
])  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line(name, change, message, fake, exported, tmp_path):
    other = shutil.copytree(exported, tmp_path / "other")
    (other / name).write_bytes(change((other / name).read_bytes()))
    fake.folders[NAME] = {"main": other}
    assert message in refused(NAME)


def test_a_folder_of_this_machine_comes_first(run, fake, tmp_path):
    shutil.copytree(run, tmp_path / NAME)
    assert load(NAME).step == 4
    assert "is not a folder" in refused("owner/typo")
    assert not fake.asked
