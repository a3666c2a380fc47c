"""``quantsim export``: a saved simulation as ONNX, encodings, rounded weights, a program of torch, or integers."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from quantsim.cli.console import output_console, progress_console
from quantsim.cli.encodings import accepted_losses, known_version, options_for_arguments
from quantsim.cli.options import (
    BatchSizeOption,
    ColumnOption,
    EncodingsVersionOption,
    LabelOption,
    MaxTokensOption,
    ModelOption,
    NoHeaderOption,
    SimulationArgument,
    TokenizerOption,
    data_options,
    require_data,
)
from quantsim.cli.outcome import CommandError

if TYPE_CHECKING:
    from quantsim.cli.saved_simulation import SavedSimulation
    from quantsim_encodings import EncodingsVersion, Loss

__all__ = ["ExportTarget", "export", "warnings_as_lines"]


class ExportTarget(StrEnum):
    """What a simulation can be exported to."""

    ONNX = "onnx"
    ENCODINGS = "encodings"
    SAFETENSORS = "safetensors"
    PROGRAM = "program"
    CHIP = "chip"


@dataclass(frozen=True)
class _Request:
    """What was asked for."""

    output: Path
    version: EncodingsVersion
    allow: frozenset[Loss]
    opset: int
    strict: bool
    float_graph: bool
    unsigned_weights: bool
    decompose: bool
    fold_weights: bool
    dynamic_batch: bool
    dynamic_length: bool
    overwrite: bool


_GRAPHS: Final = (ExportTarget.ONNX, ExportTarget.PROGRAM)
_TRACED: Final = (*_GRAPHS, ExportTarget.CHIP)

_SUFFIXES: Final = {ExportTarget.ENCODINGS: ".json", ExportTarget.PROGRAM: ".pt2"}

_OPTIONS_OF: Final = {
    "--opset": (ExportTarget.ONNX,),
    "--strict": (ExportTarget.ONNX, ExportTarget.CHIP),
    "--float-graph": (ExportTarget.ONNX,),
    "--unsigned-weights": (ExportTarget.ONNX,),
    "--decompose": (ExportTarget.ONNX,),
    "--dynamic-batch": _GRAPHS,
    "--dynamic-length": _GRAPHS,
    "--data": _TRACED,
    "--fold-weights": (ExportTarget.PROGRAM, ExportTarget.SAFETENSORS),
    "--encodings-version": (ExportTarget.ONNX, ExportTarget.ENCODINGS),
    "--allow": (ExportTarget.ENCODINGS,),
}
"""Options that not every target has."""


def export(
    context: typer.Context,
    simulation: SimulationArgument,
    to: Annotated[ExportTarget, typer.Option("--to", "-t", help="What to write.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File to write (.onnx, .json, .pt2); for safetensors, chip, and if you like for onnx, a folder.",
            show_default=False,
        ),
    ],
    model: ModelOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="What to trace the model on, as for 'calibrate'; its first batch is.",
            show_default="what comes with the model",
        ),
    ] = None,
    column: ColumnOption = None,
    label: LabelOption = None,
    no_header: NoHeaderOption = False,
    tokenizer: TokenizerOption = None,
    batch_size: BatchSizeOption = 2,
    max_tokens: MaxTokensOption = 128,
    encodings_version: EncodingsVersionOption = "quantsim-1",
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="Accept a loss of that version, as for 'encodings convert'. May be repeated."),
    ] = None,
    opset: Annotated[int, typer.Option("--opset", help="onnx: version of the operators.")] = 21,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="onnx: fail if a tensor of the graph has no encoding; chip: if anything stays float."
        ),
    ] = False,
    float_graph: Annotated[
        bool, typer.Option("--float-graph", help="onnx: also write the graph without quantizers.")
    ] = False,
    unsigned_weights: Annotated[
        bool, typer.Option("--unsigned-weights", help="onnx: 8-bit weights as unsigned integers of the same numbers.")
    ] = False,
    decompose: Annotated[
        bool, typer.Option("--decompose", help="onnx: quantizers without an operator as what they compute.")
    ] = False,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="onnx, program: the first size of all inputs may change.")
    ] = False,
    dynamic_length: Annotated[
        bool, typer.Option("--dynamic-length", help="onnx, program: the second size, that of texts, may change.")
    ] = False,
    fold_weights: Annotated[
        bool | None,
        typer.Option(
            "--fold-weights/--float-weights",
            help="safetensors, program: weights as their quantizers round them, or as they are.",
            show_default="folded for safetensors",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Export a saved simulation: ONNX, an encodings file, rounded weights, a torch.export program, or integers.

    The folder of --to chip is for hardware without floating point; 'quantsim chip export' has its tiles as options.
    """
    from quantsim.cli.saved_simulation import load_simulation, require_simulation

    # All that can be found out before anything slow is.
    _require_options_of(to, context)
    request = _Request(
        output=output,
        version=known_version(encodings_version, "--encodings-version"),
        allow=accepted_losses(allow),
        opset=opset,
        strict=strict,
        float_graph=float_graph,
        unsigned_weights=unsigned_weights,
        decompose=decompose,
        fold_weights=to is ExportTarget.SAFETENSORS if fold_weights is None else fold_weights,
        dynamic_batch=dynamic_batch,
        dynamic_length=dynamic_length,
        overwrite=overwrite,
    )
    require_simulation(simulation)
    _require_output(to, output, simulation, overwrite=overwrite)
    require_data(data, column, label, no_header=no_header)
    options = data_options(
        column, label, no_header=no_header, batch_size=batch_size, max_tokens=max_tokens, limit=batch_size
    )

    import torch

    from quantsim.cli.comparison import call_model
    from quantsim.cli.data_source import read_data

    progress = progress_console()
    with progress.status("loading the simulation"):
        saved = load_simulation(simulation, model, tokenizer)
        batches = None if data is None else read_data(data, saved.loaded, options).batches
        example = saved.example_inputs(batches) if to in _TRACED else None
        if example is not None:
            with torch.no_grad():
                call_model(saved.sim, example, "the example inputs" if batches is None else "batch 0")
    with progress.status(f"exporting to {to.value}"), warnings_as_lines() as warned:
        lines = _WRITERS[to](saved, example, request)
    console = output_console()
    for line in (*lines, *warned):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _require_options_of(to: ExportTarget, context: typer.Context) -> None:
    """Refuses options that would do nothing."""
    for name, targets in _OPTIONS_OF.items():
        key = name.removeprefix("--").replace("-", "_")
        source = context.get_parameter_source(key)
        if source is not None and source.name == "COMMANDLINE" and to not in targets:
            raise typer.BadParameter(f"goes with --to {' or '.join(targets)}, not with {to.value}", param_hint=name)


def _require_output(to: ExportTarget, output: Path, simulation: Path, *, overwrite: bool) -> None:
    from quantsim.cli.saved_simulation import require_new_file, require_new_folder

    if to in (ExportTarget.SAFETENSORS, ExportTarget.CHIP):
        if output.exists() and simulation.samefile(output):
            raise CommandError(f"--output {output}: is the folder that is read; choose another")
        require_new_folder(output, "--output", overwrite=overwrite)
        return
    if to is ExportTarget.ONNX:
        file = output if output.suffix == ".onnx" and not output.is_dir() else output / "model.onnx"
        require_new_file(file, "--output", overwrite=overwrite)
        return
    suffix = _SUFFIXES[to]
    if output.suffix != suffix and not output.is_dir():
        raise CommandError(f"--output {output}: expected a name that ends in {suffix} for --to {to.value}")
    require_new_file(output, "--output", overwrite=overwrite)


# ---------------------------------------------------------------- writers


def _onnx(saved: SavedSimulation, example: Any, request: _Request) -> list[str]:
    example, shapes = _with_sizes(saved, example, request)
    report = saved.sim.export_onnx(
        request.output,
        example,
        opset=request.opset,
        encodings_version=request.version,
        strict=request.strict,
        float_graph=request.float_graph,
        unsigned_weights=request.unsigned_weights,
        decompose=request.decompose,
        dynamic_shapes=shapes,
    )
    return str(report).splitlines()


def _encodings(saved: SavedSimulation, example: Any, request: _Request) -> list[str]:
    from quantsim_encodings import EncodingsError, read

    del example
    request.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        saved.sim.compute_param_encodings()
        saved.sim.save_encodings(request.output, request.version, allow=request.allow)
    except EncodingsError as error:
        raise CommandError(options_for_arguments(str(error))) from error
    return [f"{request.output}: {len(read(request.output))} encodings, version {request.version.value}"]


def _safetensors(saved: SavedSimulation, example: Any, request: _Request) -> list[str]:
    from quantsim.cli.saved_simulation import save_simulation

    del example
    record = {"weights": "folded" if request.fold_weights else "float"}
    save_simulation(saved.sim, request.output, saved.loaded, record, fold_weights=request.fold_weights)
    rounded = "rounded to their grids" if request.fold_weights else "in floating point"
    return [
        f"{path}: {path.stat().st_size / 1e6:.2f} MB, weights {rounded}"
        for path in request.output.glob("*.safetensors")
    ]


def _program(saved: SavedSimulation, example: Any, request: _Request) -> list[str]:
    from quantsim.export import export_program

    example, shapes = _with_sizes(saved, example, request)
    export_program(saved.sim, example, request.output, dynamic_shapes=shapes, fold_weights=request.fold_weights)
    return [f"{request.output}: {request.output.stat().st_size / 1e6:.2f} MB"]


def _chip(saved: SavedSimulation, example: Any, request: _Request) -> list[str]:
    from quantsim.export import nn2chip

    chip = nn2chip(saved.sim, request.output, example, strict=request.strict, overwrite=request.overwrite)
    return str(chip).splitlines()


_WRITERS: Final[dict[ExportTarget, Callable[[SavedSimulation, Any, _Request], list[str]]]] = {
    ExportTarget.ONNX: _onnx,
    ExportTarget.ENCODINGS: _encodings,
    ExportTarget.SAFETENSORS: _safetensors,
    ExportTarget.PROGRAM: _program,
    ExportTarget.CHIP: _chip,
}


def _with_sizes(saved: SavedSimulation, example: Any, request: _Request) -> tuple[Any, Any]:
    """Inputs of at least two samples, which torch needs to see that their number may change; and which sizes may."""
    import torch
    from torch.utils import _pytree as pytree

    from quantsim.sim.example_inputs import ModelInputs

    if not (request.dynamic_batch or request.dynamic_length):
        return example, None
    inputs = ModelInputs.of(example)
    args, kwargs = inputs.args, dict(inputs.kwargs or {})
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    _require_alike(tensors, 0, "--dynamic-batch" if request.dynamic_batch else "--dynamic-length")
    if request.dynamic_length:
        _require_alike(tensors, 1, "--dynamic-length")
    if tensors[0].shape[0] == 1:
        args, kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: torch.cat([tensor, tensor]), (args, kwargs))
    sizes: dict[int, Any] = {0: torch.export.Dim("batch")} if request.dynamic_batch else {}
    if request.dynamic_length:
        sizes[1] = torch.export.Dim("length")
    shapes = torch.export.ShapesCollection()
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.Tensor):
            shapes[leaf] = sizes
    return (args, kwargs), shapes.dynamic_shapes(saved.sim.model, args, kwargs)


def _require_alike(tensors: Sequence[Any], axis: int, option: str) -> None:
    found = sorted({tensor.shape[axis] if tensor.dim() > axis else 0 for tensor in tensors})
    if len(found) != 1 or found[0] == 0:
        which = ("first", "second")[axis]
        raise CommandError(
            f"{option}: the {which} sizes of the inputs are {', '.join(map(str, found)) or 'none'}; "
            "expected the same for all, at least 1"
        )


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[list[str]]:
    """Collects what quantsim warns of; what torch's exporters say meanwhile is of no use to the user."""
    lines: list[str] = []
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # which packages are not installed, and tracebacks beside errors
    try:
        with _caught_warnings(lines):
            yield lines
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _caught_warnings(lines: list[str]) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always", UserWarning)
        yield
    lines += [str(each.message) for each in caught if "quantsim" in each.filename]
