"""The sweep as a command: its options, what it prints, its exit status."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from quantsim.errors import ConfigurationError, QuantsimError
from quantsim.experiments.demo import CorpusError, DemoSettings, MissingDemoPackageError
from quantsim.experiments.demo.workloads import minilm_workload
from quantsim.experiments.optical_sweep.document import as_markdown
from quantsim.experiments.optical_sweep.plots import plot_levels, plot_photons, save_plot
from quantsim.experiments.optical_sweep.results import SweepPoint, SweepResult
from quantsim.experiments.optical_sweep.run import run_sweep
from quantsim.experiments.optical_sweep.settings import VARIANTS, Hardware, SweepSettings

__all__ = ["main", "write_results"]

_NAME = "optical-minilm"


def main(arguments: Sequence[str], console: Console | None = None) -> int:
    """Runs the sweep on all-MiniLM-L6-v2 and writes JSON, Markdown and plots.

    Args:
        arguments: What follows the program's name on the command line.
        console: Where to print; default: standard output.

    Returns:
        Exit status: 0, or 1 after an error that the text printed explains.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported, which happens later
    options = _parser().parse_args(arguments)
    console = Console() if console is None else console
    figures = options.output if options.figures is None else options.figures
    try:
        if options.redraw:
            result = SweepResult.load(options.output / f"{_NAME}.json")
        else:
            result = _swept(options, console)
        written = write_results(result, options.output, figures)
    except (MissingDemoPackageError, CorpusError, QuantsimError, OSError) as error:
        console.print(f"[bold red]The sweep stopped:[/] {escape(str(error))}", highlight=False)
        return 1
    console.print(Markdown(as_markdown(result)))
    for path in written:
        console.print(f"  {path}", highlight=False)
    return 0


def write_results(result: SweepResult, output: Path, figures: Path) -> list[Path]:
    """Writes ``optical-minilm.json`` and ``.md`` to one folder, ``-levels.png`` and ``-photons.png`` to another.

    Args:
        result: The sweep.
        output: Folder of the results.
        figures: Folder of the plots.

    Returns:
        The files. Plots of what was not measured are left out.
    """
    written = [output / f"{_NAME}.json", output / f"{_NAME}.md"]
    result.save(written[0])
    written[1].write_text(as_markdown(result) + "\n", encoding="utf-8")
    if result.levels:
        # Rows of attention lie on the lines of their engine, as far as a plot can tell: they are in the tables.
        names = [
            name for name in dict.fromkeys(point.hardware for point in result.levels) if not _has_rows(result, name)
        ]
        written.append(figures / f"{_NAME}-levels.png")
        save_plot(plot_levels(result, names or None), written[-1])
    if result.photons:
        written.append(figures / f"{_NAME}-photons.png")
        save_plot(plot_photons(result), written[-1])
    return written


def _has_rows(result: SweepResult, name: str) -> bool:
    return result.hardware.get(name, "").endswith(", row")


def _swept(options: argparse.Namespace, console: Console) -> SweepResult:
    chosen = VARIANTS if options.engines is None else tuple(_engine(name) for name in options.engines)
    settings = SweepSettings(variants=chosen, levels=tuple(options.levels), photons=tuple(options.photons))
    texts = DemoSettings.quick_run() if options.quick else DemoSettings(pairs=50, calibration_texts=64)
    texts = replace(texts, max_tokens=options.max_tokens)
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        workload = minilm_workload(texts, progress)
        workload = replace(workload, task=f"{workload.task} Texts are cut to {texts.max_tokens} tokens.")
        step = progress.add_task("Optical engines", total=settings.runs)

        def show(point: SweepPoint) -> None:
            light = "" if point.photons is None else f", {point.photons:g} photons"
            progress.console.print(
                f"{point.hardware}, {point.levels} levels{light}: cosine {point.cosine:.4f}, "
                f"{point.sqnr_db:.1f} dB, accuracy {point.accuracy:.2%}",
                highlight=False,
            )
            progress.advance(step)

        return run_sweep(workload, settings, show)


def _engine(name: str) -> Hardware:
    for hardware in VARIANTS:
        if hardware.name == name:
            return hardware
    raise ConfigurationError(
        where="--engine", got=repr(name), expected=f"one of {', '.join(repr(each.name) for each in VARIANTS)}"
    )


def _numbers(kind: type[int] | type[float]) -> Callable[[str], list[float]]:
    def parse(text: str) -> list[float]:
        return [kind(part) for part in text.split(",") if part.strip()]

    parse.__name__ = "numbers"  # what argparse calls it in its message
    return parse


def _parser() -> argparse.ArgumentParser:
    defaults = SweepSettings()
    parser = argparse.ArgumentParser(
        prog="python -m quantsim.experiments.optical_sweep",
        description="Put all-MiniLM-L6-v2 on simulated optics: cosine, SQNR and accuracy over levels and photons.",
    )
    parser.add_argument("--output", type=Path, default=Path("out/optical_sweep"), help="folder (default: %(default)s)")
    parser.add_argument("--figures", type=Path, help="folder of the plots (default: that of --output)")
    parser.add_argument(
        "--levels",
        type=_numbers(int),
        default=list(defaults.levels),
        help="comma-separated, '' for none (default: %(default)s)",
    )
    parser.add_argument(
        "--photons",
        type=_numbers(float),
        default=list(defaults.photons),
        help="for each multiply-accumulate, comma-separated, '' for none (default: %(default)s)",
    )
    parser.add_argument("--engine", dest="engines", action="append", help="only this engine; may be repeated")
    parser.add_argument("--max-tokens", type=int, default=64, help="longer texts are cut (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a quarter of the texts: the accuracies are rough")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: read the JSON in --output again")
    return parser
