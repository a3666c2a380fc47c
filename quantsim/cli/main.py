"""The command line: groups of commands, and one place where errors become messages and exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from quantsim.cli import calibrate, chip, encodings, evaluate, export, glue, kernels, llm, report, simulate, transform
from quantsim.cli.outcome import ExitCode, describe, exit_code_of, first_line, show_help_without_command

__all__ = ["app", "main"]

app = typer.Typer(
    name="quantsim",
    help="Quantization simulation for PyTorch: see the accuracy your hardware will give, hand on the encodings.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("simulate")(simulate.simulate)
app.command("calibrate")(calibrate.calibrate)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("report")(report.report)
app.command("transform")(transform.transform)
app.add_typer(chip.app, name="chip")
app.add_typer(encodings.app, name="encodings")
app.add_typer(glue.app, name="glue")
app.add_typer(kernels.app, name="kernels")
app.add_typer(llm.app, name="llm")


@dataclass
class _Settings:
    """What the options before the command ask of :func:`main`; they are known only once typer has parsed them."""

    shows_traceback: bool = False


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        import quantsim

        typer.echo(f"quantsim {quantsim.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
    traceback: Annotated[
        bool,
        typer.Option("--traceback", envvar="QUANTSIM_TRACEBACK", help="Show where in the code an error came from."),
    ] = False,
) -> None:
    if isinstance(context.obj, _Settings):
        context.obj.shows_traceback = traceback
    show_help_without_command(context)


def _usage_error_class() -> type[Exception]:
    """The class of all errors in the command line itself.

    Typer raises its own up to the version that brought a copy of Click and those of the package Click before that;
    ``typer.BadParameter`` is one of them in every version, and the root of them is where the message is made.
    """
    return next(
        parent
        for parent in reversed(typer.BadParameter.__mro__)
        if issubclass(parent, Exception) and hasattr(parent, "format_message")
    )


def _usage_message(error: Exception) -> str:
    """One line: what is wrong and where to read more."""
    text = " ".join(str(getattr(error, "format_message")()).split())  # noqa: B009 - no version types it alike
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "quantsim")
    return f"{text.rstrip('.')}; see '{command} --help'"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and ends the process.

    Exit codes: 0 done; 1 the answer is no (invalid file, files differ) or the input cannot be used; 2 the command line
    is wrong, or ``diff`` cannot read a file; 70 an error that quantsim did not foresee; 130 interrupted.

    Args:
        arguments: Command line without the program's name; that of the process by default.
    """
    settings = _Settings()
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = app(args=command_line, prog_name="quantsim", standalone_mode=False, obj=settings)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(ExitCode.INTERRUPTED)
    except _usage_error_class() as error:
        _complain(_usage_message(error))
        sys.exit(ExitCode.USAGE)
    except Exception as error:
        if settings.shows_traceback:
            traceback.print_exc()
        message = describe(error)
        if message is None:
            message = f"quantsim did not foresee this: {type(error).__name__}: {first_line(error)}"
            if not settings.shows_traceback:
                message += "; 'quantsim --traceback ...' shows where it happened"
        _complain(message)
        sys.exit(exit_code_of(error))
    # Typer returns what the command returns, or the code of `typer.Exit`.
    sys.exit(result if isinstance(result, int) else ExitCode.OK)


def _complain(message: str) -> None:
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
