"""Differentiable augmentation: what it does to images, that G's gradient passes through it, that nothing changes
without it; and training on a share of the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bigbigan.apps.train import train
from bigbigan.data import fraction_of, open_source
from bigbigan.methods import diffaugment, make_system
from bigbigan.methods.diffaugment import augmentation, augmented
from bigbigan.models import build
from tiny import run_update, tiny_config, write_npz

ALL = ("color", "translation", "cutout")


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(x, seed=0):
    return augmentation(len(x), noise(seed))


def images(n=64, side=16, channels=3):
    return torch.rand(n, channels, side, side, generator=noise(7)) * 2 - 1


def test_translation_shifts_each_image_and_fills_with_zero():
    x = images() + 5  # no zeros of its own
    out = augmented(x, ["translation"], draws(x))
    seen = set()
    for a, b in zip(x, out, strict=True):
        fits = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(torch.nn.functional.pad(a, (2, 2, 2, 2))[:, 2 - dy : 18 - dy, 2 - dx : 18 - dx], b)
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 15  # of 25


def test_cutout_hides_a_square_of_half_the_side():
    x = torch.ones(400, 1, 16, 16)
    hidden = (augmented(x, ["cutout"], draws(x)) == 0).squeeze(1)
    rows, columns = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert torch.equal(hidden.flatten(1).sum(1), rows * columns)  # a full rectangle each
    assert (rows.max(), columns.max()) == (8, 8)
    assert rows.min() == 4  # the middle at the border
    assert hidden.float().mean(0).min() > 0.05  # every place may be hidden


def test_color_changes_stay_within_bounds():
    x = images(2000)
    out = augmented(x, ["color"], draws(x))
    shift = out.mean((1, 2, 3)) - x.mean((1, 2, 3))  # saturation and contrast keep the mean
    assert -0.5 <= shift.min() < -0.45
    assert 0.45 < shift.max() <= 0.5
    spread = out.mean(1).flatten(1).std(1) / x.mean(1).flatten(1).std(1)  # of grey, which saturation keeps
    assert 0.5 <= spread.min() < 0.55
    assert 1.45 < spread.max() <= 1.5


def test_nothing_is_drawn_or_changed_without_a_policy():
    system, x = make_system(tiny_config(), build(tiny_config())), images(side=8)
    drawn = system.sample_noise(64, noise())
    assert set(drawn) == {"z", "eps"}
    assert system.d_input(x, drawn, "x") is x


def test_augmentation_depends_on_its_random_numbers_only():
    x = images()
    assert torch.equal(augmented(x, ALL, draws(x, 1)), augmented(x, ALL, draws(x, 1)))
    assert not torch.equal(augmented(x, ALL, draws(x, 1)), augmented(x, ALL, draws(x, 2)))


def test_gradients_are_those_of_finite_differences():
    x = images(3, side=8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augmented(x, ALL, draws(x)).square().sum(), x)


@pytest.mark.parametrize("settings", [[], ["loss.s_z=false", "loss.s_xz=false"]], ids=["BigBiGAN", "GAN"])
def test_d_sees_augmented_images_and_g_learns_through_them(settings):
    config = tiny_config("discriminator.augment=[translation,cutout]", *settings)
    networks = build(config)
    seen = []
    networks.D.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    system = make_system(config, networks)
    x = torch.ones(16, 1, 8, 8)
    list(system.discriminator_update(x, system.sample_noise(16, noise())))
    assert ((seen[0][:16] == 0) | (seen[0][:16] == 1)).all()  # real ones: parts hidden, the rest as it was
    assert 0.1 < (seen[0][:16] == 0).float().mean() < 0.6
    assert (seen[0][16:] == 0).float().mean() > 0.1  # drawn ones alike
    run_update(system, system.encoder_generator_update, x, system.sample_noise(16, noise()))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in networks.G.to_image.parameters())


def test_a_share_of_the_images_is_the_same_one_each_time(tmp_path):
    data = str(write_npz(tmp_path / "rows.npz"))
    whole = open_source(data).splits["train"]
    part = fraction_of(whole, 0.25)
    assert len(part) == round(len(whole) / 4)
    assert part.files == fraction_of(whole, 0.25).files
    assert part.files == sorted(part.files, key=whole.files.index)
    assert fraction_of(whole, 1.0) is whole
    positions = [whole.files.index(name) for name in part.files]
    assert np.array_equal(part.labels, whole.labels[positions])
    train(tiny_config("training.steps=2", "data.fraction=0.25"), data, tmp_path / "run", progress=False)
    import json

    assert json.loads((tmp_path / "run" / "data.json").read_text())["images"] == len(part)


def test_indices_stay_in_range_without_float64(monkeypatch):
    noise = torch.tensor([[0.0, 0.5, 1 - 2**-24]])  # the product of the last and 9 is rounded up to 9 in float32
    expected = diffaugment._index(noise, 9)
    assert expected.tolist() == [[0, 4, 8]]
    monkeypatch.setattr(diffaugment, "has_float64", lambda device_type: False)
    assert torch.equal(diffaugment._index(noise, 9), expected)
