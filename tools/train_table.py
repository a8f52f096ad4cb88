"""Train rows of a published table scaled down, each for the same steps from the same seeds; write their result lines.

    python tools/train_table.py 1 --data SOURCE --steps N [--scale 32] [--seeds 1] [--set a.b=value ...] [ROW ...]
    python tools/train_table.py 3 --data SOURCE --steps N --network cifar-resnet18 [--clusters-of RUN] ...

Runs go to runs/tableNAME/ and continue where they stopped, also when asked for more steps; those measured at so many
are left alone. Lines go to results/tableNAME_small.jsonl; docs/tableNAME.md shows them beside the published ones.

Samples are compared by a feature network (bigbigan feature-network NETWORK --data SOURCE makes it), without one not at
all in Table 1. BigGAN + Clustering in Table 3 wants a run whose encoder's features are clustered.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from bigbigan.cli import main as bigbigan
from bigbigan.evaluation.results import read_results
from bigbigan.experiments import find


@dataclass(frozen=True)
class Plan:
    rows: tuple[str, ...]
    probe: str  # metrics of E, besides the quick ones
    quality: str = ""  # metrics of samples; {} stands for the feature network


QUICK = "top1_linear_avepool_10perclass,top1_linear_bn_crelu_10perclass,reconstruction_ratio"
PLANS = {
    "1": Plan(
        (
            "base", "deterministic_encoder", "uniform_prior", "x_unary_only", "z_unary_only", "no_unaries",
            "small_g_32", "resnet_up_encoder_lr", "hinge_of_sum",
        ),
        "top1_table1_avepool,top1_table1_bn_crelu",
        "is10k_{0},fid10k_train_{0}",
    ),
    "3": Plan(
        ("biggan_sl", "biggan_clustering", "bigbigan_sl", "bigbigan_high_res_e_sl"),
        "top1_table1_avepool",
        "is10k_{0},fid10k_train_{0},fid10k_test_{0},kid10k_train_{0},precision10k_train_{0},recall10k_train_{0}",
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", choices=PLANS)
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--data", required=True, metavar="SOURCE")
    parser.add_argument("--steps", required=True, metavar="N")
    parser.add_argument("--scale", default="32", metavar="S")
    parser.add_argument("--seeds", type=int, default=1, help="0, 1, ... (default 1 of them)")
    parser.add_argument("--set", nargs="+", default=[], metavar="a.b=value")
    parser.add_argument("--quick", action="store_true", help="probe E with 10 labels a class alone")
    parser.add_argument("--network", metavar="NAME", help="feature network that samples are compared by")
    parser.add_argument("--clusters-of", metavar="RUN", help="whose features are clustered")
    options = parser.parse_args()
    plan, folder = PLANS[options.table], Path(f"runs/table{options.table}")
    results = ["--results", f"results/table{options.table}_small.jsonl"]
    if options.table == "3" and not options.network:
        parser.error("table 3 needs --network NAME")
    quality = plan.quality.format(options.network) if options.network else ""
    for seed in range(options.seeds):
        for row in options.rows or plan.rows:
            run = folder / f"{row}_{options.scale}{f'-seed{seed}' if seed else ''}"
            if any(line["steps"] >= int(options.steps) for line in read_results(run / "results.jsonl")):
                continue
            name, labels = f"table{options.table}/{row}", []
            if row.endswith("_clustering"):
                clusters = folder / "clusters.csv"
                if not clusters.exists():
                    if not options.clusters_of:
                        parser.error(f"{name} needs --clusters-of RUN")
                    sheet = ["--sheet", str(folder / "clusters.png")]
                    make = ["cluster", options.clusters_of, "--data", options.data, "--out", str(clusters)]
                    run_command([*make, *sheet, *results])
                labels = ["--labels", str(clusters)]
            train = ["train", name, "--scale", options.scale, "--data", options.data, *labels, "--out", str(run)]
            settings = ["--set", "log.probe_every=0", f"training.seed={seed}", *options.set]
            run_command([*train, "--quiet", "--steps", options.steps, *settings])
            config = find(name).config(int(options.scale))
            of_encoder = [QUICK, "" if options.quick else plan.probe] if config.has_encoder else []
            metrics = ",".join(filter(None, [*of_encoder, quality]))
            run_command(["evaluate", str(run), "--quiet", "--metrics", metrics, *results])


def run_command(arguments: list[str]) -> None:
    if code := bigbigan(arguments):
        sys.exit(code)


if __name__ == "__main__":
    main()
