"""Train the methods of Table 2 scaled down, each on the same images, from the same seed, for as many images seen as the
others and as BigBiGAN, and write their result lines.

    python tools/train_table2.py --data SOURCE --seen N [--scale 32] [--batch B] [--images N] [METHOD ...]

A step of BigBiGAN (table1/base) sees three batches, of the others one: N is a multiple of 3·B. With --images so many
training images and two fifths as many test images, drawn once, stand for the source. Runs go to runs/table2/ and
continue where they stopped; evaluated ones are left alone. Lines go to results/table2_small.jsonl; docs/pretext.md and
`bigbigan table 2 --scale 32` show them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from bigbigan.cli import main as bigbigan
from bigbigan.data import load_pixels, open_source
from bigbigan.experiments import find

METHODS = [
    "table1/base", "pretext/rotation", "pretext/relative_position", "pretext/exemplar", "pretext/colorization",
    "pretext/cpc", "pretext/supervised", "pretext/combination", "pretext/efficient_cpc",
]  # fmt: skip
FEATURES = ("avepool", "bn_crelu")
RUNS = Path("runs/table2")


def metrics(method: str, pixels: bool) -> str:
    names = [f"{top}_sweep5k_{f}" for f in FEATURES for top in ("top1", "top5")]
    names += [f"top1_linear_{f}_10perclass" for f in (*FEATURES, *["pixels"] * pixels)]
    return ",".join(names + [f"task_accuracy_{task}" for task in find(method).config(32).pretext.tasks])


def subset(spec: str, side: int, count: int) -> str:
    """A file of `count` training and 0.4·count test images of a source, drawn at random, at `side` px."""
    source = open_source(spec)
    path = RUNS / f"{source.name}-{count}.npz"
    if not path.exists():
        arrays = {}
        for split, most in (("train", count), ("test", 2 * count // 5)):
            images = source.splits[split]
            images = images.subset(np.random.default_rng(0).permutation(len(images))[:most])
            pixels, kept = load_pixels(images, side, 3, source)
            arrays |= {f"{split}_images": pixels.transpose(0, 2, 3, 1), f"{split}_labels": images.labels[kept][:, None]}
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".aside").open("wb") as file:
            np.savez_compressed(file, **arrays)
        path.with_suffix(".aside").replace(path)
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("methods", nargs="*", default=METHODS, metavar="METHOD")
    parser.add_argument("--data", required=True, metavar="SOURCE")
    parser.add_argument("--seen", type=int, required=True, metavar="N", help="images, each time one is seen")
    parser.add_argument("--scale", type=int, default=32, metavar="S")
    parser.add_argument("--batch", type=int, metavar="B", help="instead of that of table1/base")
    parser.add_argument("--images", type=int, metavar="N", help="training images; by default all")
    options = parser.parse_args()
    base = find("table1/base").config(options.scale)
    batch = options.batch or base.training.batch_size
    moves = base.training.d_steps + 1
    if options.seen % (moves * batch):
        parser.error(f"--seen {options.seen} is no multiple of {moves * batch}, what a step of BigBiGAN sees")
    data = subset(options.data, base.encoder.resolution, options.images) if options.images else options.data
    for method in options.methods:
        run = RUNS / f"{method.split('/')[1]}_{options.scale}"
        if (run / "results.jsonl").exists():
            continue
        steps = options.seen // (batch * (moves if method == "table1/base" else 1))
        train = ["train", method, "--scale", str(options.scale), "--data", data, "--out", str(run), "--quiet"]
        settings = ["--steps", str(steps), "--set", "log.probe_every=0", f"training.batch_size={batch}"]
        wanted = metrics(method, pixels=method == options.methods[0])
        evaluate = ["evaluate", str(run), "--quiet", "--metrics", wanted, "--results", "results/table2_small.jsonl"]
        for command in ([*train, *settings], evaluate):
            if code := bigbigan(command):
                sys.exit(code)


if __name__ == "__main__":
    main()
