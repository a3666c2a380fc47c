"""``quantsim chip``: folders for hardware that computes integers only: write, verify, look into."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantsim.cli.options import (
    BatchSizeOption,
    ColumnOption,
    LabelOption,
    MaxTokensOption,
    ModelOption,
    NoHeaderOption,
    SimulationArgument,
    TokenizerOption,
    data_options,
    require_data,
)
from quantsim.cli.outcome import CommandError, ExitCode, show_help_without_command

if TYPE_CHECKING:
    from quantsim.export import MemoryTiling

__all__ = ["app"]

app = typer.Typer(
    help="Folders for integer hardware: memory images, test vectors, a test bench.", invoke_without_command=True
)


class _TileOrder(StrEnum):
    """`quantsim.export.chip.TileOrder`, which is slow to import."""

    INPUTS_FIRST = "inputs_first"
    OUTPUTS_FIRST = "outputs_first"


class _FirstCode(StrEnum):
    """`quantsim.export.chip.FirstCode`."""

    LOW = "low"
    HIGH = "high"


class _MemoryFormat(StrEnum):
    """`quantsim.export.chip.MemoryFormat`."""

    HEX = "hex"
    BIN = "bin"
    DECIMAL = "decimal"


_Folder = Annotated[
    Path, typer.Argument(help="Folder that 'chip export', or 'export --to chip', wrote.", show_default=False)
]


@app.callback()
def _group(context: typer.Context) -> None:
    show_help_without_command(context)


@app.command()
def export(
    simulation: SimulationArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    model: ModelOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="What to compute the test vectors for, as for 'calibrate'; its first batch is.",
            show_default="what comes with the model",
        ),
    ] = None,
    column: ColumnOption = None,
    label: LabelOption = None,
    no_header: NoHeaderOption = False,
    tokenizer: TokenizerOption = None,
    batch_size: BatchSizeOption = 2,
    max_tokens: MaxTokensOption = 128,
    tile_rows: Annotated[int, typer.Option("--tile-rows", min=1, help="Outputs of a tile of weights.")] = 16,
    tile_columns: Annotated[
        int, typer.Option("--tile-columns", min=1, help="Inputs of a tile of weights: codes in a word.")
    ] = 16,
    tile_order: Annotated[
        _TileOrder, typer.Option("--tile-order", help="Which tile of weights follows.")
    ] = _TileOrder.INPUTS_FIRST,
    first_code: Annotated[
        _FirstCode, typer.Option("--first-code", help="Which bits of a word are its first code.")
    ] = _FirstCode.LOW,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Inputs of convolutions run over the window, in it over channels.")
    ] = False,
    weight_bits: Annotated[
        int | None,
        typer.Option("--weight-bits", help="Bits of each weight in memory.", show_default="as few as hold them"),
    ] = None,
    memory_format: Annotated[
        list[_MemoryFormat] | None,
        typer.Option("--format", help="How memories are written. May be repeated.", show_default="in each way"),
    ] = None,
    onnx: Annotated[
        bool | None, typer.Option("--onnx/--no-onnx", help="Also write ONNX files.", show_default="if they can be")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if anything of the model stays float.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write a saved simulation as integers: memories in tiles, vectors of every op, ONNX, a manifest with digests."""
    from quantsim.cli.saved_simulation import load_simulation, require_new_folder, require_simulation

    # All that can be found out before anything slow is.
    tiling = _tiling(
        rows=tile_rows,
        columns=tile_columns,
        order=tile_order.value,
        first_code=first_code.value,
        channels_last=channels_last,
        weight_bits=weight_bits,
    )
    require_simulation(simulation)
    require_new_folder(output, "--output", overwrite=overwrite)
    require_data(data, column, label, no_header=no_header)
    options = data_options(
        column, label, no_header=no_header, batch_size=batch_size, max_tokens=max_tokens, limit=batch_size
    )

    from quantsim.cli.console import output_console, progress_console
    from quantsim.cli.data_source import read_data
    from quantsim.cli.export import warnings_as_lines
    from quantsim.export import nn2chip

    progress = progress_console()
    with progress.status("loading the simulation"):
        saved = load_simulation(simulation, model, tokenizer)
        batches = None if data is None else read_data(data, saved.loaded, options).batches
        example = saved.example_inputs(batches)
    with progress.status("exporting"), warnings_as_lines() as warned:
        chip = nn2chip(
            saved.sim,
            output,
            example,
            tiling=tiling,
            formats=[form.value for form in memory_format or _MemoryFormat],
            onnx=onnx,
            strict=strict,
            overwrite=overwrite,
        )
    console = output_console()
    for line in (*str(chip).splitlines(), *warned):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _tiling(**fields: Any) -> MemoryTiling:
    from pydantic import ValidationError

    from quantsim.export import MemoryTiling

    try:
        return MemoryTiling(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        raise CommandError(f"the tiles cannot be like this: {name}{first['msg']}") from error


@app.command()
def verify(
    folder: _Folder,
    executor: Annotated[
        list[str] | None,
        typer.Option(
            "--executor",
            help="What computes the test vectors again: numpy, torch, triton, onnxruntime. May be repeated.",
            show_default="numpy",
        ),
    ] = None,
) -> int:
    """Check each file's digest, read the memories back, compute all test vectors again. Exit code 1 if not exact."""
    from quantsim.export import load_chip

    chip = load_chip(folder)
    typer.echo(f"{folder}: {len(chip.manifest.files) + 1} files as they were written")
    outcome = ExitCode.OK
    for name in executor or ["numpy"]:
        replay = chip.verify(name)
        typer.echo(str(replay), err=not replay.is_exact)
        outcome = outcome if replay.is_exact else ExitCode.FAILED
    return outcome


@app.command()
def show(
    folder: _Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest instead of a table.")] = False,
) -> None:
    """List what is in a folder: its nodes in order, their memories, and what of the model is left out."""
    from quantsim.export import load_chip
    from quantsim.export.chip import MANIFEST_FILE

    chip = load_chip(folder)
    if as_json:
        typer.echo((folder / MANIFEST_FILE).read_text(encoding="utf-8"), nl=False)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("node", "op", "result", "type", "memories"):
        table.add_column(title, overflow="fold")
    values = {value.name: value for value in chip.manifest.values}
    for node in chip.manifest.nodes:
        value = values[node.output]
        memories = ", ".join(
            f"{key} {constant.memory.words} x {constant.memory.word_bits} bits"
            for key, constant in node.constants.items()
        )
        shape = " x ".join(map(str, value.memory.layout.shape))
        table.add_row(*map(Text, (node.name, node.op.value, shape, value.dtype, memories)))
    console = Console()
    console.print(Text(str(chip)), soft_wrap=True)
    console.print(table)


@app.command("test-bench")
def write_test_bench(
    folder: _Folder,
    node: Annotated[
        str | None, typer.Option(help="Name of a fully connected layer.", show_default="the first one")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Verilog file to write.", show_default="standard output")
    ] = None,
) -> None:
    """Write a Verilog test bench of one fully connected layer, which reads its memories from the folder."""
    from quantsim.export import load_chip
    from quantsim.export.chip import fully_connected_test_bench

    text = fully_connected_test_bench(load_chip(folder), node)
    if output is None:
        typer.echo(text, nl=False)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    typer.echo(f"{output}: run 'iverilog -g2005-sv -o layer {output.resolve()} && vvp layer' inside {folder}")
