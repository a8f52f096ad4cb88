"""Put the result lines of the repository into the wheel, for `bigbigan table`; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithResults(build_py):
    """Copy results/*.jsonl into the package."""

    def run(self):
        """Build, then copy; an editable install reads them from the repository."""
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / "bigbigan" / "results"
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(Path("results").glob("*.jsonl")):
            shutil.copyfile(file, folder / file.name)


setup(cmdclass={"build_py": BuildWithResults})
