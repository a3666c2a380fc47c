"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from quantsim.cli.data_source import DataOptions

__all__ = [
    "BatchSizeOption",
    "ColumnOption",
    "DeviceOption",
    "EncodingsVersionOption",
    "LabelOption",
    "LimitOption",
    "MaxTokensOption",
    "ModelArgument",
    "ModelOption",
    "NoHeaderOption",
    "SimulationArgument",
    "TokenizerOption",
    "data_options",
    "require_data",
]

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A Hugging Face model folder, or code that makes a model: 'package.module:function' "
        "or 'file.py:function'. The function returns a module, or (module, example_inputs).",
        show_default=False,
    ),
]

SimulationArgument = Annotated[
    Path, typer.Argument(help="Folder of a simulation, which 'calibrate' wrote.", show_default=False)
]

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Code that makes the floating-point model, as for 'calibrate'; not needed for models of transformers.",
    ),
]

TokenizerOption = Annotated[
    str | None, typer.Option(help="Folder of a Hugging Face tokenizer for texts, instead of the model's own.")
]

ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="Column of a table that holds the texts (twice for pairs), by name or number from 0; array of an npz "
        "file that is an input. May be repeated.",
    ),
]

LabelOption = Annotated[
    str | None,
    typer.Option(
        "--label",
        help="Where the labels are: column of a table, array of an npz file, key or position in a batch of code.",
        show_default="'label' or 'labels', if there",
    ),
]

NoHeaderOption = Annotated[bool, typer.Option("--no-header", help="The first line of a CSV or TSV file is data.")]

BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="Rows of a file in a batch.")]

MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Longer texts are cut.")]

LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="At most so many rows, or batches of code.", show_default="all")
]

DeviceOption = Annotated[str, typer.Option("--device", help="Where the model runs, such as cuda or cuda:1.")]

EncodingsVersionOption = Annotated[
    str,
    typer.Option("--encodings-version", help="Version to write: quantsim-1, aimet-torch, 0.6.1, 1.0.0, 2.0.0, 2.1.0."),
]


def data_options(
    columns: list[str] | None,
    label: str | None,
    *,
    no_header: bool,
    batch_size: int,
    max_tokens: int,
    limit: int | None,
) -> DataOptions:
    """What the options about data say, in one value.

    Example:
        >>> data_options(None, "y", no_header=True, batch_size=2, max_tokens=8, limit=None).label
        'y'
    """
    from quantsim.cli.data_source import DataOptions

    return DataOptions(tuple(columns or ()), label, not no_header, batch_size, max_tokens, limit)


def require_data(data: str | None, columns: list[str] | None, label: str | None, *, no_header: bool) -> None:
    """Refuses options that say how to read data where there are none.

    Raises:
        typer.BadParameter: There are such.
    """
    given = [("--column", columns), ("--label", label), ("--no-header", no_header)]
    for option, value in given:
        if value and data is None:
            raise typer.BadParameter(f"missing; {option} says how to read them", param_hint="--data")
