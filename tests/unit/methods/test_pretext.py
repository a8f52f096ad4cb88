"""Pretext tasks: each shows what it says it shows, is learned, and gives an encoder that everything else works with."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import bigbigan
from bigbigan.apps.serve import ServedModel
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.config import Config, PretextConfig, flat, override
from bigbigan.data.batches import Batches
from bigbigan.errors import UserError
from bigbigan.evaluation.probes.pretext_accuracy import task_accuracies
from bigbigan.evaluation.runner import evaluate
from bigbigan.evaluation.splits import View
from bigbigan.experiments import EXPERIMENTS, find
from bigbigan.image import to_float
from bigbigan.image.convert import LUMA
from bigbigan.inference.model import Model
from bigbigan.integrations.timm import timm_state_dict
from bigbigan.methods import make_system
from bigbigan.methods.pretext import TASKS, sample_task_noise, task_crop
from bigbigan.models import ColourHead, build, construct
from bigbigan.models import pretext_views as views
from bigbigan.models.pretext_heads import ContextHead, pair_head
from bigbigan.sklearn import BigBiGANFeatures
from bigbigan.training import checkpoint as ck
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step
from tiny import write_npz

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = [
    "encoder.block=basic", "encoder.blocks=1", "encoder.widths=[8,16]", "encoder.head_width=16",
    "training.batch_size=16", "log.every=2", "log.checkpoint_every=4", "log.pictures_every=4", "log.validate_every=0",
    "log.standing_batches=2",
]  # fmt: skip
GREY_8_PX = ["data.channels=1", "data.augment=none", "encoder.resolution=8"]
BLOCKS = ["basic", "bottleneck", "reversible"]
METHODS = [name for name in EXPERIMENTS if name.startswith("pretext/")]


def tiny(method: str, *settings: str) -> Config:
    return override(find(f"pretext/{method}").config(32), [*TINY, *settings])


def call(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An encoder that learned to see how digits are turned, for a second or two."""
    run = tmp_path_factory.mktemp("runs") / "rotation"
    settings = [*TINY, *GREY_8_PX, "encoder.widths=[16,32]", "training.batch_size=64", "optimizer.lr_g=0.003"]
    arguments = ["train", "pretext/rotation", "--scale", "32", "--data", "digits", "--out", str(run), "--quiet"]
    assert main([*arguments, "--steps", "60", "--set", *settings]) == 0
    return run


# -- what is shown --------------------------------------------------------------------------------------------


def test_rotations_are_turned_against_the_clock():
    x = torch.arange(4.0).view(1, 1, 2, 2)
    found = views.rotations(x)[0, :, 0]
    expected = [[[0, 1], [2, 3]], [[1, 3], [0, 2]], [[3, 2], [1, 0]], [[2, 0], [3, 1]]]
    assert found.tolist() == expected


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def coordinates(side):
    """An image whose pixels are their places: [1, 3, R, R] of row, column and nothing."""
    rows, columns = torch.meshgrid(torch.arange(float(side)), torch.arange(float(side)), indexing="ij")
    return torch.stack([rows, columns, torch.zeros(side, side)])[None]


@pytest.mark.parametrize(("side", "size"), [(32, 8), (64, 16), (256, 64)])
def test_patches_of_the_grid_keep_apart_and_lie_in_their_cells(side, size):
    x, cell = coordinates(side).expand(50, -1, -1, -1), side // 3
    patches = views.grid_of_nine(x, uniform(50, 2, 9))
    assert patches.shape == (50, 9, 3, size, size)
    top, left = (patches[:, :, i, 0, 0] for i in (0, 1))
    assert torch.equal(patches[:, :, 0], top[..., None, None] + torch.arange(size)[:, None].expand(50, 9, size, size))
    assert torch.equal(patches[:, :, 1], left[..., None, None] + torch.arange(size).expand(50, 9, size, size))
    start = (side - 3 * cell) // 2
    for i, (t, l) in enumerate(zip(top.t(), left.t(), strict=True)):  # noqa: E741
        assert t.min() >= start + i // 3 * cell
        assert l.min() >= start + i % 3 * cell
        assert t.max() + size < start + (i // 3 + 1) * cell  # the last row and column of a cell are never shown
        assert l.max() + size < start + (i % 3 + 1) * cell
        assert len(t.unique()) > 0.7 * (cell - size)
    middle = views.grid_of_nine(coordinates(side))[0, :, :2, 0, 0]
    assert middle.unique(dim=0).shape == (9, 2)
    touching = views.grid_of_nine(coordinates(side), gap=False)[0, :, :2, 0, 0]
    assert (touching[1] - touching[0]).tolist() == [0, size]
    assert (touching[3] - touching[0]).tolist() == [size, 0]


def test_what_cpc_guesses_shares_no_pixel_with_what_it_saw():
    grid = views.overlapping_grid(coordinates(32))[0].view(7, 7, 3, 8, 8)
    for row in range(7):
        seen = grid[: row + 1, :, 0].max()
        for offset in ContextHead.offsets:
            if row + offset < 7:
                assert grid[row + offset, :, 0].min() > seen


@pytest.mark.parametrize("directions", [1, 2, 4])
def test_cpc_context_sees_no_row_below_in_any_direction(directions):
    head = ContextHead(16, directions)
    x = uniform(2, 16, 7, 7)
    found = head(x)
    assert len(found) == directions
    turned = x.clone()
    turned[:, :, 3:] += 1  # rows below those up to 2
    count = [7 * (7 - o) for o in head.offsets]
    guesses = [f[0].split(count, dim=1) for f in (found[0], head(turned)[0])]
    for before, after, o in zip(*guesses, head.offsets, strict=True):
        assert before.shape[1] == 7 * (7 - o)
        torch.testing.assert_close(before[:, : 7 * min(3, 7 - o)], after[:, : 7 * min(3, 7 - o)])
    for guess, among, right in found:
        assert guess.shape == (2, sum(count), 64)
        assert among.shape == (2, 49, 64)
        assert right.shape == (sum(count),)
        assert right[:7].tolist() == list(range(14, 21))  # from the first row, two rows on
    if directions > 1:  # from below: the target at a place of the turned grid is that of the patch that lies there
        torch.testing.assert_close(found[1][1], found[0][1].flip(1))


def test_views_of_an_exemplar_are_crops_of_their_image():
    x = torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, 3, 32, 32)
    c = PretextConfig(tasks=("exemplar",), views=4)
    noise = sample_task_noise(6, torch.Generator().manual_seed(0), c)
    shown = TASKS["exemplar"].views(x, noise, c, 32)
    assert shown.shape == (6, 4, 3, 32, 32)
    torch.testing.assert_close(shown, x[:, None].expand_as(shown), atol=1e-4, rtol=0)


def test_all_views_of_an_exemplar_agree_in_being_grey():
    x = torch.tensor([0.9, -0.2, -0.7]).view(1, 3, 1, 1).expand(200, 3, 32, 32)
    c = PretextConfig(tasks=("exemplar",), views=8)
    shown = TASKS["exemplar"].views(x, sample_task_noise(200, torch.Generator().manual_seed(0), c), c, 32)
    grey = (shown.amax(2) - shown.amin(2)).amax((2, 3)) < 1e-3  # [N, P]
    assert torch.equal(grey.all(1), grey.any(1))
    assert 0.56 < grey[:, 0].float().mean() < 0.76  # 0.66 of the images


def full_size(method, *settings):
    small = ["encoder.blocks=1", "encoder.widths=[8,16]", "encoder.block=basic", "encoder.head_width=16"]
    return override(find(f"pretext/{method}").config(), [*small, "training.batch_size=4", *settings])


def asked_about(method, *settings, without=(), count=64):
    """At full size, of images whose pixels are their places and which are kept at 293 px: the views of the tasks."""
    config = full_size(method, *settings)
    seen = {}
    with torch.device("meta"):  # the tasks need no weights
        networks = construct(config)
    system = make_system(config, networks)
    x = coordinates(293).expand(count, -1, -1, -1) / 146 - 1
    noise = system.sample_noise(count, torch.Generator().manual_seed(0))
    for name in set(config.pretext.tasks) - set(without):
        side = config.encoder.resolution
        seen[name] = TASKS[name].views(task_crop(x, name, noise, side), noise, config.pretext, side)
    return seen, config


def extent(view):
    """Rows and columns of the kept image between the first and the last pixel of views [..., 3, S, S] of places."""
    places = (view[..., :2, :, :] + 1) * 146
    rows, columns = places[..., 0, :, :], places[..., 1, :, :]
    return rows[..., -1, 0] - rows[..., 0, 0], columns[..., 0, -1] - columns[..., 0, 0]


def test_exemplar_cuts_its_views_from_the_whole_image():
    """From what is kept, not from a crop of it: with eight views nearly all of an image is seen."""
    seen, config = asked_about("exemplar", "pretext.grey=0", count=24)
    shown = seen["exemplar"]
    assert shown.shape == (24, 8, 3, 256, 256)
    rows, columns = extent(shown)
    share = rows * columns.abs() / 293**2
    assert 0.05 < share.min() < 0.12
    assert share.max() > 0.85
    assert (share.amax(1) > 0.5).float().mean() > 0.9  # views of a nested crop would be of half that area
    assert 0.4 < (columns < 0).float().mean() < 0.6
    pixels = torch.randint(0, 256, (5, 3, 293, 293), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batches = Batches(pixels, 4, 0, config.data.augment, config.encoder.resolution)
    assert torch.equal(batches.batch(0), to_float(pixels[batches.indices(0)]))


@pytest.mark.parametrize("method", ["relative_position", "cpc", "colorization", "combination"])
def test_tasks_crop_as_published(method):
    """Windows at the scale of the image; only those of CPC and colorization are mirrored."""
    settings = ["pretext.grey=0"] if method == "relative_position" else []
    seen, _ = asked_about(method, *settings, without=["exemplar"])
    for task, shown in seen.items():
        rows, columns = extent(shown)
        size = shown.shape[-1]
        assert size == (256 if task == "colorization" else 64)
        assert (rows - (size - 1)).abs().max() < 0.1
        assert (columns.abs() - (size - 1)).abs().max() < 0.1
        mirrored = (columns < 0).float().mean(1) if columns.ndim > 1 else columns < 0
        assert mirrored.float().mean() == 0 if task == "relative_position" else 0.2 < mirrored.float().mean() < 0.8
        tops = shown[:, 0, 0, 0, 0]
        assert len(tops.unique()) > 10


def test_the_others_crop_like_a_classifier():
    for method in ("rotation", "supervised"):
        seen, _ = asked_about(method)
        rows, columns = extent(seen[method][:, :1])
        share = rows * columns.abs() / 293**2
        assert share.min() < 0.25
        assert share.max() > 0.8
        assert 0.2 < (columns < 0).float().mean() < 0.8


def test_no_task_is_given_crops_at_full_size():
    for name in METHODS:
        assert find(name).config().data.augment == "task_crop"
        assert (
            View.from_config(find(name).config()).augment == "resnet_crop"
        )  # of classifiers on its features, as in Table 2


def test_relative_position_embeds_patches_before_its_head():
    """google/revisiting-self-supervised: 1,000 numbers of each patch, 4,096 of the pair, batches of 128 images."""
    config = find("pretext/relative_position").config()
    assert config.training.batch_size == 128
    head = pair_head(1024, config.encoder.head_width, config.pretext.embedding)
    shapes = [tuple(p.shape) for n, p in head.named_parameters() if n.endswith("weight") and p.ndim > 1]
    assert shapes == [(1000, 1024), (4096, 2000), (8, 4096)]
    pairs = uniform(5, 2048)
    other = torch.cat([pairs[:, :1024], pairs[:, :1024]], dim=1)
    embedded = head[0](torch.cat([pairs, other]))
    torch.testing.assert_close(embedded[:5, :1000], embedded[5:, 1000:])  # one layer for both patches


def test_lab_round_trip_and_the_cells_within_srgb():
    levels = torch.linspace(-1, 1, 86)  # every third of the 256
    cells = set()
    for red in levels:
        x = torch.stack([red.expand(86, 86), *torch.meshgrid(levels, levels, indexing="ij")])[None]
        lab = views.rgb_to_lab(x)
        torch.testing.assert_close(views.lab_to_rgb(lab), x, atol=2e-3, rtol=0)
        cells |= set(map(tuple, (lab[0, 1:] / views.BIN).round().long().flatten(1).t().unique(dim=0).tolist()))
    known = {(a / views.BIN, b / views.BIN) for a, b in views.gamut_bins()}
    assert cells <= known
    assert len(known) == 261
    assert len(known - cells) <= 3  # corners that no third level falls into
    # sRGB's primaries and white, by any colour calculator
    for rgb, expected in (
        ((1, 1, 1), (100, 0, 0)),
        ((1, -1, -1), (53.24, 80.09, 67.2)),
        ((-1, -1, 1), (32.3, 79.19, -107.86)),
    ):
        found = views.rgb_to_lab(torch.tensor(rgb, dtype=torch.float).view(1, 3, 1, 1)).flatten()
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float), atol=0.02, rtol=0)


def test_rare_colours_count_more_and_the_mean_weight_is_one():
    head = ColourHead(4, 8)
    torch.testing.assert_close(head.weights(), torch.ones(261))
    for _ in range(300):
        head.count(torch.tensor([3] * 9 + [5]))
    w = head.weights()
    assert w[3] < w[5] < w[0]
    torch.testing.assert_close((head.frequency * w).sum(), torch.tensor(1.0))
    torch.testing.assert_close(head.frequency[[3, 5]], torch.tensor([0.9, 0.1]), atol=0.06, rtol=0)


def test_triplets_are_semi_hard():
    """Against a loop over all triplets."""
    E = encoder("exemplar", "pretext.views=3")
    x = uniform(5, 3, 32, 32) * 2 - 1
    c = PretextConfig(tasks=("exemplar",), views=3)
    shown = E.enter(TASKS["exemplar"].views(x, sample_task_noise(5, torch.Generator().manual_seed(0), c), c, 32))
    answer = TASKS["exemplar"].evaluate(E, shown, x, None)
    z = torch.nn.functional.normalize(E.heads["exemplar"](E.embed(shown)).flatten(0, 1), dim=1).tolist()
    d = [[sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) for v in z] for u in z]
    losses = []
    for a in range(15):
        others = [d[a][n] for n in range(15) if n // 3 != a // 3]
        for p in range(15):
            if p != a and p // 3 == a // 3:
                farther = [v for v in others if v > d[a][p]]
                losses.append(max(0, 0.5 + d[a][p] - (min(farther) if farther else max(others))))
    assert answer.loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    right = [min((j for j in range(15) if j != i), key=lambda j, i=i: d[i][j]) // 3 == i // 3 for i in range(15)]
    assert answer.accuracy.item() == pytest.approx(sum(right) / 15)
    assert answer.chance == 2 / 14


# -- shortcuts: what gives an answer away is there without the guard, and not with it ------------------------------


def encoder(method, *settings):
    return build(tiny(method, *settings)).encoder


def accuracy(x, *settings, steps=40, task="relative_position"):
    """Return the accuracy on the training images [N, 3, 32, 32] after `steps` steps of a tiny backbone."""
    config = tiny(task, *settings, "optimizer.lr_g=0.01", f"training.steps={steps}", "training.batch_size=32")
    state = TrainingState(config, torch.device("cpu"))
    batches = Batches(((x + 1) * 127.5).round().to(torch.uint8), 32, 0)
    values = [training_step(state, batches)[f"accuracy_{task}"] for _ in range(steps)]
    return float(torch.stack(values[-10:]).mean())


def noise_images(count=512):
    return (uniform(count, 1, 32, 32) - 0.5).expand(-1, 3, -1, -1).clone()


def test_colour_fringes_reveal_position_unless_views_are_grey():
    """Red grows to the right and blue downwards, as if through a lens that bends them apart; all else is noise."""
    fringes = torch.zeros(1, 3, 32, 32)
    fringes[:, 0] += torch.linspace(-0.4, 0.4, 32)
    fringes[:, 2] += torch.linspace(-0.4, 0.4, 32)[:, None]
    weights = torch.tensor(LUMA).view(1, 3, 1, 1)
    x = noise_images() + fringes - (fringes * weights).sum(1, keepdim=True)  # nowhere brighter or darker for it
    assert accuracy(x, "pretext.grey=0") > 0.6
    assert accuracy(x, "pretext.grey=1") < 0.25


def test_borders_give_the_place_away_unless_patches_keep_apart():
    """Lines between the cells, whose brightness says which cell they close."""
    x = noise_images()
    for i in range(3):
        x[:, :, 4 + 8 * i + 7] += 0.4 * (i - 1)  # last rows and columns of cells that touch: 24 px in the middle
        x[:, :, :, 4 + 8 * i + 7] -= 0.4 * (i - 1)
    assert accuracy(x, "pretext.gap=false", "pretext.grey=0") > 0.6
    planted = noise_images()
    clean = planted.clone()
    for i in range(3):
        planted[:, :, 1 + 10 * i + 9] = 1.0 - i  # likewise of cells with a gap
        planted[:, :, :, 1 + 10 * i + 9] = i - 1.0
    drawn = uniform(len(planted), 2, 9)
    assert torch.equal(views.grid_of_nine(planted, drawn), views.grid_of_nine(clean, drawn))


def test_brightness_reveals_position_unless_standardized():
    x = noise_images() * 0.5
    x += torch.linspace(-0.5, 0.5, 32) + 2 * torch.linspace(-0.25, 0.25, 32)[:, None].sign() * 0.25
    assert accuracy(x, "pretext.grey=0", "pretext.standardize=false") > 0.4
    flat = torch.rand(4, 9, 3, 8, 8)
    E = encoder("relative_position")
    torch.testing.assert_close(E.enter(0.3 * flat - 0.2), E.enter(flat), atol=1e-5, rtol=1e-4)
    plain = encoder("relative_position", "pretext.standardize=false")
    assert not torch.allclose(plain.enter(0.3 * flat - 0.2), plain.enter(flat), atol=0.1)


@pytest.mark.parametrize(("norm", "leaks"), [("batch", True), ("layer", False)])
def test_batch_norm_leaks_between_patches_layer_norm_does_not(norm, leaks):
    E = encoder("cpc", f"encoder.norm={norm}").train()
    shown = E.enter(views.overlapping_grid(uniform(4, 3, 32, 32) * 2 - 1))
    other = shown.clone()
    other[:, 30:] = other[:, 30:].flip(0) * 0.5  # the patches of the last rows are others
    moved = not torch.allclose(E.embed(shown)[:, :30], E.embed(other)[:, :30], atol=1e-5)
    assert moved == leaks


def test_the_harmonised_tasks_see_no_colour():
    E = encoder("combination")
    x = uniform(3, 1, 3, 32, 32) * 2 - 1
    shown = E.enter(x)
    assert torch.equal(shown[:, :, 0], shown[:, :, 2])
    assert E.patches is None


# -- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [32, 64])
@pytest.mark.parametrize("name", METHODS)
def test_scaled_down_methods_share_backbone_images_and_budget(name, scale):
    ours, base = find(name).config(scale), find("table1/base").config(scale)
    assert replace(ours.encoder, norm="batch", stdev_bias=base.encoder.stdev_bias) == base.encoder
    assert ours.data.augment == base.data.augment
    assert ours.training.batch_size == base.training.batch_size
    seen = [c.training.steps * (c.training.d_steps + 1 if c is base else 1) for c in (ours, base)]
    assert seen[0] == seen[1]
    assert ours.training.ema_decay == base.training.ema_decay


def test_settings_that_would_do_nothing_are_refused():
    for setting in ("latent.dim=8", "generator.skip_z=false", "discriminator.mlp_width=8", "loss.s_x=false",
                    "optimizer.lr_d=1", "training.d_steps=1", "encoder.stochastic=false"):  # fmt: skip
        with pytest.raises(UserError, match=f"{setting.split('=')[0]} does nothing with system=pretext"):
            tiny("rotation", setting)


# -- the step -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "precision"), [(b, "float32") for b in BLOCKS] + [(b, "bf16") for b in BLOCKS[1:]])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_steps_on_every_trunk(name, block, precision):
    method = name.removeprefix("pretext/")
    classes = ["data.classes=3"] if find(name).config(32).data.labels == "classes" else []
    settings = [f"encoder.block={block}", f"training.precision={precision}", "training.batch_size=8", "log.every=1"]
    config = tiny(method, *settings, *classes)
    state = TrainingState(config, torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, 3, 32, 32), generator=rng, dtype=torch.uint8)
    batches = Batches(pixels, 8, 0, labels=torch.arange(16) % 3 if classes else None)
    before = {k: v.clone() for k, v in state.weights().items()}
    values = training_step(state, batches)
    assert all(math.isfinite(float(v)) for v in values.values())
    assert {f"{k}_{task}" for k in ("loss", "accuracy") for task in config.pretext.tasks} <= set(values)
    weights = [k for k in before if k.startswith("E.") and k.endswith("weight")]
    still = [k for k in weights if torch.equal(before[k], state.weights()[k])]
    assert not still
    assert state.images_seen == 8


@pytest.mark.parametrize("method", METHODS)
def test_bf16_stays_near_float32_and_keeps_float32_state(method):
    def one_step(precision):
        config = tiny(method.removeprefix("pretext/"), "log.every=1", f"training.precision={precision}")
        state = TrainingState(config, torch.device("cpu"))
        pixels = (uniform(16, 3, 32, 32) * 255).to(torch.uint8)
        values = training_step(state, Batches(pixels, 16, 0, labels=torch.arange(16) % 10))
        assert {t.dtype for t in {**state.weights(), **state.moments()}.values()} <= {torch.float32, torch.int64}
        return {k: float(v) for k, v in values.items() if k.startswith("loss_")}

    expected, found = one_step("float32"), one_step("bf16")
    assert found != expected
    assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("method", "precision"), [("rotation", "float32"), ("combination", "float32"), ("cpc", "bf16")]
)
def test_resuming_is_exact_and_what_is_saved_does_its_tasks(method, precision, tmp_path, capsys):
    data = str(write_npz(tmp_path / "rows.npz", side=32, channels=3))
    config = tiny(
        method,
        f"training.precision={precision}",
        "training.steps=8",
        "training.batch_size=4",
        "pretext.views=2" if method == "combination" else "log.every=2",
    )
    train(config, data, tmp_path / "a", progress=False)
    train(config, data, tmp_path / "b", progress=False)
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "step-00000008")  # as if it had died between 4 and 8
    train(config, data, tmp_path / "b", progress=False)
    for file in ("weights.safetensors", "optimizer.safetensors"):
        ours, theirs = (ck.newest_checkpoint(tmp_path / n).tensors(file) for n in "ab")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(t, theirs[k]) for k, t in ours.items())
    # How frequent colours are is followed along training: it is kept with the weights.
    assert (
        "E.heads.colorization.frequency" in ck.newest_checkpoint(tmp_path / "a").tensors("weights.safetensors")
    ) == (method == "combination")
    code, out, _ = call(capsys, "evaluate", tmp_path / "a", "--quiet", "--json", "--metrics", "task_accuracy_*")
    assert code == 0
    assert {x["metric"] for x in json.loads(out)} == {f"task_accuracy_{task}" for task in config.pretext.tasks}
    assert all(0 <= x["value"] <= 100 and 0 < x["protocol"]["chance"] < 100 for x in json.loads(out))


def test_forgetting_how_frequent_colours_are_is_seen():
    """Training state of its own: a buffer of the head, saved with the weights."""

    def steps(forget):
        state = TrainingState(tiny("colorization", "training.batch_size=8"), torch.device("cpu"))
        batches = Batches((uniform(16, 3, 32, 32) * 255).to(torch.uint8), 8, 0)
        training_step(state, batches)
        head = state.networks.E.heads["colorization"]
        if forget:
            head.frequency.fill_(1 / len(head.frequency))
        training_step(state, batches)
        return state.weights()["E.heads.colorization.conv.weight"]

    assert torch.equal(steps(forget=False), steps(forget=False))
    assert not torch.equal(steps(forget=False), steps(forget=True))


# -- what is learned ------------------------------------------------------------------------------------------


def test_rotation_is_learned(run, capsys):
    code, out, _ = call(capsys, "evaluate", run, "--quiet", "--json", "--metrics", "task_accuracy_rotation")
    (line,) = json.loads(out)
    assert code == 0
    assert line["value"] > 70
    assert line["protocol"]["chance"] == 25
    assert (line["n"], line["steps"]) == (359, 60)


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "steps", "times_chance", "share_of_loss"), [("exemplar", 40, 5, 0.85), ("cpc", 60, 2.5, 0.97)]
)
def test_tasks_are_learned_on_photographs(method, steps, times_chance, share_of_loss, shared):
    """By a tiny trunk in seconds: far above guessing, and the loss falls. Relative position takes longer here; planted
    shortcuts above show that it is learned. Views of one image share its colours, so exemplar begins far above
    guessing."""
    task, answers = photographs(method, steps, shared)
    right = [float(values[f"accuracy_{task}"]) for values in answers]
    chance = {"exemplar": 7 / 127, "cpc": 1 / 784}[task]
    assert np.mean(right[-10:]) > times_chance * chance
    losses = [float(values[f"loss_{task}"]) for values in answers]
    assert np.mean(losses[-10:]) < share_of_loss * np.mean(losses[:3])


def test_chance_is_one_answer_to_all_images(capsys, tmp_path):
    """Not the best for each batch: sixty-four red images and as many blue ones are half right."""
    colours = np.repeat(np.array([[200, 30, 30], [30, 30, 200]], dtype=np.uint8), 64, axis=0)
    images = np.broadcast_to(colours[:, None, None], (128, 32, 32, 3))
    arrays = {f"{split}_{what}": v for split in ("train", "test") for what, v in
              (("images", images), ("labels", np.repeat([[0], [1]], 64, axis=0)))}  # fmt: skip
    np.savez(tmp_path / "two.npz", **arrays)
    config = tiny("colorization", "training.steps=1", "training.batch_size=8")
    train(config, str(tmp_path / "two.npz"), tmp_path / "run", progress=False)
    arguments = ["evaluate", tmp_path / "run", "--quiet", "--json", "--metrics", "task_accuracy_colorization"]
    (line,) = json.loads(call(capsys, *arguments)[1])
    assert line["protocol"]["chance"] == pytest.approx(50, abs=10)


def test_colours_are_learned_on_photographs(shared):
    _, answers = photographs("colorization", 40, shared)
    losses = [float(values["loss_colorization"]) for values in answers]
    assert losses[0] == pytest.approx(math.log(261), rel=0.2)
    assert np.mean(losses[-10:]) < 0.75 * losses[0]


def photographs(method, steps, shared):
    """Return what was logged of `steps` steps on CIFAR-10's first images."""
    with np.load(shared / "cifar10" / "cifar10-train-first4000.npz") as arrays:
        pixels = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).contiguous()
    settings = ["encoder.widths=[16,32,32]", "optimizer.lr_g=0.003", f"training.steps={steps}"]
    config = tiny(method, *settings, "training.batch_size=16")
    state, batches = TrainingState(config, torch.device("cpu")), Batches(pixels, 16, 0)
    return config.pretext.tasks[0], [training_step(state, batches) for _ in range(steps)]


def test_the_classes_are_learned_where_they_are_reported(tmp_path, capsys):
    run = tmp_path / "run"
    settings = [*TINY, *GREY_8_PX, "optimizer.lr_g=0.003", "training.batch_size=64"]
    arguments = ["train", "pretext/supervised", "--scale", "32", "--data", "digits", "--out", run, "--quiet"]
    assert call(capsys, *arguments, "--steps", 60, "--set", *settings)[0] == 0
    _, out, _ = call(capsys, "evaluate", run, "--quiet", "--json", "--metrics", "task_accuracy_supervised")
    assert json.loads(out)[0]["value"] > 50
    assert call(capsys, "export", run, "--out", tmp_path / "model")[0] == 0
    assert "with labels of 10 classes" in (tmp_path / "model" / "README.md").read_text()
    assert call(capsys, "report", run)[0] == 0
    assert "E was trained with labels of 10 classes" in (run / "report.html").read_text()


# -- what an encoder without a generator is good for --------------------------------------------------------------


def test_a_run_has_what_it_is_looked_at_by(run):
    pictures = {p.name for p in (run / "samples").iterdir()}
    assert pictures == {"data.png", "inputs-rotation.png"}
    assert Image.open(run / "samples" / "inputs-rotation.png").size == (4 * 34 - 2, 8 * 34 - 2)
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss_e", "loss_rotation", "accuracy_rotation", "grad_norm_e", "images_seen"} <= set(line)
    assert line["images_seen"] == 60 * 64


def test_it_is_evaluated_beside_its_baselines(run, capsys):
    metrics = "knn1_l2_*,top1_linear_bn_crelu_10perclass"
    code, out, _ = call(capsys, "evaluate", run, "--quiet", "--json", "--metrics", metrics)
    assert code == 0
    found = {(line["metric"], line["steps"]) for line in json.loads(out)}
    assert found >= {("knn1_l2_pixels", 0), ("knn1_l2_avepool", 0), ("knn1_l2_avepool", 60), ("knn1_l2_bn_crelu", 60)}
    line = json.loads(out)[0]
    assert (line["scale"], line["table_row"]) == (32, "Table 2, Rotation, RevNet-50 ×4")


def test_its_features_are_written_and_classified(run, capsys, tmp_path):
    assert call(capsys, "encode", run, "--out", tmp_path / "f.npz")[0] == 0
    with np.load(tmp_path / "f.npz") as arrays:
        assert set(arrays) == {"file", "split", "class", "class_number", "avepool_feat", "bn_crelu_feat"}
        assert arrays["bn_crelu_feat"].shape == (1797, 64)
    out = tmp_path / "p.csv"
    classify = ["classify", run, "--labels-per-class", 3, "--trials", 1, "--finetune", "--out", out, "--quiet"]
    assert call(capsys, *classify)[0] == 0
    assert len(out.read_text().splitlines()) > 1700
    assert call(capsys, "cluster", run, "--clusters", 5, "--out", tmp_path / "c.csv")[0] == 0
    assert call(capsys, "neighbours", run, "--out", tmp_path / "n.png", "--count", 2)[0] == 0
    assert call(capsys, "report", run)[0] == 0
    page = (run / "report.html").read_text()
    assert "Pretext tasks" in page
    assert "Task rotation" in page
    assert "Samples over time" not in page


def test_it_is_exported(run, capsys, tmp_path):
    assert call(capsys, "export", run, "--out", tmp_path / "model")[0] == 0
    model = bigbigan.load(tmp_path / "model")
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = model.encode(images)
    assert out.z_mean is None
    assert out.avepool_feat.shape == (5, 32)
    torch.testing.assert_close(out.bn_crelu_feat, bigbigan.load(run).encode(images).bn_crelu_feat)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "An image encoder, trained without labels" in card
    assert "| tasks | rotation |" in card
    assert "generate" not in card
    features = BigBiGANFeatures(tmp_path / "model").fit_transform(images.numpy()[:, 0])
    np.testing.assert_allclose(features, out.bn_crelu_feat.numpy(), rtol=1e-4, atol=1e-5)


def test_it_goes_to_onnx(run, capsys, tmp_path):
    pytest.importorskip("onnxscript", reason="the onnx extra is not installed")
    assert call(capsys, "export", run, "--out", tmp_path / "model", "--onnx")[0] == 0
    assert {p.name for p in (tmp_path / "model").glob("*.onnx")} == {"encoder.onnx"}


ROTATION, SUPERVISED, DIGITS = (
    ["train", name, "--out", "x", "--set"] for name in ("pretext/rotation", "pretext/supervised", "small/digits")
)
MISTAKES = {
    "no generator to draw with": (["generate", "RUN", "--out", "g.png"], "this model has no generator"),
    "none to reconstruct with": (["reconstruct", "RUN", "--out", "r.png"], "this model has no generator"),
    "none to walk with": (["interpolate", "RUN", "--out", "r.png"], "this model has no generator"),
    "no latents to write": (["encode", "RUN", "--out", "f.npz", "--features", "z_mean"], "has no latents"),
    "no scores to write": (["encode", "RUN", "--out", "f.npz", "--features", "score_x"], "no such score; it has none"),
    "no latents to cluster": (["cluster", "RUN", "--out", "c.csv", "--features", "z_mean"], "has no latents"),
    "no latents to measure": (["evaluate", "RUN", "--metrics", "top1_linear_z_mean"], "needs latents"),
    "no samples to measure": (["evaluate", "RUN", "--metrics", "fid10k_train_encoder"], "needs a generator"),
    "a task it does not know": (["evaluate", "RUN", "--metrics", "task_accuracy_supervised"], "trained by this task"),
    "no task": ([*ROTATION, "pretext.tasks=[]"], "must name a task"),
    "unknown task": ([*ROTATION, "pretext.tasks=[jigsaw]"], "jigsaw"),
    "a task twice": ([*ROTATION, "pretext.tasks=[rotation,rotation]"], "twice"),
    "a task for BigBiGAN": ([*DIGITS, "pretext.tasks=[rotation]"], "system=pretext"),
    "classes untold": ([*SUPERVISED, "data.labels=none", "data.classes=1"], "goes with"),
    "a setting of another task": ([*ROTATION, "pretext.views=4"], "is for the task exemplar, not rotation"),
    "grey to colour": ([*ROTATION, "pretext.tasks=[colorization]", "data.channels=1"], "needs images in colour"),
    "too small to cut": ([*ROTATION, "pretext.tasks=[cpc]", "encoder.stem=small", "encoder.resolution=16"], "32 or"),
    "patches too small": ([*ROTATION, "pretext.tasks=[cpc]", "encoder.resolution=64"], "too small"),
    "a task's crops for BigBiGAN": ([*DIGITS, "data.augment=task_crop"], "task_crop is for system=pretext"),
    "an embedding of no pair": ([*ROTATION, "pretext.embedding=8"], "is for the task relative_position, not rotation"),
    "an embedding below 0": ([*ROTATION, "pretext.embedding=-1"], "must not be negative"),
    "one view of an image": ([*ROTATION, "pretext.tasks=[exemplar]", "pretext.views=1"], "at least 2"),
    "no trunk of maps": (
        [*ROTATION, "encoder.block=mlp", "encoder.stem=small", "encoder.blocks=1"],
        "system=pretext needs",
    ),
    "norm of an mlp": (["train", "bigan/mnist", "--out", "x", "--set", "encoder.norm=layer"], "encoder.norm is for"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_and_exit_code_2(mistake, run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, expected = MISTAKES[mistake]
    code, _, err = call(capsys, *(run if a == "RUN" else a for a in arguments))
    assert (code, err.count("\n")) == (2, 1), err
    assert expected in err
    assert not list(tmp_path.iterdir())


def test_grey_images_are_not_for_colorization(capsys, tmp_path):
    run = tmp_path / "run"
    arguments = ["train", "pretext/colorization", "--scale", "32", "--data", "digits", "--out", run, "--quiet"]
    code, _, err = call(capsys, *arguments, "--set", *TINY)
    assert (code, err.count("\n")) == (2, 1)
    assert "these images are grey, but the task colorization predicts their colours" in err
    assert not list(run.glob("checkpoints/*"))


def test_a_trunk_with_layer_norm_is_not_one_of_timm_s():
    with pytest.raises(UserError, match="trunk with layer norm: expected a ResNet-v2 trunk with batch norm"):
        timm_state_dict(encoder("cpc").trunk)


def test_in_python_what_is_missing_is_reported(run):
    model = bigbigan.load(run)
    x = torch.zeros(2, 1, 8, 8)
    for ask in (lambda: model.generator, lambda: model.reconstruct(x), lambda: model.refine(x, 1),
                lambda: model.interpolate(x, x), lambda: model.generate(1), lambda: ServedModel(run)):  # fmt: skip
        with pytest.raises(UserError, match="this model has no generator"):
            ask()
    with pytest.raises(UserError, match="no discriminator"):
        model.discriminate(x, None)
    with pytest.raises(UserError, match="has no latents"):
        BigBiGANFeatures(run, "z_mean").fit()
    assert flat(model.config.to_dict())["pretext.tasks"] == ["rotation"]


def test_classes_are_not_learned_from_images_that_evaluation_tests_on(tmp_path):
    """Of a source without a test split, a fifth is held out: here, labels that say nothing cannot be known."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=images, labels=np.arange(100) % 2)
    config = tiny("supervised", *GREY_8_PX, "encoder.widths=[16,64]", "optimizer.lr_g=0.003", "training.ema_decay=0.8")
    config = override(config, ["training.steps=100"])
    run = tmp_path / "run"
    train(config, str(tmp_path / "noise.npz"), run, progress=False)
    assert json.loads((run / "data.json").read_text())["images"] == 80
    found = {x.metric: x for x in evaluate(run, None, ["task_accuracy_supervised", "top1_linear_avepool"], "", False)}
    assert found["task_accuracy_supervised"].n == 20
    assert found["task_accuracy_supervised"].value < 85
    assert found["top1_linear_avepool"].value < 85


def test_measuring_a_task_does_not_change_its_colour_weights(tmp_path):
    config = tiny("colorization", "encoder.resolution=16")
    model = Model(config, build(config, torch.device("cpu")), 1, 1)
    seen = []
    head = model.encoder.heads["colorization"]
    before = head.frequency.clone()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 16, 16), dtype=np.uint8)
    weights = ColourHead.weights
    with pytest.MonkeyPatch.context() as m:
        m.setattr(ColourHead, "weights", lambda self: seen.append(self.frequency.clone()) or weights(self))
        task_accuracies(model, pixels, pixels[:8], None, ["colorization"])
    assert torch.equal(seen[-1], before)
    assert not torch.equal(seen[-2], before)
