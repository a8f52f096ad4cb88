"""Detect quickly that the Hugging Face Hub is unreachable: its own library retries for most of a minute."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["is_reachable", "offline_if_unreachable"]

TIMEOUT = 5.0  # seconds


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Within the block, if the Hub does not answer, let huggingface_hub use its cache only.

    Without huggingface_hub nothing changes.
    """
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def is_reachable(url: str, timeout: float = TIMEOUT) -> bool:
    """Return whether a server at `url` answers anything within `timeout` seconds."""
    answers = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "bigbigan"})
            urllib.request.urlopen(request, timeout=timeout).close()
        except urllib.error.HTTPError:
            pass
        except urllib.error.URLError as error:
            if isinstance(error.reason, OSError) and not hasattr(error.reason, "verify_code"):
                return  # but a certificate that urllib does not know is an answer
        except (OSError, ValueError):
            return
        answers.append(True)

    # In a thread, because name resolution has no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(answers)
