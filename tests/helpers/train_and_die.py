"""Trains in a process of its own and, if asked, kills itself there with SIGKILL.

    python train_and_die.py RUN DATA STEPS [MOMENT COUNT]

MOMENT is "step" (inside training step number COUNT, between the update of D and that of G and E) or a function
called while a checkpoint is written; the process dies at the COUNT-th call of it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch

from bigbigan import methods as systems
from bigbigan.apps.train import train
from bigbigan.io import files, tensors
from bigbigan.training import checkpoint
from tiny import tiny_config

MOMENTS = {
    "step": (systems.BigBiGAN, "encoder_generator_update"),
    "tensors": (tensors, "save_file"),
    "hash": (checkpoint, "sha256_of"),
    "sync": (files, "sync"),
    "replace": (os, "replace"),
    "rename": (os, "rename"),
    "prune": (checkpoint.shutil, "rmtree"),
}


def die_at(moment: str, count: int) -> None:
    owner, name = MOMENTS[moment]
    original, calls = getattr(owner, name), [0]

    def dying(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, dying)


if __name__ == "__main__":
    run, data, steps, *moment = sys.argv[1:]
    torch.set_num_threads(1)
    if moment:
        die_at(moment[0], int(moment[1]))
    ended = train(tiny_config(f"training.steps={steps}"), data, Path(run), progress=False)
    sys.exit(0 if ended is None else 128 + ended)
