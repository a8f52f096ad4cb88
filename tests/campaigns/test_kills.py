"""Work that is killed again and again ends, byte for byte, as work that nothing happened to.

Trainings, and verbs that write: each chain is killed one to six times, then left to end.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dying
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.data.shards.reader import open_shards  # noqa: F401  (imported once, for all forks)
from bigbigan.errors import UserError
from bigbigan.evaluation import runner  # noqa: F401
from bigbigan.evaluation.records import read_results
from bigbigan.inference.loading import load
from bigbigan.io import read_lines
from bigbigan.io.files import TEMPORARY
from bigbigan.training import checkpoint as ck
from campaign import SEED, record, size
from tiny import tiny_config, write_npz

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
STEPS, EVERY = 12, 3
SETTINGS = [
    f"training.steps={STEPS}", "log.every=1", f"log.checkpoint_every={EVERY}", "log.keep_checkpoints=2",
    "log.pictures_every=4", "log.validate_every=6",
]  # fmt: skip
UNLIKE = {"images_per_second", "seconds", "command"}  # what differs from one time to the next


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same images as arrays in memory, and as files that are decoded again for each batch."""
    folder = tmp_path_factory.mktemp("sources")
    arrays = np.load(write_npz(folder / "rows.npz"))
    for i, (image, label) in enumerate(zip(arrays["train_images"], arrays["train_labels"][:, 0], strict=True)):
        (folder / "files" / f"class{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "files" / f"class{label}" / f"{i:03d}.png")
    return folder


def content(path: Path) -> dict[str, Any]:
    """What work wrote, by name, without times."""
    found: dict[str, Any] = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = str(file.relative_to(path))
        if "tensorboard" in name or file.name in ("environment.json", ".lock"):
            continue
        if TEMPORARY in name:  # removed by the next writer that finds it an hour old
            continue
        found[name] = file.read_bytes()
        if file.suffix == ".jsonl":
            lines = read_lines(file, {str: Any})[0]
            found[name] = [{k: v for k, v in line.items() if k not in UNLIKE} for line in lines]
    return found


def unlike(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    names = found.keys() | expected.keys()
    return sorted(name for name in names if found.get(name) != expected.get(name))


def timed(work, folder: Path) -> tuple[Counter[str], float, int]:
    """Disk calls, seconds, and bytes of the largest file of work that nothing happens to."""
    start = time.perf_counter()
    code, counts = dying.run(work, folder)
    assert code == 0
    largest = max(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return counts, time.perf_counter() - start, largest


def test_killed_trainings_end_as_if_nothing_had_happened(sources, tmp_path):
    began, rng, wanted = time.perf_counter(), random.Random(SEED), size(80)
    kinds = {
        "in memory": (str(sources / "rows.npz"), SETTINGS),
        "streamed": (str(sources / "files"), [*SETTINGS, "data.memory_gib=0"]),
    }

    def training(kind: str, folder: Path):
        data, settings = kinds[kind]
        return lambda: train(tiny_config(*settings), data, folder / "run", progress=False)

    measured, expected = {}, {}
    for kind in kinds:
        folder = tmp_path / f"reference {kind}"
        measured[kind] = timed(training(kind, folder), folder)
        expected[kind] = content(folder / "run")
        print(kind, measured[kind])
    counted: Counter[str] = Counter()
    deaths: Counter[str] = Counter()
    while sum(deaths.values()) < wanted:
        chain, kind = counted["chains"], rng.choice(sorted(kinds))
        folder = tmp_path / f"chain {chain}"
        counted["chains"] += 1
        plan = [dying.plan(rng, *measured[kind]) for _ in range(rng.randint(1, 6))]
        for death in plan:
            code, _ = dying.run(training(kind, folder), folder, death)
            deaths[death.kind] += code < 0
            check_after_a_kill(folder / "run")
        code, _ = dying.run(training(kind, folder), folder)
        assert code == 0
        wrong = unlike(content(folder / "run"), expected[kind])
        assert not wrong, f"chain {chain} ({kind}, seed {SEED}) after {plan}: {wrong}"
        counted["chains_identical"] += 1
    print(dict(deaths))
    record("kills", __file__, {"kills": sum(deaths.values()), **counted}, sum(deaths.values()), began)


def check_after_a_kill(run: Path) -> None:
    """Whatever a kill left, each checkpoint is whole, no more than an interval of steps is lost, and a reader gets a
    model or one line."""
    kept = ck.checkpoints(run)
    assert [c.problem() for c in kept] == [None] * len(kept)
    if (run / "metrics.jsonl").exists():
        steps = [json.loads(x)["step"] for x in (run / "metrics.jsonl").read_text().splitlines() if x.endswith("}")]
        done = kept[-1].step if kept else 0
        assert max(steps, default=0) - done <= EVERY
    try:
        assert load(run).step == kept[-1].step
    except UserError:
        assert not kept


WRITERS = {
    "shard": ["data", "shard", "{files}", "--out", "{out}", "--images", "7", "--quiet"],
    "export": ["export", "{run}", "--out", "{out}"],
    "encode": ["encode", "{run}", "--data", "{files}", "--out", "{out}.npz", "--features", "z_mean"],
    "table": ["encode", "{run}", "--data", "{files}", "--out", "{out}.csv", "--features", "z_mean"],
    "evaluate": ["evaluate", "{run}", "--metrics", "knn5_l2_avepool,reconstruction_ratio", "--out", "{out}", "--quiet"],
    "classify": ["classify", "{own}", "--labels-per-class", "2", "--trials", "1", "--quiet", "--out", "{out}.csv"],
}
STEPWISE = ("shard", "evaluate")  # what is there before the end is a part that stays


def test_killed_verbs_leave_whole_files_or_none(sources, tmp_path):
    began, rng, wanted = time.perf_counter(), random.Random(SEED), size(20)
    run = tmp_path / "made" / "run"
    code, _ = dying.run(lambda: train(tiny_config(*SETTINGS), str(sources / "rows.npz"), run, progress=False), run)
    assert code == 0
    own = shutil.copytree(run, run.with_name("own"))  # of classify, which adds result lines to it

    def verb(name: str, folder: Path):
        places = {"files": sources / "files", "run": run, "own": own, "out": folder / "out"}
        return lambda: main([word.format(**places) for word in WRITERS[name]])

    measured, expected, deaths = {}, {}, 0
    counted: Counter[str] = Counter()
    for name in WRITERS:
        folder = tmp_path / f"reference {name}"
        measured[name] = timed(verb(name, folder), folder)
        expected[name] = content(folder)
    while deaths < wanted:
        name = sorted(WRITERS)[counted["chains"] % len(WRITERS)]
        folder = tmp_path / f"chain {counted['chains']}"
        counted["chains"] += 1
        plan = [dying.plan(rng, *measured[name]) for _ in range(rng.randint(1, 4))]
        for death in plan:
            code, _ = dying.run(verb(name, folder), folder, death)
            deaths += code < 0
            if name not in STEPWISE:
                found = content(folder)
                assert not [n for n in found if found[n] != expected[name][n]], (name, plan, SEED)
        if name != "export" or not (folder / "out").exists():
            code, _ = dying.run(verb(name, folder), folder)
            assert code == 0, (name, plan, SEED)
        found = content(folder)
        if name == "evaluate":  # the lines of attempts that were killed come first
            count = len(expected[name]["out/results.jsonl"])
            found["out/results.jsonl"] = found["out/results.jsonl"][-count:]
        wrong = unlike(found, expected[name])
        assert not wrong, f"{name} (seed {SEED}) after {plan}: {wrong}"
        counted["chains_identical"] += 1
    assert read_results(own / "results.jsonl")  # of classify
    record("kills_of_verbs", __file__, {"kills": deaths, **counted}, deaths, began)
