"""Research by Python: settings in YAML, a loss and a data set of one's own, W&B offline, two runs compared."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("wandb")

SKELETON = Path(__file__).parents[2] / "docs" / "extending_skeleton"
DATA = "python:my_package.data:shapes"
SETTINGS = {"steps: 1200": "steps: 4", "batch_size: 64": "batch_size: 8", "validate_every: 200": "validate_every: 0"}


def test_own_settings_loss_and_data_in_two_runs_that_are_compared(tmp_path):
    source, packages = tmp_path / "source", tmp_path / "packages"
    shutil.copytree(SKELETON, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", packages, source], check=True)
    path = os.pathsep.join([str(packages), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    environment = {**os.environ, "PYTHONPATH": path, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}

    def bigbigan(*words: str) -> str:
        command = [sys.executable, "-m", "bigbigan", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "failed" not in done.stderr, done.stderr
        return done.stdout

    settings = bigbigan("train", "mine/denoising", "--print-config")
    for before, after in SETTINGS.items():
        assert before in settings
        settings = settings.replace(before, after)
    (tmp_path / "study.yaml").write_text(settings)
    common = ["train", "--config", "study.yaml", "--data", DATA, "--log", "wandb", "--quiet", "--trust", "my_package"]
    bigbigan(*common, "--out", "runs/slow")
    bigbigan(*common, "--out", "runs/fast", "--set", "optimizer.lr_g=0.01")
    for run in ("slow", "fast"):
        assert list((tmp_path / "runs" / run).glob("wandb/offline-run-*/*.wandb"))
        metrics = "top1_linear_bn_crelu_10perclass,top1_linear_pixels_10perclass"
        table = bigbigan("evaluate", f"runs/{run}", "--metrics", metrics, "--quiet")
        assert "trained E, BN+CReLU" in table
    text = bigbigan("compare", "runs/slow", "runs/fast", "--out", "compared.html")
    assert "optimizer.lr_g" in text
    assert "0.01" in text
    page = (tmp_path / "compared.html").read_text()
    assert "optimizer.lr_g" in page
    assert "training.seed" not in page.partition("Settings that differ")[2].partition("</section>")[0]
