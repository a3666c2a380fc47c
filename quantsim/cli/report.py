"""``quantsim report``: an HTML page about a saved simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantsim.cli.console import output_console, progress_console
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
from quantsim.cli.outcome import CommandError, first_line

if TYPE_CHECKING:
    from quantsim.cli.metrics import Metric

__all__ = ["report"]


def report(
    simulation: SimulationArgument,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="Data to measure on: a text a line, a table (.csv, .tsv, .jsonl), arrays (.npz), or code that "
            "returns batches.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("report.html"),
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
    limit: LimitOption = 64,
    title: Annotated[str | None, typer.Option(help="Headline.", show_default="model and config")] = None,
    sensitivity: Annotated[
        bool, typer.Option(help="Measure what each module's quantizers cost, which takes two runs a module.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Write one self-contained HTML page about a saved simulation: what quantization costs, and where."""
    # All that can be found out before anything slow is.
    from quantsim.cli.saved_simulation import load_simulation, require_new_file, require_simulation

    require_simulation(simulation)
    if output.suffix.lower() not in (".html", ".htm"):
        raise CommandError(f"--output {output}: expected a name that ends in .html")
    require_new_file(output, "--output", overwrite=overwrite)
    options = data_options(
        column, label, no_header=no_header, batch_size=batch_size, max_tokens=max_tokens, limit=limit
    )
    from quantsim.cli.metrics import metric_for, metric_named

    chosen = None if metric is None else metric_named(metric)
    write = _writer()

    from quantsim.cli.comparison import outputs
    from quantsim.cli.data_source import read_data
    from quantsim.cli.model_source import device_named

    progress = progress_console()
    with progress.status("loading the simulation"):
        saved = load_simulation(simulation, model, tokenizer, device_named(device))
        samples = read_data(data, saved.loaded, options)
    if chosen is not None and samples.labels is None:
        raise CommandError(f"--metric {metric}: --data {data} holds no labels; pass --label to say where they are")
    simulated = outputs(saved.sim, samples.batches, progress, "simulation")  # says which batch fails, if one does
    if chosen is None and samples.labels is not None:
        chosen = metric_for(samples.labels, simulated)
    figures = write(
        saved.sim,
        output,
        samples.batches,
        labels=samples.labels,
        metric=None if chosen is None else _function(chosen),
        metric_name=None if chosen is None else chosen.name,
        title=title,
        sensitivity=sensitivity,
        console=progress,
        show_progress=progress.is_terminal,
    )
    lines = []
    if figures.metric is not None:
        scores = f"floating point {figures.float_score:.4f}, {saved.sim.config.name} {figures.simulated_score:.4f}"
        lines.append(f"{figures.metric}: {scores}")
    lines.append(f"SQNR {figures.sqnr_db:.1f} dB, cosine {figures.cosine:.4f}")
    if figures.most_sensitive:
        lines.append(f"most sensitive: {', '.join(figures.most_sensitive[:5])}")
    console = output_console()
    for line in (*lines, f"wrote {figures.path} in {figures.seconds:.1f} s"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _function(metric: Metric) -> Callable[[Sequence[Any], Any], float]:
    """A metric of outputs as models return them."""
    from quantsim.cli.comparison import main_tensor

    def compute(outputs: Sequence[Any], labels: Any) -> float:
        return metric.compute([main_tensor(each, f"batch {number}") for number, each in enumerate(outputs)], labels)

    return compute


def _writer() -> Callable[..., Any]:
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise CommandError(f"a report needs jinja2 ({first_line(error)}); pip install 'quantsim[report]'") from error
    from quantsim.report import write_simulation_report

    return write_simulation_report
