"""Show how a run's networks develop while it trains: the encoder's metrics, and grids of images in samples/."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from bigbigan.data.batches import Batches
from bigbigan.data.streaming import StreamedPixels
from bigbigan.image import pool_to, reconstruction_distances
from bigbigan.image.grid import grid, pairs_grid, save_image
from bigbigan.methods import generate
from bigbigan.models import Posterior
from bigbigan.models.batch_norm import batch_statistics
from bigbigan.randomness import keyed_generator
from bigbigan.training.state import TrainingState

__all__ = [
    "encoder_health",
    "reconstruction_errors",
    "sample_training_images",
    "write_inputs",
    "write_pictures",
    "write_training_images",
]


@torch.no_grad()
def encoder_health(state: TrainingState, x: Tensor, q: Posterior | None) -> dict[str, Tensor]:
    """Measure the spread of z over images x, mean sigma, and reconstruction errors; networks are not changed.

    `q` is q(z|x) of these images, or None if E was not trained on them. With `encoder.augment` it is that of augmented
    images, so these reconstruction errors are above those of evaluation. Of several processes each measures its own
    images, and the mean is logged: it is close to what one process would log, but not the same.
    """
    E = state.networks.encoder
    if q is None:  # such as the E of a latent regressor, which is trained on generated images
        with batch_statistics(E):
            q = E(x)
    spread = {"z_mean_spread": q.mean.std(0).mean(), "z_stdev": q.stdev.mean()}
    return spread | reconstruction_errors(state, pool_to(x, state.system.resolution), q.mean)


@torch.no_grad()
def reconstruction_errors(state: TrainingState, x: Tensor, z_mean: Tensor) -> dict[str, Tensor]:
    """Return the mean ‖x − G(E(x))‖₂ with pixels in [0, 1], the same for pairs of different images, and the ratio.

    A ratio near 1 means that E has learned nothing yet. The networks are not changed.
    """
    G = state.networks.generator
    with batch_statistics(G):
        x_hat = G(z_mean)
    error, mismatched = (d.mean() for d in reconstruction_distances(x, x_hat))
    return {
        "reconstruction_error": error,
        "reconstruction_error_mismatched": mismatched,
        "reconstruction_ratio": error / mismatched,
    }


def sample_training_images(state: TrainingState, batches: Batches, count: int) -> Tensor:
    """Return the same training images each time, chosen by the seed: [count, C, R_E, R_E], fewer if there are fewer."""
    order = torch.randperm(len(batches.pixels), generator=keyed_generator(state.config.training.seed, "show"))
    if isinstance(batches.pixels, StreamedPixels):
        order = torch.from_numpy(batches.pixels.images.in_first_shard(order.numpy()))
    return batches.images(order[:count].to(state.device))


def write_training_images(state: TrainingState, batches: Batches, run: Path) -> dict[str, Image.Image]:
    """Write a grid of training images, samples/data.png, and return it by name, "data"."""
    picture = grid(sample_training_images(state, batches, 64))
    save_image(picture, run / "samples" / "data.png")
    return {"data": picture}


def write_inputs(state: TrainingState, batches: Batches, run: Path) -> None:
    """Write the networks' inputs for some images, if they differ: one file for each task, one row for each image."""
    generator = keyed_generator(state.config.training.seed, "inputs", 0, str(state.device))
    x = sample_training_images(state, batches, 8)
    noise = state.system.sample_noise(len(x), generator)
    for name, views in state.system.input_pictures(x, noise).items():
        save_image(grid(views.flatten(0, 1), columns=views.shape[1]), run / "samples" / f"inputs-{name}.png")


def write_pictures(state: TrainingState, batches: Batches, run: Path) -> dict[str, Image.Image]:
    """Write samples of the same z each time, and x above G(E(x)) for the same images each time; nothing without G.

    Returns the pictures by name, "samples" and "reconstructions".
    """
    G = state.G_ema
    if G is None:
        return {}
    generator = keyed_generator(state.config.training.seed, "pictures", 0, str(state.device))
    z, classes = state.system.sample_prior(64, generator), state.config.data.classes
    y = torch.arange(64, device=z.device) // 8 % classes if classes > 1 else None  # one row for each class
    with torch.no_grad():
        pictures = {"samples": grid(generate(G, z, y))}
        if state.E_ema is not None:
            x = sample_training_images(state, batches, 32)
            pictures["reconstructions"] = pairs_grid(pool_to(x, state.system.resolution), G(state.E_ema(x).mean))
    for name, picture in pictures.items():
        save_image(picture, run / "samples" / f"{name}-{state.step:08d}.png")
    return pictures
