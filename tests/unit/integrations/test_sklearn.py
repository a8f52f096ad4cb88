"""The transformer is one that scikit-learn's tools can clone, pickle, search over and cross-validate, on any images."""

import io
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from bigbigan import load
from bigbigan import sklearn as wrapper
from bigbigan.apps.train import train
from bigbigan.errors import UserError
from bigbigan.evaluation.features import encoder_features
from bigbigan.inference.model import Model
from bigbigan.integrations.export import write_folder
from bigbigan.models import build
from bigbigan.sklearn import CACHE, BigBiGANFeatures
from tiny import tiny_config, write_npz


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sklearn")
    train(tiny_config("training.steps=6"), str(write_npz(folder / "rows.npz")), folder / "run", progress=False)
    return folder / "run"


@pytest.fixture(autouse=True)
def _nothing_cached():
    CACHE.clear()


@pytest.fixture(scope="module")
def rows(run):
    with np.load(run.parent / "rows.npz") as data:
        return data["train_images"], data["train_labels"].ravel()


def test_features_are_those_of_the_model(run, rows):
    images, _ = rows
    model = load(run)
    expected = model.encode(torch.from_numpy(images[:, None]))
    for name in ("bn_crelu_feat", "avepool_feat", "z_mean"):
        found = BigBiGANFeatures(run, features=name).fit_transform(images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, getattr(expected, name).numpy(), rtol=1e-4, atol=1e-5)
        names = BigBiGANFeatures(run, features=name).get_feature_names_out()
        assert (len(names), names[0]) == (found.shape[1], f"{name}_0")


def test_all_forms_of_the_same_images_give_the_same_features(run, rows, tmp_path):
    images = rows[0][:6]
    features = BigBiGANFeatures(run)
    expected = features.fit_transform(images)
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    x = torch.from_numpy(images[:, None])
    forms = {
        "channels last": images[..., None],
        "colour": np.repeat(images[..., None], 3, axis=3),
        "paths": paths,
        "names": [str(p) for p in paths],
        "PIL": [Image.fromarray(i) for i in images],
        "16 bits": [Image.fromarray(i.astype(np.uint16) * 257) for i in images],
        "palette": [Image.fromarray(i).convert("P") for i in images],
        "CMYK": [Image.fromarray(i).convert("RGB").convert("CMYK") for i in images],
        "tensor": x,
        "float": x.float().numpy() / 127.5 - 1,
    }
    for name, form in forms.items():
        np.testing.assert_allclose(features.transform(form), expected, rtol=1e-3, atol=1e-4, err_msg=name)
    order = [3, 0, 5]
    np.testing.assert_array_equal(features.transform([paths[i] for i in order]), expected[order])
    assert features.transform([]).shape == (0, expected.shape[1])


def test_a_rotated_photograph_is_set_upright(run, rows):
    image = Image.fromarray(rows[0][0])
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be shown rotated by 270 degrees
    features = BigBiGANFeatures(run)
    np.testing.assert_allclose(features.fit_transform([turned]), features.transform([image]), rtol=1e-4, atol=1e-5)


RAMP = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
GREY = Image.fromarray((RAMP >> 8).astype(np.uint8))


def lazily(image, format="PNG", **options):
    """An image as `Image.open` gives it."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def truncated():
    file = io.BytesIO()
    GREY.save(file, "BMP")
    return Image.open(io.BytesIO(file.getvalue()[:-400]))


# PIL images that show GREY, or why they cannot be used.
PIL_IMAGES = {
    "I;16": Image.fromarray(RAMP),
    "I;16B": Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes()),
    "16-bit PNG": lazily(Image.fromarray(RAMP)),
    "16-bit TIFF, big-endian": lazily(Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes()), "TIFF"),
    "damaged EXIF": lazily(GREY, exif=b"Exif\0\0garbage"),
    "LA": GREY.convert("LA"),
    "PA": GREY.convert("PA"),
    "RGBa": GREY.convert("RGBA").convert("RGBa"),
    "RGBX": GREY.convert("RGBX"),
    "YCbCr": GREY.convert("YCbCr"),
    "HSV": GREY.convert("HSV"),
    "F": (Image.fromarray(RAMP.astype(np.float32)), "float pixels"),
    "I": (Image.fromarray(RAMP.astype(np.int32)), "32-bit or signed pixels"),
    "truncated": (truncated(), "image 0 "),
    "too narrow": (Image.new("L", (1, 100)), "too narrow"),
}


@pytest.mark.parametrize("kind", PIL_IMAGES)
def test_pil_images_are_read_like_files(run, kind):
    features, given = BigBiGANFeatures(run).fit(), PIL_IMAGES[kind]
    if isinstance(given, tuple):
        with pytest.raises(UserError, match=given[1]):
            features.transform([given[0]])
        return
    expected, found = features._pixels([GREY]), features._pixels([given])
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_tables_and_columns_of_paths(run, rows, tmp_path):
    pandas = pytest.importorskip("pandas", reason="the parquet extra is not installed")
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path, image in zip(paths, rows[0], strict=False):
        Image.fromarray(image).save(path)
    features, frame = BigBiGANFeatures(run).fit(), pandas.DataFrame({"file": paths, "label": [0, 1, 2]})
    expected = features.transform(paths)
    for X in (frame["file"], frame[["file"]], np.array(paths), np.array(paths)[:, None], iter(paths)):
        np.testing.assert_array_equal(features.transform(X), expected)
    with pytest.raises(UserError, match="a data frame with the columns file, label; expected its column of paths"):
        features.transform(frame)


def test_settings_changed_after_fit_count_from_the_next(run, rows):
    features = BigBiGANFeatures(run, features="z_mean").fit()
    features.set_params(features="avepool_feat", batch_size=5)
    found = features.transform(rows[0][:7])
    assert found.shape[1] == features.n_features_out_ == len(features.get_feature_names_out()) == 8
    assert features.get_feature_names_out()[0] == "z_mean_0"
    expected = BigBiGANFeatures(run, features="z_mean").fit_transform(rows[0][:7])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert features.fit().get_feature_names_out()[0] == "avepool_feat_0"


def test_clone_and_pickle_carry_settings_and_no_weights(run, rows):
    ours = BigBiGANFeatures(run, features="z_mean", batch_size=7).fit()
    copy = clone(ours)
    assert copy.get_params() == ours.get_params()
    assert not hasattr(copy, "model_")
    data = pickle.dumps(ours)
    assert len(data) < 2_000
    np.testing.assert_array_equal(pickle.loads(data).transform(rows[0][:3]), ours.transform(rows[0][:3]))


def test_a_clone_reads_16_bit_arrays_by_the_window(tmp_path):
    deep = np.random.default_rng(0).integers(200, 3900, (24, 8, 8)).astype(np.uint16)
    folder = tmp_path / "deep"
    folder.mkdir()
    for i, pixels in enumerate(deep):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    train(tiny_config("training.steps=1", "data.window=[200,3900]"), str(folder), tmp_path / "run", progress=False)
    ours = BigBiGANFeatures(tmp_path / "run")
    expected = ours.fit().transform(deep[:, None])
    np.testing.assert_array_equal(clone(ours).fit().transform(deep[:, None]), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ours)).transform(deep[:, None]), expected)


def test_in_pipelines_searches_and_grouped_cross_validation(run, rows):
    images, labels = rows
    pipeline = make_pipeline(BigBiGANFeatures(run), LogisticRegression(max_iter=500))
    assert pipeline.fit(images, labels).score(images, labels) > 0.9
    names = pipeline[:-1].get_feature_names_out()
    assert len(names) == pipeline[-1].coef_.shape[1]
    groups = np.arange(len(labels)) // 6
    scores = cross_val_score(pipeline, images, labels, groups=groups, cv=GroupKFold(3))
    assert scores.shape == (3,)
    grid = {"bigbiganfeatures__features": ["avepool_feat", "bn_crelu_feat", "z_mean"]}
    nearest = make_pipeline(BigBiGANFeatures(run), KNeighborsClassifier(1))
    search = GridSearchCV(pickle.loads(pickle.dumps(nearest)), grid, cv=3)  # as it reaches another process
    assert search.fit(images, labels).best_score_ > 0.5


def test_mistakes_are_reported(run, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for X, message in [
        (np.zeros((2, 8), np.uint8), r"shape \[2, 8\]"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"expected uint8 \[N, H, W\]"),
        (np.full((1, 1, 8, 8), 200.0), "expected \\[-1, 1\\]"),
        ([tmp_path / "absent.png"], "absent.png"),
        ([tmp_path / "torn.png"], "torn.png"),
        ([3], "a int at place 0"),
        ("a.png", "X is one path; expected a list"),
        (tmp_path / "a.png", "X is one path; expected a list"),
        (Image.new("L", (8, 8)), "X is a Image; expected a list"),
        (3, "X is a int; expected a list"),
        (np.full((1, 1, 8, 8), np.nan), "NaN or infinite"),
        (np.full((1, 1, 8, 8), np.inf), "NaN or infinite"),
    ]:
        with pytest.raises(UserError, match=message):
            BigBiGANFeatures(run).fit_transform(X)
    for size in (0, -1, 2.5, True):
        with pytest.raises(UserError, match=f"batch_size is {size}"):
            BigBiGANFeatures(run, batch_size=size).fit()
    with pytest.raises(UserError, match="features is logits"):
        BigBiGANFeatures(run, features="logits").fit()
    with pytest.raises(UserError, match="not a folder"):
        BigBiGANFeatures(tmp_path / "nowhere").fit()


@pytest.fixture
def encoded(monkeypatch):
    """The number of images in each pass through the encoder."""
    counts = []

    def counted(encoder, pixels, *arguments, **settings):
        counts.append(len(pixels))
        return encoder_features(encoder, pixels, *arguments, **settings)

    monkeypatch.setattr(wrapper, "encoder_features", counted)
    return counts


@pytest.mark.parametrize("form", ["array", "paths"])
def test_cross_validation_encodes_each_image_once(run, rows, tmp_path, encoded, form):
    images, labels = rows
    X = images
    if form == "paths":
        X = [str(tmp_path / f"{i}.png") for i in range(len(images))]
        for path, image in zip(X, images, strict=True):
            Image.fromarray(image).save(path)
    model = make_pipeline(BigBiGANFeatures(run), KNeighborsClassifier(1))
    cross_val_score(model, X, labels, cv=5, error_score="raise")
    assert sum(encoded) == len(images)


def test_cached_features_are_those_of_their_image_and_model(run, rows, tmp_path, encoded):
    images, _ = rows
    features = BigBiGANFeatures(run)
    first = features.transform(images[:4])
    np.testing.assert_array_equal(features.transform(images[[2, 0, 2]]), first[[2, 0, 2]])
    assert encoded == [4]
    BigBiGANFeatures(run, features="z_mean").transform(images[:4])
    assert encoded == [4, 4]
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    before = features.transform([tmp_path / "a.png"])
    Image.fromarray(255 - images[0]).save(tmp_path / "a.png")
    os.utime(tmp_path / "a.png", (1, 1))
    assert not np.array_equal(features.transform([tmp_path / "a.png"]), before)


def test_cache_forgets_what_was_not_used_for_longest(run, rows, monkeypatch, encoded):
    images, _ = rows
    features = BigBiGANFeatures(run)
    row = features.transform(images[:1]).nbytes
    monkeypatch.setattr(wrapper, "CACHE_MIB", 3 * row / 2**20)
    features.transform(images[1:3])
    features.transform(images[:1])
    features.transform(images[3:4])
    assert encoded == [1, 2, 1]
    features.transform(images[[0, 2, 3]])
    assert encoded == [1, 2, 1]
    features.transform(images[1:2])
    assert encoded == [1, 2, 1, 1]


def test_arrays_are_cropped_as_the_model_itself_does(tmp_path):
    config = tiny_config("data.augment=random_crop", "data.pad=never", "encoder.resolution=8")
    model = Model(config, build(config, torch.device("cpu")), step=1, images_seen=9)
    write_folder(model, tmp_path / "model", {"name": "rows", "images": 3})
    for side in (8, 20):
        images = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
        ours = BigBiGANFeatures(tmp_path / "model").transform(images)
        theirs = model.encode(torch.from_numpy(images)[:, None]).bn_crelu_feat
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
