"""Download known data sets to the cache, over https and checked against a digest.

The cache is $BIGBIGAN_CACHE or ~/.cache/bigbigan, a folder for each data set. Data files that are already there are
not checked again: a run records a fingerprint of its images. The weights of the reference Inception are compared with
their digest each time (`evaluation/image_quality/inception.py`).
"""

import hashlib
import http.client
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bigbigan.data.names import shown
from bigbigan.errors import UserError
from bigbigan.io import writing
from bigbigan.progress import Bar

__all__ = ["REMOTE", "cache_folder", "cached", "fetch_file", "is_cached"]

# Each data set: the URL of its files, and the digest of each (sha256 or md5, recognised by its length).
REMOTE = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion-mnist": (
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
    ),
}
_MAX_DOWNLOAD = 2**30


def cache_folder() -> Path:
    """Return the folder of the cache; it may not exist yet."""
    return Path(os.path.expanduser(os.environ.get("BIGBIGAN_CACHE") or "~/.cache/bigbigan"))


def cached(name: str) -> Path:
    """Return the cache folder of a known data set, after downloading the files it lacks."""
    folder = cache_folder() / name
    base, files = REMOTE[name]
    for file, digest in files.items():
        fetch_file(base + file, folder / file, digest, f", or give {name}:PATH")
    return folder


def is_cached(name: str) -> bool:
    """Return whether all files of a known data set are in the cache; False for any other source."""
    return name in REMOTE and all((cache_folder() / name / file).exists() for file in REMOTE[name][1])


def fetch_file(url: str, target: Path, digest: str, instead: str = "") -> Path:
    """Download `url` to `target` if it does not exist, check it against `digest`, and return `target`.

    Args:
        url: of the file.
        target: path to write.
        digest: hex of sha256 or md5.
        instead: for the error message, another way to provide the data.

    Raises:
        UserError: the download failed; the message says which file to put where.
    """
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _download(url, target, digest)
        except (OSError, ValueError, http.client.HTTPException) as e:  # URLErrors and timeouts are OSErrors
            reason = " ".join(str(getattr(e, "reason", None) or e).split()) or type(e).__name__
            ways = f"put {url} into {shown(target.parent)}{instead}"
            raise UserError(f"cannot download {target.name} ({reason}); {ways}") from e
    return target


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise ValueError(f"redirected away from https to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open_url(url: str) -> IO[bytes]:
    opened: IO[bytes] = urllib.request.build_opener(_HttpsOnly).open(url, timeout=30)
    return opened


def _chunks(response: IO[bytes]) -> Iterator[bytes]:
    """Iterate over the bytes of a response. Network errors become ValueErrors, unlike errors of the disk."""
    try:
        while chunk := response.read(2**20):
            yield chunk
    except OSError as e:
        raise ValueError(e.strerror or str(e) or type(e).__name__) from e


def _download(url: str, target: Path, wanted: str) -> None:
    """Download to a temporary file next to the target, check it, and rename it."""
    digest = hashlib.sha256() if len(wanted) == 64 else hashlib.md5(usedforsecurity=False)
    print(f"downloading {url} to {target.parent}", file=sys.stderr)
    size = 0
    with (
        _open_url(url) as response,
        writing(target) as temporary,
        temporary.open("wb") as out,
        Bar(
            total=getattr(response, "length", None),  # None if the server does not say
            desc=target.name,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            delay=1,  # a small file needs no bar
        ) as bar,
    ):
        for chunk in _chunks(response):
            size += len(chunk)
            bar.update(len(chunk))
            if size > _MAX_DOWNLOAD:
                raise ValueError(f"more than {_MAX_DOWNLOAD / 2**30:g} GiB")
            digest.update(chunk)
            out.write(chunk)
        if digest.hexdigest() != wanted:
            raise ValueError(f"wrong checksum after {size:,} bytes")
