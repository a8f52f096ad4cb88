"""What `Model.encode` takes: paths, PIL images, arrays, tensors and lists of them; and how a model describes itself."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from bigbigan.compute import encoder_batch_size
from bigbigan.errors import UserError
from bigbigan.image import resize_square
from bigbigan.inference.model import Model
from bigbigan.models import build
from tiny import tiny_config


def untrained(*settings):
    config = tiny_config(*settings)
    return Model(config, build(config, torch.device("cpu")), step=1200, images_seen=9)


@pytest.fixture(scope="module")
def model():
    return untrained()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def paths(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(len(images))]


def test_all_forms_of_the_same_images_are_encoded_alike(model, images, paths):
    expected = model.encode(torch.from_numpy(images[:, None])).bn_crelu_feat
    forms = {
        "array": images[:, None],
        "channels last": images[..., None],
        "colour, channels last": np.repeat(images[..., None], 3, axis=3),
        "paths": paths,
        "names": [str(path) for path in paths],
        "PIL images": [Image.open(path) for path in paths],
        "arrays": list(images),
        "arrays with a channel": list(images[..., None]),
        "tensors": list(torch.from_numpy(images[:, None])),
        "float tensors": [torch.from_numpy(image[None]) / 127.5 - 1 for image in images],
        "paths and images": [paths[0], *map(Image.fromarray, images[1:])],
        "array of names": np.array([str(path) for path in paths]),
    }
    for form, given in forms.items():
        torch.testing.assert_close(model.encode(given).bn_crelu_feat, expected, msg=lambda m, form=form: f"{form}: {m}")


def test_one_path_or_picture_is_one_image(model, images, paths):
    expected = model.encode(images[:1, None]).bn_crelu_feat
    for given in (paths[0], str(paths[0]), Image.open(paths[0])):
        assert model.encode(given).bn_crelu_feat.equal(expected)
    assert model.reconstruct(paths[:2]).shape == (2, 1, 8, 8)


def test_pictures_of_any_size_are_cropped_and_resized(model):
    wide = np.zeros((16, 32), np.uint8)
    wide[:, 8:24] = 200
    expected = model.encode(np.full((1, 1, 8, 8), 200, np.uint8)).bn_crelu_feat
    torch.testing.assert_close(model.encode([wide, Image.fromarray(wide)]).bn_crelu_feat, expected.repeat(2, 1))


def test_arrays_that_are_not_square_are_cropped(model):
    wide = np.zeros((2, 1, 16, 32), np.uint8)
    wide[..., 8:24] = 200
    expected = model.encode(np.full((2, 1, 8, 8), 200, np.uint8)).bn_crelu_feat
    torch.testing.assert_close(model.encode(wide).bn_crelu_feat, expected)
    torch.testing.assert_close(model.encode(torch.from_numpy(wide) / 127.5 - 1).bn_crelu_feat, expected)


@pytest.mark.parametrize("pad", ["auto", "always", "never"])
def test_small_images_of_all_forms_are_padded_as_in_training(pad):
    model = untrained(f"data.pad={pad}")
    small = np.random.default_rng(0).integers(0, 256, (3, 7, 7), dtype=np.uint8)
    padded = model.prepare(np.pad(small, ((0, 0), (0, 1), (0, 1)))[:, None])
    enlarged = model.prepare(np.stack([resize_square(x[:, :, None], 8) for x in small]))
    pictures = [Image.fromarray(x) for x in small]
    arrays = {"array": small[:, None], "channels last": small[..., None], "list": list(small)}
    for form, given in arrays.items():
        assert model.prepare(given).equal(enlarged if pad == "never" else padded), form
    assert model.prepare(pictures).equal(padded if pad == "always" else enlarged)
    floats = model.prepare(torch.from_numpy(small[:, None]) / 255, value_range=(0, 1))
    assert pad == "never" or abs(floats - padded).max() < 1e-6


def test_images_that_cannot_be_used_are_named(model, paths, tmp_path):
    (tmp_path / "a.png").write_bytes(b"none")
    with pytest.raises(UserError, match="images has a int at place 1; expected paths, PIL images"):
        model.encode([paths[0], 3])
    with pytest.raises(UserError, match=r"a\.png in images: not an image; each image must give a row"):
        model.encode([paths[0], tmp_path / "a.png"])
    with pytest.raises(UserError, match=r"no\.png in images: cannot be read \(No such file"):
        model.encode(tmp_path / "no.png")
    with pytest.raises(UserError, match="several shapes; expected tensors of one shape"):
        model.encode([torch.zeros(1, 8, 8), torch.zeros(1, 9, 9)])
    with pytest.raises(UserError, match="images is a int; expected a list of paths"):
        model.encode(3)


def test_arrays_of_any_layout_may_be_in_a_list(model):
    floats = np.random.default_rng(0).uniform(-1, 1, (3, 1, 8, 8)).astype(np.float32)
    expected = model.encode(floats).z_mean
    mirrored = [np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1] for x in floats]  # negative strides
    assert torch.equal(model.encode(mirrored).z_mean, expected)
    assert torch.equal(model.encode([x.astype(">f4") for x in floats]).z_mean, expected)


def test_interpolation_takes_paths_and_pictures(model, paths):
    found = model.interpolate(paths[0], paths[1], 3)
    assert torch.equal(found, model.interpolate([Image.open(paths[0])], [Image.open(paths[1])], 3))
    with pytest.raises(UserError, match="1 images and 2 others; expected as many"):
        model.interpolate(paths[0], paths[:2])


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda m, x: m.generate(2, truncation="0.7"), "truncation is '0.7'; expected a number above 0 and up to 1"),
        (lambda m, x: m.generate(2, truncation=None), "truncation is None"),
        (lambda m, x: m.anomaly_score(x, alpha="x"), "alpha is 'x'; expected a number from 0 to 1"),
        (lambda m, x: m.refine(x, 1, rate="x"), "rate is 'x'; expected a number above 0"),
        (lambda m, x: m.refine(x, 1, rate=float("nan")), "rate is nan"),
        (lambda m, x: m.predict(x, head=3), "head is a int; expected the path of a saved head"),
    ],
)
def test_numbers_of_the_wrong_kind_are_refused(model, images, use, message):
    with pytest.raises(UserError, match=message):
        use(model, images[:, None])


def test_scores_of_many_images_are_those_of_each(model):
    x = torch.rand(150, 1, 8, 8) * 2 - 1
    scores = model.anomaly_score(x)
    torch.testing.assert_close(scores[-3:], model.anomaly_score(x[-3:]))
    torch.testing.assert_close(model.interpolate(x, x.flip(0), 2)[-1], model.interpolate(x[-1:], x[:1], 2)[0])


def test_many_images_are_encoded_in_batches(model):
    x = torch.rand(2 * encoder_batch_size(8, "cpu") + 3, 1, 8, 8) * 2 - 1
    found = model.encode(x)
    for name in ("z_mean", "z_stdev", "z_sample", "avepool_feat", "bn_crelu_feat"):
        assert len(getattr(found, name)) == len(x)
    torch.testing.assert_close(found.z_mean[-3:], model.encode(x[-3:]).z_mean)


def test_images_from_0_to_1_are_warned_of_once():
    model, x = untrained(), torch.rand(2, 1, 8, 8)
    with pytest.warns(UserWarning, match=r"value_range=\(0, 1\)") as warned:
        model.encode(x)
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(x)
    torch.testing.assert_close(model.encode(x, value_range=(0, 1)).z_mean, model.encode(2 * x - 1).z_mean)


def test_the_tensor_of_the_caller_is_not_marked_as_prepared():
    model, x = untrained(), torch.rand(2, 1, 8, 8)
    with pytest.warns(UserWarning, match=r"value_range=\(0, 1\)"):
        model.prepare(x)
    with pytest.warns(UserWarning, match=r"value_range=\(0, 1\)"):
        untrained().prepare(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        untrained().encode(model.prepare(x))  # prepared images are


def test_few_generators_of_other_truncations_are_kept():
    model = untrained()
    first = model.generate(2, truncation=0.5)
    for truncation in (0.6, 0.7, 0.8, 0.9):
        model.generate(2, truncation=truncation)
    assert len(model._truncated) == 4
    torch.testing.assert_close(model.generate(2, truncation=0.5), first)


def test_a_model_describes_itself(model):
    text = repr(model)
    assert text.startswith(
        "Model(small/digits, step 1,200; E: 1×8×8 images to 8 features, z [8]; G: z [8] to 8 px; D; "
    )
    assert text.endswith(" parameters; cpu)")
    assert "window 200 to 3900" in repr(untrained("data.window=[200,3900]"))


@pytest.mark.parametrize("augment", ["none", "flip", "random_crop", "resnet_crop"])
def test_float_and_byte_images_are_cropped_alike(augment):
    """A model trained on crops sees the central 87.5 % of an image, whatever its type."""
    model = untrained(f"data.augment={augment}", "data.pad=never", "data.channels=3")
    few = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(few, (40, 60), mode="bicubic").clamp(0, 1)
    whole = (255 * smooth).round().byte()
    paths = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in whole]
    ours = model.prepare(whole.float() / 127.5 - 1)
    for same in (whole, paths):
        assert (model.prepare(same) - ours).abs().max() < 0.03  # bytes are rounded in between; another crop is 0.8 away


def test_a_range_applies_to_uint8_too(model):
    masks = np.random.default_rng(0).integers(0, 2, (3, 1, 8, 8), dtype=np.uint8)
    expected = model.prepare(masks * 255)
    torch.testing.assert_close(model.prepare(masks, value_range=(0, 1)), expected)
    assert model.prepare(masks * 255, value_range=(0, 255)).equal(expected)
    with pytest.raises(UserError, match=r"lie in \[0, 255\]; expected \[0, 1\]"):
        model.prepare(masks * 255, value_range=(0, 1))


def test_a_list_of_float_arrays_may_have_channels_last(model, images):
    floats = images[..., None] / 127.5 - 1
    assert model.prepare(list(floats)).equal(model.prepare(floats))


def test_a_path_with_a_null_character_is_refused(model):
    with pytest.raises(UserError, match="cannot be read"):
        model.encode("a\0b.png")


def test_a_folder_and_other_shapes_are_explained(model, tmp_path):
    with pytest.raises(UserError, match="a folder; give a list of paths"):
        model.encode(tmp_path)
    with pytest.raises(UserError, match=r"\[8, 8\]; expected \[N, C, H, W\] or .*for one image, x\[None\]"):
        model.encode(np.zeros((8, 8), dtype=np.float32))
