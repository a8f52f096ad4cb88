"""The reference Inception: its resize, its shape, and what happens without its weights.

It was compared once, with random weights, with the network it was ported from (docs/notes/decisions.md, 16).
"""

import hashlib

import pytest
import torch

from bigbigan.data.readers import download
from bigbigan.errors import UserError
from bigbigan.evaluation.image_quality import inception
from bigbigan.evaluation.image_quality.inception import FILE, Inception, inception_file, load_inception, resize_tf1

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Inception().eval()


@pytest.mark.parametrize(("height", "width", "side"), [(32, 32, 47), (5, 9, 12), (40, 40, 13), (7, 7, 7)])
def test_resize_follows_its_definition(height, width, side):
    x = torch.rand(2, 3, height, width, dtype=torch.float64)
    found = resize_tf1(x, side)

    def line(values, i):  # one axis: output i looks at i·size/side, between its two neighbours
        place = i * len(values) / side
        low = int(place)
        return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])

    for i, j in ((0, 0), (1, 2), (side // 2, side - 1), (side - 1, side // 3)):
        expected = line([line([x[1, 2, r, c] for c in range(width)], j) for r in range(height)], i)
        assert found[1, 2, i, j] == pytest.approx(expected.item(), abs=1e-12)


def test_shapes_parameters_and_names(network):
    assert sum(p.numel() for p in network.parameters()) == 23_850_960
    names = network.state_dict().keys()
    assert {"Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch3x3dbl_3.bn.running_var", "fc.bias",
            "Mixed_6e.branch7x7dbl_5.bn.bias", "Mixed_7c.branch3x3dbl_3b.conv.weight"} <= names  # fmt: skip
    with torch.no_grad():
        features, logits = network(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    assert (features.shape, logits.shape) == ((2, 2048), (2, 1008))
    torch.testing.assert_close(logits, features @ network.fc.weight.T)  # without the bias


def test_grey_images_are_repeated(network):
    grey = torch.randint(0, 256, (1, 1, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(network(grey)[0], network(grey.expand(-1, 3, -1, -1))[0])


def test_weights_are_taken_from_the_cache(network, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path))
    inception_file().parent.mkdir(parents=True)
    torch.save(network.state_dict(), inception_file())
    expect(inception_file(), monkeypatch)
    loaded = load_inception(CPU)
    x = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x)[0], network(x)[0])
    assert not any(p.requires_grad for p in loaded.parameters())


def test_missing_weights_say_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    def offline(url):
        raise OSError("no network")

    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "_open_url", offline)
    with pytest.raises(UserError, match=rf"put https://github.com/.*{FILE} into {tmp_path}") as error:
        load_inception(CPU)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.pth"))


def test_a_download_of_other_content_is_refused(tmp_path, monkeypatch):
    import io

    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "_open_url", lambda url: io.BytesIO(b"not it"))
    with pytest.raises(UserError, match="wrong checksum"):
        load_inception(CPU)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_file_that_is_not_there_is_reported(tmp_path):
    with pytest.raises(UserError, match="does not exist; expected the weights"):
        load_inception(CPU, tmp_path / "w.pth")


def expect(path, monkeypatch):
    """Takes this file for the reference weights."""
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())


def test_one_changed_weight_is_refused(network, tmp_path, monkeypatch):
    """Also in a file that was put into the cache by hand, of the right names and shapes."""
    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path))
    path = inception_file()
    path.parent.mkdir(parents=True)
    weights = network.state_dict()
    torch.save(weights, path)
    expect(path, monkeypatch)
    load_inception(CPU)
    torch.save(weights | {"fc.bias": weights["fc.bias"] + (torch.arange(1008) == 7) * 1e-3}, path)
    for given in (None, path):
        with pytest.raises(UserError, match=r"is not the Inception of FID: its SHA-256 is \w{12}…, expected") as error:
            load_inception(CPU, given)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("damage", ["empty", "cut", "folder"])
def test_a_damaged_weight_file_is_refused(network, tmp_path, damage):
    path = tmp_path / "w.pth"
    if damage == "folder":
        path.mkdir()
    else:
        torch.save(network.state_dict(), path)
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:100_000])
    expected = "cannot be read" if damage == "folder" else "is not the Inception of FID"
    with pytest.raises(UserError, match=expected) as error:
        load_inception(CPU, path)
    assert "\n" not in str(error.value)
