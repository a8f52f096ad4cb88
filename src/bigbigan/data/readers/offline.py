"""The Hugging Face Hub out of reach: found out once and soon. Its own library tries again for most of a minute."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["cache_alone_where_unreached", "is_reached"]

PATIENCE = 5.0  # seconds


@contextmanager
def cache_alone_where_unreached() -> Iterator[None]:
    """Within the block, where the Hub does not answer, huggingface_hub looks at what it downloaded before and asks
    nobody. Without huggingface_hub nothing changes."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not is_reached(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def is_reached(url: str, patience: float = PATIENCE) -> bool:
    """Whether anybody answers there within so many seconds, whatever the answer."""
    answers = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "bigbigan"})
            urllib.request.urlopen(request, timeout=patience).close()
        except urllib.error.HTTPError:
            pass
        except urllib.error.URLError as error:
            if isinstance(error.reason, OSError) and not hasattr(error.reason, "verify_code"):
                return  # unlike a certificate that urllib alone does not know
        except (OSError, ValueError):
            return
        answers.append(True)

    # A thread, for the time that a look-up of the name takes has no bound of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    return bool(answers)
