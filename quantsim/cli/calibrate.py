"""``quantsim calibrate``: finds the ranges of a model's quantizers and saves the simulation in a folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantsim.cli.console import output_console, progress_bar, progress_console
from quantsim.cli.options import (
    BatchSizeOption,
    ColumnOption,
    DeviceOption,
    LabelOption,
    LimitOption,
    MaxTokensOption,
    ModelArgument,
    NoHeaderOption,
    TokenizerOption,
    data_options,
    require_data,
)
from quantsim.cli.outcome import CommandError, first_line

if TYPE_CHECKING:
    from rich.console import Console

    from quantsim.sim import QuantizationSimModel

__all__ = ["calibrate", "calibrate_quantizers"]


def calibrate(
    model: ModelArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write the simulation to.", show_default=False)
    ],
    config: Annotated[
        str, typer.Option("--config", "-c", help="Preset ('simulate --list-presets'), or JSON or YAML file.")
    ] = "w8a8",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="Calibration data: a text a line, a table (.csv, .tsv, .jsonl), arrays (.npz), or code that returns "
            "batches.",
        ),
    ] = None,
    column: ColumnOption = None,
    label: LabelOption = None,
    no_header: NoHeaderOption = False,
    tokenizer: TokenizerOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchSizeOption = 16,
    max_tokens: MaxTokensOption = 128,
    limit: LimitOption = 256,
    fold_weights: Annotated[
        bool, typer.Option("--fold-weights", help="Save weights as their quantizers round them.")
    ] = False,
    summary: Annotated[
        bool, typer.Option("--summary", "-s", help="Print every quantizer, and what is not quantized.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files in the folder.")] = False,
) -> None:
    """Calibrate a model's quantizers and save the simulation, for 'evaluate', 'export' and 'report'."""
    # All that can be found out before anything slow is.
    from quantsim.cli.saved_simulation import require_new_folder, save_simulation

    require_new_folder(output, "--output", overwrite=overwrite)
    options = data_options(
        column, label, no_header=no_header, batch_size=batch_size, max_tokens=max_tokens, limit=limit
    )
    require_data(data, column, label, no_header=no_header)

    from quantsim.sim import load_config

    chosen = load_config(config)

    import torch

    from quantsim.cli.comparison import call_model
    from quantsim.cli.data_source import read_data
    from quantsim.cli.model_source import device_named, example_inputs, load_model
    from quantsim.sim import QuantizationSimModel

    progress = progress_console()
    with progress.status("loading the model"):
        loaded = load_model(model, tokenizer=tokenizer, device=device_named(device))
        batches = None if data is None else read_data(data, loaded, options).batches
        example = example_inputs(loaded, batches)
    with progress.status("placing quantizers"):
        with torch.no_grad():
            call_model(loaded.model, example, "the example inputs" if loaded.example_inputs is not None else "batch 0")
        sim = QuantizationSimModel(loaded.model, example, config=chosen, in_place=True)
    calibrate_quantizers(sim, batches, progress)
    if without := sim.uncalibrated():
        raise CommandError(
            f"--data {data}: {len(without)} quantizers saw no data and have no range: {_shown(without)}; pass data "
            "that reach them, or exclude their modules in a config; nothing was written"
        )
    record = {"model": model, "config": config, "data": data, "batches": 0 if batches is None else len(batches)}
    with progress.status("writing"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        save_simulation(sim, output, loaded, record, fold_weights=fold_weights)
    _print(sim, output, [str(each.message) for each in caught], summary=summary)


def calibrate_quantizers(sim: QuantizationSimModel, batches: Sequence[Any] | None, progress: Console) -> None:
    """Gives every quantizer that the data reach its range.

    Args:
        sim: The simulation.
        batches: Calibration data, if any.
        progress: For the progress.

    Raises:
        CommandError: Quantizers need data and there are none, or the model fails on them.
    """
    from quantsim.errors import QuantsimError
    from quantsim.sim import preset, preset_names

    if batches is None:
        waiting = sim.uncalibrated()
        if waiting:
            raise CommandError(
                f"config {sim.config.name!r} has {len(waiting)} quantizers with fixed ranges, which need data; "
                "pass --data, or choose a config with run-time scales, without scales or for weights only: "
                + ", ".join(name for name in preset_names() if not preset(name).needs_data)
            )
        sim.compute_param_encodings()
        return
    reached = -1

    def counted(shown: Iterable[Any]) -> Iterator[Any]:
        nonlocal reached
        for batch in shown:
            reached += 1
            yield batch

    try:
        with progress_bar(progress, f"{sim.config.name}: calibrating", batches) as shown:
            sim.compute_encodings(counted(shown))
    except QuantsimError:
        raise
    except Exception as error:
        if reached < 0:  # not the model's fault
            raise
        raise CommandError(
            f"the model fails on batch {reached}: {type(error).__name__}: {first_line(error)}"
        ) from error


def _print(sim: QuantizationSimModel, output: Path, warned: Sequence[str], *, summary: bool) -> None:
    console = output_console()
    found = sim.summary()
    if summary:
        console.print(found.table())
    lines = [
        f"{len(found.rows)} quantizers, config {sim.config.name}",
        str(found.coverage),
        *warned,
        f"wrote {output}",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _shown(places: Sequence[str]) -> str:
    from quantsim.sim.slots import shown

    return shown(list(places))
