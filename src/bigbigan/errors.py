"""Errors that are the user's to mend, as opposed to bugs."""


class UserError(Exception):
    """A mistake in what was asked: bad setting, file or folder.

    The message is one line saying what was given, what was expected and what to change. The command
    line prints it and ends with exit code 2; it never shows a traceback for it.
    """


class RunError(Exception):
    """A run that had to stop: a loss that is not finite, a disk that is full. Exit code 1."""
