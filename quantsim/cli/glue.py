"""``quantsim glue``: the GLUE experiment: its data, one run, all runs of the comparison, the table of their results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import typer

from quantsim.cli.outcome import CommandError, show_help_without_command
from quantsim.cli.user_code import name_and_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantsim.experiments.glue.results import RunResult

__all__ = ["app"]

app = typer.Typer(
    help="RoBERTa on GLUE, on simulated optics: prepare data, run, compare, show the table.",
    invoke_without_command=True,
)


_RUN_FILE: Final = "quantsim_results.json"
"""Where one run writes its results."""


class TableFormat(StrEnum):
    """Forms of the table."""

    MARKDOWN = "markdown"
    CSV = "csv"
    PLOT = "plot"


@app.callback()
def _group(context: typer.Context) -> None:
    show_help_without_command(context)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def run(context: typer.Context) -> None:
    """One run of the experiment; takes the options of python -m quantsim.experiments.run_glue, --help too."""
    with _errors_in_words():
        from quantsim.experiments.run_glue import main

        main(list(context.args))


@app.command()
def prepare(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if it is not there.")],
    cola_train: Annotated[int, typer.Option(help="Training examples of cola.")] = 6400,
    mrpc_train: Annotated[int, typer.Option(help="Training examples of mrpc.")] = 3600,
    dev: Annotated[int, typer.Option(help="Validation examples of each task.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier call wrote.")] = False,
) -> None:
    """Write a RoBERTa with real weights and two tasks in the formats of CoLA and MRPC; no network is needed."""
    from rich.console import Console

    _stay_offline()
    console = Console(stderr=True)
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"{folder}: is a file; expected a folder to write to")
    with _errors_in_words(), console.status("reading docstrings, converting the model"):
        from quantsim.experiments.glue import preparation

        record = preparation.prepare(
            folder, cola_train=cola_train, mrpc_train=mrpc_train, dev=dev, seed=seed, overwrite=overwrite
        )
    typer.echo(
        f"wrote {folder / preparation.MODEL_FOLDER} ({record['model']['parameters']:,} parameters, "
        f"the weights of {record['model']['weights']})"
    )
    for name, count in record["examples"].items():
        typer.echo(f"wrote {folder / name} ({count} examples)")
    typer.echo(f"wrote {folder / preparation.RECORD_FILE} (texts of Python {record['python']})")


@app.command()
def compare(
    model: Annotated[str, typer.Option(help="Folder of the pretrained model, or its name on the hub.")],
    data: Annotated[Path, typer.Option(help="Folder with TASK/train.* and TASK/dev.*, as prepare writes it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results; a comparison goes on in it.")],
    tasks: Annotated[str, typer.Option(help="GLUE tasks, with commas between.")] = "cola,mrpc",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0,1,2",
    systems: Annotated[str | None, typer.Option(help="Systems, with commas between; all if left out.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of the float model.")] = 200,
    fine_tune_steps: Annotated[
        int, typer.Option("--fine-tune-steps", "--fine_tune_steps", help="Further steps through the optical transform.")
    ] = 60,
    squeezelight_steps: Annotated[
        int, typer.Option("--squeezelight-steps", "--squeezelight_steps", help="Further steps through SqueezeLight.")
    ] = 60,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", "--learning_rate", help="Learning rate of the float model.")
    ] = 3e-4,
    fine_tune_learning_rate: Annotated[
        float,
        typer.Option("--fine-tune-learning-rate", "--fine_tune_learning_rate", help="Through the optical transform."),
    ] = 5e-5,
    squeezelight_learning_rate: Annotated[
        float,
        typer.Option("--squeezelight-learning-rate", "--squeezelight_learning_rate", help="Through SqueezeLight."),
    ] = 3e-4,
    batch_size: Annotated[int, typer.Option("--batch-size", "--batch_size", help="Examples of a training step.")] = 32,
    max_seq_length: Annotated[
        int, typer.Option("--max-seq-length", "--max_seq_length", help="Tokens; longer examples are cut.")
    ] = 48,
    calibration_batches: Annotated[
        int, typer.Option("--calibration-batches", "--calibration_batches", help="Batches that ranges are taken from.")
    ] = 16,
    transform_config: Annotated[
        Path | None,
        typer.Option("--transform-config", "--transform_config", help="YAML or JSON of the optical transform."),
    ] = None,
    max_eval_samples: Annotated[
        int | None,
        typer.Option("--max-eval-samples", "--max_eval_samples", help="Validation examples; all if left out."),
    ] = None,
    continue_original: Annotated[
        bool,
        typer.Option(
            "--continue-original", help="Also train the float model for --fine-tune-steps: what training alone adds."
        ),
    ] = False,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Keep the transformed models.")] = False,
) -> None:
    """Run every system on every task and seed, post-training and fine-tuned; what is done already is not done again."""
    from quantsim.experiments.glue.comparison import RESULTS_FILE
    from quantsim.experiments.glue.comparison import compare as run_all
    from quantsim.experiments.glue.comparison_plan import ComparisonSettings
    from quantsim.experiments.glue.table import as_markdown, result_tables

    if Path(model).is_dir():
        _stay_offline()
    values: dict[str, Any] = {
        "model": model,
        "data": data,
        "output": output,
        "tasks": _items(tasks, "--tasks"),
        "seeds": _items(seeds, "--seeds"),
        "steps": steps,
        "fine_tune_steps": fine_tune_steps,
        "squeezelight_steps": squeezelight_steps,
        "learning_rate": learning_rate,
        "fine_tune_learning_rate": fine_tune_learning_rate,
        "squeezelight_learning_rate": squeezelight_learning_rate,
        "batch_size": batch_size,
        "max_seq_length": max_seq_length,
        "calibration_batches": calibration_batches,
        "transform_config": transform_config,
        "max_eval_samples": max_eval_samples,
        "continue_original": continue_original,
        "keep_models": keep_models,
    }
    if systems is not None:
        values["systems"] = _items(systems, "--systems")
    settings = ComparisonSettings.of(**values)
    if transform_config is not None:
        from quantsim.transforms import load_transform_config, transform_pass

        transform_pass("optical").check(load_transform_config(transform_config), where=str(transform_config))
    with _errors_in_words(), _progress(output) as on_progress:
        results = run_all(settings, on_progress=on_progress)
    typer.echo(as_markdown(result_tables(results)))
    typer.echo(f"{len(results)} results in {output / RESULTS_FILE}")


@app.command()
def table(
    results: Annotated[
        list[Path], typer.Argument(help="Files of results (results.jsonl, quantsim_results.json), or folders of them.")
    ],
    table_format: Annotated[TableFormat, typer.Option("--format", "-f", help="Form.")] = TableFormat.MARKDOWN,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; a plot is PNG, SVG or PDF by its suffix.")
    ] = None,
    metric: Annotated[
        str, typer.Option(help="headline, or a metric that all tasks have, such as accuracy.")
    ] = "headline",
) -> None:
    """Show results as two tables, post-training and fine-tuned: a row a system, a column a task, mean over seeds."""
    from quantsim.experiments.glue.table import as_csv, as_markdown, result_tables

    if table_format is TableFormat.PLOT and output is None:
        raise typer.BadParameter("a plot needs a file, such as glue.png", param_hint="--output")
    tables = result_tables([result for path in results for result in _read(path)], metric=metric)
    if table_format is TableFormat.PLOT and output is not None:
        from quantsim.experiments.glue.plots import plot_tables

        typer.echo(f"wrote {plot_tables(tables, output)}")
        return
    text = as_markdown(tables) if table_format is TableFormat.MARKDOWN else as_csv(tables)
    if output is None:
        typer.echo(text, nl=False)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {output}")


def _read(path: Path) -> list[RunResult]:
    """Results of a file of lines, of one run's file, or of a folder that holds either."""
    from quantsim.experiments.glue.comparison import RESULTS_FILE
    from quantsim.experiments.glue.results import read_results

    if path.is_dir():
        present = [path / name for name in (RESULTS_FILE, _RUN_FILE) if (path / name).is_file()]
        path = present[0] if present else path / RESULTS_FILE
    if not path.is_file():
        raise CommandError(
            f"{path}: no such file; expected {RESULTS_FILE} of `quantsim glue compare`, or {_RUN_FILE} of "
            "`quantsim glue run`"
        )
    try:
        return _of_run(path) if path.suffix == ".json" else read_results(path)
    except ValueError as error:
        raise CommandError(" ".join(str(error).split())) from error


def _of_run(path: Path) -> list[RunResult]:
    from quantsim.experiments.glue.results import RunResult

    try:
        return [RunResult.model_validate(item) for item in json.loads(path.read_text(encoding="utf-8"))["results"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"{path}: expected the results of one run, {{'results': [...]}} ({name_and_message(error)})"
        ) from error


def _items(text: str, option: str) -> list[str]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise typer.BadParameter("expected at least one, with commas between", param_hint=option)
    return items


def _stay_offline() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported, which happens later


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Errors of the experiments that are the user's to mend, and are not errors of quantsim itself."""
    from quantsim.experiments.demo import CorpusError, MissingDemoPackageError

    try:
        yield
    except (CorpusError, MissingDemoPackageError) as error:
        raise CommandError(str(error)) from error


@contextmanager
def _progress(output: Path) -> Iterator[Callable[[Any, int, int], None]]:
    """A bar over all runs; what the runs print and log goes to a file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    output.mkdir(parents=True, exist_ok=True)
    console = Console(file=sys.stderr)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with ExitStack() as stack:
        log = stack.enter_context((output / "log.txt").open("a", encoding="utf-8"))
        bar = stack.enter_context(Progress(*columns, console=console))
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(_logging_to(log))
        step = bar.add_task("starting", total=None)

        def on_progress(run: Any, number: int, total: int) -> None:
            print(f"--- {run.title}: run_glue {' '.join(run.arguments)}", file=log, flush=True)
            bar.update(step, description=run.title, completed=number, total=total)
            if not console.is_terminal:
                print(f"[{number + 1}/{total}] {run.title}", file=sys.stderr, flush=True)

        yield on_progress
        bar.update(step, description="done", completed=bar.tasks[0].total)


@contextmanager
def _logging_to(file: TextIO) -> Iterator[None]:
    """Sends to a file what transformers and quantsim log, and hides the bars of transformers, which would tear ours."""
    import logging

    from transformers.utils import logging as transformers_logging

    handler = logging.StreamHandler(file)
    shows_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    transformers_logging.add_handler(handler)
    logging.getLogger("quantsim").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("quantsim").removeHandler(handler)
        transformers_logging.remove_handler(handler)
        transformers_logging.enable_default_handler()
        if shows_bars:
            transformers_logging.enable_progress_bar()
