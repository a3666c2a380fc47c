"""The command line: groups of commands, and one place where errors become messages and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
import typer

from quantsim.cli import encodings, kernels, simulate
from quantsim.cli.outcome import ExitCode, describe

__all__ = ["app", "main"]

app = typer.Typer(
    name="quantsim",
    help="Quantization simulation for PyTorch: see the accuracy your hardware will give, hand on the encodings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("simulate")(simulate.simulate)
app.add_typer(encodings.app, name="encodings")
app.add_typer(kernels.app, name="kernels")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        import quantsim

        typer.echo(f"quantsim {quantsim.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", help="Show the version.", callback=_print_version, is_eager=True),
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and ends the process.

    Exit codes: 0 done; 1 the answer is no (invalid file, files differ); 2 the input cannot be used; 130 interrupted.

    Args:
        arguments: Command line without the program's name; that of the process by default.
    """
    try:
        result = app(args=None if arguments is None else list(arguments), prog_name="quantsim", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(ExitCode.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:
        message = describe(error)
        if message is None:
            raise
        typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
        sys.exit(ExitCode.BAD_INPUT)
    sys.exit(result if isinstance(result, int) else ExitCode.OK)
