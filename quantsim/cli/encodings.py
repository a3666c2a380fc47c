"""``quantsim encodings``: files of encodings, without the model they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantsim.cli.outcome import CommandError, ExitCode, show_help_without_command

if TYPE_CHECKING:
    from quantsim_encodings import EncodingsDocument, EncodingsVersion, Loss

__all__ = ["accepted_losses", "app", "known_version", "options_for_arguments"]

app = typer.Typer(help="Encodings files: check, convert and compare them, in any version.", invoke_without_command=True)

_MAX_SHOWN = 50


@app.callback()
def _group(context: typer.Context) -> None:
    show_help_without_command(context)


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Encodings files of any version.", show_default=False)],
) -> int:
    """Check files: every problem is listed with its JSON path. Exit code 1 if a file is not valid."""
    import quantsim_encodings

    outcome = ExitCode.OK
    for file in files:
        try:
            _require_file(file)
        except CommandError as error:  # the other files are checked all the same
            typer.secho(str(error), fg=typer.colors.RED, err=True)
            outcome = ExitCode.FAILED
            continue
        problems = quantsim_encodings.validate(file)
        if not problems:
            document = quantsim_encodings.read(file)
            typer.echo(f"{file}: valid, version {document.version.value}, {_count(len(document), 'encoding')}")
            continue
        outcome = ExitCode.FAILED
        typer.secho(f"{file}: not valid, {_count(len(problems), 'problem')}", fg=typer.colors.RED, err=True)
        for problem in problems:  # all of them: this is what the command is for
            typer.echo(f"  {problem}", err=True)
    return outcome


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="File to read; its version is detected.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="File to write.", show_default=False)],
    version: Annotated[
        str,
        typer.Option(
            "--version",
            "-v",
            help="Version to write: quantsim-1, aimet-torch, 0.6.1, 1.0.0, 2.0.0, 2.1.0.",
            show_default=False,
        ),
    ],
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Accept a loss that keeps the numbers: code_sign, symmetry, grouping, float16 "
            "(annotation and layout always are). May be repeated."
        ),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            help="A tensor that is a parameter, by name or pattern ('*.weight'), where source does not say and target "
            "must (2.0.0 and 2.1.0 do not say). May be repeated."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the target if it exists.")] = False,
) -> None:
    """Write a file in another version, and list what is lost. A loss that is not accepted: nothing is written."""
    import quantsim_encodings

    written = known_version(version, "--version")
    accepted = accepted_losses(allow)
    if target.is_dir():
        raise CommandError(f"{target}: is a folder; expected the name of a file to write")
    if target.exists() and not overwrite:
        raise CommandError(f"{target}: exists; pass --overwrite to replace it")
    _require_file(source)
    document = quantsim_encodings.read(source)
    named = _with_graph_names(document, written)
    names = _matching_names(named, parameters) if parameters else None
    try:
        quantsim_encodings.write(named, target, written, allow=accepted, parameters=names)
    except quantsim_encodings.EncodingsError as error:
        raise CommandError(options_for_arguments(str(error))) from error
    typer.echo(
        f"{target}: wrote {_count(len(document), 'encoding')}, version {written.value} "
        f"(read as {document.version.value})"
    )
    lost = quantsim_encodings.losses(named, written, allow=accepted, parameters=names)
    if lost:
        typer.echo(f"not held by version {written.value}:")
        _list(lost)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="An encodings file.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Another, of any version.", show_default=False)],
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="How far numbers may differ, relative to the larger.")
    ] = 0.0,
) -> int:
    """Show where two files differ. Exit code 0 if they do not, 1 if they do, 2 if a file cannot be read."""
    import quantsim_encodings
    from quantsim_encodings import EncodingsVersion

    for file in (first, second):
        _require_file(file, ExitCode.USAGE)
    try:
        left, right = quantsim_encodings.read(first), quantsim_encodings.read(second)
    except quantsim_encodings.EncodingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    if any(entry.tensor is None for document in (left, right) for entry in document):
        # One file goes by tensor names: the other's tensors without one have the name that converting gives them.
        left, right = (_with_graph_names(document, EncodingsVersion.AIMET_2_1_0) for document in (left, right))
    differences = quantsim_encodings.diff(left, right, relative_tolerance=tolerance)
    if not differences:
        typer.echo("no difference")
        return ExitCode.OK
    for difference in differences:
        typer.echo(str(difference))
    return ExitCode.FAILED


def known_version(name: str, option: str) -> EncodingsVersion:
    """The encodings version that the value of an option names.

    Raises:
        typer.BadParameter: There is none of this name.
    """
    from quantsim_encodings import EncodingsVersion

    try:
        return EncodingsVersion(name)
    except ValueError:
        raise typer.BadParameter(
            f"got {name!r}, expected one of {', '.join(EncodingsVersion)}", param_hint=option
        ) from None


def accepted_losses(names: Sequence[str] | None) -> frozenset[Loss]:
    """The losses that options ``--allow`` name, with those that are accepted always.

    Raises:
        typer.BadParameter: There is no loss of one of the names.
    """
    from quantsim_encodings import DEFAULT_ALLOWED, Loss

    unknown = [name for name in names or () if name not in list(Loss)]
    if unknown:
        raise typer.BadParameter(f"got {', '.join(unknown)}, expected one of {', '.join(Loss)}", param_hint="--allow")
    return DEFAULT_ALLOWED | {Loss(name) for name in names or ()}


def _require_file(file: Path, exit_code: ExitCode = ExitCode.FAILED) -> None:
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "is no regular file" if file.exists() else "no such file"
        raise CommandError(f"{file}: {kind}; expected an encodings file (JSON)", exit_code)


def _with_graph_names(document: EncodingsDocument, version: EncodingsVersion) -> EncodingsDocument:
    """Names tensors that have no name in an exported graph by their place, if the version goes by tensor names."""
    from quantsim_encodings import EncodingsVersion, with_names

    if version in (EncodingsVersion.QUANTSIM, EncodingsVersion.AIMET_TORCH):
        return document
    return with_names(document, {entry.label: entry.label for entry in document if entry.graph_name is None})


def _matching_names(document: EncodingsDocument, patterns: Iterable[str]) -> frozenset[str]:
    """The graph names that are one of the patterns or match it; names may hold brackets, so equality comes first."""
    from fnmatch import fnmatchcase

    names = [entry.graph_name for entry in document if entry.graph_name is not None]
    found: set[str] = set()
    for pattern in patterns:
        matching = {pattern} if pattern in names else {name for name in names if fnmatchcase(name, pattern)}
        if not matching:
            raise CommandError(
                f"--parameters {pattern}: no tensor has this name; the file's {_count(len(names), 'tensor')} are "
                f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            )
        found |= matching
    return frozenset(found)


def options_for_arguments(message: str) -> str:
    """The library's advice in terms of what can be done on the command line."""
    with_model = "load it into a simulation of its model, and save that"
    message = re.sub(r"allow=\{'(\w+)'\}", r"--allow \1", message)
    message = message.replace("with parameters=", "with --parameters")
    return message.replace("use place()", with_model).replace("give one with with_tensors()", with_model)


def _list(items: Sequence[object]) -> None:
    for item in items[:_MAX_SHOWN]:
        typer.echo(f"  {item}")
    if len(items) > _MAX_SHOWN:
        typer.echo(f"  ... and {len(items) - _MAX_SHOWN} more")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
