"""``quantsim evaluate``: a saved simulation against its floating-point model, on data with or without labels."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
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
    ModelOption,
    NoHeaderOption,
    SimulationArgument,
    TokenizerOption,
    data_options,
)
from quantsim.cli.outcome import CommandError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from quantsim.cli.data_source import Data
    from quantsim.cli.metrics import Metric
    from quantsim.sim import QuantizationSimModel

__all__ = ["evaluate", "float_model_of"]


@dataclass(frozen=True)
class _Figures:
    """What was measured."""

    sqnr_db: float
    cosine: float
    batches: int
    metric: str | None = None
    float_score: float | None = None
    simulated_score: float | None = None


def evaluate(
    simulation: SimulationArgument,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="Data to evaluate on: a text a line, a table (.csv, .tsv, .jsonl), arrays (.npz), or code that "
            "returns batches.",
            show_default=False,
        ),
    ],
    model: ModelOption = None,
    column: ColumnOption = None,
    label: LabelOption = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="accuracy, mse, pearson, or code: a function of (outputs, labels).",
            show_default="accuracy for classes, mse for values",
        ),
    ] = None,
    no_header: NoHeaderOption = False,
    tokenizer: TokenizerOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchSizeOption = 16,
    max_tokens: MaxTokensOption = 128,
    limit: LimitOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate a saved simulation: its outputs against floating point, and the metric of both if there are labels."""
    from quantsim.cli.saved_simulation import load_simulation, require_simulation

    require_simulation(simulation)
    options = data_options(
        column, label, no_header=no_header, batch_size=batch_size, max_tokens=max_tokens, limit=limit
    )
    from quantsim.cli.metrics import metric_named

    chosen = None if metric is None else metric_named(metric)

    from quantsim.cli.data_source import read_data
    from quantsim.cli.model_source import device_named

    progress = progress_console()
    with progress.status("loading the simulation"):
        saved = load_simulation(simulation, model, tokenizer, device_named(device))
        samples = read_data(data, saved.loaded, options)
    if chosen is not None and samples.labels is None:
        raise CommandError(f"--metric {metric}: --data {data} holds no labels; pass --label to say where they are")
    figures = _measure(saved.sim, samples, chosen, progress)
    if as_json:
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(figures).items()
        }
        typer.echo(json.dumps({"simulation": str(simulation), "config": saved.sim.config.name, **finite}))
        return
    _print(figures, saved.loaded.name, saved.sim, output_console())


def float_model_of(sim: QuantizationSimModel) -> nn.Module:
    """The floating-point model of a simulation, which stays; both share their parameters."""
    import copy

    shared: dict[int, Any] = {id(parameter): parameter for parameter in sim.model.parameters()}
    return copy.deepcopy(sim, shared).remove()


def _measure(sim: QuantizationSimModel, data: Data, metric: Metric | None, progress: Console) -> _Figures:
    import torch

    from quantsim.cli.comparison import Closeness, main_output
    from quantsim.cli.metrics import metric_for

    reference = float_model_of(sim)
    closeness = Closeness()
    expected, got = [], []
    with torch.no_grad(), progress_bar(progress, "evaluating", data.batches) as batches:
        for number, batch in enumerate(batches):
            both = [main_output(model, batch, f"batch {number}") for model in (reference, sim)]
            closeness.add(both[0], both[1], batch)
            if data.labels is not None:
                expected.append(both[0])
                got.append(both[1])
    figures = _Figures(closeness.sqnr_db, closeness.cosine, len(data.batches))
    if data.labels is None:
        return figures
    metric = metric or metric_for(data.labels, expected)
    scores = metric.compute(expected, data.labels), metric.compute(got, data.labels)
    return _Figures(figures.sqnr_db, figures.cosine, figures.batches, metric.name, *scores)


def _print(figures: _Figures, name: str, sim: QuantizationSimModel, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    count = figures.batches
    table = Table(title=Text(f"{name}, on {count} batch{'' if count == 1 else 'es'}"), title_justify="left")
    table.add_column("model", no_wrap=True)
    if figures.metric is not None:
        table.add_column(figures.metric, justify="right")
    for heading in ("SQNR dB", "cosine"):
        table.add_column(heading, justify="right")
    scores = [] if figures.metric is None else [f"{figures.float_score:.4f}", f"{figures.simulated_score:.4f}"]
    table.add_row("floating point", *scores[:1], "", "")
    table.add_row(Text(sim.config.name), *scores[1:], f"{figures.sqnr_db:.1f}", f"{figures.cosine:.4f}")
    console.print(table)
