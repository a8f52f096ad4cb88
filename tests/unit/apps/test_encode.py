"""`encode` writes what the encoder says of each image, batch by batch, in three kinds of file."""

import csv
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from bigbigan.apps import encode as module
from bigbigan.apps.encode import encode
from bigbigan.apps.feature_file import Rows, writing_features
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.data import load_view, open_source
from bigbigan.data.loading import stream_view
from bigbigan.evaluation.features import encoder_features
from bigbigan.inference.loading import load
from tiny import tiny_config, write_npz


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encode")
    train(tiny_config("training.steps=2"), str(write_npz(folder / "rows.npz")), folder / "run", progress=False)
    return folder / "run"


@pytest.fixture
def photos(tmp_path):
    """23 files of two classes in train, one of them unreadable, and 3 without a class in test."""
    rng = np.random.default_rng(0)
    for i in range(26):
        folder = tmp_path / "photos" / ("test" if i >= 23 else f"train/{'a long name' if i % 2 else 'b'}")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{i:02d}.png"
        Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).save(file)
        if i == 4:
            file.write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "stream_view", lambda *a: stream_view(*a[:5], batch_size=7))


def test_features_are_those_of_the_whole_set(run, photos, tmp_path, small_batches):
    assert encode(run, str(photos), tmp_path / "f.npz") == 25
    source, model = open_source(str(photos)), load(run)
    with np.load(tmp_path / "f.npz") as found:
        assert list(found) == ["file", "split", "class", "class_number", "avepool_feat", "bn_crelu_feat", "z_mean"]
        start = 0
        for images in source.splits.values():
            pixels, kept = load_view(images, 8, 1, "none", source)
            rows = slice(start, start := start + len(kept))
            assert found["file"][rows].tolist() == [images.files[i] for i in kept]
            assert set(found["split"][rows]) == {images.name}
            for name, values in encoder_features(model.encoder, pixels, ["avepool", "bn_crelu", "z_mean"]).items():
                key = name if name == "z_mean" else f"{name}_feat"
                assert found[key].dtype == np.float32
                np.testing.assert_allclose(found[key][rows], values, rtol=1e-5, atol=1e-6)
        assert start == 25
        assert set(found["class"]) == {"a long name", "b", ""}
        assert ((found["class_number"] < 0) == (found["class"] == "")).all()


def test_three_kinds_of_file_agree(run, photos, tmp_path, small_batches, monkeypatch):
    pandas = pytest.importorskip("pandas", reason="the parquet extra is not installed")
    pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    monkeypatch.setattr("bigbigan.apps.feature_file.ROW_GROUP", 1000)  # bytes: several groups
    names = ["z_mean", "score_xz"]
    for kind in ("npz", "csv", "parquet"):
        encode(run, str(photos), tmp_path / f"f.{kind}", names)
    table = pandas.read_parquet(tmp_path / "f.parquet")
    with np.load(tmp_path / "f.npz") as arrays, (tmp_path / "f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
        assert table["file"].tolist() == arrays["file"].tolist() == [row["file"] for row in rows]
        assert table["class"].tolist() == arrays["class"].tolist() == [row["class"] for row in rows]
        labels = arrays["class_number"].tolist()
        assert table["class_number"].fillna(-1).tolist() == labels == [int(row["class_number"] or -1) for row in rows]
        assert str(table["class_number"].dtype) == "Int64"
        for i in range(8):
            np.testing.assert_array_equal(table[f"z_mean_{i}"], arrays["z_mean"][:, i])
        np.testing.assert_array_equal(table["score_xz"], arrays["score_xz"])
        written = [float(row["score_xz"]) for row in rows]
        np.testing.assert_allclose(written, arrays["score_xz"], rtol=1e-5)


def some_rows(count, width):
    names = ["train"] * count
    return Rows(names, names, np.zeros(count, np.int64), names, {"avepool_feat": np.zeros((count, width), np.float32)})


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_memory_does_not_grow_with_the_rows(kind, tmp_path):
    with writing_features(tmp_path / f"f.{kind}") as write:
        write(some_rows(100, 500))
        tracemalloc.start()
        for _ in range(100 if kind == "npz" else 20):  # 20 MB and 4 MB of numbers
            write(some_rows(100, 500))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6, peak


def write_and_fail(path):
    with writing_features(path) as write:
        write(some_rows(3, 2))
        raise ZeroDivisionError


def test_an_error_leaves_no_file(tmp_path):
    for kind in ("npz", "csv", "parquet"):
        if kind == "parquet":
            pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
        with pytest.raises(ZeroDivisionError):
            write_and_fail(tmp_path / f"f.{kind}")
    assert not list(tmp_path.iterdir())


def test_progress_names_its_part(run, tmp_path, capsys):
    command = ["encode", str(run), "--out", str(tmp_path / "f.npz")]
    assert main(command) == 0
    assert "encode: 100%" in capsys.readouterr().err
    assert main([*command, "--quiet"]) == 0
    assert "encode: " not in capsys.readouterr().err


def test_scores_of_a_batch_are_those_of_the_model(run, photos, tmp_path):
    encode(run, str(photos), tmp_path / "f.npz", ["anomaly_score", "reconstruction_error"])
    pixels, _ = load_view(open_source(str(photos)).splits["train"], 8, 1, "none")
    expected = load(run).anomaly_score(torch.from_numpy(pixels)).numpy()
    with np.load(tmp_path / "f.npz") as found:
        np.testing.assert_allclose(found["anomaly_score"][:22], expected, rtol=1e-5)
        assert found["reconstruction_error"].shape == (25,)
