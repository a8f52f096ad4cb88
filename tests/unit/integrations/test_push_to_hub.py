"""The model card for the Hub, and `push_to_hub` against a stand-in for huggingface_hub."""

from __future__ import annotations

import shutil
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bigbigan import load
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.errors import UserError
from bigbigan.integrations.hub import push_to_hub
from tiny import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a folder with classes, whose name is nobody's business, and a saved head."""
    folder = tmp_path_factory.mktemp("private") / "ward-7"
    for name in ("healthy", "ill"):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    config = tiny_config("training.steps=2", "training.batch_size=8")
    train(config, str(folder), folder.parent / "run", progress=False)
    assert main(["evaluate", str(folder.parent / "run"), "--quiet", "--metrics", "knn5_l2_pixels,knn1_l2_pixels"]) == 0
    head = str(folder.parent / "head.safetensors")
    assert main(["classify", str(folder.parent / "run"), "--save", head, "--quiet"]) == 0
    return folder.parent / "run"


def test_card_has_licence_picture_classes_and_no_local_name(run, tmp_path, capsys):
    head = str(run.parent / "head.safetensors")
    words = ["--head", head, "--license", "cc-by-4.0", "--quiet"]
    assert main(["export", str(run), "--out", str(tmp_path / "a b"), *words]) == 0
    assert f"hf upload OWNER/NAME '{tmp_path / 'a b'}'" in capsys.readouterr().out
    card = (tmp_path / "a b" / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    assert yaml.safe_load(front)["pipeline_tag"] == "image-feature-extraction"
    assert "(samples.png)" in text
    assert Image.open(tmp_path / "a b" / "samples.png").size[0] > 100
    assert "healthy, ill" in text
    assert "ward" not in card
    assert "On the same images, " in card
    assert "| raw pixels | " in card
    assert "All values are in `results.jsonl`" in card


def test_card_names_the_labels_of_a_conditional_model(run, tmp_path):
    settings = ["loss.s_z=false", "loss.s_xz=false", "data.labels=classes", "training.batch_size=8"]
    train(tiny_config("training.steps=2", *settings), str(run.parent / "ward-7"), tmp_path / "gan", progress=False)
    assert main(["export", str(tmp_path / "gan"), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| labels | healthy, ill |" in card
    assert "license: other\n" in card
    assert "pipeline_tag: unconditional-image-generation\n" in card


def test_a_licence_that_is_no_name_is_refused(run, tmp_path, capsys):
    words = ["export", str(run), "--out", str(tmp_path / "out"), "--license", "mine\ntags: [evil]"]
    assert main(words) == 2
    assert "--license" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class FakeApi:
    calls: list[tuple[str, dict]] = []  # noqa: RUF012
    folder = None
    refuse = ""

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, **given):
        if self.refuse:
            raise RuntimeError(self.refuse)
        self.calls.append(("create", {"repo_id": repo_id, "token": self.token, **given}))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.calls.append(("upload", {"repo_id": repo_id, "commit_message": commit_message}))
        shutil.copytree(folder_path, self.folder)
        return f"https://hub/{repo_id}/commit/1"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    module = ModuleType("huggingface_hub")
    module.HfApi = FakeApi
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setattr(FakeApi, "folder", tmp_path / "there")
    monkeypatch.setattr(FakeApi, "calls", [])
    return FakeApi


def test_push_to_hub_uploads_what_load_reads(run, hub):
    assert push_to_hub(run, "owner/name", license="mit", token="t") == "https://hub/owner/name/commit/1"
    created = {"repo_id": "owner/name", "token": "t", "private": True, "exist_ok": True}
    assert hub.calls[0] == ("create", created)
    assert [name for name, _ in hub.calls] == ["create", "upload"]
    assert "license: mit" in (hub.folder / "README.md").read_text()
    ours, theirs = load(run), load(hub.folder)
    x = torch.zeros(2, 1, 8, 8)
    torch.testing.assert_close(ours.encode(x).z_mean, theirs.encode(x).z_mean)


@pytest.mark.parametrize("name", ["name", "owner/name/more", "owner/name@v1", "../run"])
def test_push_to_hub_refuses_other_names(run, hub, name):
    with pytest.raises(UserError, match="expected owner/name"):
        push_to_hub(run, name)
    assert hub.calls == []


def test_push_to_hub_says_why_it_failed(run, hub, monkeypatch):
    monkeypatch.setattr(FakeApi, "refuse", "401\nunauthorised")
    with pytest.raises(UserError, match=r"RuntimeError: 401 unauthorised\); log in with: hf auth login"):
        push_to_hub(run, "owner/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'bigbigan\[hub\]'"):
        push_to_hub(run, "owner/name")
