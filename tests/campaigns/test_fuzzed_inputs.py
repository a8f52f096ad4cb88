"""Whatever a command line, a setting or a file says: a result, or one line. Never another exception, never a long wait.

Inputs are valid ones, changed at random.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import random
import resource
import shutil
import signal
import tarfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bigbigan.cli import main
from bigbigan.data.decode import DecodeLimits, decode
from bigbigan.data.formats import Unreadable
from bigbigan.errors import RunError, UserError
from bigbigan.inference.loading import load
from campaign import SEED, record, size
from mutations import WORDS, changed_bytes, changed_json, changed_text
from tiny import RESULT_LINE, TINY, write_npz

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
SECONDS = 10  # of processor time, that a try may take
GROWTH = 2**20  # KiB by which memory may grow over all tries
SHARES = {
    "images": 1600, "settings": 600, "labels": 600, "command_lines": 500, "tars": 300, "zips": 300, "npz": 250,
    "idx": 250, "run_folders": 250, "result_lines": 150, "shards": 100, "safetensors": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny run, its shards, and small sources of every kind."""
    root = tmp_path_factory.mktemp("world")
    arrays = np.load(write_npz(root / "rows.npz", count=12))
    for i, image in enumerate(arrays["train_images"]):
        (root / "files" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "files" / f"class{i % 2}" / f"{i:02d}.png")
    with tarfile.open(root / "files.tar", "w") as tar:
        tar.add(root / "files", "files")
    with gzip.open(root / "files.tar.gz", "wb") as packed:
        packed.write((root / "files.tar").read_bytes())
    with zipfile.ZipFile(root / "files.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((root / "files").rglob("*.png")):
            archive.write(file, file.relative_to(root))
    (root / "idx").mkdir()
    for name, array in (("images-idx3", arrays["train_images"]), ("labels-idx1", arrays["train_labels"][:, 0])):
        head = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        (root / "idx" / f"train-{name}-ubyte").write_bytes(head + array.tobytes())
    (root / "labels.csv").write_text(
        "file,label,group,split\n"
        + "".join(f"class{i % 2}/{i:02d}.png,{'ab'[i % 2]},p{i // 2},train\n" for i in range(12))
    )
    few = [*TINY, "training.batch_size=4", "log.checkpoint_every=1"]
    for command in (
        [
            "train",
            "small/digits",
            "--data",
            root / "files",
            "--out",
            root / "run",
            "--quiet",
            "--steps",
            "2",
            "--set",
            *few,
        ],
        ["data", "shard", root / "files", "--out", root / "shards", "--images", "5", "--quiet"],
        ["export", root / "run", "--out", root / "model"],
    ):
        assert main([str(word) for word in command]) == 0
    line = RESULT_LINE | {"experiment": "table1/base", "metric": "top1_linear_bn_crelu"}
    (root / "run" / "results.jsonl").write_text((json.dumps(line) + "\n") * 3)
    return root


# -- what is tried ----------------------------------------------------------------------------------------------

Try = Callable[[random.Random, Path], None]


def images(world: Path) -> Try:
    seeds = []
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 255, (14, 11), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 255, (14, 11, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65535, (14, 11), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    for image, form, options in (
        (grey, "JPEG", {}), (colour, "JPEG", {"progressive": True, "exif": exif}), (colour.convert("CMYK"), "JPEG", {}),
        (grey, "PNG", {}), (colour, "PNG", {"optimize": True}), (deep, "PNG", {}), (colour.convert("P"), "PNG", {}),
        (colour.convert("RGBA"), "PNG", {"exif": exif}), (colour.convert("1"), "PNG", {}),
        (colour.convert("P"), "GIF", {}), (grey, "GIF", {"save_all": True, "append_images": [grey, grey]}),
        (colour, "WEBP", {}), (colour.convert("RGBA"), "WEBP", {"lossless": True}),
        (colour, "WEBP", {"save_all": True, "append_images": [colour]}),
        (grey, "TIFF", {}), (colour, "TIFF", {"compression": "tiff_lzw"}), (deep, "TIFF", {}),
        (colour, "TIFF", {"compression": "tiff_adobe_deflate"}), (colour, "TIFF", {"compression": "jpeg"}),
        (grey, "TIFF", {"save_all": True, "append_images": [grey]}), (colour, "BMP", {}),
        (colour.convert("P"), "BMP", {}),
    ):  # fmt: skip
        file = io.BytesIO()
        image.save(file, form, **options)
        seeds.append(file.getvalue())

    def one(rng: random.Random, folder: Path) -> None:
        data = changed_bytes(rng.choice(seeds), rng, seeds)
        array, notes = decode(data, DecodeLimits(max_pixels=1_000_000), rng.choice(["", ".png", ".tif", ".dng"]))
        assert array.dtype == np.uint8
        assert array.ndim == 3
        assert array.shape[2] in (1, 3)
        assert array.size
        assert all(isinstance(note, str) for note in notes)

    return one


def settings(world: Path) -> Try:
    from bigbigan.config import Config, flat

    names = sorted(flat(Config().to_dict()))
    usual = flat(Config().to_dict())

    def one(rng: random.Random, folder: Path) -> None:
        given = []
        for name in rng.sample(names, rng.choice([1, 1, 2, 3])):
            values = rng.choice(WORDS), changed_text(json.dumps(usual[name]), rng), str(rng.randint(-2, 40))
            name = changed_text(name, rng) if rng.random() < 0.1 else name
            given.append(f"{name}={rng.choice(values)}")
        start = rng.choice(["small/digits", "bigan/mnist", "small/mnist", "pretext/rotation"])
        run(["train", start, "--dry-run", "--set", *given])

    return one


def labels(world: Path) -> Try:
    text = (world / "labels.csv").read_text()

    def one(rng: random.Random, folder: Path) -> None:
        file = folder / "labels.csv"
        if rng.random() < 0.7:
            changed = changed_text(text, rng)
            file.write_bytes(changed.encode(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]), "surrogatepass"))
        else:
            file.write_bytes(changed_bytes(text.encode(), rng, [b"file,label\n"]))
        run(["data", "inspect", world / "files", "--labels", file])

    return one


def archives(world: Path, *names: str) -> Try:
    seeds = {name: (world / name).read_bytes() for name in names}

    def one(rng: random.Random, folder: Path) -> None:
        name = rng.choice(sorted(seeds))
        data = seeds[name]
        if name.endswith(".gz") and rng.random() < 0.7:  # the archive in it
            data = gzip.compress(changed_bytes(gzip.decompress(data), rng, list(seeds.values())))
        else:
            data = changed_bytes(data, rng, list(seeds.values()))
        (folder / name).write_bytes(data)
        run(["data", "inspect", folder / name, *rng.choice([[], ["--json"]])])

    return one


def npz(world: Path) -> Try:
    plain = (world / "rows.npz").read_bytes()
    arrays = dict(np.load(world / "rows.npz"))

    def one(rng: random.Random, folder: Path) -> None:
        file = folder / "rows.npz"
        if rng.random() < 0.5:
            file.write_bytes(changed_bytes(plain, rng, [plain]))
            run(["data", "inspect", file])
            return
        changed = dict(arrays)
        name = rng.choice(sorted(changed))
        array = changed[name]
        kinds = "float64 int16 complex64 bool U3 object datetime64[s] empty shape less name"
        kind = rng.choice(kinds.split())
        if kind == "empty":
            changed[name] = array[:0]
        elif kind == "shape":
            changed[name] = array.reshape(rng.choice([(-1,), (1, *array.shape), (*array.shape, 1)]))
        elif kind == "less":
            changed[name] = array[: rng.randrange(len(array))]
        elif kind == "name":
            changed[rng.choice(["images", "val_images", "TRAIN_images", "train_image", "x"])] = changed.pop(name)
        else:
            changed[name] = array.astype(kind)
        np.savez(file, **changed)
        run(["data", "inspect", file])

    return one


def idx(world: Path) -> Try:
    def one(rng: random.Random, folder: Path) -> None:
        shutil.copytree(world / "idx", folder / "idx")
        file = rng.choice(sorted((folder / "idx").iterdir()))
        data = file.read_bytes()
        head = 16 if rng.random() < 0.5 else len(data)  # bytes among which something is changed
        data = changed_bytes(data[:head], rng, [data]) + data[head:]
        if rng.random() < 0.4:
            file.unlink()
            data = gzip.compress(data)
            file = file.with_name(f"{file.name}.gz")
            data = changed_bytes(data, rng, [data]) if rng.random() < 0.5 else data
        file.write_bytes(data)
        run(["data", "inspect", folder / "idx"])

    return one


def run_folders(world: Path) -> Try:
    verbs = itertools.cycle([
        ["generate", "{run}", "--count", "2", "--out", "{out}.png"],
        ["encode", "{run}", "--data", "{files}", "--features", "z_mean", "--out", "{out}.csv"],
        ["export", "{run}", "--out", "{out}"],
        ["reconstruct", "{run}", "--count", "2", "--out", "{out}.png"],
    ])  # fmt: skip

    def one(rng: random.Random, folder: Path) -> None:
        made = shutil.copytree(world / rng.choice(["run", "run", "model"]), folder / "run")
        file = rng.choice(sorted(p for p in made.rglob("*") if p.suffix in (".json", ".jsonl")))
        text = file.read_text()
        first = text.splitlines()[0] if file.suffix == ".jsonl" else text
        valid = json.dumps(changed_json(json.loads(first), rng))
        changed = valid if rng.random() < 0.6 else changed_text(text, rng)
        file.write_bytes(changed.encode("utf-8", "surrogatepass"))
        places = {"run": made, "out": folder / "out", "files": world / "files"}
        command = [word.format(**places) for word in next(verbs)]
        run(command)

    return one


def result_lines(world: Path) -> Try:
    line = json.loads((world / "run" / "results.jsonl").read_text().splitlines()[0])

    def one(rng: random.Random, folder: Path) -> None:
        line["experiment"] = rng.choice(["table1/base", "bigan/mnist", "table3/bigbigan_sl", "pretext/rotation"])
        line["metric"] = rng.choice(["top1_linear_bn_crelu", "top1_table1_avepool", "fid10k_train_inception"])
        lines = [json.dumps(changed_json(line, rng)) for _ in range(4)]
        text = "\n".join(lines) + "\n"
        text = changed_text(text, rng) if rng.random() < 0.5 else text
        (folder / "r.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))
        form = rng.choice([[], ["--json"], ["--format", "markdown"], ["--format", "html"]])
        run(["table", rng.choice(["1", "2", "3", "bigan"]), "--results", folder, *form])

    return one


def shards(world: Path) -> Try:
    def one(rng: random.Random, folder: Path) -> None:
        made = shutil.copytree(world / "shards", folder / "shards")
        file = made / "index.json"
        if rng.random() < 0.5:
            changed = json.dumps(changed_json(json.loads(file.read_text()), rng))
        else:
            changed = changed_text(file.read_text(), rng)
        file.write_bytes(changed.encode("utf-8", "surrogatepass"))
        run(["data", "inspect", made])

    return one


def safetensors(world: Path) -> Try:
    """Weights of a run, with a manifest that fits the changed file, or of a cache."""
    import hashlib

    def one(rng: random.Random, folder: Path) -> None:
        made = shutil.copytree(world / "run", folder / "run")
        checkpoint = sorted((made / "checkpoints").glob("step-*"))[-1]
        file = checkpoint / rng.choice(["weights.safetensors", "optimizer.safetensors"])
        data = file.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        if rng.random() < 0.5:
            data = changed_bytes(data[:end], rng, [data]) + data[end:]
        else:
            data = changed_bytes(data, rng, [data])
        file.write_bytes(data)
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        manifest["files"][file.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
        if rng.random() < 0.3:
            load(made)
        else:
            few = [*TINY, "training.batch_size=4", "log.checkpoint_every=1"]
            run(["train", "small/digits", "--out", made, "--quiet", "--steps", "2", "--set", *few])

    return one


OPTIONS = {
    "list": "", "nothing": "", "data": "", "--version": "",
    "train": "--data --labels --out --scale --set --steps --json",
    "evaluate": "--data --labels --metrics --checkpoint --max-images --resolution --channels --results --out",
    "encode": "--data --labels --out --features",
    "generate": "--count --truncation --seed --label --out",
    "reconstruct": "--data --out --count --refine",
    "interpolate": "--data --out --count --steps",
    "neighbours": "--data --labels --out --count --json",
    "report": "--data --out",
    "classify": "--data --labels --labels-per-class --label-fraction --trials --out --save",
    "predict": "--head --data --out --probabilities",
    "cluster": "--data --labels --clusters --out --sheet",
    "export": "--out --checkpoint --head --onnx",
    "table": "--scale --dataset --results --format --json",
    "feature-extractor": "--data --epochs",
    "bench": "--steps --set",
    "serve": "--host --port",
    "data inspect": "--labels --out --json",
    "data shard": "--out --labels --size-mib --images --resolution",
}  # fmt: skip
AT_LENGTH = ("serve", "bench", "feature-extractor")  # would work for minutes if nothing were wrong


def command_lines(world: Path) -> Try:
    run_folder, files = str(world / "run"), str(world / "files")
    first = {"table": "1", "train": "small/digits", "feature-extractor": "mnist-cnn"}
    first |= dict.fromkeys(("data inspect", "data shard"), files)
    usual = {
        "--data": files, "--labels": str(world / "labels.csv"), "--count": "2", "--metrics": "reconstruction_ratio",
        "--results": run_folder, "--steps": "1",
    }  # fmt: skip

    def one(rng: random.Random, folder: Path) -> None:
        verb = rng.choice(sorted(OPTIONS))
        words = [*verb.split(), first.get(verb, run_folder) if rng.random() < 0.7 else rng.choice(WORDS)]
        options = OPTIONS[verb].split()
        valid = usual | {"--out": rng.choice(["o.png", "o.csv", "o.npz", "o"])}
        for option in rng.sample(options, rng.randint(0, len(options))):
            words += [option, valid[option] if option in valid and rng.random() < 0.5 else rng.choice(WORDS)]
        words += {"train": ["--dry-run"], "evaluate": ["--metrics", "knn1_l2_avepool"]}.get(verb, [])
        words += ["--no-such-option"] if verb in AT_LENGTH else []
        if rng.random() < 0.2:
            words.insert(rng.randrange(len(words) + 1), rng.choice(WORDS))
        run(words)

    return one


def run(command: list[object]) -> None:
    """Run a command in this process; raise AssertionError unless it works, or ends with one line and code 1 or 2."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in command])
    said = [line for line in err.getvalue().splitlines() if line.startswith("bigbigan") and "warning: " not in line]
    assert code in (0, 1, 2), (code, command, err.getvalue())
    assert "Traceback" not in err.getvalue(), (command, err.getvalue())
    assert code == 0 or len(said) == 1, (code, command, err.getvalue())
    if code:
        raise Refused(said[0])


class Refused(Exception):
    """A command ended with one line."""


KINDS: dict[str, Callable[[Path], Try]] = {
    "images": images, "settings": settings, "labels": labels, "command_lines": command_lines, "npz": npz, "idx": idx,
    "tars": lambda world: archives(world, "files.tar", "files.tar.gz"),
    "zips": lambda world: archives(world, "files.zip"),
    "run_folders": run_folders, "result_lines": result_lines, "shards": shards, "safetensors": safetensors,
}  # fmt: skip


class Late(BaseException):
    """A try took too long. No `Exception`, which the code that is tried may take for a damaged file."""


@contextlib.contextmanager
def limited():
    """Raise Late when SECONDS of processor time are over."""

    def late(*_):
        raise Late(f"took over {SECONDS} s")

    previous = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def test_fuzzed_inputs_end_in_a_result_or_one_line(world, tmp_path, monkeypatch, capsys):
    start, counted, slowest = time.perf_counter(), Counter(), (0.0, "")
    failures: list[str] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, full in SHARES.items():
        one = KINDS[kind](world)
        for number in range(size(full)):
            rng, folder = random.Random(f"{SEED} {kind} {number}"), tmp_path / "try"
            folder.mkdir()
            monkeypatch.chdir(folder)
            ended, began = "read", time.process_time()
            try:
                with limited(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    one(rng, folder)
            except (UserError, RunError, Unreadable, Refused) as error:
                ended = "refused"
                if "\n" in str(error):
                    failures.append(f"{kind} {number}: several lines: {error}")
            except BaseException:
                ended = "failed"
                failures.append(f"{kind} {number}: {traceback.format_exc()[-1500:]}")
            slowest = max(slowest, (time.process_time() - began, f"{kind} {number}"))
            counted[kind, ended] += 1
            monkeypatch.undo()
            shutil.rmtree(folder)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    totals = {how: sum(n for (_, ended), n in counted.items() if ended == how) for how in ("read", "refused")}
    with capsys.disabled():
        record("fuzzed_inputs", __file__, totals | {"tracebacks": len(failures)}, sum(counted.values()), start)
        print(*(f"{kind} {ended}: {n:,}" for (kind, ended), n in sorted(counted.items())), sep="; ")
        print(f"slowest: {slowest[1]}, {slowest[0]:.1f} s; memory grew by {grown / 2**10:.0f} MiB", *failures, sep="\n")
    assert not failures
    assert grown < GROWTH
