"""``quantsim simulate``: a model under one or more presets, calibrated and compared with floating point."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantsim.cli.calibrate import calibrate_quantizers
from quantsim.cli.console import output_console, progress_console
from quantsim.cli.encodings import accepted_losses, known_version, options_for_arguments
from quantsim.cli.options import (
    BatchSizeOption,
    ColumnOption,
    DeviceOption,
    EncodingsVersionOption,
    LabelOption,
    LimitOption,
    MaxTokensOption,
    ModelArgument,
    NoHeaderOption,
    TokenizerOption,
    data_options,
)
from quantsim.cli.outcome import CommandError

if TYPE_CHECKING:
    from rich.console import Console

    from quantsim.cli.model_source import LoadedModel
    from quantsim.sim import SimulationConfig, SimulationSummary
    from quantsim_encodings import EncodingsVersion, Loss

__all__ = ["simulate"]


@dataclass(frozen=True)
class _Outcome:
    """One row of the table that the command prints."""

    config: str
    sqnr_db: float
    cosine: float
    summary: SimulationSummary
    encodings: Path | None = None
    objection: str | None = None
    """Why no encodings were written although they were asked for."""


@dataclass(frozen=True)
class _EncodingsTarget:
    """Where encodings go, and as what."""

    folder: Path
    version: EncodingsVersion
    allow: frozenset[Loss]


def _list_presets(wanted: bool) -> None:
    if not wanted:
        return
    from rich.table import Table

    from quantsim.sim import preset, preset_names

    table = Table(box=None, pad_edge=False)
    for heading in ("preset", "needs data", "what it is"):
        table.add_column(heading, no_wrap=heading != "what it is")
    for name in preset_names():
        config = preset(name)
        table.add_row(name, "yes" if config.needs_data else "no", config.description)
    output_console().print(table)
    raise typer.Exit


def simulate(
    model: ModelArgument,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config",
            "-c",
            help="Preset (see --list-presets), or JSON or YAML file; may be repeated.",
            show_default="w8a8",
        ),
    ] = None,
    list_presets: Annotated[
        bool,
        typer.Option("--list-presets", help="Show the presets and exit.", callback=_list_presets, is_eager=True),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="Calibration data: a text a line, a table (.csv, .tsv, .jsonl), arrays (.npz), or code that returns "
            "batches.",
        ),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(
            "--evaluate", "-e", help="Data to compare with floating point on; the calibration data if not given."
        ),
    ] = None,
    encodings: Annotated[
        Path | None, typer.Option("--encodings", "-o", help="Folder to write encodings to, one file for each config.")
    ] = None,
    encodings_version: EncodingsVersionOption = "quantsim-1",
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Accept a loss of that version, as for 'encodings convert'. May be repeated."),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", "-s", help="Print every quantizer, and what is not quantized.")
    ] = False,
    column: ColumnOption = None,
    label: LabelOption = None,
    no_header: NoHeaderOption = False,
    tokenizer: TokenizerOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchSizeOption = 16,
    max_tokens: MaxTokensOption = 128,
    limit: LimitOption = 256,
) -> None:
    """Simulate a quantized model: calibrate it, compare its outputs with floating point, write its encodings."""
    del list_presets  # its callback has seen it
    # All that can be found out before anything slow is.
    written = known_version(encodings_version, "--encodings-version")
    accepted = accepted_losses(allow)
    configs = _load_configs(config or ["w8a8"])
    if encodings is not None:
        from quantsim.cli.saved_simulation import require_writable

        require_writable(encodings, "--encodings")
    target = None if encodings is None else _EncodingsTarget(encodings, written, accepted)
    options = data_options(
        column, label, no_header=no_header, batch_size=batch_size, max_tokens=max_tokens, limit=limit
    )

    from quantsim.cli.comparison import outputs
    from quantsim.cli.data_source import read_data
    from quantsim.cli.model_source import device_named, example_inputs, load_model

    console, progress = output_console(), progress_console()
    with progress.status("loading the model"):
        loaded = load_model(model, tokenizer=tokenizer, device=device_named(device))
        calibration = None if data is None else read_data(data, loaded, options).batches
        evaluation = None if evaluate is None else read_data(evaluate, loaded, options, option="--evaluate").batches
    example = example_inputs(loaded, calibration or evaluation)
    compared = evaluation or calibration or [example]
    if loaded.example_inputs is not None:
        outputs(loaded.model, [example], progress, "example inputs", "the example inputs")
    reference = outputs(loaded.model, compared, progress, "floating point")
    outcomes = []
    for chosen in configs:
        outcomes.append(_simulate_one(loaded, chosen, example, calibration, compared, reference, progress, target))
        if summary:
            console.print(outcomes[-1].summary.table())
    basis = "evaluation data" if evaluation else "calibration data" if calibration else "one example input"
    _print(outcomes, loaded.name, basis, console)
    objections = [f"config {outcome.config!r}: {outcome.objection}" for outcome in outcomes if outcome.objection]
    if objections:
        raise CommandError("\n".join(objections))


def _load_configs(names: Sequence[str]) -> list[SimulationConfig]:
    from quantsim.sim import load_config

    configs = [load_config(name) for name in names]
    files = [_file_name(config.name) for config in configs]
    twice = sorted({name for name in files if files.count(name) > 1})
    if twice:
        raise typer.BadParameter(
            f"got the name {', '.join(twice)} more than once, expected configs with different names",
            param_hint="--config",
        )
    return configs


def _simulate_one(
    loaded: LoadedModel,
    config: SimulationConfig,
    example: Any,
    calibration: Sequence[Any] | None,
    compared: Sequence[Any],
    reference: Sequence[Any],
    progress: Console,
    target: _EncodingsTarget | None,
) -> _Outcome:
    from quantsim.cli.comparison import Closeness, outputs
    from quantsim.sim import QuantizationSimModel
    from quantsim_encodings import EncodingsError

    sim = QuantizationSimModel(loaded.model, example, config=config)
    calibrate_quantizers(sim, calibration, progress)
    closeness = Closeness()
    results = outputs(sim, compared, progress, config.name)
    for expected, got, batch in zip(reference, results, compared, strict=True):
        closeness.add(expected, got, batch)
    outcome = _Outcome(config.name, closeness.sqnr_db, closeness.cosine, sim.summary())
    if target is None:
        return outcome
    target.folder.mkdir(parents=True, exist_ok=True)
    path = target.folder / f"{_file_name(loaded.name)}.{_file_name(config.name)}.json"
    try:
        sim.save_encodings(path, target.version, allow=target.allow)
    except EncodingsError as error:  # the figures, which took their time, are shown all the same
        return replace(outcome, objection=f"no encodings written: {options_for_arguments(str(error))}")
    return replace(outcome, encodings=path)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name)


def _print(outcomes: Sequence[_Outcome], name: str, basis: str, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text  # square brackets of names are no markup

    table = Table(title=Text(f"{name}: output against floating point, on {basis}"), title_justify="left")
    for heading in ("config", "SQNR dB", "cosine", "parameters\nMiB", "quantizers", "matmuls\nquantized"):
        is_name = heading == "config"
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=is_name)
    table.add_row("floating point", "", "", _in_mebibytes(outcomes[0].summary.storage.float_bytes), "", "")
    for outcome in outcomes:
        coverage = outcome.summary.coverage
        table.add_row(
            Text(outcome.config),
            f"{outcome.sqnr_db:.1f}",
            f"{outcome.cosine:.4f}",
            _in_mebibytes(outcome.summary.storage.quantized_bytes),
            str(len(outcome.summary.rows)),
            f"{coverage.quantized_multiplications} of {coverage.multiplications}",
        )
    console.print(table)
    console.print(str(outcomes[0].summary.coverage), highlight=False, markup=False, soft_wrap=True)
    for outcome in outcomes:
        if outcome.encodings is not None:
            console.print(f"wrote {outcome.encodings}", highlight=False, markup=False, soft_wrap=True)


def _in_mebibytes(size: int) -> str:
    mebibytes = size / 2**20
    return f"{mebibytes:.1f}" if mebibytes >= 1 else f"{mebibytes:.4f}"
