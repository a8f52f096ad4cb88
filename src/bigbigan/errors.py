"""Errors that are the user's to mend, as opposed to bugs."""

import errno

# What torch raises as a RuntimeError says one of these.
WORDS = ("can't allocate memory", "not enough memory", "CUDA out of memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")


class UserError(Exception):
    """A mistake in what was asked: bad setting, file or folder.

    The message is one line saying what was given, what was expected and what to change. The command
    line prints it and ends with exit code 2; it never shows a traceback for it.
    """


class RunError(Exception):
    """A run that had to stop: a loss that is not finite, a disk that is full. Exit code 1."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, on the host or on a GPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)
    )
