"""Measure how well an encoder solves the pretext tasks it was trained on, on images it has not seen."""

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

BATCH = 64  # images in a pass; tasks that match views do so among the views of one pass


@torch.no_grad()
def task_accuracies(
    model: Model, train: np.ndarray, test: np.ndarray, labels: np.ndarray | None, tasks: Sequence[str]
) -> dict[str, Measurement]:
    """Return the accuracy in percent by task, with the accuracy of guessing in `protocol`.

    Views are drawn by the run's seed. The batch norms of a copy of the encoder get statistics of the task's own views
    of training images; the encoder's own statistics are of images as evaluation sees them.

    Args:
        model: the model of a run of system=pretext, which has these tasks.
        train: training images, uint8 [M, C, R, R], for the statistics.
        test: images to measure on, uint8 [N, C, R, R].
        labels: labels of the test images, int64 [N], for the task "supervised".
        tasks: names.
    """
    return {name: _accuracy(model, train, test, labels, name) for name in tasks}


def _accuracy(model: Model, train: np.ndarray, test: np.ndarray, labels: np.ndarray | None, name: str) -> Measurement:
    E, c, device = copy.deepcopy(model.encoder), model.config, model.device
    assert isinstance(E, PretextEncoder)
    generator = keyed_generator(c.training.seed, f"task/{name}", 0, str(device))

    def run(x: Tensor, y: Tensor) -> TaskResult:
        noise = sample_task_noise(len(x), generator, c.pretext, mirror=c.data.mirror != "never")
        return run_task(E, name, c.pretext, x, noise, y, x.shape[-1])

    def pass_through(x: Tensor) -> TaskResult:
        return run(x, torch.zeros(len(x), dtype=torch.long, device=device))  # any classes will do

    weights = {k: v.clone() for k, v in E.state_dict().items() if k.endswith(".frequency")}
    fill_statistics(E, pass_through, train, c.training.seed)
    E.load_state_dict(weights, strict=False)  # colour weights of training, which the passes above changed
    correct, chance = 0.0, torch.zeros(1)
    truth = np.zeros(len(test), dtype=np.int64) if labels is None else labels  # only "supervised" reads them
    for x, y in zip(torch.from_numpy(test).split(BATCH), torch.from_numpy(truth).split(BATCH), strict=True):
        result = run(to_float(x.to(device)), y.to(device))
        correct += len(x) * float(result.accuracy)
        chance = chance + len(x) * torch.as_tensor(result.chance).cpu()
    best = float(chance.max()) / len(test)  # of guessing: the same answer for all
    protocol = {"chance": round(100 * best, 2), "batch": BATCH}
    return Measurement(100 * correct / len(test), protocol=protocol)
