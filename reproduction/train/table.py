"""Train and measure rows of a published table, each for the same length and from the same seeds.

    python -m reproduction.train.table 1 [ROW ...] --data SOURCE --steps N [--scale 16] [--seeds 1] [--set a.b=value]
    python -m reproduction.train.table 2 --data SOURCE --steps N [--images N] [--equal images|updates] ...
    python -m reproduction.train.table 3 --data SOURCE --steps N --network cifar-resnet18 --clusters-of RUN ...
    python -m reproduction.train.table bigan --data SOURCE --steps 187600 --seeds 3 [--hold-out 10000]

Runs go to --runs, by default runs/table1/ and so on. Started again, the script skips the runs that are finished and
continues the others; more steps may be asked for if the learning rates of a row are constant. Result lines go to
results/, and the table's page in docs/ shows them next to the published numbers. Give runs of another length another
--study, so that pages do not mix them.

Tables 1, 2 and 3 are trained scaled down, except for BiGAN's AlexNet, which has one size only. In table 2, --steps are
those of BigBiGAN. Its step sees three batches, and E learns from one; a step of the other methods is one batch. By
default they take more steps, so that they see as many images: three times as many if batches are equally large. With
--equal updates all methods take as many steps, so that E is updated as often; these runs go to runs/table2-updates/.
BiGAN's table is trained as published, in 400 epochs of 469 steps. With --hold-out 10000 it is scored as in its authors'
code by default, on held-out training images (391 steps per epoch).

A feature extractor compares samples (bigbigan feature-extractor NETWORK --data SOURCE trains it); without --network the
samples of Table 1 are not measured. BigGAN + Clustering in Table 3 needs a run whose features are clustered.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bigbigan.config import Config, override
from bigbigan.data import load_pixels, open_source, quick_fingerprint
from bigbigan.errors import UserError
from bigbigan.evaluation.image_quality.feature_extractors import channels_of
from bigbigan.evaluation.metric_names import PIXELS
from bigbigan.experiments import EXPERIMENTS, find
from bigbigan.io import read_json, write_json, writing
from reproduction.common import Script, bigbigan, split_of, train_and_evaluate

BUDGET = ("training.batch_size", "training.d_steps", "training.e_steps")  # settings of the images that a step sees
FEATURES = ("avepool", "bn_crelu")
TABLE1 = "top1_table1_avepool"  # the column Cls. of Table 1
FEW_LABELS = [f"top1_linear_{feature}_10perclass" for feature in FEATURES]


@dataclass(frozen=True)
class Plan:
    """How the rows of a table are measured."""

    rows: tuple[str, ...]
    results: str
    probe: tuple[str, ...] = ()  # metrics of E, in addition to those of all tables
    quality: str = ""  # metrics of samples; {0} is the feature extractor
    scaled: bool = True


PLANS = {
    "1": Plan(
        tuple(name for name in EXPERIMENTS if name.startswith("table1/")),
        "results/table1_small.jsonl",
        ("top1_table1_avepool", "top1_table1_bn_crelu"),
        "is10k_{0},fid10k_train_{0}",
    ),
    "2": Plan(
        (
            "table1/base", "pretext/rotation", "pretext/relative_position", "pretext/exemplar", "pretext/colorization",
            "pretext/cpc", "pretext/supervised", "pretext/combination", "pretext/efficient_cpc",
            "table1/resnet_up_encoder_lr", "table1/revnet_x4_up_encoder_lr", "bigan/imagenet",
        ),
        "results/table2_small.jsonl",
        tuple(f"{top}_sweep5k_{feature}" for feature in FEATURES for top in ("top1", "top5")),
    ),
    "3": Plan(
        ("table3/biggan_sl", "table3/biggan_clustering", "table3/bigbigan_sl", "table3/bigbigan_high_res_e_sl"),
        "results/table3_small.jsonl",
        ("top1_table1_avepool",),
        "is10k_{0},fid10k_train_{0},fid10k_test_{0},kid10k_train_{0},precision10k_train_{0},recall10k_train_{0}",
    ),
    "bigan": Plan(
        (
            "bigan/mnist", "bigan/discriminator", "bigan/latent_regressor", "bigan/joint_latent_regressor",
            "bigan/autoencoder_l2", "bigan/autoencoder_l1",
        ),
        "results/bigan.jsonl",
        scaled=False,
    ),
}  # fmt: skip


def metrics(table: str, row: str, config: Config, options: argparse.Namespace) -> list[str]:
    """Return the metrics of a run; for the first row, metrics of pixels too."""
    plan, names = PLANS[table], []
    if row == "bigan/imagenet":  # published on this layer
        return [f"{top}_sweep5k_conv3" for top in ("top1", "top5")]
    if table == "bigan":
        features = ["avepool" if config.has_encoder else "discriminator", *PIXELS * (row == plan.rows[0])]
        kinds = ("knn1_euclidean_{}", "top1_sweep5k_{}", "top1_linear_{}_10perclass")
        names += [kind.format(feature) for feature in features for kind in kinds]
        names += ["knn1_euclidean_z_mean", "reconstruction_*"] * config.has_encoder
    elif config.has_encoder:
        names += [*FEW_LABELS, *(m for m in plan.probe if not options.quick or m == TABLE1)]
        names += ["reconstruction_ratio"] * (table != "2")
        if table in ("1", "2") and row == plan.rows[0]:
            names += [f"top1_linear_{feature}_10perclass" for feature in PIXELS]
            names += [f"top1_table1_{feature}" for feature in PIXELS if table == "1"]
        names += [f"task_accuracy_{task}" for task in config.pretext.tasks if config.system == "pretext"]
    return [*names, *([plan.quality.format(options.network)] if plan.quality and options.network else [])]


def steps_of(config: Config, base: Config, steps: int, equal: str) -> int:
    """Return how many steps of a row correspond to `steps` of BigBiGAN, the row `base`.

    They see equally many images; or with `equal` updates they are as many, which updates E as often.
    """
    return steps * _images(base) // _images(config) if equal == "images" else steps


def _images(config: Config) -> int:
    """Return how many images a step sees."""
    t = config.training
    return t.batch_size * (t.d_steps + t.e_steps if config.system == "bigbigan" else 1)


def drawn(spec: str, config: Config, side: int, folder: Path, images: int | None, hold_out: int | None) -> str:
    """Return a file of random images of a source at `side` px: the largest resolution of E in the table.

    It has `images` images to train on and 0.4·`images` test images; or with `hold_out`, that number of training images
    as test images, and the others to train on.

    Raises:
        UserError: there are not enough training images.
    """
    source = open_source(spec)
    train = split_of(source, "train")
    if not 0 < (count := hold_out or images or 0) < len(train) + (hold_out is None):
        option = "--images" if hold_out is None else "--hold-out"
        raise UserError(f"{option} {count}: {spec} has {len(train):,} training images; give fewer")
    path = (
        folder
        / f"{side}px-{quick_fingerprint(train)[:8]}"
        / f"{source.name}{'-held-out' * (hold_out is not None)}-{count}.npz"
    )
    if path.exists():
        return str(path)
    order = np.random.default_rng(0).permutation(len(train))
    if hold_out is None:
        test = split_of(source, "test")
        test_order = np.random.default_rng(0).permutation(len(test))[: 2 * count // 5]
        picked = {"train": train.subset(order[:count]), "test": test.subset(test_order)}
    else:
        picked = {"train": train.subset(order[count:]), "test": train.subset(order[:count])}
    arrays: dict[str, np.ndarray] = {}
    channels = min(config.data.channels, channels_of(source))  # grey stays grey, as grey images must not be mirrored
    for split, images_of_split in picked.items():
        pixels, kept = load_pixels(images_of_split, side, channels, source)
        arrays[f"{split}_images"] = pixels.transpose(0, 2, 3, 1)
        if images_of_split.labels is not None:
            arrays[f"{split}_labels"] = images_of_split.labels[kept][:, None]
    with writing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return str(path)


def train_words(row: str, data: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """Return arguments of `train`, with the clusters that a row uses as labels; make them unless they exist."""
    words = ["--data", data]
    if not row.endswith("_clustering"):
        return words
    if not options.clusters_of:
        raise UserError(f"{row}: needs --clusters-of RUN, a run whose features are clustered")
    clusters, origin = folder / "clusters.csv", folder / "clusters.json"
    made_from = {"run": options.clusters_of, "images": quick_fingerprint(split_of(open_source(data), "train"))}
    if origin.exists() and read_json(origin) != made_from:
        raise UserError(f"{clusters}: made from another run or other images; give another folder to --runs")
    write_json(origin, made_from)
    if not clusters.exists():
        make = ["cluster", options.clusters_of, "--data", data, "--out", str(clusters)]
        bigbigan(*make, "--sheet", str(folder / "clusters.png"), "--results", str(options.results))
    return [*words, "--labels", str(clusters)]


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__)
    add = script.parser.add_argument
    add("table", choices=PLANS)
    add("rows", nargs="*", metavar="ROW")
    add("--data", required=True, metavar="SOURCE")
    some = script.parser.add_mutually_exclusive_group()
    some.add_argument("--images", type=int, metavar="N", help="training images, drawn at random; by default all")
    some.add_argument("--hold-out", type=int, metavar="N", help="training images to hold out and score on")
    add("--steps", type=int, required=True, metavar="N")
    add("--equal", choices=("images", "updates"), default="images", help="what table 2 compares at (default images)")
    add("--scale", type=int, default=32, metavar="S")
    add("--seeds", type=int, default=1, metavar="N", help="number of seeds, 0 to N - 1 (default 1)")
    add("--set", nargs="+", default=[], metavar="a.b=value")
    add("--runs", type=Path, metavar="DIR", help="folder of the runs (default runs/table1 and so on)")
    add("--results", type=Path, metavar="FILE", help="file of result lines (default: the table's own)")
    add("--study", metavar="NAME", help="study of the result lines, such as of a longer run (default: the table's own)")
    add("--quick", action="store_true", help="probe E only with 10 labels per class and Table 1's classifier")
    add("--network", metavar="NAME", help="feature extractor that compares samples")
    add("--clusters-of", metavar="RUN", help="run whose features are clustered")
    return script.run(train_and_measure, arguments)


def train_and_measure(script: Script, options: argparse.Namespace) -> None:
    plan = PLANS[options.table]
    by_updates = "-updates" * (options.equal == "updates")
    study = f"table{options.table}{by_updates.replace('-', '_')}" if plan.scaled else options.table
    folder = options.runs or Path("runs") / (f"table{options.table}{by_updates}" if plan.scaled else options.table)
    options.results = options.results or Path(plan.results)
    scale = options.scale if plan.scaled else 0
    if by_updates and options.table != "2":
        raise UserError("--equal updates: expected only with table 2")
    if options.table == "3" and not options.network:
        raise UserError("table 3: needs --network NAME, a feature extractor")
    named = {row.split("/")[1]: row for row in plan.rows}
    if unknown := [row for row in options.rows if row not in named]:
        raise UserError(f"{', '.join(unknown)}: no row of table {options.table}; expected some of {', '.join(named)}")
    budget = [setting for setting in options.set if setting.partition("=")[0] in BUDGET]
    base = override(find(plan.rows[0]).config(scale), budget)
    data = options.data
    if options.images is not None or options.hold_out is not None:
        rows = (find(row) for row in plan.rows)
        side = max(row.config(scale if row.scales else 0).encoder.resolution for row in rows)
        data = drawn(data, base, side, folder, options.images, options.hold_out)
    dataset = open_source(data).name
    for seed in range(options.seeds):
        for name in options.rows or named:
            row = named[name]
            size = scale if find(row).scales else 0
            config = override(find(row).config(size), options.set)
            steps = steps_of(config, base, options.steps, options.equal)
            run = folder / f"{name}{f'_{size}' * bool(size)}{f'-seed{seed}' * bool(seed)}"
            train_and_evaluate(
                row,
                run,
                scale=size,
                steps=steps,
                dataset=dataset,
                metrics=metrics(options.table, row, config, options),
                study=options.study or study,
                results=options.results,
                settings=["log.validate_every=0", f"training.seed={seed}", *options.set],
                train=partial(train_words, row, data, folder, options),
            )


if __name__ == "__main__":
    sys.exit(main())
