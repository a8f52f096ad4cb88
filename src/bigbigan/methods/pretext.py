"""Learning features by pretext tasks (Table 2): E is asked something about images whose answer is known without labels.

    rotation           by how far the image was turned: 0, 90, 180 or 270 degrees (Gidaris et al. 2018)
    relative_position  which of eight neighbours of a patch another one is (Doersch et al. 2015)
    exemplar           which views are of one image (Dosovitskiy et al. 2014; by triplets, Doersch & Zisserman 2017)
    colorization       its colours, from its lightness (Zhang et al. 2016)
    cpc                which patch comes rows below those seen, among patches of this and other images (van den Oord et
                       al. 2018, Hénaff et al. 2019)
    supervised         its class: not a pretext task but the upper line, told labels (`data.labels`)

A task is how it crops, what it shows of a batch (`bigbigan.models.pretext_views`), a head on E's trunk
(`bigbigan.models.pretext_heads`), and the answer: a loss, the share that was right, and the share that guessing
would get right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bigbigan.config import PretextConfig
from bigbigan.crops import Boxes, fixed_boxes, resnet_boxes
from bigbigan.errors import UserError
from bigbigan.methods.base import Draws, Move, Outcome, System
from bigbigan.models import ColourHead, PretextEncoder
from bigbigan.models import pretext_views as views

__all__ = ["TASKS", "Answer", "Pretext", "Task", "ask", "cropped", "draw"]

MARGIN = 0.5  # of the triplet loss
RIVALS = 16  # images among whose patches CPC's are to be found
NEAREST, SIGMA = 5, 5.0  # colours that a colour is spread over, and how
SQUARE = 4096  # side of the square that boxes are drawn in, before the size of the images is known


class Answer(NamedTuple):
    loss: Tensor
    accuracy: Tensor  # share of right answers
    chance: float | Tensor  # the share that guessing gets right; where answers differ in that, of each [Q]


class Task(NamedTuple):
    boxes: Callable[[int, torch.Generator], Boxes]  # training crops of so many images, in a square of side SQUARE
    # Of x [N, C, R, R], draws, settings and R: [N, P, C, S, S]. Exemplar takes x as large as it is kept and crops it.
    views: Callable[[Tensor, Draws, PretextConfig, int], Tensor]
    answer: Callable[[PretextEncoder, Tensor, Tensor, Tensor | None], Answer]  # of E, views as they enter, x, labels


def draw(count: int, noise: torch.Generator, c: PretextConfig, crop: bool = False, mirror: bool = True) -> Draws:
    """All that is random in the views of `count` images, by task and purpose: a row for each image.

    With `crop` each task crops the images it is given; exemplar always does. Without `mirror` no view is mirrored
    (`DataConfig.mirror`).
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=noise, device=noise.device)

    draws: Draws = {}
    if "relative_position" in c.tasks:
        draws |= {"patch grey": uniform() < c.grey, "patch place": uniform(2, 9)}
    if "exemplar" in c.tasks:
        draws["crop grey"] = uniform() < c.grey  # of the image, before its views are cut from it
    for name in c.tasks:
        if crop or name == "exemplar":
            each = c.views if name == "exemplar" else 1
            boxes = TASKS[name].boxes(count * each, noise)
            draws |= {f"{name} {what}": field.view(count, each) for what, field in boxes._asdict().items()}
    if c.patch_augment:
        draws |= {
            "patch channel": uniform(49),
            "patch single": uniform(49) < c.grey,
            "patch mirrored": uniform(49) < 0.5,
        }
    if not mirror:
        draws |= {name: torch.zeros_like(drawn) for name, drawn in draws.items() if name.endswith(" mirrored")}
    return draws


def ask(E: PretextEncoder, name: str, c: PretextConfig, x: Tensor, draws: Draws, y: Tensor | None, side: int) -> Answer:
    """A task on the images x [N, C, S, S] in [-1, 1], in a pass of its own; y int64 [N] for "supervised", and `side`
    the R that E takes. S is R unless `draws` have crops."""
    task, x = TASKS[name], cropped(x, name, draws, side)
    return task.answer(E, E.enter(task.views(x, draws, c, side)), x, y)


def cropped(x: Tensor, name: str, draws: Draws, side: int) -> Tensor:
    """The images that a task is asked about, [N, C, side, side]; exemplar's as they are."""
    if name == "exemplar" or f"{name} top" not in draws:
        return x
    return views.crops(x, _boxes(draws, name, x.shape[-1]), side)[:, 0]


def _boxes(draws: Draws, name: str, side: int) -> Boxes:
    """The boxes drawn for a task, in whole pixels of images of `side` px."""
    top, left, height, width, mirrored = (draws[f"{name} {what}"] for what in Boxes._fields)
    height, width = ((length * side / SQUARE).round().long().clamp(min=1) for length in (height, width))
    top, left = (
        torch.minimum((place * side / SQUARE).round().long(), side - length)
        for place, length in ((top, height), (left, width))
    )
    return Boxes(top, left, height, width, mirrored)


def _area_boxes(count: int, noise: torch.Generator) -> Boxes:
    return resnet_boxes(count, SQUARE, noise)


def _window_boxes(count: int, noise: torch.Generator) -> Boxes:
    return fixed_boxes(count, SQUARE, noise)


def _mirrored_window_boxes(count: int, noise: torch.Generator) -> Boxes:
    boxes = fixed_boxes(count, SQUARE, noise)
    return boxes._replace(mirrored=torch.rand(count, generator=noise, device=noise.device) < 0.5)


def _classified(logits: Tensor, y: Tensor) -> Answer:
    """Cross-entropy of logits [M, K] and answers int64 [M]."""
    return Answer(F.cross_entropy(logits, y), (logits.argmax(1) == y).float().mean(), 1 / logits.shape[1])


def _rotation(E: PretextEncoder, shown: Tensor, x: Tensor, y: Tensor | None) -> Answer:
    turns = torch.arange(4, device=x.device).repeat(len(x))
    return _classified(E.heads["rotation"](E.embed(shown)).flatten(0, 1), turns)


def _supervised(E: PretextEncoder, shown: Tensor, x: Tensor, y: Tensor | None) -> Answer:
    assert y is not None
    return _classified(E.heads["supervised"](E.embed(shown)[:, 0]), y)


def _nine_patches(x: Tensor, draws: Draws, c: PretextConfig, side: int) -> Tensor:
    return views.grid_of_nine(views.without_colour(x, draws["patch grey"]), draws["patch place"], c.gap)


def _relative_position(E: PretextEncoder, shown: Tensor, x: Tensor, y: Tensor | None) -> Answer:
    """The patch in the middle with each of the others."""
    f = E.embed(shown)
    middle, others = f[:, 4:5].expand(-1, 8, -1), torch.cat([f[:, :4], f[:, 5:]], dim=1)
    logits = E.heads["relative_position"](torch.cat([middle, others], dim=2).flatten(0, 1))
    return _classified(logits, torch.arange(8, device=x.device).repeat(len(x)))


def _crops(x: Tensor, draws: Draws, c: PretextConfig, side: int) -> Tensor:
    """Views of an image are all in colour or all grey (google/revisiting-self-supervised: grey comes first)."""
    return views.crops(views.without_colour(x, draws["crop grey"]), _boxes(draws, "exemplar", x.shape[-1]), side)


def _exemplar(E: PretextEncoder, shown: Tensor, x: Tensor, y: Tensor | None) -> Answer:
    """Semi-hard triplets (Schroff et al. 2015): each view, another of its image, and the nearest view of other images
    that is farther than that one; where none is farther, the farthest. Right is whose nearest view is of its image."""
    count, n = shown.shape[1], shown.shape[0] * shown.shape[1]
    z = F.normalize(E.heads["exemplar"](E.embed(shown)).flatten(0, 1), dim=1)
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
    return Answer(torch.stack(losses).mean(), right, (count - 1) / (n - 1))


def _colorization(E: PretextEncoder, shown: Tensor, x: Tensor, y: Tensor | None) -> Answer:
    """Cross-entropy with the colours nearest to the true one, rare colours counting more; right is the nearest, by the
    same weights (the rebalanced accuracy of Zhang et al. 2016)."""
    head = E.heads["colorization"]
    assert isinstance(head, ColourHead)
    side = x.shape[-1] // 8
    colours = F.avg_pool2d(views.rgb_to_lab(x)[:, 1:], 8).permute(0, 2, 3, 1).flatten(0, 2)
    distance, places = torch.cdist(colours, head.bins).topk(NEAREST, largest=False)
    nearest = places[:, 0]
    if E.training:
        head.count(nearest)
    soft = F.softmax(-distance.square() / (2 * SIGMA**2), dim=1)
    logits = head(E.maps(shown), side).permute(0, 2, 3, 1).flatten(0, 2)
    losses = -(soft * F.log_softmax(logits, dim=1).gather(1, places)).sum(1)
    weights = head.weights()[nearest]
    right = (weights * (logits.argmax(1) == nearest)).sum() / weights.sum()
    shares = (F.one_hot(nearest, logits.shape[1]) * weights[:, None]).sum(0) / weights.sum()
    return Answer((weights * losses).mean(), right, shares)


def _overlapping_patches(x: Tensor, draws: Draws, c: PretextConfig, side: int) -> Tensor:
    patches = views.overlapping_grid(x)
    if c.patch_augment:
        patches = views.single_channel(patches, draws["patch channel"], draws["patch single"])
        patches = views.mirrored(patches, draws["patch mirrored"])
    return patches


def _cpc(E: PretextEncoder, shown: Tensor, x: Tensor, y: Tensor | None) -> Answer:
    """InfoNCE: each guess is to be found among all patches of up to 16 images, its own among them."""
    grid = E.embed(shown).transpose(1, 2).unflatten(2, (7, 7))
    losses, hits = [], []
    for guesses, among, right in E.heads["cpc"](grid):
        for some, rivals in zip(guesses.split(RIVALS), among.split(RIVALS), strict=True):
            logits = some.flatten(0, 1) @ rivals.flatten(0, 1).t()
            first = among.shape[1] * torch.arange(len(some), device=x.device)  # place of each image's first patch
            answers = (first[:, None] + right).flatten()
            losses.append(F.cross_entropy(logits, answers, reduction="none"))
            hits.append(logits.argmax(1) == answers)
    chance = 1 / (min(RIVALS, len(x)) * grid[0, 0].numel())
    return Answer(torch.cat(losses).mean(), torch.cat(hits).float().mean(), chance)


TASKS: dict[str, Task] = {
    "rotation": Task(_area_boxes, lambda x, draws, c, side: views.rotations(x), _rotation),
    "relative_position": Task(_window_boxes, _nine_patches, _relative_position),
    "exemplar": Task(_area_boxes, _crops, _exemplar),
    "colorization": Task(_mirrored_window_boxes, lambda x, draws, c, side: x[:, None], _colorization),
    "cpc": Task(_mirrored_window_boxes, _overlapping_patches, _cpc),
    "supervised": Task(_area_boxes, lambda x, draws, c, side: x[:, None], _supervised),
}


class Pretext(System):
    learners: ClassVar = {"e": "E"}

    @property
    def moves(self) -> Sequence[Move]:
        return [self.move]

    def draw(self, count: int, noise: torch.Generator) -> Draws:
        """What is random in the views of the tasks."""
        data = self.config.data
        return draw(count, noise, self.config.pretext, data.augment == "task_crop", data.mirror != "never")

    def move(self, x: Tensor, draws: Draws, y: Tensor | None = None) -> Iterator[Outcome]:
        """Each task on the batch, in a pass of its own: batch norms see views of one kind at a time."""
        E, c = self.networks.E, self.config.pretext
        assert isinstance(E, PretextEncoder)
        for name in c.tasks:
            answer = ask(E, name, c, x, draws, y, self.config.encoder.resolution)
            figures = {f"loss_{name}": answer.loss.detach(), f"accuracy_{name}": answer.accuracy}
            yield Outcome({"e": answer.loss}, figures=figures)

    def check(self, x: Tensor) -> None:
        if "colorization" in self.config.pretext.tasks and views.rgb_to_lab(x)[:, 1:].abs().max() < 1:
            raise UserError(
                "these images are grey, and the task colorization asks for their colours; choose another task"
            )

    def pictures(self, x: Tensor, draws: Draws) -> dict[str, Tensor]:
        """What enters E of the images x for each task; of colorization between the image and the colours asked for."""
        E, c, side = self.networks.E, self.config.pretext, self.config.encoder.resolution
        assert isinstance(E, PretextEncoder)
        about = {name: cropped(x, name, draws, side) for name in c.tasks}
        shown: dict[str, Tensor] = {name: E.enter(TASKS[name].views(about[name], draws, c, side)) for name in c.tasks}
        if c.standardize:
            shown = {name: (v / 2.5).clamp(-1, 1) for name, v in shown.items()}
        if "colorization" in shown:
            x = about["colorization"]
            shown["colorization"] = torch.stack([x, shown["colorization"][:, 0], _painted(E, x)], dim=1)
        return shown


def _painted(E: PretextEncoder, x: Tensor) -> Tensor:
    """The lightness of x with the colours, rounded, that E is asked for."""
    bins = E.heads["colorization"].bins
    assert isinstance(bins, Tensor)
    lab = views.rgb_to_lab(x)
    coarse = F.avg_pool2d(lab[:, 1:], 8)
    nearest = torch.cdist(coarse.permute(0, 2, 3, 1).flatten(0, 2), bins).argmin(1)
    colours = bins[nearest].unflatten(0, (len(x), *coarse.shape[2:])).permute(0, 3, 1, 2)
    return views.lab_to_rgb(torch.cat([lab[:, :1], F.interpolate(colours, scale_factor=8)], dim=1))
