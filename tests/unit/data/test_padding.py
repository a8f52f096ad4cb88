"""Whether squares a little smaller than the networks' images are padded: as in training, whatever new images are."""

import numpy as np
import pytest
import torch
from PIL import Image

import bigbigan
from bigbigan.apps.train import train
from bigbigan.evaluation.records import chosen_settings
from bigbigan.training.run_folder import open_data, read_config
from tiny import tiny_config


def images(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, side, side), dtype=np.uint8)


def write_arrays(path, side: int) -> str:
    np.savez(path, train_images=images(side))
    return str(path)


def write_files(path, side: int) -> str:
    path.mkdir()
    for i, image in enumerate(images(side)):
        Image.fromarray(image).save(path / f"{i:02}.png")
    return str(path)


@pytest.mark.parametrize(
    ("write", "side", "expected"),
    [(write_arrays, 7, "always"), (write_files, 7, "never"), (write_arrays, 8, "auto"), (write_files, 30, "auto")],
)
def test_training_records_what_it_did(tmp_path, write, side, expected):
    run, data = tmp_path / "run", write(tmp_path / "images.npz", side)
    train(tiny_config("training.steps=1"), data, run)
    config = read_config(run)
    assert config.data.pad == expected
    for other in (write_arrays(tmp_path / "other.npz", 7), write_files(tmp_path / "other", 7)):
        pads = open_data(run, other, None, config).splits["train"].store.pads
        assert pads == (expected == "always" if expected != "auto" else other.endswith(".npz"))


def test_the_trained_model_in_the_package_pads_files_too(tmp_path):
    model = bigbigan.load("small/fashion_mnist")
    small = images(28)[:2]
    expected = torch.from_numpy(np.pad(small, ((0, 0), (2, 2), (2, 2)))[:, None]) / 127.5 - 1
    for given in (small[:, None], [Image.fromarray(x) for x in small], list(small)):
        torch.testing.assert_close(model.prepare(given), expected)


def test_padding_makes_no_other_row_of_a_table():
    assert chosen_settings({"settings": {"data.pad": "always"}}) == {}
