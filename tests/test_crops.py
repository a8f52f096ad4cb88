"""Random crops on the device: Pillow's arithmetic, the published distributions, functions of the seed."""

import numpy as np
import pytest
import torch
from PIL import Image

from bigbigan.data import load_pixels, load_view, open_source
from bigbigan.data.batches import Batches
from bigbigan.data.crops import Boxes, resize_boxes, resnet_boxes, square_boxes
from bigbigan.data.pixels import stored_side


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_resizing_is_pillows_bicubic_of_the_cut_out(resolution):
    pixels = torch.randint(0, 256, (6, 3, 37, 37), generator=generator(), dtype=torch.uint8)
    boxes = resnet_boxes(6, 37, generator())
    ours = resize_boxes(pixels, boxes, resolution)
    for image, result, top, left, height, width, mirrored in zip(pixels, ours, *boxes, strict=True):
        for channel, expected in zip(image[:, top : top + height, left : left + width].float(), result, strict=True):
            floats = Image.fromarray(channel.numpy())  # mode F: nothing is rounded between rows and columns
            theirs = np.array(floats.resize((resolution, resolution), Image.Resampling.BICUBIC)).clip(0, 255)
            theirs = theirs[:, ::-1].copy() if mirrored else theirs
            torch.testing.assert_close(expected, torch.from_numpy(theirs), rtol=0, atol=1e-2)


def test_the_whole_image_at_its_own_size_is_left_alone():
    pixels = torch.randint(0, 256, (2, 1, 9, 9), generator=generator(), dtype=torch.uint8)
    n = torch.tensor([0, 0])
    boxes = Boxes(n, n, n + 9, n + 9, n.bool())
    torch.testing.assert_close(resize_boxes(pixels, boxes, 9), pixels.float(), rtol=0, atol=1e-3)


def test_resnet_boxes_have_the_published_distribution():
    side = 146
    b = resnet_boxes(20_000, side, generator())
    area, aspect = (b.height * b.width) / side**2, b.width / b.height
    assert (b.top >= 0).all()
    assert (b.left >= 0).all()
    assert (b.top + b.height <= side).all()
    assert (b.left + b.width <= side).all()
    assert 0.07 < area.min() < 0.1
    assert area.max() > 0.97
    assert 0.73 < aspect.min() < 0.77
    assert 1.30 < aspect.max() < 1.36
    # uniform over area but for the boxes that do not fit, which are the large ones
    assert 0.44 < (area < 0.4).float().mean() / (0.4 - 0.08) * 0.46 < 0.62
    assert 0.48 < b.mirrored.float().mean() < 0.52


def test_square_boxes_hold_at_least_half_of_the_image():
    b = square_boxes(20_000, 100, generator())
    assert torch.equal(b.height, b.width)
    area = b.height * b.width / 100**2
    assert 0.49 <= area.min() < 0.52
    assert area.max() == 1
    assert 0.74 < area.mean() < 0.76
    assert not b.mirrored.any()
    assert (b.top + b.height).max() == 100
    assert b.top.min() == 0


def test_photographs_are_kept_larger_and_evaluation_sees_their_middle(tmp_path):
    for i in range(2):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
            tmp_path / f"{i}.png"
        )
    photographs, rows = (open_source(s).splits["train"] for s in (str(tmp_path), "digits"))
    assert stored_side(photographs, 128, "resnet_crop") == 146
    assert stored_side(photographs, 128, "flip") == 128
    assert stored_side(rows, 32, "resnet_crop") == 32
    seen, _ = load_view(photographs, 28, 3, "square_crop")
    whole, _ = load_pixels(photographs, 32, 3)
    assert np.array_equal(seen, whole[:, :, 2:30, 2:30])
    pixels = torch.arange(10, dtype=torch.uint8).view(1, 1, 1, 10).expand(4, 1, 10, 10).contiguous()
    batches = Batches(pixels, 2, 0, "resnet_crop", resolution=8)
    assert torch.equal(batches.middle(torch.tensor([2]))[0, 0, 0], torch.arange(1, 9, dtype=torch.uint8))
    assert batches.batch(0).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("augment", ["resnet_crop", "square_crop", "flip"])
def test_augmentation_is_a_function_of_seed_and_position(augment):
    pixels = torch.randint(0, 256, (20, 3, 16, 16), generator=generator(), dtype=torch.uint8)
    a, b = (Batches(pixels, 8, 3, augment) for _ in range(2))
    for i in range(5):
        a.batch(i)
    assert torch.equal(a.batch(2), b.batch(2))
    assert not torch.equal(a.batch(2), Batches(pixels, 8, 4, augment).batch(2))
    x = a.batch(2)
    assert x.min() >= -1
    assert x.max() <= 1
    assert not torch.equal(x, a.images(a.indices(2)))
