"""``quantsim llm``: a small language model on simulated optics: train or tune it, sweep over levels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from quantsim.cli.console import output_console
from quantsim.cli.outcome import show_help_without_command

if TYPE_CHECKING:
    from quantsim.experiments.llm.results import LanguageResult

__all__ = ["app"]

app = typer.Typer(
    help="Put a causal language model on simulated optics: train, tune through the transform, sweep over levels.",
    invoke_without_command=True,
)

_FLOAT_RATE: Final = 3e-3
_TUNING_RATE: Final = 5e-4

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the model and the results.")]
TrainFile = Annotated[
    Path | None, typer.Option(help="Plain text to learn from; default: docstrings of the standard library.")
]
ValidationFile = Annotated[Path | None, typer.Option(help="Plain text to measure on.")]
BlockSize = Annotated[int, typer.Option(min=2, help="Tokens of a block.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Blocks of a batch.")]
CalibrationBatches = Annotated[int, typer.Option(min=1, help="Training batches that ranges are set from.")]
MaxEvalBlocks = Annotated[int | None, typer.Option(min=1, help="Blocks to measure on at most.")]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="The transform's arguments: a YAML or JSON file.")]
Seed = Annotated[int, typer.Option(help="Seed of weights, order and dropout.")]


@app.callback()
def _options(context: typer.Context) -> None:
    show_help_without_command(context)


@app.command("train")
def train(
    output: Output,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Folder of a causal language model; default: a new byte-level Llama of 1.35 M."
        ),
    ] = None,
    config: Config = None,
    transform: Annotated[str, typer.Option(help="Which transform --config is for: optical or squeezelight.")] = (
        "optical"
    ),
    steps: Annotated[int, typer.Option(min=0, help="Training steps; 0: calibrate and measure only.")] = 600,
    learning_rate: Annotated[
        float | None, typer.Option(help=f"Default: {_FLOAT_RATE:g}, through a transform {_TUNING_RATE:g}.")
    ] = None,
    block_size: BlockSize = 128,
    batch_size: BatchSize = 16,
    calibration_batches: CalibrationBatches = 16,
    train_file: TrainFile = None,
    validation_file: ValidationFile = None,
    max_eval_blocks: MaxEvalBlocks = None,
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in the output folder.")] = False,
) -> None:
    """Train a model in float; or, with --config, transform it, measure it, tune it through the transform."""
    rate = learning_rate if learning_rate is not None else _FLOAT_RATE if config is None else _TUNING_RATE
    flags = ["--do_eval", *_common(output, block_size, batch_size, train_file, validation_file, max_eval_blocks, seed)]
    flags += ["--calibration_batches", str(calibration_batches), "--save_strategy", "no"]
    if model is not None:
        flags += ["--model_name_or_path", model]
    if config is not None:
        flags += ["--transform_config", str(config), "--transform", transform]
    if overwrite:
        flags.append("--overwrite_output_dir")
    if steps:
        flags += ["--do_train", "--max_steps", str(steps), "--learning_rate", str(rate)]
        flags += ["--warmup_steps", str(steps // 30), "--lr_scheduler_type", "cosine"]
        flags += ["--logging_steps", str(max(1, steps // 12))]
        if config is not None:  # the best of several is kept
            flags += ["--eval_strategy", "steps", "--eval_steps", str(max(1, steps // 2))]
    _show(_run(flags), output)


@app.command("sweep")
def sweep(
    model: Annotated[str, typer.Argument(help="Folder of a causal language model in float.")],
    output: Output,
    levels: Annotated[str, typer.Option(help="Numbers of levels.")] = "16,32,64,128,256,512,1024",
    variants: Annotated[
        str, typer.Option(help="What else is changed: configured, no_noise, no_floor, row_range.")
    ] = "configured,no_noise,no_floor,row_range",
    config: Config = None,
    block_size: BlockSize = 128,
    batch_size: BatchSize = 16,
    calibration_batches: CalibrationBatches = 16,
    train_file: TrainFile = None,
    validation_file: ValidationFile = None,
    max_eval_blocks: MaxEvalBlocks = 256,
    seed: Seed = 0,
) -> None:
    """Measure a model calibrated at each number of levels; write a table, a chart and the figures as JSON."""
    flags = _common(output, block_size, batch_size, train_file, validation_file, max_eval_blocks, seed)
    flags += ["--model_name_or_path", model, "--levels", levels, "--sweep_variants", variants]
    flags += ["--calibration_batches", str(calibration_batches)]
    if config is not None:
        flags += ["--transform_config", str(config)]
    _show(_run(flags), output)


@app.command("table")
def table(
    sources: Annotated[list[Path], typer.Argument(help="Output folders of runs, or their results files.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write: .md for tables, .json for all figures.")
    ] = None,
) -> None:
    """Gather the results of several runs in one table; write it as Markdown, or the figures as JSON."""
    from quantsim.experiments.llm.summary import gather_results, write_summary

    results = gather_results(sources)
    if output is not None:
        write_summary(output, results)
    _show(results, output)


def _common(
    output: Path,
    block_size: int,
    batch_size: int,
    train_file: Path | None,
    validation_file: Path | None,
    max_eval_blocks: int | None,
    seed: int,
) -> list[str]:
    flags = ["--output_dir", str(output), "--block_size", str(block_size), "--seed", str(seed)]
    flags += ["--per_device_train_batch_size", str(batch_size), "--per_device_eval_batch_size", str(2 * batch_size)]
    for name, value in (
        ("--train_file", train_file),
        ("--validation_file", validation_file),
        ("--max_eval_samples", max_eval_blocks),
    ):
        if value is not None:
            flags += [name, str(value)]
    return flags


def _run(flags: Sequence[str]) -> list[LanguageResult]:
    from quantsim.cli.outcome import CommandError
    from quantsim.experiments.demo import CorpusError
    from quantsim.experiments.run_clm import main

    try:
        return main(flags)
    except CorpusError as error:
        raise CommandError(str(error)) from error


def _show(results: Sequence[LanguageResult], output: Path | None) -> None:
    from rich.table import Table

    console = output_console()
    table = Table(title="Perplexity per byte", title_justify="left")
    for heading in ("system", "stage", "perplexity", "blocks", "steps"):
        table.add_column(heading, justify="left" if heading in ("system", "stage") else "right", no_wrap=True)
    for result in results:
        table.add_row(*_cells(result))
    console.print(table)
    if output is not None:
        console.print(f"wrote {output}", highlight=False, markup=False, soft_wrap=True)


def _cells(result: LanguageResult) -> tuple[str, ...]:
    settings: dict[str, Any] = result.settings
    stage = result.stage.value.replace("_", " ")
    if "levels" in settings:
        stage += f", {settings['levels']} levels, {str(settings['variant']).replace('_', ' ')}"
    return result.system, stage, f"{result.perplexity:.4f}", str(result.blocks), str(result.train_steps)
