"""Nothing takes for granted that tensors are on the CPU; see on_other_device.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration

SCRIPT = Path(__file__).parents[1] / "helpers" / "on_other_device.py"


@pytest.mark.long
@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch has no devices written in Python",
)
def test_training_and_the_uses_of_a_model_run_on_another_device(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, SCRIPT, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    parts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"part"')]
    assert len(parts) > 25
    assert {p["part"]: p["trouble"] for p in parts if p["trouble"]} == {}
    assert [p["part"] for p in parts if p["operators"] == 0] == []
