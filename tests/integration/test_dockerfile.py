"""The Dockerfile parses, copies what there is, runs as a user without rights; its pip steps run in an environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}


class Step(NamedTuple):
    instruction: str
    rest: str


def steps() -> list[Step]:
    """The instructions of the Dockerfile, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [Step(*line.split(maxsplit=1)) for line in lines]


def ignored(name: str) -> bool:
    """Whether .dockerignore, which allows names one by one, leaves a name out."""
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "**"
    return f"!{name}" not in lines


def test_dockerfile_parses():
    found = steps()
    assert found[0].instruction == "FROM"
    assert re.fullmatch(r"python:3\.\d+-slim", found[0].rest)
    assert {step.instruction for step in found} <= INSTRUCTIONS
    (entry,) = [json.loads(step.rest) for step in found if step.instruction == "ENTRYPOINT"]
    assert entry == ["bigbigan"]
    for step in found:
        if step.instruction == "RUN":
            assert subprocess.run(["sh", "-n", "-c", step.rest]).returncode == 0, step.rest
        if step.instruction in ("ENV", "ARG"):
            assert re.fullmatch(r"(\w+=(\"[^\"]*\"|\S*) ?)+", step.rest), step.rest


def test_dockerfile_copies_what_there_is():
    for step in steps():
        if step.instruction == "COPY":
            *sources, target = step.rest.split()
            assert target.startswith("./")
            for source in sources:
                assert (ROOT / source).exists(), source
                assert not ignored(source), source


def test_dockerfile_ends_as_a_user_without_rights():
    found = steps()
    (user,) = [n for n, step in enumerate(found) if step.instruction == "USER"]
    assert found[user].rest not in ("root", "0")
    assert not [step for step in found[user:] if step.instruction in ("RUN", "COPY")]
    made = [step.rest for step in found[:user] if step.instruction == "RUN" and "useradd" in step.rest]
    assert re.search(rf"useradd --uid [1-9]\d* .*\b{found[user].rest}\b", made[0])


@pytest.mark.skipif(os.name == "nt", reason="the steps are for sh")
def test_steps_of_dockerfile_run_in_an_environment(tmp_path):
    """The pip steps as they stand, in a new environment that finds the packages of this one, without network."""
    pytest.importorskip("setuptools_scm", reason="builds with what is installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = tmp_path / "bin" / "pip"
    pip.parent.mkdir()
    pip.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip --python "{python}" "$@"\n')
    pip.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | {
        "PATH": f"{pip.parent}:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0",  # 0: without isolation
        "EXTRAS": "parquet",
    }  # fmt: skip
    build, ran = tmp_path / "build", 0
    build.mkdir()
    for step in steps():
        if step.instruction == "COPY":
            for source in step.rest.split()[:-1]:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, build / source, ignore=shutil.ignore_patterns("*.egg-info"))
                else:
                    shutil.copy(ROOT / source, build)
        if step.instruction == "RUN" and step.rest.startswith("pip "):
            done = subprocess.run(["sh", "-c", step.rest], cwd=build, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            ran += 1
    assert ran == 2
    command = [tmp_path / "venv" / "bin" / "bigbigan", "table", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "22.66 ± 0.18" in done.stdout, done.stderr
