"""Exit codes, and which errors are the user's: those are told in words; all others are bugs, with their traceback."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CommandError", "ExitCode", "describe"]


class ExitCode(IntEnum):
    """What the process says when it ends."""

    OK = 0
    NO = 1
    """The question was answered with no: the file is not valid, the files differ."""
    BAD_INPUT = 2
    INTERRUPTED = 130


class CommandError(Exception):
    """Input of a command that cannot be used; the text says what was got, what was expected and how to fix it."""


def describe(error: Exception) -> str | None:
    """What to tell the user about an error; None if it is a bug of quantsim."""
    from quantsim.errors import QuantsimError
    from quantsim_encodings.errors import EncodingsError

    if isinstance(error, (QuantsimError, EncodingsError, CommandError)):
        return str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    return None
