"""Fill in what pyproject.toml cannot: result lines in the wheel, and links to where the project is published."""

import os
import re
import shutil
import subprocess
from email import message_from_string
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithResults(build_py):
    """Copy results/*.jsonl into the package, for `bigbigan table`."""

    def run(self):
        """Build, then copy; an editable install reads them from the repository."""
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / "bigbigan" / "results"
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(Path("results").glob("*.jsonl")):
            shutil.copyfile(file, folder / file.name)


def git(*words: str) -> str:
    """Return what git prints, or "" outside a repository or without git."""
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def repository() -> str:
    """Return OWNER/NAME on GitHub: from BIGBIGAN_REPOSITORY, else from the remote origin; "" if it is neither."""
    address = os.environ.get("BIGBIGAN_REPOSITORY") or git("remote", "get-url", "origin")
    found = re.fullmatch(r"(?:https://|(?:ssh://)?git@)github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?", address)
    return found[1] if found else ""


def urls(name: str) -> dict[str, str]:
    """Return the project's URLs; without a repository OWNER/NAME, that of the paper alone."""
    home, paper = f"https://github.com/{name}", {"Paper": "https://arxiv.org/abs/1907.02544"}
    pages = {"Homepage": "", "Documentation": "/tree/HEAD/docs", "Issues": "/issues"}
    return {title: home + page for title, page in pages.items()} | paper if name else paper


def readme(name: str) -> str:
    """Return README.md, its relative links made absolute: a package index shows it apart from the repository."""
    text = Path("README.md").read_text(encoding="utf-8")
    if not name:
        return text
    at = git("describe", "--exact-match", "--tags") or git("rev-parse", "HEAD") or "HEAD"
    target = r"(?!https?:|#|mailto:)([^)\s]+)\)"
    text = re.sub(rf"(!\[[^]]*\]\(){target}", rf"\1https://raw.githubusercontent.com/{name}/{at}/\2)", text)
    return re.sub(rf"(\]\(){target}", rf"\1https://github.com/{name}/blob/{at}/\2)", text)


def metadata() -> dict[str, Any]:
    """Return the URLs and the long description: in a source archive those it was made with, for it has no remote."""
    archive = Path("PKG-INFO")
    if archive.exists():
        made = message_from_string(archive.read_text(encoding="utf-8"))
        addresses = dict(line.split(", ", 1) for line in made.get_all("Project-URL", []))
        return {"project_urls": addresses, "long_description": made.get_payload()}
    name = repository()
    return {"project_urls": urls(name), "long_description": readme(name)}


setup(cmdclass={"build_py": BuildWithResults}, long_description_content_type="text/markdown", **metadata())
