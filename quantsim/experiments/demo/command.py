"""The demo as a command: its options, what it prints, its exit status."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from quantsim.errors import QuantsimError
from quantsim.experiments.demo.docstrings import CorpusError
from quantsim.experiments.demo.minilm import MissingDemoPackageError
from quantsim.experiments.demo.results import DemoResult
from quantsim.experiments.demo.run import SimulationRun, run_demo
from quantsim.experiments.demo.settings import DemoSettings
from quantsim.experiments.demo.table import result_table

__all__ = ["parse_settings", "run_in_terminal"]


def parse_settings(program: str, arguments: Sequence[str]) -> DemoSettings:
    """Reads the command line.

    Args:
        program: How the command is called, for its help text.
        arguments: What follows it.

    Example:
        >>> parse_settings("demo", ["--quick", "--output", "somewhere"]).pairs
        100
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description="Quantize MiniLM and a digits CNN under each preset; print accuracies, write encodings. Offline.",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("out/demo"), help="folder for what is written (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a quarter of the texts: everything is shown, accuracies are rough"
    )
    parsed = parser.parse_args(arguments)
    return DemoSettings.quick_run(parsed.output) if parsed.quick else DemoSettings(output=parsed.output)


def run_in_terminal(
    settings: DemoSettings,
    *,
    on_simulation: Callable[[SimulationRun], None] | None = None,
    finish: Callable[[DemoResult], Sequence[Path]] | None = None,
    console: Console | None = None,
) -> int:
    """Runs the demo with progress bars, prints its tables and the files it wrote.

    Args:
        settings: What to run.
        on_simulation: Passed to :func:`run_demo`.
        finish: Called with the result; returns the files that it wrote.
        console: Where to print; default: standard output.

    Returns:
        Exit status: 0, or 1 after an error that the text printed explains.
    """
    os.environ.setdefault(
        "HF_HUB_OFFLINE", "1"
    )  # read when transformers is imported, which happens later and only in the demo
    console = Console() if console is None else console
    try:
        result = run_demo(settings, console, on_simulation)
        written = [] if finish is None else list(finish(result))
    except (MissingDemoPackageError, CorpusError, QuantsimError, OSError) as error:
        console.print(f"[bold red]The demo stopped:[/] {escape(str(error))}", highlight=False)
        return 1
    for experiment in result.experiments:
        console.print()
        console.print(result_table(experiment))
        console.print(experiment.task, style="dim", highlight=False)
    if settings.quick:
        console.print("\nA quick run: a quarter of the texts, so the accuracies are rough.", style="yellow")
    _print_files(console, settings.output, result, written)
    return 0


def _print_files(console: Console, output: Path, result: DemoResult, written: Sequence[Path]) -> None:
    files = [file for experiment in result.experiments for file in experiment.files]
    console.print(f"\nFinished in {result.seconds:.0f} s. Written:")
    for path in (*written, output / "results.json"):
        console.print(f"  {path}", highlight=False)
    console.print(f"  {output / 'encodings'}/ ({sum(file.path is not None for file in files)} files)", highlight=False)
    for version in sorted({file.version for file in files if file.path is None}):
        schemes = sorted({file.scheme for file in files if file.path is None and file.version == version})
        console.print(
            f"  not in {version} form, which cannot hold them: {', '.join(schemes)}", style="dim", highlight=False
        )
