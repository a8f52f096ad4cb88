"""Errors that the user can correct, as opposed to bugs."""

import errno

# torch raises a RuntimeError with one of these in its message.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class UserError(Exception):
    """A mistake of the user: a bad setting, file or folder.

    The message is one line: what was given, what was expected, what to change. The command line prints it without a
    traceback and ends with exit code 2.
    """


class RunError(Exception):
    """A run had to stop: a loss is not finite, or the disk is full. Exit code 1."""


def not_a_run(run: object) -> UserError:
    """Return the error for a run folder that is not there."""
    return UserError(f"{run} is not a folder; expected a run, as made by: bigbigan train EXPERIMENT --out {run}")


def type_and_message(error: BaseException) -> str:
    """Return the type and the message of an error on one line, the message cut to 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that there was not enough memory, on the host or on a GPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in OUT_OF_MEMORY)
    )
