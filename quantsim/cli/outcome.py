"""Exit codes, and which errors are the user's: those are told in words; all others are bugs of quantsim."""

from __future__ import annotations

from enum import IntEnum

import typer

__all__ = ["CommandError", "ExitCode", "describe", "exit_code_of", "first_line", "show_help_without_command"]


class ExitCode(IntEnum):
    """What the process says when it ends."""

    OK = 0
    FAILED = 1
    """The answer is no (the file is not valid, the files differ), or the input cannot be used."""
    USAGE = 2
    """The command line itself is wrong; for ``diff``, as for the Unix command, also that a file cannot be read."""
    BUG = 70
    """An error that quantsim did not foresee; the number is ``EX_SOFTWARE`` of ``sysexits.h``."""
    INTERRUPTED = 130


class CommandError(Exception):
    """Input of a command that cannot be used.

    Args:
        message: What was got, what was expected and how to fix it.
        exit_code: How the process ends.

    Example:
        >>> error = CommandError("model.json: no such file")
        >>> str(error), error.exit_code
        ('model.json: no such file', <ExitCode.FAILED: 1>)
    """

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def describe(error: BaseException) -> str | None:
    """What to tell the user about an error; None if quantsim did not foresee it.

    Example:
        >>> describe(FileNotFoundError(2, "No such file or directory", "model.json"))
        'model.json: No such file or directory'
        >>> describe(ZeroDivisionError()) is None
        True
    """
    from quantsim.errors import QuantsimError
    from quantsim_encodings.errors import EncodingsError

    if isinstance(error, (QuantsimError, EncodingsError, CommandError)):
        return str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    return None


def exit_code_of(error: BaseException) -> ExitCode:
    """How the process ends after an error.

    Example:
        >>> exit_code_of(CommandError("no such file")), exit_code_of(ZeroDivisionError())
        (<ExitCode.FAILED: 1>, <ExitCode.BUG: 70>)
    """
    if isinstance(error, CommandError):
        return error.exit_code
    return ExitCode.BUG if describe(error) is None else ExitCode.FAILED


def first_line(error: BaseException) -> str:
    r"""The first line of an error's message, or a word for there being none.

    Example:
        >>> first_line(ValueError("wrong shape\nat line 3")), first_line(ValueError())
        ('wrong shape', '(no message)')
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "(no message)"


def show_help_without_command(context: typer.Context) -> None:
    """Shows a group's help where no command of it was given, and ends with the code of a wrong command line.

    Typer can do this itself (``no_args_is_help``), but whether that is an error differs between its versions.
    """
    if context.invoked_subcommand is None:
        if text := context.get_help():  # empty where Rich is there: it has printed then
            typer.echo(text)
        raise typer.Exit(ExitCode.USAGE)
