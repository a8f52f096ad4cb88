"""Train E by pretext tasks (Table 2): it predicts something that is known about an image without labels.

    rotation           the rotation of the image: 0, 90, 180 or 270 degrees (Gidaris et al. 2018)
    relative_position  the position of a patch, one of eight, relative to another patch (Doersch et al. 2015)
    exemplar           which views are of the same image (Dosovitskiy et al. 2014; by triplets, Doersch & Zisserman
                       2017)
    colorization       colours, from lightness (Zhang et al. 2016)
    cpc                the patch some rows below the given patches, among patches of this and other images (van den
                       Oord et al. 2018, Hénaff et al. 2019)
    supervised         the class: not a pretext task but the supervised upper bound, trained on labels (`data.labels`)

A task is its training crops, its views of a batch (`bigbigan.models.pretext_views`), a head on E's trunk
(`bigbigan.models.pretext_heads`), and its result: loss, accuracy, and chance accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bigbigan.config import PretextConfig
from bigbigan.errors import UserError
from bigbigan.image.crops import Boxes, fixed_boxes, resnet_boxes
from bigbigan.methods.base import Noise, Outcome, System, Update
from bigbigan.models import ColourHead, PretextEncoder
from bigbigan.models import pretext_views as views

__all__ = ["TASKS", "Pretext", "Task", "TaskResult", "run_task", "sample_task_noise", "task_crop"]

MARGIN = 0.5  # of the triplet loss
NEGATIVE_IMAGES = 16  # CPC: images whose patches are compared with each prediction, its own image among them
NEAREST, SIGMA = 5, 5.0  # colour bins that soft-encode a colour, and the width of their Gaussian weights in Lab
SQUARE = 4096  # boxes are drawn in a square of this side, before the size of the images is known


class TaskResult(NamedTuple):
    """The result of a task on a batch."""

    loss: Tensor
    accuracy: Tensor
    chance: float | Tensor  # accuracy of guessing; for each answer, [Q], if they differ


class Task(NamedTuple):
    """The functions that define a task."""

    boxes: Callable[[int, torch.Generator], Boxes]  # training crops for a number of images, in a square of side SQUARE
    # Of x [N, C, R, R], noise, settings and R: [N, P, C, S, S]. Exemplar takes x at the size it is stored and crops it.
    views: Callable[[Tensor, Noise, PretextConfig, int], Tensor]
    evaluate: Callable[[PretextEncoder, Tensor, Tensor, Tensor | None], TaskResult]  # of E, its input views, x, labels


def sample_task_noise(
    count: int, generator: torch.Generator, c: PretextConfig, crop: bool = False, mirror: bool = True
) -> Noise:
    """Draw the random numbers of the views of `count` images, by task and purpose: a row for each image.

    Args:
        count: number of images.
        generator: of the random numbers.
        c: the tasks and their settings.
        crop: whether each task crops the images it is given; exemplar always does.
        mirror: whether views may be mirrored (`DataConfig.mirror`).
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, device=generator.device)

    noise: Noise = {}
    if "relative_position" in c.tasks:
        noise |= {"patch grey": uniform() < c.grey, "patch place": uniform(2, 9)}
    if "exemplar" in c.tasks:
        noise["crop grey"] = uniform() < c.grey  # of the image, before its views are cut from it
    for name in c.tasks:
        if crop or name == "exemplar":
            each = c.views if name == "exemplar" else 1
            boxes = TASKS[name].boxes(count * each, generator)
            noise |= {f"{name} {what}": field.view(count, each) for what, field in boxes._asdict().items()}
    if c.patch_augment:
        noise |= {
            "patch channel": uniform(49),
            "patch single": uniform(49) < c.grey,
            "patch mirrored": uniform(49) < 0.5,
        }
    if not mirror:
        noise |= {name: torch.zeros_like(values) for name, values in noise.items() if name.endswith(" mirrored")}
    return noise


def run_task(
    E: PretextEncoder, name: str, c: PretextConfig, x: Tensor, noise: Noise, y: Tensor | None, side: int
) -> TaskResult:
    """Run one task on a batch, in its own pass through E.

    Args:
        E: with a head for the task.
        name: of the task.
        c: settings of the tasks.
        x: images [N, C, S, S] in [-1, 1]; S is `side` unless `noise` has crops.
        noise: from `sample_task_noise`.
        y: labels int64 [N], for "supervised".
        side: R, the side of the images E takes, in pixels.
    """
    task, x = TASKS[name], task_crop(x, name, noise, side)
    return task.evaluate(E, E.enter(task.views(x, noise, c, side)), x, y)


def task_crop(x: Tensor, name: str, noise: Noise, side: int) -> Tensor:
    """Return the images [N, C, side, side] as a task crops them; exemplar's unchanged."""
    if name == "exemplar" or f"{name} top" not in noise:
        return x
    return views.crops(x, _boxes(noise, name, x.shape[-1]), side)[:, 0]


def _boxes(noise: Noise, name: str, side: int) -> Boxes:
    """Return the boxes drawn for a task, in whole pixels of images of `side` px."""
    top, left, height, width, mirrored = (noise[f"{name} {what}"] for what in Boxes._fields)
    height, width = ((length * side / SQUARE).round().long().clamp(min=1) for length in (height, width))
    top, left = (
        torch.minimum((place * side / SQUARE).round().long(), side - length)
        for place, length in ((top, height), (left, width))
    )
    return Boxes(top, left, height, width, mirrored)


def _area_boxes(count: int, generator: torch.Generator) -> Boxes:
    return resnet_boxes(count, SQUARE, generator)


def _window_boxes(count: int, generator: torch.Generator) -> Boxes:
    return fixed_boxes(count, SQUARE, generator)


def _mirrored_window_boxes(count: int, generator: torch.Generator) -> Boxes:
    boxes = fixed_boxes(count, SQUARE, generator)
    return boxes._replace(mirrored=torch.rand(count, generator=generator, device=generator.device) < 0.5)


def _classification(logits: Tensor, y: Tensor) -> TaskResult:
    """Return the result of a classification: cross-entropy of logits [M, K] and answers int64 [M]."""
    return TaskResult(F.cross_entropy(logits, y), (logits.argmax(1) == y).float().mean(), 1 / logits.shape[1])


def _rotation(E: PretextEncoder, inputs: Tensor, x: Tensor, y: Tensor | None) -> TaskResult:
    turns = torch.arange(4, device=x.device).repeat(len(x))
    return _classification(E.heads["rotation"](E.embed(inputs)).flatten(0, 1), turns)


def _supervised(E: PretextEncoder, inputs: Tensor, x: Tensor, y: Tensor | None) -> TaskResult:
    assert y is not None
    return _classification(E.heads["supervised"](E.embed(inputs)[:, 0]), y)


def _nine_patches(x: Tensor, noise: Noise, c: PretextConfig, side: int) -> Tensor:
    return views.grid_of_nine(views.without_colour(x, noise["patch grey"]), noise["patch place"], c.gap)


def _relative_position(E: PretextEncoder, inputs: Tensor, x: Tensor, y: Tensor | None) -> TaskResult:
    """Classify the position of each outer patch from its features and those of the central patch."""
    f = E.embed(inputs)
    middle, others = f[:, 4:5].expand(-1, 8, -1), torch.cat([f[:, :4], f[:, 5:]], dim=1)
    logits = E.heads["relative_position"](torch.cat([middle, others], dim=2).flatten(0, 1))
    return _classification(logits, torch.arange(8, device=x.device).repeat(len(x)))


def _crops(x: Tensor, noise: Noise, c: PretextConfig, side: int) -> Tensor:
    """Crop the views of an image, all in colour or all grey (as google/revisiting-self-supervised)."""
    return views.crops(views.without_colour(x, noise["crop grey"]), _boxes(noise, "exemplar", x.shape[-1]), side)


def _exemplar(E: PretextEncoder, inputs: Tensor, x: Tensor, y: Tensor | None) -> TaskResult:
    """Return the loss of semi-hard triplets (Schroff et al. 2015).

    A triplet is a view, another view of its image, and the nearest view of another image that is farther than that
    one, or the farthest if none is. A view counts as right if its nearest view is of its own image.
    """
    count, n = inputs.shape[1], inputs.shape[0] * inputs.shape[1]
    z = F.normalize(E.heads["exemplar"](E.embed(inputs)).flatten(0, 1), dim=1)
    squared = (2 - 2 * z @ z.t()).clamp(min=0)
    image = torch.arange(n, device=x.device) // count
    other = image[:, None] != image
    farthest = squared.masked_fill(~other, -torch.inf).amax(1)
    losses = []
    for step in range(1, count):  # each view's partner, `step` views on within its image
        partner = image * count + (torch.arange(n, device=x.device) + step) % count
        near = squared.gather(1, partner[:, None])
        beyond = squared.masked_fill(~(other & (squared > near)), torch.inf).amin(1)
        negative = torch.where(beyond.isinf(), farthest, beyond)
        losses.append(F.relu(MARGIN + near.squeeze(1) - negative))
    nearest = squared.detach().clone().fill_diagonal_(torch.inf).argmin(1)
    right = (image[nearest] == image).float().mean()
    return TaskResult(torch.stack(losses).mean(), right, (count - 1) / (n - 1))


def _colorization(E: PretextEncoder, inputs: Tensor, x: Tensor, y: Tensor | None) -> TaskResult:
    """Return the cross-entropy with the colour bins nearest to the true colour, rare colours weighted up.

    Accuracy counts the nearest bin as correct, with the same weights (the rebalanced accuracy of Zhang et al. 2016).
    """
    head = E.heads["colorization"]
    assert isinstance(head, ColourHead)
    side = x.shape[-1] // 8
    colours = F.avg_pool2d(views.rgb_to_lab(x)[:, 1:], 8).permute(0, 2, 3, 1).flatten(0, 2)
    distance, places = torch.cdist(colours, head.bins).topk(NEAREST, largest=False)
    nearest = places[:, 0]
    if E.training:
        head.count(nearest)
    soft = F.softmax(-distance.square() / (2 * SIGMA**2), dim=1)
    logits = head(E.maps(inputs), side).permute(0, 2, 3, 1).flatten(0, 2)
    losses = -(soft * F.log_softmax(logits, dim=1).gather(1, places)).sum(1)
    weights = head.weights()[nearest]
    right = (weights * (logits.argmax(1) == nearest)).sum() / weights.sum()
    shares = (F.one_hot(nearest, logits.shape[1]) * weights[:, None]).sum(0) / weights.sum()
    return TaskResult((weights * losses).mean(), right, shares)


def _overlapping_patches(x: Tensor, noise: Noise, c: PretextConfig, side: int) -> Tensor:
    patches = views.overlapping_grid(x)
    if c.patch_augment:
        patches = views.single_channel(patches, noise["patch channel"], noise["patch single"])
        patches = views.mirrored(patches, noise["patch mirrored"])
    return patches


def _cpc(E: PretextEncoder, inputs: Tensor, x: Tensor, y: Tensor | None) -> TaskResult:
    """Return InfoNCE: each prediction is matched with its patch among all patches of up to 16 images."""
    grid = E.embed(inputs).transpose(1, 2).unflatten(2, (7, 7))
    losses, hits = [], []
    for predictions, candidates, right in E.heads["cpc"](grid):
        groups = zip(predictions.split(NEGATIVE_IMAGES), candidates.split(NEGATIVE_IMAGES), strict=True)
        for predicted, patches in groups:
            logits = predicted.flatten(0, 1) @ patches.flatten(0, 1).t()
            first_patches = candidates.shape[1] * torch.arange(len(predicted), device=x.device)  # of each image
            answers = (first_patches[:, None] + right).flatten()
            losses.append(F.cross_entropy(logits, answers, reduction="none"))
            hits.append(logits.argmax(1) == answers)
    chance = 1 / (min(NEGATIVE_IMAGES, len(x)) * grid[0, 0].numel())
    return TaskResult(torch.cat(losses).mean(), torch.cat(hits).float().mean(), chance)


TASKS: dict[str, Task] = {
    "rotation": Task(_area_boxes, lambda x, noise, c, side: views.rotations(x), _rotation),
    "relative_position": Task(_window_boxes, _nine_patches, _relative_position),
    "exemplar": Task(_area_boxes, _crops, _exemplar),
    "colorization": Task(_mirrored_window_boxes, lambda x, noise, c, side: x[:, None], _colorization),
    "cpc": Task(_mirrored_window_boxes, _overlapping_patches, _cpc),
    "supervised": Task(_area_boxes, lambda x, noise, c, side: x[:, None], _supervised),
}


class Pretext(System):
    """E alone, trained by one or more pretext tasks (`pretext.tasks`), whose losses are added up."""

    players: ClassVar = {"e": "E"}

    @property
    def updates(self) -> Sequence[Update]:
        return [self.update]

    def sample_noise(self, count: int, generator: torch.Generator) -> Noise:
        """Draw the random numbers of the tasks' views."""
        data = self.config.data
        return sample_task_noise(
            count, generator, self.config.pretext, data.augment == "task_crop", data.mirror != "never"
        )

    def update(self, x: Tensor, noise: Noise, y: Tensor | None = None) -> Iterator[Outcome]:
        """Return the loss of each task in turn, each in its own pass, so that batch norms never mix tasks."""
        E, c = self.networks.E, self.config.pretext
        assert isinstance(E, PretextEncoder)
        for name in c.tasks:
            result = run_task(E, name, c, x, noise, y, self.config.encoder.resolution)
            metrics = {f"loss_{name}": result.loss.detach(), f"accuracy_{name}": result.accuracy}
            yield Outcome({"e": result.loss}, metrics=metrics)

    def check_images(self, x: Tensor) -> None:
        """Raise UserError if the task colorization is given grey images."""
        if "colorization" in self.config.pretext.tasks and views.rgb_to_lab(x)[:, 1:].abs().max() < 1:
            raise UserError(
                "these images are grey, but the task colorization predicts their colours; choose another task"
            )

    def input_pictures(self, x: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Return E's input views of x, by task; for colorization between the image and its target colours."""
        E, c, side = self.networks.E, self.config.pretext, self.config.encoder.resolution
        assert isinstance(E, PretextEncoder)
        crops = {name: task_crop(x, name, noise, side) for name in c.tasks}
        inputs: dict[str, Tensor] = {name: E.enter(TASKS[name].views(crops[name], noise, c, side)) for name in c.tasks}
        if c.standardize:
            inputs = {name: (v / 2.5).clamp(-1, 1) for name, v in inputs.items()}
        if "colorization" in inputs:
            x = crops["colorization"]
            inputs["colorization"] = torch.stack([x, inputs["colorization"][:, 0], _target_colours(E, x)], dim=1)
        return inputs


def _target_colours(E: PretextEncoder, x: Tensor) -> Tensor:
    """Return the lightness of x with the rounded colours that E is trained to predict."""
    bins = E.heads["colorization"].bins
    assert isinstance(bins, Tensor)
    lab = views.rgb_to_lab(x)
    coarse = F.avg_pool2d(lab[:, 1:], 8)
    nearest = torch.cdist(coarse.permute(0, 2, 3, 1).flatten(0, 2), bins).argmin(1)
    colours = bins[nearest].unflatten(0, (len(x), *coarse.shape[2:])).permute(0, 3, 1, 2)
    return views.lab_to_rgb(torch.cat([lab[:, :1], F.interpolate(colours, scale_factor=8)], dim=1))
