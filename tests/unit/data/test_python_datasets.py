"""Map-style data sets in Python as sources: items, labels, splits, mistakes."""

import numpy as np
import pytest
import torch
from PIL import Image

import bigbigan
from bigbigan.cli import main
from bigbigan.data import DecodeLimits, fingerprint, inspect, load_pixels, open_source
from bigbigan.data.loading import measure_window
from bigbigan.data.window import Window
from bigbigan.errors import UserError
from bigbigan.evaluation.runner import evaluate
from bigbigan.io import read_json
from tiny import tiny_config

RNG = np.random.default_rng(0)
ARRAYS = RNG.integers(0, 256, (12, 9, 7, 3), dtype=np.uint8)


class Rows(torch.utils.data.Dataset):
    """Items made of arrays by a function of (array, number)."""

    def __init__(self, make, count=12):
        self.make, self.count = make, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return self.make(ARRAYS[i], i)


def opened(dataset):
    return open_source("dataset:Rows", dataset=dataset)


FORMS = {
    "PIL": lambda a, i: Image.fromarray(a),
    "array": lambda a, i: a,
    "tensor": lambda a, i: torch.from_numpy(a).permute(2, 0, 1),
    "float tensor": lambda a, i: torch.from_numpy(a).permute(2, 0, 1) / 255,
    "labelled": lambda a, i: (Image.fromarray(a), i % 3),
}


@pytest.mark.parametrize("form", FORMS)
def test_items_of_each_form_give_the_same_pixels(form):
    images = opened(Rows(FORMS[form])).splits["train"]
    assert all((images.load(i) == ARRAYS[i]).all() for i in range(12))
    assert fingerprint(images) == fingerprint(opened(Rows(FORMS["array"])).splits["train"])
    assert load_pixels(images, 8, 3)[0].shape == (12, 3, 8, 8)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_window_converts_pil_images_of_more_than_8_bits(kind):
    values = ARRAYS[:, :, :, 0].astype(kind) * 10 + 200
    dataset, window = Rows(lambda a, i: Image.fromarray(values[i])), Window(200, 2750)
    source = opened(dataset)
    images = source.splits["train"]
    before = fingerprint(images)
    assert measure_window(source, images, (0, 100)) == (values.min(), values.max())
    assert "--set data.window_percentiles=[0.1,99.9]" in inspect(source)["remedies"][0]
    source.set_window(window)
    given = open_source("dataset:Rows", dataset=dataset, limits=DecodeLimits(window=window)).splits["train"]
    for i in range(12):
        assert (images.load(i) == ARRAYS[i, :, :, :1]).all()
        assert (given.load(i) == images.load(i)).all()
    assert before == fingerprint(images) == fingerprint(given)
    assert before != fingerprint(opened(Rows(lambda a, i: Image.fromarray(values[11 - i]))).splits["train"])


def test_grey_items_have_one_channel_and_are_not_mirrored():
    for make in (lambda a, i: a[:, :, 0], lambda a, i: a[:, :, :1], lambda a, i: torch.from_numpy(a[:, :, 0])):
        source = opened(Rows(make))
        assert source.splits["train"].load(0).shape == (9, 7, 1)
        assert not source.mirrorable
    assert opened(Rows(FORMS["array"])).mirrorable


@pytest.mark.parametrize(
    ("label", "labels", "classes"),
    [
        (lambda i: i % 3, [0, 1, 2, 0], ["0", "1", "2"]),
        (lambda i: torch.tensor(i % 2), [0, 1, 0, 1], ["0", "1"]),
        (lambda i: ["cat", "ant"][i % 2], [1, 0, 1, 0], ["ant", "cat"]),
        (lambda i: None if i == 1 else 5, [0, -1, 0, 0], ["5"]),
        (lambda i: None, None, None),
        (lambda i: ["a", "NA", "", "b"][i], [0, -1, -1, 1], ["a", "b"]),
        (lambda i: [0.0, 1.0, float("nan"), -1][i], [0, 1, -1, -1], ["0", "1"]),
        (lambda i: ["e\u0301", "\u00e9", " \u00e9", "f"][i], [1, 1, 1, 0], ["f", "\u00e9"]),
    ],
)
def test_labels_of_items(label, labels, classes):
    images = opened(Rows(lambda a, i: (a, label(i)), 4)).splits["train"]
    assert (None if images.labels is None else images.labels.tolist(), images.classes) == (labels, classes)


def test_targets_and_classes_are_used_as_in_torchvision():
    read = []
    dataset = Rows(lambda a, i: (read.append(i), (a, (i + 1) % 2))[1])
    dataset.targets, dataset.classes = [1, 0] * 6, ["dog", "eel", "fox"]
    images = opened(dataset).splits["train"]
    assert images.labels.tolist() == [1, 0] * 6
    assert images.classes == ["dog", "eel", "fox"]
    assert set(read) == {0, 1}  # one item of each class is read for its label


def test_targets_that_a_target_transform_changes_are_not_used():
    dataset = Rows(lambda a, i: (a, (i % 4) // 2))
    dataset.targets, dataset.classes = [0, 1, 2, 3] * 3, ["dog", "eel", "fox", "gnu"]
    source = opened(dataset)
    assert source.splits["train"].labels.tolist() == [0, 0, 1, 1] * 3
    assert source.notes["labels read from all items, as the data set has other 'targets' than its items' labels"] == 1
    assert source.splits["train"].classes == ["0", "1"]  # as "dog" and "eel" are both in the first
    dataset.classes = ["pet", "prey"]
    assert opened(dataset).splits["train"].classes == ["pet", "prey"]


def test_targets_are_used_if_items_have_no_class():
    dataset = Rows(lambda a, i: (a, torch.eye(3)[i % 3]))
    dataset.targets = [0, 1, 2] * 4
    assert opened(dataset).splits["train"].labels.tolist() == [0, 1, 2] * 4


def test_classes_of_each_split_are_its_own():
    train, test = Rows(lambda a, i: (a, i % 3)), Rows(lambda a, i: (a, i % 2))
    train.classes, test.classes = ["cat", "dog", "fox"], ["dog", "fox"]
    source = opened({"train": train, "test": test})
    assert source.splits["train"].classes == source.splits["test"].classes == ["cat", "dog", "fox"]
    assert source.splits["train"].labels[:3].tolist() == [0, 1, 2]
    assert source.splits["test"].labels[:2].tolist() == [1, 2]
    test.make = lambda a, i: (a, i % 3)
    with pytest.raises(UserError, match="cat, dog, fox in 'train' and dog, fox in 'test', and label 2 of 'test'"):
        opened({"train": train, "test": test})


def test_classes_of_a_split_without_a_list_are_those_of_train():
    train, test = Rows(lambda a, i: (a, i % 3)), Rows(lambda a, i: (a, i % 2))
    train.classes = np.array(["cat", "dog", "fox"])
    source = opened({"train": train, "test": test})
    assert source.splits["test"].classes == ["cat", "dog", "fox"]


def test_splits_share_their_classes():
    train, test = (Rows(lambda a, i, names=names: (a, names[i % len(names)])) for names in (["b", "c"], ["a", "c"]))
    source = opened({"train": train, "test": test})
    assert list(source.splits) == ["train", "test"]
    assert source.splits["train"].classes == ["a", "b", "c"]
    assert source.splits["test"].labels[:2].tolist() == [0, 2]


def _fail(a, i):
    raise KeyError(f"item {i}")


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (3, "is a int; expected a map-style data set"),
        (Rows(FORMS["array"], 0), "has no items"),
        ({"training": Rows(FORMS["array"])}, "there is no split training; expected train, val, test"),
        (Rows(lambda a, i: "x"), "not an image (str; expected a PIL image, an array or a tensor)"),
        (Rows(lambda a, i: a / 255), "not an image (array float64 [9, 7, 3]; expected uint8 [H, W, C]"),
        (
            Rows(lambda a, i: torch.from_numpy(a)),
            "not an image (tensor torch.uint8 [9, 7, 3]; expected uint8 [C, H, W]",
        ),
        (Rows(lambda a, i: torch.full((3, 4, 4), -0.5)), "float tensor outside [0, 1]"),
        (Rows(lambda a, i: (a, 1, 2)), "item has 3 parts; expected an image, or (image, label)"),
        (Rows(lambda a, i: (a, [1, 2])), "a label is [1, 2]; expected a whole number, a class name or None"),
        (Rows(_fail), "KeyError: 'item 0'"),
        (Rows(lambda a, i: torch.randint(256, (3, 8, 8), dtype=torch.uint8)), "a different image each time"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(dataset, message):
    with pytest.raises(UserError) as error:
        opened(dataset)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_items_that_fail_are_skipped_and_counted():
    source = opened(Rows(lambda a, i: _fail(a, i) if i == 3 else a))
    source.max_unreadable = 0.2
    with pytest.warns(UserWarning, match="1 of the 12 images in 'train' cannot be read"):
        _, kept = load_pixels(source.splits["train"], 8, 3, source)
    assert kept.tolist() == [0, 1, 2, *range(4, 12)]


def test_python_names_are_found_in_the_current_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "doors_rows.py").write_text(
        "import numpy as np\nclass Rows(list):\n    pass\n"
        "def rows():\n    return {'train': [(np.full((8, 8), 9 * i, np.uint8), i % 3) for i in range(20)]}\n"
    )
    monkeypatch.chdir(tmp_path)
    source = open_source("python:doors_rows:rows")
    assert (source.name, len(source.splits["train"])) == ("rows", 20)
    assert main(["data", "inspect", "python:doors_rows:rows"]) == 0
    assert main(["data", "shard", "python:doors_rows:rows", "--out", "shards", "--quiet"]) == 0
    capsys.readouterr()
    for spec, message in (
        ("python:doors_rows:row", "doors_rows has no row; did you mean rows?"),
        ("python:doors_row:rows", "there is no module doors_row, neither installed nor in the current folder"),
        ("python:doors_rows", "expected python:MODULE:NAME, such as python:my_package.data:cells"),
        ("python:doors_rows:Rows", "'train' has no items"),
    ):
        assert main(["data", "inspect", spec]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_training_on_a_data_set_in_python(tmp_path, monkeypatch):
    run, dataset = tmp_path / "run", Rows(lambda a, i: (a[:, :, 0], i % 2))
    small = ["training.batch_size=4", "encoder.resolution=8"]
    assert bigbigan.train(tiny_config(*small, "training.steps=1"), run=run, dataset=dataset, progress=False) is None
    assert bigbigan.train(tiny_config(*small, "training.steps=2"), run=run, dataset=dataset, progress=False) is None
    card = read_json(run / "data.json")
    assert (card["spec"], card["images"], card["classes"]) == ("dataset:Rows", 12, ["0", "1"])
    with pytest.raises(UserError, match="the images are not those"):
        bigbigan.train(tiny_config(*small, "training.steps=3"), run=run, dataset=Rows(FORMS["array"]), progress=False)
    with pytest.raises(UserError, match="was trained on a data set in Python, dataset:Rows; give --data SOURCE"):
        evaluate(run, None, ["knn1_l2_avepool"], "test", progress=False)
    for given in ({}, {"data": "digits", "dataset": dataset}):
        with pytest.raises(UserError, match="expected one of data, a source, and dataset"):
            bigbigan.train(tiny_config(), run=run, **given)
    with pytest.raises(UserError, match="run is missing"):
        bigbigan.train(tiny_config(), dataset=dataset)


def test_a_split_without_a_label_has_no_labels():
    splits = {"train": Rows(lambda x, i: (x, i % 2)), "test": Rows(lambda x, i: (x, None))}
    source = opened(splits)
    assert source.splits["train"].labels is not None
    assert source.splits["test"].labels is None
