"""``quantsim encodings``: files of encodings, without the model they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from quantsim_encodings import EncodingsDocument

__all__ = ["app"]

app = typer.Typer(help="Encodings files: check, convert and compare them, in any version.", no_args_is_help=True)

_MAX_SHOWN = 50


@app.callback()
def _group() -> None:
    pass


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Encodings files of any version.", show_default=False)],
) -> int:
    """Check files: every problem is listed with its JSON path. Exit code 1 if a file is not valid."""
    import quantsim_encodings
    from quantsim.cli.outcome import ExitCode

    outcome = ExitCode.OK
    for file in files:
        _require_file(file)
        problems = quantsim_encodings.validate(file)
        if not problems:
            document = quantsim_encodings.read(file)
            typer.echo(f"{file}: valid, version {document.version.value}, {len(document)} encodings")
            continue
        outcome = ExitCode.NO
        typer.secho(
            f"{file}: not valid, {len(problems)} problem{'' if len(problems) == 1 else 's'}",
            fg=typer.colors.RED,
            err=True,
        )
        for problem in problems[:_MAX_SHOWN]:
            typer.echo(f"  {problem}", err=True)
        if len(problems) > _MAX_SHOWN:
            typer.echo(f"  ... and {len(problems) - _MAX_SHOWN} more", err=True)
    return outcome


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="File to read; its version is detected.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="File to write.", show_default=False)],
    version: Annotated[
        str,
        typer.Option("--version", "-v", help="Version to write: quantsim-1, aimet-torch, 0.6.1, 1.0.0, 2.0.0, 2.1.0."),
    ],
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Accept a loss that keeps the numbers, such as code_sign, symmetry, grouping, float16."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the target if it exists.")] = False,
) -> None:
    """Write a file in another version. What that version cannot hold is listed, and nothing is written."""
    import quantsim_encodings
    from quantsim.cli.outcome import CommandError
    from quantsim_encodings import Loss

    _require_file(source)
    if target.exists() and not overwrite:
        raise CommandError(f"{target} exists; pass --overwrite to replace it")
    unknown = [name for name in allow or () if name not in {loss.value for loss in Loss}]
    if unknown:
        raise CommandError(
            f"--allow: got {', '.join(unknown)}, expected one of {', '.join(loss.value for loss in Loss)}"
        )
    accepted = quantsim_encodings.DEFAULT_ALLOWED | {Loss(name) for name in allow or ()}
    document = quantsim_encodings.read(source)
    named = _with_graph_names(document, version)
    quantsim_encodings.write(named, target, version, allow=accepted)
    lost = quantsim_encodings.losses(named, version, allow=accepted)
    typer.echo(f"{target}: wrote {len(document)} encodings, version {version} (read as {document.version.value})")
    for problem in lost[:_MAX_SHOWN]:
        typer.echo(f"  not held by this version: {problem}")
    if len(lost) > _MAX_SHOWN:
        typer.echo(f"  ... and {len(lost) - _MAX_SHOWN} more")


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="An encodings file.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Another, of any version.", show_default=False)],
) -> int:
    """Show where two files differ. Exit code 1 if they do."""
    import quantsim_encodings
    from quantsim.cli.outcome import ExitCode

    for file in (first, second):
        _require_file(file)
    differences = quantsim_encodings.diff(quantsim_encodings.read(first), quantsim_encodings.read(second))
    if not differences:
        typer.echo("no difference")
        return ExitCode.OK
    for difference in differences[:_MAX_SHOWN]:
        typer.echo(str(difference))
    if len(differences) > _MAX_SHOWN:
        typer.echo(f"... and {len(differences) - _MAX_SHOWN} more")
    return ExitCode.NO


def _require_file(file: Path) -> None:
    from quantsim.cli.outcome import CommandError

    if not file.is_file():
        raise CommandError(
            f"{file}: {'is a folder' if file.is_dir() else 'no such file'}; expected an encodings file (JSON)"
        )


def _with_graph_names(document: EncodingsDocument, version: str) -> EncodingsDocument:
    """Names tensors that have no name in an exported graph by their place, if the version goes by tensor names."""
    from quantsim_encodings import EncodingsVersion, with_names

    if version in (EncodingsVersion.QUANTSIM, EncodingsVersion.AIMET_TORCH):
        return document
    return with_names(document, {entry.label: entry.label for entry in document if entry.graph_name is None})
