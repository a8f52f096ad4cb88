"""The experiments as they are defined take a real step on the real images they are for."""

import json
import tarfile

import pytest

from bigbigan.cli import main

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


def one_step(experiment, source, run):
    settings = ["log.validate_every=0", "log.standing_batches=1"]
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
