"""What an import loads; the direction of imports is checked by `make lint` (import-linter)."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("bigbigan.models", ("bigbigan.data", "bigbigan.training", "sklearn")),
        ("bigbigan.methods.losses", ("bigbigan.data.readers", "bigbigan.training")),
        ("bigbigan.training.loop", ("bigbigan.evaluation", "sklearn", "scipy")),
        ("bigbigan.cli", ("torch", "numpy")),
    ],
)
def test_import_does_not_load(module, absent):
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
