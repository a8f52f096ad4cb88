"""A complete system small enough for tests: every feature on, seconds to train."""

from __future__ import annotations

import numpy as np

from bigbigan.config import Config, override
from bigbigan.experiments import find

TINY = [
    "generator.channels=[8,8]", "generator.shared_dim=4", "latent.dim=8",
    "discriminator.channels=[8,8]", "discriminator.mlp_width=16", "discriminator.mlp_layers=2",
    "encoder.widths=[8,8]", "encoder.head_width=16", "encoder.head_layers=2",
    "training.batch_size=16", "log.every=2", "log.pictures_every=1000", "log.checkpoint_every=4",
    "log.validate_every=0", "log.standing_batches=2",
    # With beta1 = 0 Adam's first moment has no memory, and a test could not tell whether it was restored.
    "optimizer.betas=[0.5,0.999]",
]  # fmt: skip

# What a BigBiGAN can have that the paper has not.
ADDITIONS = [
    "discriminator.joint_maps=2", "discriminator.projection=true", "loss.latent_regression=0.5",
    "loss.latent_regression_final=0.1", "loss.latent_regression_form=likelihood", "loss.latent_regression_in_g=true",
    "encoder.augment=[color,translation,cutout]", "training.e_steps=2",
]  # fmt: skip

RESULT_LINE = {
    "study": "evaluation", "subject": "trained",
    "experiment": "small/digits", "settings": {}, "dataset": "digits", "split": "test", "metric": "top1", "value": 1.0,
    "std": None, "n": 3, "seed": 0, "steps": 4, "images_seen": 9, "command": "bigbigan evaluate run",
}  # fmt: skip


def tiny_config(*settings: str) -> Config:
    return override(find("small/digits").config(), [*TINY, *settings])


def run_update(system, update, *arguments):
    """Return the outcomes of an update, the gradient of each computed before the next outcome, as in training."""
    outcomes = []
    for outcome in update(*arguments):
        system.backward(outcome.losses)
        outcomes.append(outcome)
    return outcomes


def write_npz(path, count: int = 60, side: int = 8, channels: int = 1, seed: int = 0):
    """A labelled image set in MedMNIST's form, with structure: class k has a bright row k."""
    rng = np.random.default_rng(seed)
    shape = (count, side, side) if channels == 1 else (count, side, side, channels)
    arrays = {}
    for split in ("train", "test"):
        labels = np.arange(count) % 3
        images = rng.integers(0, 60, shape)
        images[np.arange(count), labels * 2] += 180
        arrays[f"{split}_images"] = images.astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    np.savez(path, **arrays)
    return path


def blobs(count: int, distance: float, seed: int, classes: int = 4, dim: int = 12):
    """Gaussian blobs: class k sits at `distance` along axis k."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    x = rng.normal(size=(count, dim))
    x[np.arange(count), labels] += distance
    return x.astype(np.float32), labels
