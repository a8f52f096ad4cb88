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

from bigbigan.evaluation.records import append_results, result_lines

SHARE = float(os.environ.get("BIGBIGAN_CAMPAIGN", "1"))
SEED = int(os.environ.get("BIGBIGAN_CAMPAIGN_SEED", "0"))


def size(full: int) -> int:
    """Return how many tries to make of the `full` number."""
    return max(1, round(SHARE * full))


def record(campaign: str, file: str, counts: Mapping[str, int], tries: int, start: float) -> None:
    """Print the counts of a campaign of `tries` tries, and append them as result lines if asked to.

    Args:
        campaign: its name.
        file: of the test (__file__).
        counts: what was counted.
        tries: number of tries.
        start: when it began (time.perf_counter).
    """
    print(f"\n{campaign}, seed {SEED}: {tries:,} tries; " + ", ".join(f"{k} {v:,}" for k, v in counts.items()))
    if not (results := os.environ.get("BIGBIGAN_CAMPAIGN_RESULTS")):
        return
    set_to = {"BIGBIGAN_CAMPAIGN": f"{SHARE:g}", "BIGBIGAN_CAMPAIGN_SEED": f"{SEED}"}
    lines = result_lines(
        counts,
        study="campaigns",
        subject="program",
        experiment=campaign,
        dataset="synthetic",
        split="none",
        n=tries,
        seed=SEED,
        seconds=time.perf_counter() - start,
        command=" ".join(f"{name}={value}" for name, value in set_to.items())
        + f" python -m pytest -m slow tests/campaigns/{Path(file).name}",
    )
    append_results(Path(results), lines)
