"""Runs the demo: two models, FP32 and each preset, accuracy, encodings."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from quantsim import QuantizationSimModel
from quantsim.experiments.demo.evaluation import mean_cosine, sqnr_db
from quantsim.experiments.demo.results import FP32, DemoResult, EncodingsFile, ExperimentResult, SchemeResult
from quantsim.experiments.demo.settings import DemoSettings
from quantsim.experiments.demo.workloads import Workload, digits_workload, minilm_workload
from quantsim_encodings import EncodingsError, EncodingsVersion

__all__ = ["SimulationRun", "run_demo"]

_WRITTEN_VERSIONS = {EncodingsVersion.QUANTSIM: "json", EncodingsVersion.AIMET_TORCH: "aimet.json"}


@dataclass(frozen=True, kw_only=True)
class SimulationRun:
    """A calibrated simulation right after it was evaluated, for whoever wants to look inside.

    Attributes:
        model: Short name of the model.
        scheme: Name of the preset.
        reference: The float model.
        simulation: Its calibrated simulation.
        forward: Runs a model (the float one or the simulated one) on a small batch of test inputs.
    """

    model: str
    scheme: str
    reference: nn.Module
    simulation: QuantizationSimModel
    forward: Callable[[Callable[..., Any]], object]


def run_demo(
    settings: DemoSettings,
    console: Console,
    on_simulation: Callable[[SimulationRun], None] | None = None,
) -> DemoResult:
    """Runs both models in FP32 and under each preset; writes ``encodings/`` and ``results.json``.

    Args:
        settings: What to run, and the folder to write to.
        console: Where progress bars go.
        on_simulation: Called with each calibrated simulation after its evaluation; the report collects its data here.

    Raises:
        MissingDemoPackageError: A package of the demo is not installed.
        CorpusError: The standard library has too few docstrings.
    """
    started = time.perf_counter()
    (settings.output / "encodings").mkdir(parents=True, exist_ok=True)
    with _progress(console) as progress:
        experiments = tuple(
            _run_workload(prepare(settings, progress), settings, progress, on_simulation)
            for prepare in (minilm_workload, digits_workload)
        )
    result = DemoResult(experiments=experiments, quick=settings.quick, seconds=time.perf_counter() - started)
    _write_atomically(settings.output / "results.json", json.dumps(result.as_json(), indent=2) + "\n")
    return result


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield progress


@torch.no_grad()
def _run_workload(
    workload: Workload,
    settings: DemoSettings,
    progress: Progress,
    on_simulation: Callable[[SimulationRun], None] | None,
) -> ExperimentResult:
    size = sum(parameter.numel() * parameter.element_size() for parameter in workload.reference.parameters())
    reference, exact = _evaluate(workload, FP32, workload.reference, size, None, progress)
    schemes: list[SchemeResult] = []
    files: list[EncodingsFile] = []
    for scheme in settings.presets:
        simulation = _calibrated(workload, scheme, progress)
        size = simulation.summary().storage.quantized_bytes
        result, _ = _evaluate(workload, scheme, simulation, size, exact, progress)
        schemes.append(result)
        files += _write_encodings(workload.model, scheme, simulation, settings.output / "encodings")
        if on_simulation is not None:
            on_simulation(
                SimulationRun(
                    model=workload.model,
                    scheme=scheme,
                    reference=workload.reference,
                    simulation=simulation,
                    forward=workload.forward,
                )
            )
    return ExperimentResult(
        model=workload.model,
        title=workload.title,
        task=workload.task,
        parameters=sum(parameter.numel() for parameter in workload.reference.parameters()),
        reference=reference,
        schemes=tuple(schemes),
        files=tuple(files),
    )


def _calibrated(workload: Workload, scheme: str, progress: Progress) -> QuantizationSimModel:
    step = progress.add_task(f"{workload.title}: {scheme}: simulate, calibrate", total=2)
    simulation = QuantizationSimModel(workload.reference, workload.example_inputs, config=scheme)
    progress.advance(step)
    with simulation.compute_encodings():
        workload.calibrate(simulation)
    progress.update(step, advance=1, visible=False)
    return simulation


def _evaluate(
    workload: Workload, scheme: str, run: Callable[..., Any], size: int, exact: Tensor | None, progress: Progress
) -> tuple[SchemeResult, Tensor]:
    step = progress.add_task(f"{workload.title}: {scheme}: evaluate", total=workload.evaluation_steps)
    started = time.perf_counter()
    measured = workload.evaluate(run, lambda: progress.advance(step))
    exact = measured.outputs if exact is None else exact
    result = SchemeResult(
        scheme=scheme,
        accuracy=measured.accuracy,
        retrieval_at_1=measured.retrieval_at_1,
        cosine=mean_cosine(exact, measured.outputs),
        sqnr_db=sqnr_db(exact, measured.outputs),
        size_bytes=size,
        seconds=time.perf_counter() - started,
    )
    return result, measured.outputs


def _write_encodings(
    model: str, scheme: str, simulation: QuantizationSimModel, folder: Path
) -> Iterator[EncodingsFile]:
    """Writes each version that can hold the encodings; one that cannot is named with its reason."""
    # Read from the simulation, not from the file: AIMET's form of a block-wise MiniLM takes 77 MB and seconds to parse.
    formats = tuple(sorted(Counter(row.format for row in simulation.summary().rows).items()))
    for version, suffix in _WRITTEN_VERSIONS.items():
        path = folder / f"{model}-{scheme}.{suffix}"
        path.unlink(missing_ok=True)
        try:
            simulation.save_encodings(path, version=version)
        except EncodingsError as error:
            reason = error.problems[0].message if error.problems else str(error)
            yield EncodingsFile(scheme=scheme, version=version.value, path=None, problem=reason)
        else:
            size = path.stat().st_size
            yield EncodingsFile(scheme=scheme, version=version.value, path=path, formats=formats, size_bytes=size)


def _write_atomically(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)  # a temporary file's 0600 would hide shared results
    os.replace(file.name, path)
