"""Train rows of a published table, each for the same length from the same seeds, and write their result lines.

    python tools/train_table.py 1 [ROW ...] --data SOURCE --steps N [--scale 32] [--seeds 1] [--set a.b=value ...]
    python tools/train_table.py 2 --data SOURCE --steps N [--images N] [--equal images|updates] ...
    python tools/train_table.py 3 --data SOURCE --steps N --network cifar-resnet18 --clusters-of RUN ...
    python tools/train_table.py bigan --data SOURCE --steps 187600 --seeds 3 [--hold-out 10000]

Runs go to --runs, by default runs/table1/ and so on, and continue where they stopped, also when asked for more steps
if their rates do not fall; those measured at so many are left alone. Lines go to results/, and the table's page in
docs/ shows them beside the published ones.

1, 2 and 3 are trained scaled down. In table 2 the steps are BigBiGAN's. A step of it sees three batches, and E learns
from one; a step of the other methods is one batch. By default they take three times as many steps and see as many
images. With --equal updates all take as many steps, so that all have as many updates of E; these runs go to
runs/table2-updates/. BiGAN's table is trained as published, in 400 epochs of 469 steps;
with --hold-out 10000 it is scored as by default in its authors' code, on training images left out (391 steps an epoch).

Samples are compared by a feature network (bigbigan feature-network NETWORK --data SOURCE makes it), without one not at
all in Table 1. BigGAN + Clustering in Table 3 wants a run whose encoder's features are clustered.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigbigan.cli import main as bigbigan
from bigbigan.config import Config
from bigbigan.data import load_pixels, open_source
from bigbigan.evaluation.image_quality.feature_networks import channels_of
from bigbigan.evaluation.metric_names import PIXELS
from bigbigan.evaluation.records import read_results
from bigbigan.experiments import find

FEATURES = ("avepool", "bn_crelu")
TABLE1 = "top1_table1_avepool"  # the column Cls. of Table 1
FEW_LABELS = [f"top1_linear_{feature}_10perclass" for feature in FEATURES]


@dataclass(frozen=True)
class Plan:
    rows: tuple[str, ...]
    results: str
    probe: tuple[str, ...] = ()  # metrics of E, besides those that are measured of all
    quality: str = ""  # metrics of samples; {} stands for the feature network
    scaled: bool = True


PLANS = {
    "1": Plan(
        (
            "table1/base", "table1/deterministic_encoder", "table1/uniform_prior", "table1/x_unary_only",
            "table1/z_unary_only", "table1/no_unaries", "table1/small_g_32", "table1/resnet_up_encoder_lr",
            "table1/hinge_of_sum",
        ),
        "results/table1_small.jsonl",
        ("top1_table1_avepool", "top1_table1_bn_crelu"),
        "is10k_{0},fid10k_train_{0}",
    ),
    "2": Plan(
        (
            "table1/base", "pretext/rotation", "pretext/relative_position", "pretext/exemplar", "pretext/colorization",
            "pretext/cpc", "pretext/supervised", "pretext/combination", "pretext/efficient_cpc",
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
    """What is measured of a run; of pixels too beside the first row."""
    plan, names = PLANS[table], []
    if table == "bigan":
        features = ["avepool" if config.has_encoder else "discriminator", *PIXELS * (row == plan.rows[0])]
        kinds = ("knn1_euclidean_{}", "top1_sweep5k_{}", "top1_linear_{}_10perclass")
        names += [kind.format(feature) for feature in features for kind in kinds]
        names += ["knn1_euclidean_z_mean", "reconstruction_*"] * config.has_encoder
    elif config.has_encoder:
        names += [*FEW_LABELS, *(m for m in plan.probe if not options.quick or m == TABLE1)]
        names += ["reconstruction_ratio"] * (table != "2")
        if table == "2" and row == plan.rows[0]:
            names += [f"top1_linear_{feature}_10perclass" for feature in PIXELS]
        names += [f"task_accuracy_{task}" for task in config.pretext.tasks if config.system == "pretext"]
    return [*names, *([plan.quality.format(options.network)] if plan.quality and options.network else [])]


def steps_of_one(config: Config, base: Config, equal: str) -> int:
    """Return how many steps of a row make a step of BigBiGAN: as many as see equally many images, or the one that
    updates E as often."""
    return base.training.d_steps + 1 if config.system == "pretext" and equal == "images" else 1


def drawn(spec: str, config: Config, folder: Path, images: int | None, hold_out: int | None) -> str:
    """A file of some images of a source at E's resolution, drawn at random: `images` to train on and 0.4·`images` of
    the test images; or with `hold_out` so many of the training images as test images, and the others to train on."""
    source = open_source(spec)
    train = source.splits["train"]
    if not 0 < (count := hold_out or images or 0) < len(train) + (hold_out is None):
        option = "--images" if hold_out is None else "--hold-out"
        sys.exit(f"{option} {count}: {spec} has {len(train):,} training images; give fewer")
    path = folder / f"{source.name}{'-held-out' * (hold_out is not None)}-{count}.npz"
    if path.exists():
        return str(path)
    order = np.random.default_rng(0).permutation(len(train))
    if hold_out is None:
        test = source.splits["test"]
        of_test = np.random.default_rng(0).permutation(len(test))[: 2 * count // 5]
        picked = {"train": train.subset(order[:count]), "test": test.subset(of_test)}
    else:
        picked = {"train": train.subset(order[count:]), "test": train.subset(order[:count])}
    arrays: dict[str, np.ndarray] = {}
    channels = min(config.data.channels, channels_of(source))  # grey stays grey: it says that nothing may be mirrored
    for split, of in picked.items():
        pixels, kept = load_pixels(of, config.encoder.resolution, channels, source)
        arrays[f"{split}_images"] = pixels.transpose(0, 2, 3, 1)
        if of.labels is not None:
            arrays[f"{split}_labels"] = of.labels[kept][:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".aside").open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    path.with_suffix(".aside").replace(path)
    return str(path)


def labels_of(row: str, data: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """Arguments of `train` with the clusters that a row is told as labels, made where they are not there yet."""
    if not row.endswith("_clustering"):
        return []
    clusters = folder / "clusters.csv"
    if not clusters.exists():
        if not options.clusters_of:
            sys.exit(f"{row} needs --clusters-of RUN")
        make = ["cluster", options.clusters_of, "--data", data, "--out", str(clusters)]
        run_command([*make, "--sheet", str(folder / "clusters.png"), "--results", PLANS["3"].results])
    return ["--labels", str(clusters)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", choices=PLANS)
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--data", required=True, metavar="SOURCE")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--images", type=int, metavar="N", help="training images, drawn at random; by default all")
    some.add_argument("--hold-out", type=int, metavar="N", help="training images left out and scored on")
    parser.add_argument("--steps", type=int, required=True, metavar="N")
    parser.add_argument("--equal", choices=("images", "updates"), default="images", help="of table 2 (default images)")
    parser.add_argument("--scale", type=int, default=32, metavar="S")
    parser.add_argument("--seeds", type=int, default=1, help="0, 1, ... (default 1 of them)")
    parser.add_argument("--set", nargs="+", default=[], metavar="a.b=value")
    parser.add_argument("--runs", type=Path, metavar="DIR")
    parser.add_argument(
        "--quick", action="store_true", help="probe E with 10 labels a class and Table 1's classifier alone"
    )
    parser.add_argument("--network", metavar="NAME", help="feature network that samples are compared by")
    parser.add_argument("--clusters-of", metavar="RUN", help="whose features are clustered")
    options = parser.parse_args()
    plan = PLANS[options.table]
    by_updates = "-updates" * (options.equal == "updates")
    folder = options.runs or Path("runs") / (f"table{options.table}{by_updates}" if plan.scaled else options.table)
    scale = options.scale if plan.scaled else 0
    if by_updates and options.table != "2":
        parser.error("--equal updates is for table 2")
    if options.table == "3" and not options.network:
        parser.error("table 3 needs --network NAME")
    named = {row.split("/")[1]: row for row in plan.rows}
    if unknown := [row for row in options.rows if row not in named]:
        parser.error(f"{', '.join(unknown)}: no row of table {options.table}; expected some of {', '.join(named)}")
    data = options.data
    if options.images is not None or options.hold_out is not None:
        data = drawn(data, find(plan.rows[0]).config(scale), folder, options.images, options.hold_out)
    for seed in range(options.seeds):
        for name, row in named.items():
            if options.rows and name not in options.rows:
                continue
            config = find(row).config(scale)
            steps = options.steps * steps_of_one(config, find(plan.rows[0]).config(scale), options.equal)
            run = folder / f"{name}{f'_{scale}' * bool(scale)}{f'-seed{seed}' * bool(seed)}"
            if any(line["steps"] >= steps for line in read_results(run / "results.jsonl")):
                continue
            train = ["train", row, "--data", data, *labels_of(row, data, folder, options), "--out", str(run)]
            train += ["--scale", str(scale), "--steps", str(steps), "--quiet"]
            run_command([*train, "--set", "log.validate_every=0", f"training.seed={seed}", *options.set])
            wanted = ",".join(metrics(options.table, row, config, options))
            run_command(["evaluate", str(run), "--quiet", "--metrics", wanted, "--results", plan.results])


def run_command(arguments: list[str]) -> None:
    if code := bigbigan(arguments):
        sys.exit(code)


if __name__ == "__main__":
    main()
