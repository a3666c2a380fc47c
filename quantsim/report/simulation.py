"""`write_simulation_report`: looks into one calibrated simulation and writes what it found as one HTML file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.report.model_outputs import (
    OutputError,
    accuracy,
    compared_values,
    first_samples,
    main_output,
    read_batches,
)
from quantsim.report.quantizer_switch import QuantizerSwitch, group_modules
from quantsim.report.render import require_template_engine, write_simulation_page
from quantsim.report.sensitivity import GroupSensitivity, SimulationProbe, noise_share
from quantsim.report.simulation_data import KindRow
from quantsim.report.simulation_page import Measured, Scores, simulation_page
from quantsim.sim import QuantizationSimModel
from quantsim.sim.calibration import evaluation_mode
from quantsim.sim.example_inputs import ModelInputs
from quantsim.sim.slots import shown

__all__ = ["SimulationReport", "write_simulation_report"]

_MOST_GROUPS = 64
_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class SimulationReport:
    """What was measured for a report, beside the page itself.

    Attributes:
        path: The HTML file.
        sqnr_db: SQNR of the simulated model's outputs against those in floating point, in decibels.
        cosine: Mean cosine of the two.
        metric: Name of the metric; None without labels and metric.
        float_score: The metric in floating point.
        simulated_score: The metric of the simulation.
        most_sensitive: Modules whose quantizers cost most, worst first.
        seconds: How long it took.
    """

    path: Path
    sqnr_db: float
    cosine: float
    metric: str | None = None
    float_score: float | None = None
    simulated_score: float | None = None
    most_sensitive: tuple[str, ...] = ()
    seconds: float = 0.0


def write_simulation_report(
    sim: QuantizationSimModel,
    path: str | Path,
    batches: Iterable[Any],
    *,
    labels: Any = None,
    metric: Callable[[Sequence[Any], Any], float] | None = None,
    metric_name: str | None = None,
    title: str | None = None,
    sensitivity: bool = True,
    samples: int | None = 16,
    console: Console | None = None,
    show_progress: bool = True,
) -> SimulationReport:
    """Writes one self-contained HTML page about a calibrated simulation; nothing in it is loaded from anywhere.

    Args:
        sim: A calibrated simulation; the same afterwards.
        path: The HTML file; its folder is made. The file appears whole or not at all.
        batches: Test inputs, each in a form that `QuantizationSimModel` takes as example inputs. The headline figures
            are of all batches; what is said of single modules is of samples of the first one.
        labels: Right answers, as class indices: one tensor (or list) for all samples, or one for each batch; entries of
            -100 do not count. Gives the accuracy in floating point and simulated.
        metric: Called with the model's outputs, one for each batch, and ``labels``; gives a number.
        metric_name: What the page calls it; default: the function's name, or "accuracy".
        title: Headline; default: model class and name of the config.
        sensitivity: Run the model with each module's quantizers alone, and with all others: two runs a module.
        samples: How many samples of the first batch to look at modules with: they are what takes time. None for all;
            a batch whose tensors have different numbers of rows is never cut.
        console: Where the progress bar goes; default: standard error.
        show_progress: Whether there is a progress bar.

    Returns:
        The headline figures.

    Raises:
        NotCalibratedError: Quantizers without a range; all are named.
        ConfigurationError: There are no quantizers or no batches, labels do not fit the outputs, or a batch gives no
            finite number in floating point.
        ImportError: jinja2 is not installed (``pip install 'quantsim[report]'``).
    """
    started = time.perf_counter()
    require_template_engine()  # a missing package is better told of now than after all is measured
    _require_ready(sim)
    if samples is not None and samples < 1:
        raise ConfigurationError(
            where="write_simulation_report(samples)", got=repr(samples), expected="at least 1, or None for all samples"
        )
    read = read_batches(batches, where="write_simulation_report(batches)")
    tensor = next(sim.model.parameters(), next(sim.model.buffers(), None))
    if tensor is not None:
        read = [inputs.to(tensor.device) for inputs in read]
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        evaluation_mode(sim.model),
        _kept_seeds(sim),
        _progress(console, show_progress) as progress,
    ):
        measured = _measure(sim, read, labels, metric, metric_name, sensitivity, samples, progress)
        measured = replace(measured, seconds=time.perf_counter() - started)
        step = progress.add_task("write the page", total=1)
        written = write_simulation_page(path, simulation_page(sim, measured, title))
        progress.advance(step)
    ranked = sorted(measured.sensitivities, key=lambda found: -found.alone_share)
    scores = measured.scores
    return SimulationReport(
        path=written,
        sqnr_db=measured.error.sqnr_db,
        cosine=measured.error.cosine,
        metric=None if scores is None else scores.name,
        float_score=None if scores is None else scores.exact,
        simulated_score=None if scores is None else scores.simulated,
        most_sensitive=tuple(found.group.name for found in ranked[:_MOST_NAMED]),
        seconds=time.perf_counter() - started,
    )


@contextmanager
def _kept_seeds(sim: QuantizationSimModel) -> Iterator[None]:
    """Inside, stochastic quantizers may draw; afterwards they go on from where they were before."""
    seeds = [
        (buffer, buffer.clone())
        for _, quantizer in sim.quantizers()
        if quantizer.is_stochastic
        for buffer in quantizer.buffers()
    ]
    try:
        yield
    finally:
        for buffer, before in seeds:
            buffer.copy_(before)


def _require_ready(sim: QuantizationSimModel) -> None:
    if next(sim.quantizers(), None) is None:
        raise ConfigurationError(
            "there is nothing to report",
            where="write_simulation_report(sim)",
            got="a simulation without a quantizer",
            expected="quantizers",
            fix="build the simulation with a config, or load encodings",
        )
    missing = sim.uncalibrated()
    if missing:
        raise NotCalibratedError(
            "the simulation is not calibrated",
            where="write_simulation_report(sim)",
            got=f"{len(missing)} quantizers without a range: {shown(missing)}",
            expected="a range for every quantizer",
            fix="run representative data inside `with sim.compute_encodings():`, or load_encodings(path)",
        )


@contextmanager
def _progress(console: Console | None, is_shown: bool) -> Iterator[Progress]:
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console or Console(stderr=True), disable=not is_shown) as progress:
        yield progress


def _measure(
    sim: QuantizationSimModel,
    batches: Sequence[ModelInputs],
    labels: Any,
    metric: Callable[[Sequence[Any], Any], float] | None,
    metric_name: str | None,
    sensitivity: bool,
    samples: int | None,
    progress: Progress,
) -> Measured:
    compared = _Comparison(batches[0] if samples is None else first_samples(batches[0], samples))
    step = progress.add_task("look at each quantizer", total=1)
    probe = SimulationProbe(sim, compared.run)
    probe.look()
    progress.advance(step)

    step = progress.add_task("compare with floating point", total=len(batches))
    error, exact, simulated = OutputError(), [], []
    keeps_outputs = labels is not None or metric is not None
    switch = QuantizerSwitch(sim)
    for inputs in batches:
        comparison = _Comparison(inputs)
        with switch.without_any():
            reference = comparison.reference(sim.model)
        output = inputs.call(sim.model)
        error.add(comparison.values(reference), comparison.values(output))
        if keeps_outputs:
            exact.append(reference)
            simulated.append(output)
        progress.advance(step)
    scores = _scores(exact, simulated, labels, metric, metric_name) if keeps_outputs else None

    sensitivities: tuple[GroupSensitivity, ...] = ()
    kinds: tuple[KindRow, ...] = ()
    if sensitivity:
        groups = group_modules(probe.order, _MOST_GROUPS)
        step = progress.add_task("switch quantizers on and off", total=len(groups) + 2)
        kinds = _kinds(probe, lambda: progress.advance(step))
        sensitivities = probe.sensitivities(groups, lambda: progress.advance(step))
    return Measured(
        probe=probe,
        error=error,
        scores=scores,
        sensitivities=sensitivities,
        kinds=kinds,
        output=compared.name,
        samples=" × ".join(map(str, compared.shape)) + f" values of {compared.name}",
        batches=len(batches),
        seconds=0.0,
    )


class _Comparison:
    """What of a model's output on one batch is compared."""

    def __init__(self, inputs: ModelInputs) -> None:
        self.inputs = inputs
        self.name = "output"
        self.shape: tuple[int, ...] = ()

    def run(self, model: nn.Module) -> Tensor:
        return self.values(self.inputs.call(model))

    def values(self, output: object) -> Tensor:
        found = main_output(output)
        if found is None:
            raise ConfigurationError(
                "there is nothing to compare",
                where="write_simulation_report(sim)",
                got=f"a model that returns {type(output).__name__}",
                expected="a floating-point tensor among its outputs",
                fix="wrap the model in a module that returns what counts",
            )
        self.name, self.shape = found[0], tuple(found[1].shape)
        return compared_values(self.inputs, found[1])

    def reference(self, model: nn.Module) -> object:
        """What the model returns in floating point.

        Raises:
            ConfigurationError: Nothing in it can be compared with; what is masked with infinities alone can.
        """
        output = self.inputs.call(model)
        values = self.values(output)
        if values.numel() and not bool(values.isfinite().any()):
            raise ConfigurationError(
                "the model gives no finite number in floating point",
                where=f"write_simulation_report(sim): {self.name}",
                got=f"{int(values.isnan().sum())} NaN among {values.numel()} values",
                expected="finite numbers to compare with",
                fix="correct the data or the model",
            )
        return output


def _kinds(probe: SimulationProbe, advance: Callable[[], None]) -> tuple[KindRow, ...]:
    rows = []
    for name, is_parameter in (("weights", True), ("activations", False)):
        count = sum(place.is_parameter is is_parameter for place in probe.places)
        if count:
            error = probe.error_with(lambda place, wanted=is_parameter: place.is_parameter is wanted)
            share = noise_share(error.noise, probe.error.noise)
            rows.append(KindRow(name=name, count=count, alone_db=error.sqnr_db, alone_share=share))
        advance()
    return tuple(rows)


def _scores(
    exact: Sequence[Any],
    simulated: Sequence[Any],
    labels: Any,
    metric: Callable[[Sequence[Any], Any], float] | None,
    metric_name: str | None,
) -> Scores:
    measure = metric or accuracy
    name = metric_name or getattr(measure, "__name__", type(measure).__name__).strip("<>").replace("_", " ")
    return Scores(
        name=name,
        exact=float(measure(exact, labels)),
        simulated=float(measure(simulated, labels)),
        is_share=metric is None or name == "accuracy",
    )
