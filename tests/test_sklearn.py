"""The transformer is one that scikit-learn's tools can clone, pickle, search over and cross-validate, on any images."""

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
from bigbigan.errors import UserError
from bigbigan.sklearn import BigBiGANFeatures
from bigbigan.train import train
from tiny import tiny_config, write_npz


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sklearn")
    train(tiny_config("training.steps=6"), str(write_npz(folder / "rows.npz")), folder / "run", progress=False)
    return folder / "run"


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


def test_clone_and_pickle_carry_settings_and_no_weights(run, rows):
    ours = BigBiGANFeatures(run, features="z_mean", batch_size=7).fit()
    copy = clone(ours)
    assert copy.get_params() == ours.get_params()
    assert not hasattr(copy, "model_")
    data = pickle.dumps(ours)
    assert len(data) < 2_000
    np.testing.assert_array_equal(pickle.loads(data).transform(rows[0][:3]), ours.transform(rows[0][:3]))


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
    search = GridSearchCV(make_pipeline(BigBiGANFeatures(run), KNeighborsClassifier(1)), grid, cv=3, n_jobs=2)
    assert search.fit(images, labels).best_score_ > 0.5


def test_mistakes_are_told(run, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for X, message in [
        (np.zeros((2, 8), np.uint8), r"shape \[2, 8\]"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"expected uint8 \[N, H, W\]"),
        (np.full((1, 1, 8, 8), 200.0), "expected \\[-1, 1\\]"),
        ([tmp_path / "absent.png"], "absent.png"),
        ([tmp_path / "torn.png"], "torn.png"),
        ([3], "a int at place 0"),
    ]:
        with pytest.raises(UserError, match=message):
            BigBiGANFeatures(run).fit_transform(X)
    with pytest.raises(UserError, match="features is logits"):
        BigBiGANFeatures(run, features="logits").fit()
    with pytest.raises(UserError, match="not a folder"):
        BigBiGANFeatures(tmp_path / "nowhere").fit()
