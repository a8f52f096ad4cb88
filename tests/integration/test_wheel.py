"""An engineer's path: the wheel, installed in a clean environment outside the repository, does its work there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from bigbigan.inference.pretrained import pretrained_names

pytest.importorskip("setuptools_scm", reason="builds the wheel with what is installed")
ROOT = Path(__file__).parents[2]
SOURCES = ("src", "results", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
NOBODY = 65534
needs_git = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


def run(*words, **settings):
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("PYTHONPATH", "VIRTUAL_ENV", "BIGBIGAN_CACHE", "BIGBIGAN_REPOSITORY")
    }
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, env=environment, **settings)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def copy_sources(folder):
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from an archive of the source: no repository, no tags, no network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    copy_sources(source)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, source)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    return metadata_of(wheel)


def metadata_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(name).decode())


def check_files(wheel):
    """Check that a wheel is small and has the files it should have."""
    assert wheel.stat().st_size < 10e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"bigbigan/results/{path.name}" for path in (ROOT / "results").glob("*.jsonl")} <= names
    assert {"bigbigan/py.typed", "bigbigan/apps/report/style.css"} <= names
    for name in pretrained_names():  # those without weights are fetched (inference/pretrained.py)
        weights = f"bigbigan/pretrained/{name}/model.safetensors" in names
        assert weights == (name != "small/caltech101")
        assert f"bigbigan/pretrained/{name}/model.json" in names
    assert not [name for name in names if name.startswith(("tests", "reproduction", "docs"))]


def test_wheel_has_result_lines_and_is_small(wheel):
    check_files(wheel)


def test_metadata_names_versions_systems_and_licence(metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    classifiers = metadata.get_all("Classifier")
    for system in ("POSIX :: Linux", "MacOS", "Microsoft :: Windows"):
        assert f"Operating System :: {system}" in classifiers
    assert "Programming Language :: Python :: 3.11" in classifiers


def test_version_is_the_same_everywhere(metadata):
    version = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)[0]
    assert metadata["Version"] == f"{version}.dev0"  # neither a tag nor a repository
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{version}}}" in (ROOT / "README.md").read_text()


def test_without_an_address_links_stay_relative(metadata):
    assert metadata.get_all("Project-URL") == ["Paper, https://arxiv.org/abs/1907.02544"]
    assert "](docs/quickstart.md)" in metadata.get_payload()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A repository with what the build reads, from an address on GitHub, at the tag v1.2.3."""
    folder = tmp_path_factory.mktemp("released")
    copy_sources(folder)
    git(folder, "init", "--quiet")
    git(folder, "remote", "add", "origin", "git@github.com:someone/bigbigan.git")
    (folder / ".gitignore").write_text("*.egg-info\nbuild\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Release")
    git(folder, "tag", "v1.2.3")
    return folder


def git(folder, *words):
    run("git", "-C", folder, "-c", "user.name=A", "-c", "user.email=a@example.org", *words)


def build(kind, source, out):
    """Return the path of the wheel or the source archive (sdist) of a source."""
    code = f"import sys; from setuptools.build_meta import build_{kind} as build; build(sys.argv[1])"
    run(sys.executable, "-c", code, out, cwd=source)
    (path,) = out.iterdir()
    return path


@needs_git
def test_release_has_the_version_of_its_tag_and_links_to_it(released, tmp_path):
    shutil.unpack_archive(build("sdist", released, tmp_path / "sdist"), tmp_path / "unpacked")
    for source in (released, tmp_path / "unpacked" / "bigbigan-1.2.3"):  # and a wheel made from the archive
        path = build("wheel", source, tmp_path / f"{source.name}-wheel")
        check_files(path)  # in a repository setuptools-scm adds the files that git tracks
        made = metadata_of(path)
        assert made["Version"] == "1.2.3"
        assert "Homepage, https://github.com/someone/bigbigan" in made.get_all("Project-URL")
        links = re.findall(r"\]\(([^)]+)\)", made.get_payload())
        assert links
        assert all(link.startswith("https://") for link in links)
        assert "https://raw.githubusercontent.com/someone/bigbigan/v1.2.3/docs/pictures/serve.png" in links
        assert "https://github.com/someone/bigbigan/blob/v1.2.3/docs/quickstart.md" in links


@needs_git
def test_version_after_a_tag_names_the_commit(released, tmp_path):
    git(released, "commit", "--quiet", "--allow-empty", "--message", "Go on")
    assert metadata_of(build("wheel", released, tmp_path / "wheel"))["Version"].startswith("1.2.4.dev1+g")


def test_table_finds_the_lines_of_the_package(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "package")
    code = "import sys; sys.path.insert(0, 'package'); from bigbigan.cli import main; main(['table', 'bigan'])"
    text = run(sys.executable, "-c", code, cwd=tmp_path)
    (row,) = [line for line in text.splitlines() if line.startswith("BiGAN  ")]
    assert "97.39" in row
    assert "not run" not in row


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """A new virtual environment with the wheel; other packages are those of this one, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(site) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # without the .pth files in there
    return folder


@pytest.mark.slow
def test_wheel_trains_and_encodes_in_a_clean_environment(clean):
    command = clean / "venv" / ("Scripts/bigbigan.exe" if os.name == "nt" else "bin/bigbigan")
    python = next(command.parent.glob("python*"))
    there = run(python, "-c", "import bigbigan; print(bigbigan.__file__)", cwd=clean).strip()
    assert Path(there).is_relative_to(clean)
    assert "22.66 ± 0.18" in run(command, "table", "1", cwd=clean)
    assert "small/digits" in run(command, "list", cwd=clean)
    run(command, "train", "small/digits", "--steps", 3, "--out", "run", "--quiet", cwd=clean)
    run(command, "encode", "run", "--quiet", "--out", "features.csv", cwd=clean)
    assert len((clean / "features.csv").read_text().splitlines()) == 1 + 1797


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_wheel_encodes_as_another_user(clean, tmp_path_factory):
    """As in a container: a user without a home, who can write to one folder only, and reads a run of root."""
    command, out = clean / "venv" / "bin" / "bigbigan", tmp_path_factory.mktemp("out")
    if not (clean / "run").exists():
        run(command, "train", "small/digits", "--steps", 3, "--out", "run", "--quiet", cwd=clean)
    for folder in (out, clean, out.parent, out.parent.parent):  # pytest's, which only root may enter
        folder.chmod(folder.stat().st_mode | 0o005)
    os.chown(out, NOBODY, NOBODY)
    try:
        subprocess.run([sys.executable, "-c", "import torch"], user=NOBODY, capture_output=True, check=True)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("another user cannot run this Python")
    words = ["encode", clean / "run", "--data", "digits", "--quiet", "--out", out / "features.csv"]
    run(command, *words, cwd=out, user=NOBODY, group=NOBODY)
    assert (out / "features.csv").stat().st_uid == NOBODY
