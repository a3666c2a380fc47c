"""Puts together the page of one simulation from what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from quantsim.report.data import Highlight, Histogram, HistogramSection, LayerRow, LayerSection, Tone
from quantsim.report.findings import find
from quantsim.report.model_outputs import OutputError
from quantsim.report.quantizer_switch import QuantizerPlace
from quantsim.report.sensitivity import GroupSensitivity, SimulationProbe
from quantsim.report.simulation_data import KindRow, SensitivityRow, SensitivitySection, SimulationPage, TensorRow
from quantsim.report.simulation_sections import (
    coverage_section,
    dispatch_rows,
    encodings_rows,
    environment,
    format_words,
)
from quantsim.report.tensor_statistics import encoding_of, grid_ends
from quantsim.sim import QuantizationSimModel
from quantsim_encodings.document import TensorReference

__all__ = ["Measured", "Scores", "simulation_page"]

_MOST_OUTLIERS = 8
_MOST_TENSORS = 400
_DRAWN_MODULES = 4
_FEW_POINTS = 0.01


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A metric in floating point and simulated.

    Attributes:
        name: Its name.
        exact: In floating point.
        simulated: Of the simulation.
        is_share: Whether it is shown in percent.
    """

    name: str
    exact: float
    simulated: float
    is_share: bool


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of a simulation.

    Attributes:
        probe: What was seen on the first batch.
        error: Error over all batches.
        scores: The metric, if there is one.
        sensitivities: What each group of modules costs.
        kinds: What weights and activations cost.
        output: Name and shape of the tensor that was compared.
        samples: What the first batch is, in words.
        batches: How many batches there were.
        seconds: How long it took.
    """

    probe: SimulationProbe
    error: OutputError
    scores: Scores | None
    sensitivities: tuple[GroupSensitivity, ...]
    kinds: tuple[KindRow, ...]
    output: str
    samples: str
    batches: int
    seconds: float


def simulation_page(sim: QuantizationSimModel, measured: Measured, title: str | None) -> SimulationPage:
    """The page.

    Args:
        sim: The simulation.
        measured: What was measured.
        title: Headline; None for the model's class and the name of the config.
    """
    words = format_words(sim)
    rows = _tensor_rows(measured.probe, words)
    sensitivity = _sensitivity(measured, words) if measured.sensitivities else None
    coverage = sim.coverage
    worst = sorted(
        (row for row in rows if (row.outlier_ratio or 0) > 2 or (row.clipped or 0) > 1e-3),
        key=lambda row: -max((row.outlier_ratio or 0) / 8, (row.clipped or 0) / 0.01),
    )
    kept = rows
    if len(rows) > _MOST_TENSORS:
        lowest = sorted(rows, key=lambda row: math.inf if row.sqnr_db is None else row.sqnr_db)[:_MOST_TENSORS]
        chosen = {(row.module, row.tensor) for row in lowest}
        kept = tuple(row for row in rows if (row.module, row.tensor) in chosen)
    model = type(sim.model).__name__
    return SimulationPage(
        title=title or f"{model} in {sim.config.name}",
        subtitle=_subtitle(sim, len(rows)),
        created=datetime.now(UTC),
        highlights=_highlights(sim, measured),
        findings=find(coverage, rows, sensitivity),
        sensitivity=sensitivity,
        layers=_layers(measured.probe),
        tensors=kept,
        outliers=tuple(worst[:_MOST_OUTLIERS]),
        left_out=len(rows) - len(kept),
        histograms=_histograms(measured),
        coverage=coverage_section(sim),
        multiplications=None
        if coverage.multiplications is None or coverage.quantized_multiplications is None
        else (coverage.quantized_multiplications, coverage.multiplications),
        dispatch=dispatch_rows(sim, measured.probe.dispatch),
        encodings=encodings_rows(sim),
        environment=(*environment(), ("Duration", f"{measured.seconds:.1f} s")),
        notes=_notes(measured),
    )


def _subtitle(sim: QuantizationSimModel, count: int) -> str:
    description = sim.config.description.strip().rstrip(".")
    modules = len({tensor.module for tensor in format_words(sim)})
    words = f"{count} quantizers in {modules} modules, against the same model in floating point"
    return f"{description}. {words}." if description else f"{words}."


def _highlights(sim: QuantizationSimModel, measured: Measured) -> tuple[Highlight, ...]:
    found = [*_score_highlight(measured.scores)]
    sqnr = measured.error.sqnr_db
    found.append(
        Highlight(
            label="SQNR of the output",
            value="no error" if sqnr == math.inf else f"{sqnr:.1f} dB".replace("-", "−").replace("inf", "∞"),
            note=f"{measured.output}, simulated against floating point",
        )
    )
    found.append(
        Highlight(label="Cosine", value=f"{measured.error.cosine:.4f}", note=f"mean over {measured.error.rows:,} rows")
    )
    storage, coverage = sim.summary().storage, sim.coverage
    found.append(
        Highlight(
            label="Parameters",
            value=_megabytes(storage.quantized_bytes),
            note=f"{100 * storage.quantized_bytes / max(storage.float_bytes, 1):.0f} % of "
            f"{_megabytes(storage.float_bytes)} in floating point",
        )
    )
    if coverage.multiplications is not None and coverage.quantized_multiplications is not None:
        done, total = coverage.quantized_multiplications, coverage.multiplications
        found.append(
            Highlight(
                label="Multiplications quantized",
                value=f"{done} of {total}",
                note="in the example run" if done == total else "the others: see Coverage",
                tone=Tone.GOOD if done == total else Tone.WARNING,
            )
        )
    return tuple(found)


def _score_highlight(scores: Scores | None) -> Sequence[Highlight]:
    if scores is None:
        return ()
    difference = scores.simulated - scores.exact
    if scores.is_share:
        points = "±0.00" if abs(difference) < 5e-5 else f"{100 * difference:+.2f}".replace("-", "−")
        return (
            Highlight(
                label=scores.name.capitalize(),
                value=f"{100 * scores.simulated:.2f} %",
                note=f"{points} points from {100 * scores.exact:.2f}\u00a0%",
                tone=Tone.GOOD if round(difference, 8) >= -_FEW_POINTS else Tone.WARNING,
            ),
        )
    return (
        Highlight(
            label=scores.name.capitalize(),
            value=f"{scores.simulated:.5g}",
            note=f"{scores.exact:.5g} in floating point",
        ),
    )


def _sensitivity(measured: Measured, words: Mapping[TensorReference, str]) -> SensitivitySection:
    by_module: dict[str, list[TensorReference]] = {}
    for tensor in words:
        by_module.setdefault(tensor.module, []).append(tensor)
    rows = []
    for found in measured.sensitivities:
        formats = dict.fromkeys(words[tensor] for path in found.group.modules for tensor in by_module.get(path, ()))
        count = len(found.group.modules)
        rows.append(
            SensitivityRow(
                name=found.group.name or "(model)",
                formats=("" if count == 1 else f"{count} modules: ") + "; ".join(formats),
                alone_db=found.alone_db,
                without_db=found.without_db,
                alone_share=found.alone_share,
                removed_share=found.removed_share,
            )
        )
    return SensitivitySection(total_db=measured.probe.error.sqnr_db, rows=tuple(rows), kinds=measured.kinds)


def _layers(probe: SimulationProbe) -> LayerSection:
    schemes = ("all quantizers", "its own alone") if probe.own_db else ("all quantizers",)
    rows = []
    for path in probe.order:
        figures = [probe.built_up_db.get(path), probe.own_db.get(path)][: len(schemes)]
        if any(figure is not None for figure in figures):
            rows.append(LayerRow(module=path or "(model)", op="", sqnr_db=tuple(figures)))
    return LayerSection(title=type(probe.sim.model).__name__, schemes=schemes, layers=tuple(rows))


def _tensor_rows(probe: SimulationProbe, words: Mapping[TensorReference, str]) -> tuple[TensorRow, ...]:
    ran = {path: index for index, path in enumerate(probe.order)}
    places = sorted(probe.places, key=lambda place: ran.get(place.tensor.module, len(ran)))
    return tuple(_tensor_row(probe, place, words[place.tensor]) for place in places)


def _tensor_row(probe: SimulationProbe, place: QuantizerPlace, words: str) -> TensorRow:
    seen, ends = probe.statistics.get(place), grid_ends(encoding_of(place.quantizer))
    return TensorRow(
        module=place.tensor.module or "(model)",
        tensor=place.tensor_name,
        format=words,
        low=None if seen is None else seen.low,
        high=None if seen is None else seen.high,
        grid_low=None if ends is None else ends[0],
        grid_high=None if ends is None else ends[1],
        outlier_ratio=None if seen is None else seen.outlier_ratio,
        clipped=None if seen is None else seen.clipped,
        sqnr_db=None if seen is None else seen.sqnr_db,
        histogram=None if seen is None else seen.histogram,
    )


def _histograms(measured: Measured) -> tuple[HistogramSection, ...]:
    """Those of the modules that cost most; without sensitivities, of those with the lowest SQNR."""
    probe = measured.probe
    if measured.sensitivities:
        ranked = [found.group.modules[0] for found in sorted(measured.sensitivities, key=lambda row: -row.alone_share)]
    else:
        ranked = sorted(probe.built_up_db, key=lambda path: probe.built_up_db[path])
    sections = []
    for path in ranked:
        drawn: list[Histogram] = [
            seen.histogram
            for place, seen in probe.statistics.items()
            if place.tensor.module == path and seen.histogram is not None
        ]
        if drawn:
            sections.append(HistogramSection(title=path or "(model)", histograms=tuple(drawn)))
        if len(sections) == _DRAWN_MODULES:
            break
    return tuple(sections)


def _notes(measured: Measured) -> tuple[str, ...]:
    count = "1 batch" if measured.batches == 1 else f"{measured.batches} batches"
    notes = [
        f"Headline figures: {count}. What is said of single modules: a part of the first one ({measured.samples}).",
        "Floating point is the same simulation without its quantizers: trained or folded weights count as they are.",
        "SQNR: 10 log10 of the output's power over its error's; positions that an attention mask hides do not count.",
    ]
    if any(len(found.group.modules) > 1 for found in measured.sensitivities):
        notes.append("Modules are switched in groups, since there are many: those whose paths begin alike.")
    return tuple(notes)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
