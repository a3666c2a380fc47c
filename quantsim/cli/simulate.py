"""``quantsim simulate``: a model under one or more presets, calibrated and compared with floating point."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantsim.cli.encodings import accepted_losses, known_version, options_for_arguments
from quantsim.cli.outcome import CommandError, first_line

if TYPE_CHECKING:
    from rich.console import Console

    from quantsim.cli.model_source import LoadedModel
    from quantsim.sim import QuantizationSimModel, SimulationConfig, SimulationSummary
    from quantsim_encodings import EncodingsVersion, Loss

__all__ = ["simulate"]

_WIDTH_OF_FILE = 120
"""Columns where standard output is no terminal, in which long module names still fit."""

_EXAMPLE_TEXT = "A sentence to see which modules a text goes through."


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
    from rich.console import Console
    from rich.table import Table

    from quantsim.sim import preset, preset_names

    table = Table(box=None, pad_edge=False)
    for heading in ("preset", "needs data", "what it is"):
        table.add_column(heading, no_wrap=heading != "what it is")
    for name in preset_names():
        config = preset(name)
        table.add_row(name, "yes" if config.needs_data else "no", config.description)
    Console(width=None if "COLUMNS" in os.environ else _WIDTH_OF_FILE).print(table)
    raise typer.Exit


def simulate(
    model: Annotated[
        str,
        typer.Argument(
            help="A Hugging Face model folder, or code that makes a model: 'package.module:function' "
            "or 'file.py:function'. "
            "The function returns a module, or (module, example_inputs).",
            show_default=False,
        ),
    ],
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
            "--data", "-d", help="Calibration data: a text file with one text a line, or code that returns batches."
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
    encodings_version: Annotated[
        str, typer.Option(help="Version to write: quantsim-1, aimet-torch, 0.6.1, 1.0.0, 2.0.0, 2.1.0.")
    ] = "quantsim-1",
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Accept a loss of that version, as for 'encodings convert'. May be repeated."),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", "-s", help="Print every quantizer, and what is not quantized.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in a batch.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longer texts are cut.")] = 128,
    limit: Annotated[int, typer.Option(min=1, help="At most so many texts, or batches of code.")] = 256,
) -> None:
    """Simulate a quantized model: calibrate it, compare its outputs with floating point, write its encodings."""
    del list_presets  # its callback has seen it
    from rich.console import Console

    # All that can be found out before anything slow is.
    written = known_version(encodings_version, "--encodings-version")
    accepted = accepted_losses(allow)
    configs = _load_configs(config or ["w8a8"])
    if encodings is not None:
        _require_folder_to_write(encodings)
    target = None if encodings is None else _EncodingsTarget(encodings, written, accepted)

    from quantsim.cli.model_source import load_model, read_batches

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_WIDTH_OF_FILE)
    progress = Console(stderr=True)  # apart from the table, which may go to a file
    with progress.status("loading the model"):
        loaded = load_model(model)
        sizes: Any = {"batch_size": batch_size, "max_tokens": max_tokens, "limit": limit}
        calibration = None if data is None else read_batches(data, loaded, **sizes)
        evaluation = None if evaluate is None else read_batches(evaluate, loaded, option="--evaluate", **sizes)
    example = _example_inputs(loaded, calibration or evaluation)
    compared = evaluation or calibration or [example]
    if loaded.example_inputs is not None:
        _outputs(loaded.model, [example], progress, "example inputs", "the example inputs")
    reference = _outputs(loaded.model, compared, progress, "floating point")
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


def _require_folder_to_write(folder: Path) -> None:
    """Says now what would otherwise come up when all is computed; creates nothing."""
    present = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not present.is_dir():
        place = "is a file" if present == folder else f"{present} is a file"
        raise CommandError(f"--encodings {folder}: {place}; expected a folder to write to")
    if not os.access(present, os.W_OK | os.X_OK):
        raise CommandError(f"--encodings {folder}: {present} cannot be written to; choose another folder")


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
    from quantsim.sim import QuantizationSimModel, preset, preset_names
    from quantsim_encodings import EncodingsError

    sim = QuantizationSimModel(loaded.model, example, config=config)
    if calibration is None:
        waiting = sim.uncalibrated()
        if waiting:
            raise CommandError(
                f"config {config.name!r} has {len(waiting)} quantizers with fixed ranges, which need data; "
                "pass --data, or choose a config with run-time scales, without scales or for weights only: "
                + ", ".join(name for name in preset_names() if not preset(name).needs_data)
            )
        sim.compute_param_encodings()
    else:
        with _progress(progress, f"{config.name}: calibrating", calibration) as batches:
            sim.compute_encodings(batches)
    results = _outputs(sim, compared, progress, config.name)
    sqnr, cosine = _closeness(reference, results, compared)
    outcome = _Outcome(config.name, sqnr, cosine, sim.summary())
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


def _example_inputs(loaded: LoadedModel, batches: Sequence[Any] | None) -> Any:

    if loaded.example_inputs is not None:
        return loaded.example_inputs
    if batches:
        return batches[0]
    if loaded.tokenizer is not None:
        return dict(loaded.tokenizer([_EXAMPLE_TEXT], return_tensors="pt"))
    raise CommandError(
        f"model {loaded.name} needs an input to be run on: pass --data, "
        "or return (model, example_inputs) from the function"
    )


def _outputs(
    model: Callable[..., Any] | QuantizationSimModel,
    batches: Sequence[Any],
    console: Console,
    what: str,
    input_name: str | None = None,
) -> list[Any]:
    """The floating-point tensors of each batch's output, in order."""
    import torch
    from torch.utils import _pytree as pytree

    from quantsim.errors import QuantsimError
    from quantsim.sim.example_inputs import ModelInputs

    results = []
    with torch.no_grad(), _progress(console, f"{what}: running", batches) as shown:
        for number, batch in enumerate(shown):
            name = input_name or f"batch {number}"
            try:
                output = ModelInputs.of(batch, what=name).call(model)
            except QuantsimError:
                raise
            except Exception as error:
                raise CommandError(f"the model fails on {name}: {type(error).__name__}: {first_line(error)}") from error
            values = output.values() if hasattr(output, "values") and not isinstance(output, torch.Tensor) else output
            leaves = pytree.tree_leaves(list(values) if not isinstance(values, torch.Tensor) else values)
            results.append([leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()])
    return results


def _closeness(
    reference: Sequence[Sequence[Any]], results: Sequence[Sequence[Any]], batches: Sequence[Any]
) -> tuple[float, float]:
    """SQNR in dB and mean cosine of the rows of the first output tensor, without those of padding."""
    import math

    import torch

    signal = noise = cosines = rows = 0.0
    for expected, got, batch in zip(reference, results, batches, strict=True):
        if not expected:
            continue
        x, y = (
            outputs[0].double().reshape(-1, outputs[0].shape[-1] if outputs[0].dim() else 1)
            for outputs in (expected, got)
        )
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        if isinstance(mask, torch.Tensor) and mask.shape == expected[0].shape[:-1]:
            x, y = x[mask.flatten().bool()], y[mask.flatten().bool()]
        signal += float(x.square().sum())
        noise += float((x - y).square().sum())
        similarity = torch.nn.functional.cosine_similarity(x, y)
        cosines, rows = cosines + float(similarity.sum()), rows + similarity.numel()
    if not rows or not signal:
        return math.nan, math.nan
    return (math.inf if noise == 0 else 10 * math.log10(signal / noise)), cosines / rows


@contextmanager
def _progress(console: Console, title: str, batches: Sequence[Any]) -> Iterator[Iterable[Any]]:
    from rich.progress import Progress

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress.track(batches, description=title)


def _print(outcomes: Sequence[_Outcome], name: str, basis: str, console: Console) -> None:
    from rich.table import Table

    table = Table(title=f"{name}: output against floating point, on {basis}", title_justify="left")
    for heading in ("config", "SQNR dB", "cosine", "parameters\nMiB", "quantizers", "matmuls\nquantized"):
        is_name = heading == "config"
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=is_name)
    table.add_row("floating point", "", "", _in_mebibytes(outcomes[0].summary.storage.float_bytes), "", "")
    for outcome in outcomes:
        coverage = outcome.summary.coverage
        table.add_row(
            outcome.config,
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
