"""Measure `bigbigan encode`: its memory over the number of images, and its speed over a bare loop of the same encoder.

    python -m reproduction.benchmark.encode_speed --data SOURCE [--few 2000] [--images 100000] [--pairs 5]

The image files of SOURCE are repeated to fill two tar files of these sizes. The speed of `encode` on the smaller one,
including opening the model and the archive, is compared with the speed of the encoder on as many images in memory; the
two take turns. Memory is the peak of a process that encodes one of the archives, with an encoder that is narrow except
for its features, so that many images do not take hours.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from bigbigan.apps.benchmark import peak_memory_mib
from bigbigan.apps.encode import encode
from bigbigan.apps.train import train
from bigbigan.config import override
from bigbigan.data import Source, load_view, open_source
from bigbigan.data.image_set import FileStore
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.evaluation.records import Measurement
from bigbigan.experiments import find
from bigbigan.inference.loading import load
from reproduction.common import Script, measured

EXPERIMENT = "small/cifar10"
NARROW = ["encoder.widths=[8,8,8,512]", "encoder.head_width=16"]


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/encode_speed.jsonl")
    script.parser.add_argument("--data", metavar="SOURCE", help="image files of 32 px")
    script.parser.add_argument("--few", type=int, default=2_000, metavar="N", help="images in the smaller archive")
    script.parser.add_argument("--images", type=int, default=100_000, metavar="N", help="images in the larger archive")
    script.parser.add_argument("--pairs", type=int, default=5, metavar="N", help="rounds of the comparison of speed")
    script.parser.add_argument("--peak", nargs=3, metavar=("RUN", "ARCHIVE", "OUT"), help=argparse.SUPPRESS)
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    if options.peak:
        run, archive, out = map(Path, options.peak)
        start = time.perf_counter()
        count = encode(run, str(archive), out)
        seconds = time.perf_counter() - start
        print(json.dumps({"images": count, "mib": peak_memory_mib(torch.device("cpu")), "seconds": seconds}))
        return
    if options.data is None:
        raise UserError("--data SOURCE is required: image files of 32 px")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = open_source(options.data)
        archives = {n: write_archive(source, n, folder / f"{n}.tar") for n in (options.few, options.images)}
        few = archives[options.few]
        wide, narrow = (make_run(few, folder / kind, settings) for kind, settings in (("wide", []), ("narrow", NARROW)))
        ratios, rates = compare_speed(wide, few, folder / "f.npz", options.pairs)
        common: dict[str, Any] = {"subject": "program", "experiment": EXPERIMENT, "dataset": source.name}
        common |= {"split": "train", "digits": 4}
        speed = {
            "encode_speed_over_bare_loop": measured(ratios),
            "encode_images_per_second": measured(rates),
        }
        script.append(script.result_lines(speed, n=options.few, **common))
        peaks = {}
        for n, archive in archives.items():
            peaks[n] = json.loads(script.in_subprocess("--peak", str(narrow), str(archive), str(folder / "f.npz")))
            peak = Measurement(peaks[n]["mib"], protocol={"images": n})
            script.append(
                script.result_lines({"encode_peak_memory_mib": peak}, n=n, settings=narrow_settings(), **common)
            )
        growth = peaks[options.images]["mib"] / peaks[options.few]["mib"]
        protocol = {"images": [options.few, options.images]}
        script.append(
            script.result_lines(
                {"encode_peak_memory_growth": Measurement(growth, protocol=protocol)},
                n=options.images, settings=narrow_settings(), **common,
            )
        )  # fmt: skip


def narrow_settings() -> dict[str, object]:
    return {name: json.loads(value) for name, value in (setting.split("=") for setting in NARROW)}


def write_archive(source: Source, count: int, path: Path) -> Path:
    """Write image files of the training split, over and over, as a tar of `count` files in folders by class."""
    images = source.splits["train"]
    if not isinstance(images.store, FileStore):
        raise UserError(f"--data {source.spec}: expected image files, in a folder or an archive")
    with tarfile.open(path, "w") as archive:
        for i, number in enumerate(islice(cycle(range(len(images))), count)):
            data = images.store.raw(int(images.index[number]))
            label = "" if images.labels is None else f"{images.labels[number]}/"
            member = tarfile.TarInfo(f"{label}{i:06d}{Path(images.files[number]).suffix}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def make_run(archive: Path, folder: Path, settings: list[str]) -> Path:
    """Train for a step, which is enough to have an encoder of this size."""
    quick = ["training.steps=1", "training.batch_size=16", "log.validate_every=0", "log.standing_batches=1"]
    config = override(find(EXPERIMENT).config(), [*quick, "data.memory_gib=0", *settings])
    train(config, str(archive), folder, progress=False)
    return folder


def compare_speed(run: Path, archive: Path, out: Path, pairs: int) -> tuple[list[float], list[float]]:
    """Return images per second of `encode`, over the bare loop's and by themselves, in each round."""
    model = load(run)
    c = model.config
    pixels, _ = load_view(open_source(str(archive)).splits["train"], c.encoder.resolution, c.data.channels, "none")
    names = ["avepool", "bn_crelu", "z_mean"]
    ratios, rates = [], []
    for _ in range(pairs):
        start = time.perf_counter()
        encode(run, str(archive), out)
        ours = time.perf_counter() - start
        start = time.perf_counter()
        encoder_features(model.encoder, pixels, names)
        ratios.append((time.perf_counter() - start) / ours)
        rates.append(len(pixels) / ours)
        print(f"{rates[-1]:.0f} images/s, {ratios[-1]:.3f} of the bare loop", flush=True)
    return ratios, rates


if __name__ == "__main__":
    sys.exit(main())
