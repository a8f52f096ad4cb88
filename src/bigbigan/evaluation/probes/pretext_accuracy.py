"""Measure how well an encoder solves the pretext tasks it was trained on, for images it has not seen."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bigbigan.evaluation.features import fill_statistics
from bigbigan.evaluation.records import Measurement
from bigbigan.image import to_float
from bigbigan.inference.model import Model
from bigbigan.methods.pretext import TaskResult, run_task, sample_task_noise
from bigbigan.models import PretextEncoder
from bigbigan.randomness import keyed_generator

__all__ = ["task_accuracies"]

BATCH = 64  # images in a pass; tasks that match views match them among those of so many images


@torch.no_grad()
def task_accuracies(
    model: Model, known: np.ndarray, pixels: np.ndarray, labels: np.ndarray | None, tasks: Sequence[str]
) -> dict[str, Measurement]:
    """Right answers in percent, by task, and in `protocol` what guessing would get.

    Views are drawn by the run's seed. Batch norms have statistics of the task's own views of training images, in a
    copy: those of the encoder itself are of images as evaluation sees them.

    Args:
        model: of a run of system=pretext, which has these tasks.
        known, pixels: training images, and those to be asked about: uint8 [N, C, R, R].
        labels: of the latter, int64 [N], for the task "supervised".
        tasks: names.
    """
    return {name: _accuracy(model, known, pixels, labels, name) for name in tasks}


def _accuracy(model: Model, known: np.ndarray, pixels: np.ndarray, labels: np.ndarray | None, name: str) -> Measurement:
    E, c, device = copy.deepcopy(model.encoder), model.config, model.device
    assert isinstance(E, PretextEncoder)
    generator = keyed_generator(c.training.seed, f"task/{name}", 0, str(device))

    def run(x: Tensor, y: Tensor) -> TaskResult:
        noise = sample_task_noise(len(x), generator, c.pretext, mirror=c.data.mirror != "never")
        return run_task(E, name, c.pretext, x, noise, y, x.shape[-1])

    def pass_through(x: Tensor) -> TaskResult:
        return run(x, torch.zeros(len(x), dtype=torch.long, device=device))  # whatever the classes

    fill_statistics(E, pass_through, known, c.training.seed)
    right, chance = 0.0, torch.zeros(1)
    truth = np.zeros(len(pixels), dtype=np.int64) if labels is None else labels  # only "supervised" asks for them
    for x, y in zip(torch.from_numpy(pixels).split(BATCH), torch.from_numpy(truth).split(BATCH), strict=True):
        result = run(to_float(x.to(device)), y.to(device))
        right += len(x) * float(result.accuracy)
        chance = chance + len(x) * torch.as_tensor(result.chance).cpu()
    best = float(chance.max()) / len(pixels)  # one answer to all
    protocol = {"chance": round(100 * best, 2), "batch": BATCH}
    return Measurement(100 * right / len(pixels), protocol=protocol)
