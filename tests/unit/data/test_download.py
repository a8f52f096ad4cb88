"""The cache of known data sets: a download is checked before it counts, every failure is one clear line."""

import gzip
import hashlib
import http.client
import io
import os
import urllib.error

import numpy as np
import pytest

from bigbigan.data import open_source
from bigbigan.data.readers import download
from bigbigan.errors import UserError


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


LABELS = np.arange(10, dtype=np.uint8)
FILES = {
    "train-images-idx3-ubyte.gz": gzip.compress(idx(np.zeros((10, 28, 28), np.uint8)), mtime=0),
    "train-labels-idx1-ubyte.gz": gzip.compress(idx(LABELS), mtime=0),
    "t10k-images-idx3-ubyte.gz": gzip.compress(idx(np.ones((10, 28, 28), np.uint8)), mtime=0),
    "t10k-labels-idx1-ubyte.gz": gzip.compress(idx(LABELS), mtime=0),
}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A list of fetched addresses; the network gives FILES, which have the digests that are asked for."""
    fetched = []

    def open_url(url):
        fetched.append(url)
        return io.BytesIO(FILES[url.rsplit("/", 1)[1]])

    digests = {file: hashlib.sha256(data).hexdigest() for file, data in FILES.items()}
    # cifar10's digest is an md5; one file of this set takes that way.
    digests["t10k-labels-idx1-ubyte.gz"] = hashlib.md5(FILES["t10k-labels-idx1-ubyte.gz"]).hexdigest()
    base = download.REMOTE["fashion-mnist"][0]
    monkeypatch.setitem(download.REMOTE, "fashion-mnist", (base, digests))
    monkeypatch.setattr(download, "_open_url", open_url)
    monkeypatch.setenv("BIGBIGAN_CACHE", str(tmp_path / "cache"))
    return fetched


def message(spec="fashion-mnist"):
    with pytest.raises(UserError) as e:
        open_source(spec)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_downloaded_once_then_cached(server, tmp_path):
    source = open_source("fashion-mnist")
    assert [len(s) for s in source.splits.values()] == [10, 10]
    assert source.splits["train"].classes[9] == "Ankle boot"
    assert len(server) == 4
    assert all(url.startswith("https://") for url in server)
    assert sorted(p.name for p in (tmp_path / "cache" / "fashion-mnist").iterdir()) == sorted(FILES)
    open_source("fashion-mnist")
    assert len(server) == 4
    umask = os.umask(0)
    os.umask(umask)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "cache" / "fashion-mnist").iterdir()} == {0o666 & ~umask}


@pytest.mark.parametrize("known", [True, False])
def test_progress_is_shown_in_bytes(server, tmp_path, monkeypatch, known):
    bars = []

    class Kept(download.Bar):
        def __init__(self, **settings):
            super().__init__(**settings | {"delay": 0})
            bars.append(self)

    class Response(io.BytesIO):
        length = 3 * 2**20 if known else None

    monkeypatch.setattr(download, "Bar", Kept)
    data = bytes(3 * 2**20)
    monkeypatch.setattr(download, "_open_url", lambda url: Response(data))
    download.fetch_file("https://x/images.gz", tmp_path / "images.gz", hashlib.sha256(data).hexdigest())
    assert (bars[0].desc, bars[0].n, bars[0].total) == ("images.gz", len(data), Response.length)


def test_a_small_download_shows_no_bar(server, capsys):
    open_source("fashion-mnist")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("downloading https://") for line in lines)


def test_a_file_put_there_by_hand_is_not_fetched(server, tmp_path):
    folder = tmp_path / "cache" / "fashion-mnist"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(FILES["train-images-idx3-ubyte.gz"])
    open_source("fashion-mnist")
    assert len(server) == 3


def test_wrong_checksum_leaves_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_open_url", lambda url: io.BytesIO(b"<html>not found</html>"))
    text = message()
    assert "cannot download train-images-idx3-ubyte.gz (wrong checksum after 22 bytes)" in text
    assert list((tmp_path / "cache" / "fashion-mnist").iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("[Errno -2] Name or service not known"),
        urllib.error.HTTPError("https://x", 404, "Not Found", http.client.HTTPMessage(), None),
        TimeoutError("timed out"),
        ConnectionResetError(104, "reset"),
        http.client.IncompleteRead(b"x", 5),
        OSError(28, "No space left on device"),
    ],
)
def test_no_network_says_which_file_to_put_where(error, server, tmp_path, monkeypatch):
    def fail(url):
        raise error

    monkeypatch.setattr(download, "_open_url", fail)
    text = message()
    for part in (
        "train-images-idx3-ubyte.gz",
        "https://",
        str(tmp_path / "cache"),
        "or give fashion-mnist:PATH",
    ):
        assert part in text
    assert list((tmp_path / "cache" / "fashion-mnist").iterdir()) == []


def test_endless_download_is_cut(server, monkeypatch):
    monkeypatch.setattr(download, "_MAX_DOWNLOAD", 10)
    assert "more than" in message()


def test_cache_that_cannot_be_made(server, tmp_path):
    (tmp_path / "cache").write_bytes(b"a file")
    assert "cannot download" in message()


@pytest.mark.parametrize("target", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd"])
def test_redirects_stay_on_https(target):
    request = download.urllib.request.Request("https://example.org/a")
    handler = download._HttpsOnly()
    with pytest.raises(ValueError, match="away from https"):
        handler.redirect_request(request, None, 302, "Found", {}, target)
    assert handler.redirect_request(request, None, 302, "Found", {}, "https://example.org/b") is not None


def test_all_addresses_are_https_and_all_digests_whole():
    for base, files in download.REMOTE.values():
        assert base.startswith("https://")
        assert base.endswith("/")
        assert {len(d) for d in files.values()} <= {32, 64}
