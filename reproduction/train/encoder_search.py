"""Train short variants of small networks at 16 px, to find what makes E learn (docs/notes/encoder_search.md).

    python -m reproduction.train.encoder_search DATA [VARIANT ...] [--seed N]

DATA is fashion-mnist or cifar10 (or NAME:PATH). A variant takes 4 to 10 minutes on one core with bfloat16. Finished
variants are skipped, unfinished ones continued.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bigbigan.errors import UserError
from reproduction.common import Script, train_and_evaluate

# Networks of about a quarter of the FLOPs of small/fashion_mnist and an eighth of small/cifar10, for 16 px.
SMALLER = {
    "fashion-mnist": (
        "small/fashion_mnist",
        1_000,
        [
            "generator.channels=[48,48,24]", "discriminator.channels=[16,32,128]",
            "latent.dim=39", "encoder.resolution=16",
        ],
        [16, 32, 128],
    ),
    "cifar10": (
        "small/cifar10",
        1_200,
        [
            "generator.channels=[64,64,32]", "discriminator.channels=[24,48,192]", "discriminator.mlp_width=256",
            "latent.dim=60", "encoder.resolution=16", "encoder.head_width=256",
        ],
        [24, 48, 192],
    ),
}  # fmt: skip
PLAIN = ["discriminator.joint_maps=1", "discriminator.projection=false"]
PLAIN += ["training.e_steps=1", "encoder.stdev_bias=-3", "encoder.augment=[]"]
TWO_MAPS = ["discriminator.joint_maps=2"]
BOTH = [*TWO_MAPS, "discriminator.projection=true"]
CUTOUT = [*BOTH, "encoder.augment=[cutout]"]
TWICE = [*CUTOUT, "training.e_steps=2"]
# {wide} and {wider} are replaced by the widths of the encoder, the last one four times or twice as large, {bottleneck}
# by four times all widths, of which bottleneck blocks have a quarter inside.
VARIANTS: dict[str, list[str]] = {
    "base": [],
    "two_maps": TWO_MAPS,
    "projection": ["discriminator.projection=true"],
    "both": BOTH,
    "two_maps_falling_rates": [*TWO_MAPS, "optimizer.lr_final=0.03"],
    "both_wide_e": [*BOTH, "encoder.widths={wide}"],
    "both_wide_e_and_d": [
        *BOTH, "encoder.widths={wide}", "discriminator.channels={wide}", "discriminator.mlp_width=512",
    ],
    "both_e_rate_5": [*BOTH, "encoder.lr_multiplier=5"],
    "both_one_d_update": [*BOTH, "training.d_steps=1"],
    "both_one_d_update_longer": [*BOTH, "training.d_steps=1"],
    "both_batch_32": [*BOTH, "training.batch_size=32"],
    "both_batch_128": [*BOTH, "training.batch_size=128"],
    "both_rates_1e-3": [*BOTH, "optimizer.lr_g=0.001", "optimizer.lr_d=0.001"],
    "both_beta1": [*BOTH, "optimizer.betas=[0.5,0.999]"],
    "both_regression": [*BOTH, "loss.latent_regression=0.1"],
    "both_e_color": [*BOTH, "encoder.augment=[color]"],
    "both_e_translation": [*BOTH, "encoder.augment=[translation]"],
    "both_e_cutout": CUTOUT,
    "both_e_translation_cutout": [*BOTH, "encoder.augment=[translation,cutout]"],
    "both_e_all": [*BOTH, "encoder.augment=[color,translation,cutout]"],
    "cutout_wider_e": [*CUTOUT, "encoder.widths={wider}"],
    "cutout_bottleneck": [*CUTOUT, "encoder.block=bottleneck", "encoder.widths={bottleneck}"],
    "cutout_bottleneck_2": [
        *CUTOUT, "encoder.block=bottleneck", "encoder.widths={bottleneck}", "encoder.blocks=2",
    ],
    "cutout_latents_120": [*CUTOUT, "latent.dim=120"],
    "cutout_deterministic": [*CUTOUT, "encoder.stochastic=false"],
    "cutout_no_head": [*CUTOUT, "encoder.head_layers=0"],
    "cutout_deep_head": [*CUTOUT, "encoder.head_layers=8"],
    "cutout_batch_256": [*CUTOUT, "training.batch_size=256"],
    "cutout_e_twice": TWICE,
    "cutout_e_four_times": [*CUTOUT, "training.e_steps=4"],
    "cutout_e_twice_one_d_update": [*TWICE, "training.d_steps=1"],
    "e_twice_resnet_crop": [*TWICE, "data.augment=resnet_crop"],
    "e_twice_square_crop": [*TWICE, "data.augment=square_crop"],
    "e_twice_random_crop": [*TWICE, "data.augment=random_crop"],
    "e_twice_latents_30": [*TWICE, "latent.dim=30"],
    "e_twice_no_s_z": [*TWICE, "loss.s_z=false"],
    "e_twice_sigma_from_0.7": [*TWICE, "encoder.stdev_bias=0"],
    "e_twice_two_blocks": [*TWICE, "encoder.blocks=2"],
    "cutout_longer": CUTOUT,
    "regression_1": ["loss.latent_regression=1"],
}  # fmt: skip
# Steps of variants of another length, over those of the others: as many images, or about the same time.
LENGTHS = {
    "both_one_d_update_longer": 1.4,
    "both_batch_32": 2.0,
    "both_batch_128": 0.5,
    "cutout_batch_256": 0.25,
    "cutout_longer": 1.3,
}
METRICS = ("top1_linear_bn_crelu_10perclass", "top1_linear_bn_crelu", "reconstruction_ratio")


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/encoder_search.jsonl")
    script.parser.add_argument("data", metavar="DATA", help="fashion-mnist or cifar10, as NAME or NAME:PATH")
    script.parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}; default: all")
    script.parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and noise (default 0)")
    return script.run(train_and_measure, arguments)


def settings_of(name: str, variant: str) -> list[str]:
    """Return the settings of a variant on a data set, without seed and log."""
    _, _, networks, widths = SMALLER[name]
    wide, wider = ([*widths[:-1], times * widths[-1]] for times in (4, 2))
    bottleneck = [4 * width for width in widths]
    changes = [s.format(wide=wide, wider=wider, bottleneck=bottleneck) for s in VARIANTS[variant]]
    return ["training.precision=bf16", *networks, *PLAIN, f"encoder.widths={widths}", *changes]


def train_and_measure(script: Script, options: argparse.Namespace) -> None:
    name = options.data.partition(":")[0]
    if name not in SMALLER:
        raise UserError(f"DATA is {options.data}; expected one of {', '.join(SMALLER)}")
    if unknown := [variant for variant in options.variants if variant not in VARIANTS]:
        raise UserError(f"{', '.join(unknown)}: no such variant; expected some of {', '.join(VARIANTS)}")
    experiment, steps, _, _ = SMALLER[name]
    for variant in options.variants or VARIANTS:
        length = round(steps * LENGTHS.get(variant, 1))
        quiet = ["log.validate_every=0", f"log.pictures_every={length}", f"log.checkpoint_every={length}"]
        settings = settings_of(name, variant)
        train_and_evaluate(
            experiment,
            Path("runs/encoder_search") / name / f"{variant}-{options.seed}",
            steps=length,
            dataset=name,
            metrics=METRICS,
            study=script.study,
            results=script.results,
            settings=[f"training.seed={options.seed}", *quiet, *settings],
            train=lambda: ["--data", options.data],
            evaluate=["--max-images", "5000"],
        )


if __name__ == "__main__":
    sys.exit(main())
