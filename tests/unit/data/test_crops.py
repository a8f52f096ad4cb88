"""Random crops on the device: Pillow's arithmetic, the published distributions, functions of the seed."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import ks_2samp

from bigbigan.data import load_pixels, load_view, open_source
from bigbigan.data.batches import Batches
from bigbigan.data.loading import stored_side
from bigbigan.experiments import EXPERIMENTS
from bigbigan.image import crops
from bigbigan.image.crop_sizes import viewed_side
from bigbigan.image.crops import Boxes, resize_boxes, resnet_boxes, square_boxes


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


def tensorflow_crop(rng, side, least, aspects, tries=10):
    """Height and width by sample_distorted_bounding_box of a square image, one try after the other, written from
    tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc; the whole image if all fail."""
    smallest, largest = least * side**2, side**2
    for _ in range(tries):
        aspect = rng.uniform(*aspects)
        low, high = (round(math.sqrt(area / aspect)) for area in (smallest, largest))
        if round(high * aspect) > side:
            high = int((side + 0.5 - 1e-7) / aspect)
            high -= round(high * aspect) > side
        high = min(high, side)
        height = rng.integers(min(low, high), high + 1)
        height += height * round(height * aspect) < smallest
        height -= height * round(height * aspect) > largest
        width = round(height * aspect)
        if max(smallest, 0.1 * side**2) <= height * width <= largest and width <= side and height <= side:
            return height, width
    return side, side


@pytest.mark.parametrize(
    ("boxes", "least", "aspects", "mean"),
    [(resnet_boxes, 0.08, (3 / 4, 4 / 3), 0.42), (square_boxes, 0.5, (1, 1), 0.735)],
)
@pytest.mark.parametrize("side", [146, 320])
def test_boxes_have_tensorflows_distribution(boxes, least, aspects, mean, side):
    rng, count = np.random.default_rng(0), 10_000
    b = boxes(count, side, generator())
    theirs = np.array([tensorflow_crop(rng, side, least, aspects) for _ in range(count)])
    ours = torch.stack([b.height, b.width], dim=1).numpy()
    area, expected = (shape.prod(1) / side**2 for shape in (ours, theirs))
    assert area.mean() == pytest.approx(mean, abs=0.008)  # uniform over the area it would be 0.48 and 0.75
    assert ks_2samp(area, expected).pvalue > 0.001
    assert ks_2samp(ours[:, 1] / ours[:, 0], theirs[:, 1] / theirs[:, 0]).pvalue > 0.001
    assert area.min() >= max(least, 0.1)  # a crop has to cover a tenth of the image
    for start, length in ((b.top, b.height), (b.left, b.width)):
        free = side - length
        assert (start >= 0).all()
        assert (start < free.clamp(min=1)).all()  # TensorFlow leaves the last place out
        assert ((start + 0.5) / free)[free > 9].mean() == pytest.approx(0.5, abs=0.015)


def test_resnet_boxes_are_mirrored_and_square_boxes_not():
    assert 0.48 < resnet_boxes(20_000, 146, generator()).mirrored.float().mean() < 0.52
    assert not square_boxes(100, 146, generator()).mirrored.any()


def test_without_a_crop_that_fits_it_is_the_central_square():
    b = resnet_boxes(500, 4, generator(), tries=1)  # of 4 px, one try often fails
    central = (b.height == 3) & (b.width == 3) & (b.top == 1) & (b.left == 1)
    assert central.float().mean() > 0.05
    assert not ((b.height == 4) & (b.width == 4)).any()


# -- how large photographs are stored -------------------------------------------------------------------------------


def photographs(folder, height, width, count=2):
    """A folder of photographs with detail at every scale, down to single pixels."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        image = np.full((height, width, 3), 128.0)
        for scale in (1, 4, 16, 64):
            noise = rng.normal(0, 20, (-(-height // scale), -(-width // scale), 3))
            image += noise.repeat(scale, 0).repeat(scale, 1)[:height, :width]
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return open_source(str(folder)).splits["train"]


@pytest.mark.parametrize("augment", ["resnet_crop", "square_crop"])
def test_few_crops_of_a_photograph_are_enlarged(tmp_path, augment):
    images = photographs(tmp_path, 375, 500)
    side = stored_side(images, 128, augment)
    b = {"resnet_crop": resnet_boxes, "square_crop": square_boxes}[augment](20_000, side, generator())
    enlarged = (b.height * b.width < 128**2).float().mean()
    assert enlarged < (0.2 if augment == "resnet_crop" else 0.01)


def test_a_crop_keeps_the_detail_of_the_photograph(tmp_path):
    """A quarter of the area at 128 px: as sharp as cut out of the photograph itself, where a copy of 146 px is not."""
    images = photographs(tmp_path, 375, 500)
    original = images.load(0)[:, 62:437].transpose(2, 0, 1)  # the middle square, 375 px

    def crop(pixels):
        side = pixels.shape[-1]
        quarter = Boxes(*(torch.tensor([side // 4, side // 4, side // 2, side // 2, 0])[:, None]))
        return resize_boxes(pixels, quarter._replace(mirrored=quarter.mirrored.bool()), 128)[0]

    def detail(x):
        return float((x - F.avg_pool2d(x, 3, 1, 1))[:, 2:-2, 2:-2].std())

    stored, _ = load_pixels(images, stored_side(images, 128, "resnet_crop"), 3)
    small, _ = load_pixels(images, 146, 3)
    whole = detail(crop(torch.from_numpy(original.copy())[None]))
    assert detail(crop(torch.from_numpy(stored))) > 0.75 * whole
    assert detail(crop(torch.from_numpy(small))) < 0.5 * whole


def test_photographs_are_stored_no_larger_than_they_are(tmp_path):
    large, small, tiny = (photographs(tmp_path / str(n), n, n + 10) for n in (400, 200, 40))
    rows = open_source("digits").splits["train"]
    assert [stored_side(s, 128, "resnet_crop") for s in (large, small, tiny)] == [320, 200, 146]
    assert [stored_side(s, 128, "square_crop") for s in (large, small, tiny)] == [181, 181, 146]
    assert stored_side(large, 112, "random_crop") == 128  # crops of one size need no more
    assert stored_side(large, 128, "flip") == 128
    assert stored_side(rows, 32, "resnet_crop") == 32
    broken = tmp_path / "400" / "0.png"
    broken.write_bytes(b"nothing")
    assert stored_side(large, 128, "resnet_crop") == 320  # of those that can be read


def test_evaluation_sees_the_middle_at_the_networks_resolution(tmp_path):
    images = photographs(tmp_path, 375, 500)
    for augment in ("resnet_crop", "square_crop", "random_crop"):
        assert viewed_side(128, augment, images.store.pads) == 146
        seen, _ = load_view(images, 128, 3, augment)
        once, _ = load_pixels(images, 146, 3)
        assert np.array_equal(seen, once[:, :, 9:137, 9:137])
        stored, _ = load_pixels(images, stored_side(images, 128, augment), 3)
        watched = Batches(torch.from_numpy(stored), 2, 0, augment, 128).evaluation_pixels(torch.arange(2))
        assert watched.shape == (2, 3, 128, 128)
        assert watched.dtype == torch.uint8
        assert np.abs(watched.numpy().astype(int) - seen).mean() < 3  # of 255; noise is the hardest case
    assert np.array_equal(watched.numpy(), seen)  # random_crop stores no more than that


def test_the_middle_of_small_stores_is_cut_out(tmp_path):
    pixels = torch.arange(10, dtype=torch.uint8).view(1, 1, 1, 10).expand(4, 1, 10, 10).contiguous()
    batches = Batches(pixels, 2, 0, "resnet_crop", resolution=8)
    assert torch.equal(batches.evaluation_pixels(torch.tensor([2]))[0, 0, 0], torch.arange(1, 9, dtype=torch.uint8))
    assert batches.batch(0).shape == (2, 1, 8, 8)


def test_large_batches_are_resized_in_parts(monkeypatch):
    pixels = torch.randint(0, 256, (7, 3, 20, 20), generator=generator(), dtype=torch.uint8)
    boxes = resnet_boxes(7, 20, generator())
    whole = resize_boxes(pixels, boxes, 8)
    monkeypatch.setattr(crops, "CHUNK", 3)
    torch.testing.assert_close(resize_boxes(pixels, boxes, 8), whole)


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


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if EXPERIMENTS[name].config().data.augment != "none"])
def test_photographs_are_stored_for_the_crops_of_every_experiment(name, tmp_path):
    for i in range(2):
        Image.new("RGB", (700, 600), (i * 90, 80, 70)).save(tmp_path / f"{i}.png")
    data, R = EXPERIMENTS[name].config().data, 32
    side = stored_side(open_source(str(tmp_path)).splits["train"], R, data.augment)
    assert R <= side <= 600
    assert (side > R) == data.augment.endswith("_crop")
