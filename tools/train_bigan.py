"""Train and measure the six methods of BiGAN's table, and write their result lines.

    python tools/train_bigan.py [--data SOURCE] [--epochs 400] [--seeds 1] [METHOD ...]

Runs go to runs/bigan/ and continue where they stopped; evaluated ones are left alone. Lines go to results/bigan.jsonl;
`bigbigan table bigan` and docs/bigan.md show them. 400 epochs are the published length.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bigbigan.cli import main as bigbigan
from bigbigan.data import open_source
from bigbigan.experiments import find
from bigbigan.experiments.bigan import EPOCH

METHODS = ["mnist", "discriminator", "latent_regressor", "joint_latent_regressor", "autoencoder_l2", "autoencoder_l1"]


def metrics(method: str) -> str:
    feature = "avepool" if find(f"bigan/{method}").config().has_encoder else "discriminator"
    names = [f"knn1_euclidean_{feature}", f"top1_sweep5k_{feature}", f"top1_linear_{feature}_10perclass"]
    if feature == "avepool":
        names += ["knn1_euclidean_z_mean", "reconstruction_*"]
    if method == "mnist":
        names += ["knn1_euclidean_pixels", "top1_sweep5k_pixels", "top1_linear_pixels_10perclass"]
    return ",".join(names)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("methods", nargs="*", default=METHODS, metavar="METHOD")
    parser.add_argument("--data", default="mnist", metavar="SOURCE")
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=1, help="0, 1, ... (default 1 of them)")
    options = parser.parse_args()
    name = open_source(options.data).name
    for seed in range(options.seeds):
        for method in options.methods:
            run = Path("runs/bigan") / f"{name}-{options.epochs}-{method}-{seed}"
            if (run / "results.jsonl").exists():
                continue
            steps, settings = str(options.epochs * EPOCH), ["--set", f"training.seed={seed}"]
            train = ["train", f"bigan/{method}", "--data", options.data, "--out", str(run), "--steps", steps, *settings]
            evaluate = ["evaluate", str(run), "--quiet", "--metrics", metrics(method)]
            for command in (train, [*evaluate, "--results", "results/bigan.jsonl"]):
                if code := bigbigan(command):
                    sys.exit(code)


if __name__ == "__main__":
    main()
