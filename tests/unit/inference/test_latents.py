"""Walks keep the lengths G knows, refinement comes nearer to the image, and their pictures show what they should."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from bigbigan import load
from bigbigan.apps import visualize
from bigbigan.apps.sheet import sheet
from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.errors import UserError
from bigbigan.inference.latents import interpolate, refine
from bigbigan.integrations.export import export
from tiny import tiny_config, write_npz


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    train(tiny_config("training.steps=30"), str(write_npz(folder / "rows.npz")), folder / "run", progress=False)
    return folder / "run"


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- walks --------------------------------------------------------------------------------------------------


def test_interpolation_keeps_its_ends_and_length():
    a, b = random(5, 40), random(5, 40, seed=1)
    walk = interpolate(a, b, 7)
    assert walk.shape == (5, 7, 40)
    torch.testing.assert_close(walk[:, 0], a)
    torch.testing.assert_close(walk[:, -1], b)
    lengths = walk.norm(dim=2)
    torch.testing.assert_close(
        lengths, torch.stack([torch.linspace(*ends, 7) for ends in zip(a.norm(dim=1), b.norm(dim=1), strict=True)])
    )
    middle = torch.nn.functional.cosine_similarity(walk[:, 3], a), torch.nn.functional.cosine_similarity(walk[:, 3], b)
    torch.testing.assert_close(*middle)
    straight = interpolate(a, b, 3, "uniform")
    torch.testing.assert_close(straight[:, 1], (a + b) / 2)
    assert (straight[:, 1].norm(dim=1) < lengths[:, 3]).all()


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_ends_without_an_angle_between_them_are_walked_straight(factor):
    a = random(2, 8)
    walk = interpolate(a, factor * a, 5)
    assert torch.isfinite(walk).all()
    torch.testing.assert_close(walk[:, -1], factor * a)


# -- refinement ---------------------------------------------------------------------------------------------


def test_refinement_inverts_an_invertible_generator():
    mixing = torch.linalg.qr(random(12, 12))[0]

    def generate(z):
        return torch.tanh(z @ mixing).view(-1, 1, 3, 4)

    z = random(6, 12) / 2
    found = refine(generate, generate(z), torch.zeros(6, 12), 400)
    assert found.errors.shape == (401, 6)
    assert (found.errors[-1] < 0.02 * found.errors[0]).all()
    torch.testing.assert_close(found.z, z, atol=0.05, rtol=0)
    x = generate(z)
    alone = refine(generate, x[2:3], torch.zeros(1, 12), 400)
    torch.testing.assert_close(alone.z[0], found.z[2], atol=1e-5, rtol=0)  # images do not disturb each other


def test_the_best_latent_is_kept_and_bounds_hold():
    def generate(z):
        return z.view(-1, 1, 1, 2)

    x = torch.tensor([[[[0.5, 3.0]]]])
    found = refine(generate, x, torch.zeros(1, 2), 300, rate=0.1, bounded=True)
    torch.testing.assert_close(found.z, torch.tensor([[0.5, 1.0]]), atol=0.01, rtol=0)
    wild = refine(generate, x, torch.tensor([[0.5, 2.9]]), 5, rate=50.0)
    torch.testing.assert_close(wild.z, torch.tensor([[0.5, 2.9]]))  # every step made it worse


def test_features_pull_where_pixels_cannot():
    def features(x):
        return 10**0.5 * x.flatten(1)[:, :1]  # with ten times the weight of the pixels

    x, z = torch.tensor([[[[1.0, -1.0]]]]), torch.zeros(1, 1)
    plain = refine(lambda z: z.expand(-1, 2).reshape(-1, 1, 1, 2), x, z, 200)
    pulled = refine(lambda z: z.expand(-1, 2).reshape(-1, 1, 1, 2), x, z, 200, features=features)
    assert abs(plain.z.item()) < 0.05  # the two pixels want opposite things
    assert pulled.z.item() > 0.7


def test_a_model_refines_its_reconstructions_without_changing(run):
    model = load(run)
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = {k: v.clone() for k, v in model.generator.state_dict().items()}
    found = model.refine(x, 20)
    assert (found.errors.min(0).values < found.errors[0]).all()
    assert all(torch.equal(v, before[k]) for k, v in model.generator.state_dict().items())
    error = (x - model.generate(found.z)).flatten(1).norm(dim=1) / 2
    torch.testing.assert_close(error, found.errors.min(0).values, rtol=1e-4, atol=1e-5)
    for features in ("encoder", "discriminator"):
        assert torch.isfinite(model.refine(x, 2, features=features).z).all()
    with pytest.raises(UserError, match="features is inception"):
        model.refine(x, 2, features="inception")
    with pytest.raises(UserError, match=r"expected \[4, 8\]"):
        model.refine(x, 2, z=torch.zeros(3, 8))


# -- pictures -----------------------------------------------------------------------------------------------


def size(path):
    with Image.open(path) as image:
        return image.size


@pytest.fixture
def drawn(monkeypatch):
    """The numbers of tiles in the rows of the last picture."""
    counts = []

    def counted(rows, *arguments, **named):
        counts[:] = map(len, rows)
        return sheet(rows, *arguments, **named)

    monkeypatch.setattr(visualize, "sheet", counted)
    return counts


def test_refined_reconstructions_have_three_rows_and_errors(run, tmp_path, capsys, drawn):
    out = tmp_path / "new" / "r.png"
    assert main(["reconstruct", str(run), "--count", "5", "--refine", "10", "--out", str(out), "--json"]) == 0
    errors = json.loads(capsys.readouterr().out)["error"]
    assert errors["after 10 steps"] < errors["G(E(x))"]
    assert drawn == [5, 5, 5]
    assert main(["reconstruct", str(run), "--count", "20", "--refine", "1", "--out", str(out)]) == 0
    assert drawn == 3 * [8] + 3 * [8] + 3 * [4]
    assert size(out)[0] > 8 * 64
    printed = capsys.readouterr().out
    assert printed.startswith(f"wrote {out}: the mean error of G(E(x)) is ")
    assert " after z is refined for 1 step (" in printed


def test_interpolate_draws_walks_between_images(run, tmp_path, capsys, drawn):
    out = tmp_path / "walks.png"
    assert main(["interpolate", str(run), "--count", "3", "--steps", "4", "--out", str(out)]) == 0
    assert drawn == [6, 6, 6]


def test_neighbours_are_training_images_nearest_first(run, tmp_path, capsys, drawn):
    out = tmp_path / "n.png"
    assert main(["neighbours", str(run), "--count", "3", "--neighbours", "4", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert drawn == [5, 5, 5]
    assert [f["file"].split("/")[0] for f in found] == ["test"] * 3
    for f in found:
        similarities = [n["similarity"] for n in f["neighbours"]]
        assert similarities == sorted(similarities, reverse=True)
        assert all(n["file"].startswith("train") for n in f["neighbours"])


def test_an_image_is_not_its_own_neighbour(run, tmp_path, capsys):
    folder = tmp_path / "flat"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / f"{i}.png")
    export(run, tmp_path / "model")  # of which the training images are not known
    args = ["--data", str(folder), "--count", "2", "--out", str(tmp_path / "n.png"), "--json"]
    assert main(["neighbours", str(tmp_path / "model"), *args]) == 0
    for f in json.loads(capsys.readouterr().out):
        assert f["file"] not in [n["file"] for n in f["neighbours"]]
        assert len(f["neighbours"]) == 5  # all others: fewer than the eight that are asked for


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["interpolate", "--steps", "1"], "--steps 1: expected at least 2"),
        (["interpolate", "--count", "0"], "--count 0: expected at least 1"),
        (["interpolate", "--latents", "--data", "digits"], "--data digits: --latents needs no images"),
        (["neighbours", "--neighbours", "0"], "--neighbours 0: expected at least 1"),
        (["reconstruct", "--refine", "-1"], "--refine -1: expected at least 0"),
        (["neighbours", "--out", "x.jpg"], "ending in .png"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, run, tmp_path, capsys):
    verb, *rest = arguments
    assert main([verb, str(run), "--out", str(tmp_path / "x.png"), *rest]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
