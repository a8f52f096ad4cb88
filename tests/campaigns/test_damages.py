"""Whatever is damaged in a run, a checkpoint, a cache, an export or a shard: one clear line, or the right result.

Each try damages one file or folder in one way and runs two of the commands that read it. A command may end with one
line and exit code 1 or 2, or give what it gives without the damage, or give something else and say so. It may not end
in a traceback, and it may not give something else in silence.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import re
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bigbigan.cli import main
from bigbigan.evaluation.probes import linear_heads
from bigbigan.training import checkpoint as ck
from campaign import SEED, record, size
from tiny import TINY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
SETTINGS = [*TINY, "log.checkpoint_every=2", "log.keep_checkpoints=2", "log.validate_every=2", "encoder.resolution=8"]
TRAIN = ["train", "small/digits", "--data", "{files}", "--out", "{run}", "--quiet", "--set", *SETTINGS, "--steps"]
MEASURES = "knn5_l2_avepool,top1_linear_avepool_10perclass,reconstruction_ratio"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with images, a run on them that was measured, its export, shards of the images, and a cache."""
    root, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    for i in range(60):
        name = root / "files" / ("test" if i % 4 == 3 else "train") / f"class{i % 3}" / f"{i:03d}.jpg"
        name.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 60, (12, 12, 1), dtype=np.uint8)
        pixels[2 * (i % 3) : 2 * (i % 3) + 4] += 150
        Image.fromarray(pixels[:, :, 0]).save(name, quality=95)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIGBIGAN_CACHE", str(root / "cache"))
        patch.setitem(linear_heads.PROTOCOLS, "table1", 20)  # steps, of 5,000
        places = {"run": root / "run", "files": root / "files"}
        for command in (
            [*TRAIN, "4"],
            ["feature-extractor", "mnist-cnn", "--data", "{files}", "--epochs", "1", "--quiet"],
            ["evaluate", "{run}", "--metrics", MEASURES, "--quiet"],
            ["evaluate", "{run}", "--metrics", "top1_table1_avepool,fid10k_train_mnist-cnn", "--quiet"],
            ["export", "{run}", "--out", str(root / "model")],
            ["data", "shard", "{files}", "--out", str(root / "shards"), "--images", "10", "--quiet"],
        ):
            code, _, err = call(command, places)
            assert code == 0, err
        yield root


def call(command: list[str], places: dict[str, Path]) -> tuple[int, str, str]:
    """Exit code, output and messages of a command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([word.format(**places) if "{" in word else word for word in command])
        except BaseException:
            code = 70
            err.write(traceback.format_exc())
    return code, out.getvalue(), err.getvalue()


# -- what commands give -----------------------------------------------------------------------------------------

UNLIKE = {"images_per_second", "seconds", "command", "commit"}  # what differs from one time to the next


def numbers(places: dict[str, Path], out: str) -> Any:
    return [{k: v for k, v in line.items() if k not in UNLIKE} for line in json.loads(out)]


def text(places: dict[str, Path], out: str) -> Any:
    return out


def written(places: dict[str, Path], out: str) -> Any:
    """What lies at {out}, without times and places."""
    path = places["out"]
    found = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        content = file.read_bytes()
        if file.name == "results.jsonl":
            content = repr([{k: v for k, v in json.loads(x).items() if k not in UNLIKE} for x in content.splitlines()])
        found[file.name] = content
    return found


def trained(places: dict[str, Path], out: str) -> Any:
    """The newest checkpoint of a run, and what was logged."""
    newest = ck.checkpoints(places["run"])[-1].path
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in newest.iterdir()}
    lines = [json.loads(x) for x in (places["run"] / "metrics.jsonl").read_text().splitlines()]
    return files, [{k: v for k, v in line.items() if k not in UNLIKE} for line in lines]


def page(places: dict[str, Path], out: str) -> Any:
    """The numbers of a report: its tables, but for those of settings."""
    return re.findall(r"<t[dh][^>]*>.*?</t[dh]>", places["out"].read_text().partition('class="settings"')[0])


@dataclass(frozen=True)
class Verb:
    command: list[str]
    result: Callable[[dict[str, Path], str], Any]
    ending: str = ""  # of the file it writes; a folder without


VERBS = {
    "resume": Verb([*TRAIN, "6"], trained),
    "evaluate": Verb(["evaluate", "{run}", "--metrics", MEASURES, "--quiet", "--json", "--out", "{out}"], numbers),
    "best": Verb(
        ["evaluate", "{run}", "--checkpoint", "best", "--metrics", "reconstruction_error", "--quiet", "--json",
         "--out", "{out}"], numbers,
    ),
    "heads": Verb(["evaluate", "{run}", "--metrics", "top1_table1_avepool", "--quiet", "--json"], numbers),
    "quality": Verb(
        ["evaluate", "{run}", "--metrics", "fid10k_train_mnist-cnn", "--quiet", "--json", "--out", "{out}"], numbers
    ),
    "generate": Verb(["generate", "{run}", "--count", "9", "--out", "{out}"], written, ".png"),
    "encode": Verb(["encode", "{run}", "--out", "{out}"], written, ".npz"),
    "table of features": Verb(["encode", "{run}", "--features", "z_mean", "--out", "{out}"], written, ".csv"),
    "export": Verb(["export", "{run}", "--out", "{out}"], written),
    "report": Verb(["report", "{run}", "--out", "{out}"], page, ".html"),
    "table": Verb(["table", "1", "--results", "{run}"], text),
    "classify": Verb(
        ["classify", "{run}", "--labels-per-class", "3", "--trials", "1", "--quiet", "--json", "--out", "{out}"],
        numbers, ".csv",
    ),
    "neighbours": Verb(["neighbours", "{run}", "--count", "3", "--out", "{out}"], written, ".png"),
    "reconstruct": Verb(["reconstruct", "{run}", "--count", "4", "--out", "{out}"], written, ".png"),
    "cluster": Verb(["cluster", "{run}", "--clusters", "3", "--out", "{out}"], written, ".csv"),
    "generate by model": Verb(["generate", "{model}", "--count", "9", "--out", "{out}"], written, ".png"),
    "encode by model": Verb(["encode", "{model}", "--data", "{files}", "--out", "{out}"], written, ".npz"),
    "evaluate model": Verb(
        ["evaluate", "{model}", "--data", "{files}", "--metrics", "reconstruction_ratio", "--quiet", "--json"], numbers
    ),
    "export model": Verb(["export", "{model}", "--out", "{out}"], written),
    "inspect shards": Verb(["data", "inspect", "{shards}", "--json"], text),
    "encode shards": Verb(["encode", "{run}", "--data", "{shards}", "--out", "{out}"], written, ".npz"),
    "shard again": Verb(
        ["data", "shard", "{files}", "--out", "{shards}", "--images", "10", "--quiet", "--json"], text
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    folder: str  # of the world
    pattern: str
    verbs: tuple[str, ...]
    weight: int = 1


LOADS = ("resume", "evaluate", "generate", "encode", "export", "report", "reconstruct", "neighbours", "classify")
OF_MODEL = ("generate by model", "encode by model", "evaluate model", "export model")
OF_SHARDS = ("inspect shards", "encode shards", "shard again")
TARGETS = [
    Target("run", "config.json", (*LOADS, "table of features", "cluster"), 4),
    Target("run", "data.json", ("resume", "evaluate", "encode", "export", "report", "classify"), 4),
    Target("run", "environment.json", ("resume", "report"), 1),
    Target("run", "metrics.jsonl", ("resume", "report"), 2),
    Target("run", "results.jsonl", ("table", "export", "report"), 4),
    Target("run", "train_val.json", ("heads",), 2),
    Target("run", "checkpoints/best.json", ("best", "resume", "report"), 3),
    Target("run", "checkpoints/*/*.safetensors", LOADS, 5),
    Target("run", "checkpoints/*/*.json", LOADS, 4),
    Target("run", "checkpoints/step-*", LOADS, 3),
    Target("run", "checkpoints", LOADS, 1),
    Target("model", "*.json", OF_MODEL, 4),
    Target("model", "model.safetensors", OF_MODEL, 3),
    Target("model", "results.jsonl", ("export model",), 2),
    Target("cache", "*/*.safetensors", ("quality",), 4),
    Target("shards", "index.json", OF_SHARDS, 5),
    Target("shards", "*/*.tar", OF_SHARDS, 5),
]


# -- damages ----------------------------------------------------------------------------------------------------


def flipped_bit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def changed_digit(path: Path, rng: random.Random) -> None:
    """A digit of a number in text, or any byte of other files, becomes another."""
    content = bytearray(path.read_bytes())
    places = [i for i, c in enumerate(content) if chr(c).isdigit()] if path.suffix != ".safetensors" else []
    i = rng.choice(places or range(len(content)))
    content[i] = rng.choice([c for c in b"0123456789" if c != content[i]])
    path.write_bytes(content)


def cut_off(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def zeroed_block(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice([1, 16, 512, 4096]))
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


def doubled_part(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    path.write_bytes(content[:b] + content[a:])


def deleted(path: Path, rng: random.Random) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def emptied(path: Path, rng: random.Random) -> None:
    deleted(path, rng)
    path.mkdir() if path.suffix == "" else path.write_bytes(b"")


def swapped(path: Path, rng: random.Random) -> None:
    """Exchanged with another of its kind, such as the weights of another step."""
    others = [p for p in path.parent.parent.rglob(f"*{path.suffix}") if p != path and p.is_file() == path.is_file()]
    others = [p for p in others if not (p.is_relative_to(path) or path.is_relative_to(p))]
    if not others:
        return emptied(path, rng)
    other, aside = rng.choice(sorted(others)), path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def of_another_kind(path: Path, rng: random.Random) -> None:
    deleted(path, rng)
    if rng.random() < 0.5:
        path.symlink_to(path.name)
    elif path.suffix:
        path.mkdir()
    else:
        path.write_text("not a folder")


# What leaves no trace: without its results a run is one that was not measured, without its newest checkpoint one that
# was stopped earlier, or before the first.
UNDETECTABLE = {(deleted, "results.jsonl"), (emptied, "results.jsonl"), (deleted, "checkpoints")}
UNDETECTABLE |= {(emptied, "checkpoints"), (deleted, "checkpoints/step-*"), (deleted, "checkpoints/best.json")}
CONTENT = [flipped_bit, flipped_bit, changed_digit, changed_digit, cut_off, zeroed_block, doubled_part]
WHOLE = [deleted, emptied, swapped, of_another_kind]


# -- the campaign -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def copied(world: Path) -> Iterator[dict[str, Path]]:
    """A copy of the world; the images stay where they are."""
    root = world / "copy"  # one place for all, as outputs name it
    places = {name: root / name for name in ("run", "model", "shards", "cache")}
    for name, place in places.items():
        shutil.copytree(world / name, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIGBIGAN_CACHE", str(places["cache"]))
        yield places | {"files": world / "files"}
    shutil.rmtree(root)


def outcome(name: str, places: dict[str, Path]) -> tuple[int, Any, str]:
    """Exit code, result, and what the command said; `data inspect` and `report` do so in what they write, too."""
    verb = VERBS[name]
    out = places["run"].parent / f"out{verb.ending}"
    code, said, err = call(verb.command, places | {"out": out})
    result = verb.result(places | {"out": out}, said) if code == 0 else None
    if name == "inspect shards":
        err += said
    if name == "report" and result is not None and re.search("damaged|cannot be read|is not a folder", out.read_text()):
        err += "warning: in the page"
    return code, result, err


def test_damages_are_reported_or_change_nothing(world, capsys):
    start, rng, counted = (
        time.perf_counter(),
        random.Random(SEED),
        Counter(dict.fromkeys((*BAD, "log_lines_changed"), 0)),
    )
    expected = {}
    for name in VERBS:
        with copied(world) as places:
            code, expected[name], err = outcome(name, places)
            assert code == 0, (name, err)
    failures = []
    wanted = size(300)
    for number in range(1, wanted + 1):
        target = rng.choices(TARGETS, [t.weight for t in TARGETS])[0]
        chosen = rng.choice(sorted((world / target.folder).glob(target.pattern))).relative_to(world)
        damage = rng.choice(CONTENT if (world / chosen).is_file() and rng.random() < 0.75 else WHOLE)
        if (damage, target.pattern) in UNDETECTABLE:
            damage = of_another_kind
        for name in rng.sample(target.verbs, min(2, len(target.verbs))):
            with copied(world) as places:
                path = places["run"].parent / chosen
                before = path.read_bytes() if path.is_file() else None
                damage(path, random.Random(number))
                after = path.read_bytes() if path.is_file() else None
                code, result, err = outcome(name, places)
                alike = result == expected[name]
                if (name, chosen.name, code) == ("resume", "metrics.jsonl", 0) and "warning: " not in err:
                    counted["log_lines_changed"] += not alike  # which carry no checksum
                    alike = result[0] == expected[name][0]
                kind = judged(code, alike, err)
                counted["commands"] += 1
                counted[kind] += 1
                if kind in BAD:
                    what = f"{number}: {damage.__name__} {chosen}, {name}: {kind}"
                    failures.append(f"{what}: {err[-1500:]}{differing(before, after)}")
    with capsys.disabled():
        record("damages", __file__, counted, wanted, start)
        print("\n".join(failures))
    assert not failures


BAD = ("tracebacks", "messages_of_several_lines", "silent_changes")


def judged(code: int, alike: bool, err: str) -> str:
    """What an outcome counts as."""
    lines = [line for line in err.splitlines() if line.startswith("bigbigan: ") and "warning: " not in line]
    if code not in (0, 1, 2) or "Traceback" in err:
        return "tracebacks"
    if code:
        return "refused" if len(lines) == 1 else "messages_of_several_lines"
    warned = "warning: " in err or re.search(r'"skipped_count": [1-9]', err) is not None
    if alike:
        return "right_with_a_warning" if warned else "right"
    return "changed_with_a_warning" if warned else "silent_changes"


def differing(before: bytes | None, after: bytes | None) -> str:
    """Where the content of a damaged file differs, for the list of failures."""
    if before is None or after is None:
        return ""
    at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    return f"\n    {before[max(0, at - 40) : at + 40]!r}\n    {after[max(0, at - 40) : at + 40]!r}"
