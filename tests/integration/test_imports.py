"""What an import loads; the direction of imports is checked by `make lint` (import-linter)."""

import importlib
import os
import subprocess
import sys

import pytest

import bigbigan


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("bigbigan.models", ("bigbigan.data", "bigbigan.training", "sklearn")),
        ("bigbigan.methods.losses", ("bigbigan.data.readers", "bigbigan.training")),
        ("bigbigan.training.loop", ("bigbigan.evaluation", "sklearn", "scipy")),
        ("bigbigan.apps.train", ("sklearn", "torch._dynamo")),  # a second each
        ("bigbigan.apps.compare", ("matplotlib", "sklearn")),
        ("bigbigan.data", ("torch",)),
        ("bigbigan.cli", ("torch", "numpy")),
    ],
)
def test_import_does_not_load(module, absent):
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# With the number of processes that run at this moment, as Linux would give it.
IMPORT = (
    "import pathlib; read = pathlib.Path.read_text; pathlib.Path.read_text = lambda path: '0.2 0.1 0.1 {}/80 11206'; "
    "import bigbigan; pathlib.Path.read_text = read; import torch"
)


@pytest.mark.parametrize(
    ("given", "code", "expected"),
    [
        ({}, IMPORT.format(3), "PASSIVE"),
        ({}, IMPORT.format(1), None),
        ({"OMP_WAIT_POLICY": "active"}, "import bigbigan, torch", "ACTIVE"),
        ({}, "import torch, bigbigan", None),
        ({"GOMP_SPINCOUNT": "1000"}, "import bigbigan, torch", None),
    ],
)
def test_waiting_threads_sleep_on_a_busy_machine(given, code, expected):
    chosen = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {k: v for k, v in os.environ.items() if k not in chosen} | given
    code += "; import os; print(os.environ.get('OMP_WAIT_POLICY'))"
    environment["OMP_DISPLAY_ENV"] = "true"  # the library says on standard error what it goes by
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout.strip().upper() == expected) if expected else done.stdout.strip() == "None"
    if expected and "OMP_WAIT_POLICY" in done.stderr:
        assert f"OMP_WAIT_POLICY = '{expected}'" in done.stderr


def test_load_is_read_or_taken_as_high(tmp_path):
    path = tmp_path / "loadavg"
    for text, expected in (("0.1 0.2 0.3 1/80 9", False), ("0.1 0.2 0.3 2/80 9", True), ("?", True)):
        path.write_text(text)
        assert bigbigan._others_compute(path) == expected
    assert bigbigan._others_compute(tmp_path / "none")


MISTAKES = (
    ["trian"],
    ["data", "inspekt"],
    ["encode", "RUN"],  # --out is missing
    ["encode", ".", "--out", "features.xlsx"],
    ["encode", ".", "--out", "features.npz", "--device", "gpu"],
    ["encode", ".", "--out", "features.npz", "--batch-size", "0"],
    ["encode", ".", "--out", "features.npz", "--features", "fc7"],
    ["evaluate", "no/such/run"],
    ["evaluate", ".", "--metrics", "accuracy"],
    ["classify", "no/such/run", "--labels-per-class", "5", "--out", "labels.csv"],
    ["reconstruct", ".", "--out", "picture.jpeg"],
    ["train", "small/mnits", "--out", "RUN"],
    ["train", "small/digits"],  # --out is missing
    ["train", "small/folder64", "--out", "RUN"],  # --data is missing
    ["train", "small/digits", "--out", "RUN", "--data", "no/such/folder"],
    ["data", "inspect", "mnits"],
    ["train", "small/digits", "--out", "RUN", "--set", "training.step=3"],
    ["train", "small/digits", "--out", "RUN", "--set", "training.steps=many"],
    ["bench", "small/mnits"],
)


def test_mistakes_are_answered_without_torch(tmp_path):
    code = (
        "import sys\nfrom bigbigan.cli import main\n"
        f"for arguments in {MISTAKES!r}:\n    print(main(arguments), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split("\n")[:-1] == ["2 False"] * len(MISTAKES)
    lines = done.stderr.splitlines()
    assert len(lines) == len(MISTAKES)
    assert all(line.startswith("bigbigan: ") for line in lines)
    assert not list(tmp_path.iterdir())


def test_names_of_packages_are_public_in_their_modules():
    missing = []
    for package in ("apps", "cli", "config", "data", "evaluation", "image", "io", "methods", "models", "training"):
        names = importlib.import_module(f"bigbigan.{package}")
        for name in getattr(names, "__all__", ()):
            home = importlib.import_module(getattr(getattr(names, name), "__module__", None) or "bigbigan")
            if home.__name__.startswith("bigbigan.") and name not in getattr(home, "__all__", ()):
                missing.append(f"{home.__name__}.{name}")
    assert missing == []
