"""`hf:NAME` with the datasets library itself, on data sets that lie here: there is no Hub in these tests."""

import json

import numpy as np
import pytest
from PIL import Image

from bigbigan.cli import main
from bigbigan.data import fingerprint, load_pixels, open_source
from bigbigan.errors import UserError

datasets = pytest.importorskip("datasets", reason="datasets is not installed: make test-interop")


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def photos(tmp_path):
    for i in range(24):
        split = "train" if i % 4 else "validation"
        path = tmp_path / "photos" / split / ("cat", "dog")[i % 2] / f"{i:02d}.{'png' if i % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (12, 14, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture(params=["folder of images", "saved to disk", "parquet"])
def spec(request, photos, tmp_path):
    if request.param == "folder of images":
        return f"hf:{photos}"
    found = datasets.load_dataset(str(photos))
    if request.param == "saved to disk":
        found.save_to_disk(tmp_path / "saved" / "photos")
        return f"hf:{tmp_path}/saved/photos"
    for split, table in found.items():
        (tmp_path / "parquet" / "photos").mkdir(parents=True, exist_ok=True)
        table.to_parquet(tmp_path / "parquet" / "photos" / f"{split}-00000-of-00001.parquet")
    return f"hf:{tmp_path}/parquet/photos"


def refused(spec):
    with pytest.raises(UserError) as error:
        open_source(spec)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_images_labels_and_splits_are_those_of_the_files(spec, photos):
    ours, theirs = open_source(spec), open_source(str(photos))
    assert (ours.name, list(ours.splits)) == ("photos", ["train", "val"])
    for name, images in ours.splits.items():
        other = theirs.splits[name]
        pixels, expected = load_pixels(images, 12, 3, ours)[0], load_pixels(other, 12, 3, theirs)[0]
        label_of = {x.tobytes(): other.classes[k] for x, k in zip(expected, other.labels, strict=True)}
        assert [label_of[x.tobytes()] for x in pixels] == [images.classes[k] for k in images.labels]
        assert len(pixels) == len(other)
    assert fingerprint(ours.splits["train"]) == fingerprint(open_source(spec).splits["train"])
    assert not ours.skipped


def test_one_split_is_read_as_train(spec):
    source = open_source(f"{spec}:validation")
    assert {k: len(v) for k, v in source.splits.items()} == {"train": 6}
    assert "there is no split 'test'; there are train, validation" in refused(f"{spec}:test")


def test_a_data_set_without_labels_or_with_labels_kept_back(tmp_path):
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["a", "b"])})
    pictures = [Image.new("L", (8, 8), i) for i in range(6)]
    table = datasets.Dataset.from_dict({"picture": pictures, "kind": [-1] * 6}, features=features)
    table.save_to_disk(tmp_path / "set")
    train = open_source(f"hf:{tmp_path}/set").splits["train"]
    assert (train.labels, train.classes, len(train)) == (None, None, 6)
    assert load_pixels(train, 8, 1)[0][:, 0, 0, 0].tolist() == list(range(6))


def test_images_that_pandas_wrote_as_bytes_and_path(tmp_path):
    rows = []
    for i in range(4):
        Image.new("L", (8, 8), i).save(tmp_path / "one.png")
        rows.append({"bytes": (tmp_path / "one.png").read_bytes(), "path": f"{i}.png"})
    (tmp_path / "table").mkdir()
    datasets.Dataset.from_dict({"image": rows}).to_parquet(tmp_path / "table" / "train.parquet")
    train = open_source(f"hf:{tmp_path}/table").splits["train"]
    assert load_pixels(train, 8, 1)[0][:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_a_damaged_or_missing_image_is_skipped_and_named(photos, tmp_path):
    good, features = Image.new("L", (8, 8), 7), datasets.Features({"image": datasets.Image()})
    rows = [good, good, {"bytes": b"\xff\xd8\xffnot", "path": None}, None, good]
    datasets.Dataset.from_dict({"image": rows}, features=features).save_to_disk(tmp_path / "set")
    source = open_source(f"hf:{tmp_path}/set", max_unreadable=0.6)
    assert load_pixels(source.splits["train"], 8, 1, source)[1].tolist() == [0, 1, 4]
    assert source.skipped == [("train/00000002", "damaged JPEG"), ("train/00000003", "empty file")]
    source = open_source(f"hf:{photos}", max_unreadable=0.6)
    next(photos.glob("train/*/*")).unlink()
    assert len(load_pixels(source.splits["train"], 8, 1, source)[1]) == 17
    assert source.skipped[0][1] == "cannot be read (No such file or directory)"


def test_what_is_not_there_or_no_images_is_refused_in_one_line(tmp_path):
    assert "cannot be loaded" in refused("hf:nobody/nothing-of-this-name")
    assert "cannot be loaded" in refused(f"hf:{tmp_path}/nowhere")
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path / "text")
    assert "has no column of images; it has text (Value)" in refused(f"hf:{tmp_path}/text")
    table = datasets.Dataset.from_dict(
        {"image": [Image.new("L", (8, 8))]}, features=datasets.Features({"image": datasets.Image()})
    )
    datasets.DatasetDict({"full": table}).save_to_disk(tmp_path / "odd")
    assert "write hf:NAME:SPLIT with one of full" in refused(f"hf:{tmp_path}/odd")
    assert len(open_source(f"hf:{tmp_path}/odd:full").splits["train"]) == 1


def test_no_code_of_a_data_set_is_run(tmp_path):
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    refused(f"hf:{folder}")
    assert not (tmp_path / "trace").exists()


def test_verbs_take_it(spec, tmp_path, capsys):
    assert main(["data", "inspect", spec, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["count"] == 18
    assert main(["data", "shard", spec, "--out", str(tmp_path / "shards"), "--quiet"]) == 0
    source = open_source(str(tmp_path / "shards"))
    assert source.splits["val"].classes == ["cat", "dog"]
