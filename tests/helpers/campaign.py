"""What the campaigns in tests/campaigns share: their size, their seed, and result lines of what they counted.

BIGBIGAN_CAMPAIGN=0.1                             a tenth of each campaign; by default all of it
BIGBIGAN_CAMPAIGN_SEED=1                          another seed of what is tried; by default 0
BIGBIGAN_CAMPAIGN_RESULTS=results/campaigns.jsonl append the counts as result lines to this file
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from bigbigan.evaluation.records import ResultLine, append_results
from bigbigan.training.run_folder import commit, device_name

SHARE = float(os.environ.get("BIGBIGAN_CAMPAIGN", "1"))
SEED = int(os.environ.get("BIGBIGAN_CAMPAIGN_SEED", "0"))


def size(full: int) -> int:
    """Return how many tries to make of the `full` number."""
    return max(1, round(SHARE * full))


def record(campaign: str, counts: Mapping[str, int], tries: int, start: float) -> None:
    """Print the counts of a campaign of so many `tries`, begun at `start` (time.perf_counter), and append them as
    result lines if asked to."""
    print(f"\n{campaign}, seed {SEED}: {tries:,} tries; " + ", ".join(f"{k} {v:,}" for k, v in counts.items()))
    if not (file := os.environ.get("BIGBIGAN_CAMPAIGN_RESULTS")):
        return
    lines = [
        ResultLine(
            experiment=f"campaign/{campaign}",
            scale=0,
            settings={},
            table_row=None,
            dataset="synthetic",
            split="none",
            metric=name,
            value=count,
            std=None,
            n=tries,
            seed=SEED,
            steps=0,
            images_seen=0,
            device=device_name(),
            seconds=round(time.perf_counter() - start, 1),
            commit=commit(),
            command=f"python -m pytest -m slow tests/campaigns/test_{campaign}.py",
        )
        for name, count in counts.items()
    ]
    append_results(Path(file), lines)
