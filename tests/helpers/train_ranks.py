"""Trains in float64, under torchrun or alone: `python train_ranks.py RUN DATA SETTING ...`

With TROUBLE=SIGNAL@STEP in the environment rank 1 gets that signal after that step, unless it was restarted; with
TROUBLE=hang@STEP it sleeps.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch

from bigbigan.apps.train import train
from bigbigan.data import batches
from bigbigan.training import distributed, loop
from tiny import tiny_config


def at_step(step: int, act) -> None:
    """Call `act` in the middle of training, once step `step` is done."""
    original = loop.training_step

    def acting(state, batches):
        values = original(state, batches)
        if state.step == step:
            act()
        return values

    loop.training_step = acting


if __name__ == "__main__":
    run, data, *settings = sys.argv[1:]
    torch.set_num_threads(1)
    distributed.REPORT_AFTER, distributed.EVERY = 5.0, 1.0
    # In float32 rounding grows with each step of two players, until two correct runs have little in common.
    torch.set_default_dtype(torch.float64)
    batches.to_float = lambda pixels: pixels.double() / 127.5 - 1
    rank, attempt = (int(os.environ.get(name, 0)) for name in ("RANK", "TORCHELASTIC_RESTART_COUNT"))
    what, _, step = os.environ.get("TROUBLE", "").partition("@")  # of rank 1, the first time round
    if what and rank == 1 and attempt == 0:
        at_step(int(step), lambda: time.sleep(600) if what == "hang" else os.kill(os.getpid(), getattr(signal, what)))
    ended = train(tiny_config(*settings), data, Path(run), progress=False)
    sys.exit(0 if ended is None else 128 + ended)
