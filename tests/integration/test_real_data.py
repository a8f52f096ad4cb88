"""Read real data sets, if they lie beside the repository, and take a training step on each.

Counts, labels and pixels are as published; experiments are as they are defined, but for the batch and the precision.
"""

import json
import tarfile

import numpy as np
import pytest

from bigbigan.cli import main
from bigbigan.data import inspect, load_pixels, open_source, sources
from bigbigan.errors import UserError

pytestmark = pytest.mark.long

CASES = {
    "mnist": ("small/mnist", "mnist:{}/mnist", 60_000),
    "fashion_mnist": ("small/fashion_mnist", "fashion-mnist:{}/fashion-mnist", 60_000),
    "idx folder by path": ("small/mnist", "{}/mnist", 60_000),
    "cifar10": ("small/cifar10", "cifar10:{}/cifar10/cifar10-jpeg.tar.gz", 50_000),
    "medmnist npz": ("small/mnist", "{}/medical/pneumoniamnist.npz", 4_708),
    "blood cells, archive": ("small/folder64", "{}/medical/bccd-cells-64.tar.gz", 2_804),
    "fully connected": ("bigan/mnist", "mnist:{}/mnist", 60_000),
    "photographs, AlexNet": ("bigan/imagenet", "{}/caltech101/caltech101-128.tar.gz", 6_286),
    "photographs, archive": ("small/folder64", "{}/caltech101/caltech101-128.tar.gz", 6_286),
}


def counts(source):
    return {name: len(images) for name, images in source.splits.items()}


def test_mnist(shared):
    source = open_source(f"mnist:{shared / 'mnist'}")
    train, test = source.splits["train"], source.splits["test"]
    assert (source.name, counts(source)) == ("mnist", {"train": 60_000, "test": 10_000})
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels, kept = load_pixels(train, 28, 1, source)
    assert (len(kept), round(pixels.mean(dtype=np.float64) / 255, 4)) == (60_000, 0.1307)
    padded, _ = load_pixels(test.subset(range(100)), 32, 1)
    exact, _ = load_pixels(test.subset(range(100)), 28, 1)
    np.testing.assert_array_equal(padded[:, :, 2:30, 2:30], exact)
    assert (source.skipped, source.notes) == ([], {})


def test_fashion_mnist(shared):
    source = open_source(f"fashion-mnist:{shared / 'fashion-mnist'}")
    assert counts(source) == {"train": 60_000, "test": 10_000}
    assert np.bincount(source.splits["train"].labels).tolist() == [6_000] * 10
    assert source.splits["test"].classes[0] == "T-shirt/top"


def test_cifar10_jpeg_and_exact_pixels(shared):
    source = open_source(f"cifar10:{shared / 'cifar10' / 'cifar10-jpeg.tar.gz'}")
    train = source.splits["train"]
    assert (source.name, counts(source)) == ("cifar10", {"train": 50_000, "test": 10_000})
    # Alphabetical order is the usual label order.
    assert train.classes == list(sources._CLASSES["cifar10"])
    assert np.bincount(train.labels).tolist() == [5_000] * 10
    exact = open_source(f"cifar10:{shared / 'cifar10' / 'cifar10-train-first4000.npz'}").splits["train"]
    assert exact.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    # The first exact frog is the first JPEG frog, up to JPEG's loss.
    frog, jpeg = (int(np.flatnonzero(s.labels == 6)[0]) for s in (exact, train))
    assert np.abs(exact.load(frog).astype(int) - train.load(jpeg)).mean() < 12
    some = train.subset(range(0, 50_000, 50))
    pixels, kept = load_pixels(some, 32, 3, source)
    assert (pixels.shape, len(kept), source.notes) == ((1_000, 3, 32, 32), 1_000, {})
    assert np.abs(pixels.mean((0, 2, 3)) / 255 - [0.4913, 0.4821, 0.4465]).max() < 0.02


def test_pneumonia(shared):
    source = open_source(str(shared / "medical" / "pneumoniamnist.npz"))
    found = inspect(source)
    classes = {name: list(split["classes"].values()) for name, split in found["splits"].items()}
    assert counts(source) == {"train": 4_708, "val": 524, "test": 624}
    assert classes == {"train": [1214, 3494], "val": [135, 389], "test": [234, 390]}
    assert found["splits"]["train"]["sizes"]["most_common"] == {"size": [28, 28], "count": 4_708}
    assert found["shared"] == {"train, val": 8}


def test_bccd(shared):
    source = open_source(str(shared / "medical" / "bccd-cells-64.tar.gz"))
    assert counts(source) == {"train": 2_804, "val": 1_137, "test": 945}
    of = {k: np.bincount(v.labels).tolist() for k, v in source.splits.items()}
    assert of == {"train": [209, 2381, 214], "val": [83, 967, 87], "test": [69, 805, 71]}
    assert source.splits["val"].classes == ["Platelets", "RBC", "WBC"]
    assert source.splits["train"].load(0).shape == (64, 64, 3)


def test_bccd_whole_images_amid_annotations(shared):
    source = open_source(str(shared / "medical" / "bccd-images.tar.gz"))
    assert counts(source) == {"train": 364}
    assert source.splits["train"].labels is None
    assert source.notes["ignored, not an image (.xml)"] == 364
    pixels, _ = load_pixels(source.splits["train"].subset(range(5)), 64, 3, source)
    assert pixels.shape == (5, 3, 64, 64)


def test_caltech(shared):
    source = open_source(str(shared / "caltech101" / "caltech101-128.tar.gz"))
    assert counts(source) == {"train": 6_286, "test": 1_521}
    assert len(source.splits["train"].classes) == 99


def test_a_folder_of_two_archives_asks_which(shared):
    with pytest.raises(UserError, match="give one of its archives"):
        open_source(str(shared / "cifar10"))


def one_step(experiment, source, run):
    settings = ["log.validate_every=0", "log.standing_batches=1", "training.batch_size=8", "training.precision=float32"]
    return main(
        ["train", experiment, "--data", source, "--out", str(run), "--quiet", "--steps", "1", "--set", *settings]
    )


@pytest.mark.parametrize("case", CASES)
def test_one_step_on_real_images(case, shared, tmp_path):
    experiment, source, count = CASES[case]
    assert one_step(experiment, source.format(shared), tmp_path / "run") == 0
    card = json.loads((tmp_path / "run" / "data.json").read_text())
    assert card["images"] == count
    assert card["skipped"] == []
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 1


def test_an_unpacked_folder_is_the_archive(shared, tmp_path):
    archive = shared / "medical" / "bccd-cells-64.tar.gz"
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile():
                path = tmp_path / "cells" / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(member).read())
    cards = []
    for name, source in (("a", archive), ("b", tmp_path / "cells")):
        assert one_step("small/folder64", str(source), tmp_path / name) == 0
        cards.append(json.loads((tmp_path / name / "data.json").read_text()))
    assert cards[0]["images"] == cards[1]["images"] == 2_804
    assert cards[0]["fingerprint"] == cards[1]["fingerprint"]
