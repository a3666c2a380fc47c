"""A sweep's results as Markdown: tables for people, made only from what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from quantsim.experiments.optical_sweep.results import SweepPoint, SweepResult

__all__ = ["as_markdown"]


def as_markdown(result: SweepResult) -> str:
    """Tables over levels (cosine with SQNR, accuracy) and over photons, and what was measured.

    Args:
        result: The sweep.

    Example:
        >>> result = SweepResult(
        ...     title="m",
        ...     task="A task.",
        ...     versions={"torch": "2"},
        ...     hardware={},
        ...     accuracy=0.5,
        ...     retrieval_at_1=None,
        ...     levels=(),
        ...     photons=(),
        ... )
        >>> print(as_markdown(result))
        A task. FP32 has an accuracy of 50.00 %. Nothing was trained. torch 2.
    """
    parts: list[str] = []
    if result.levels:
        parts += [
            "Cosine to FP32 and, in brackets, SQNR in dB:",
            _over_levels(result, lambda point: f"{point.cosine:.4f} ({_decibels(point.sqnr_db)})"),
            "Accuracy, in percent:",
            _over_levels(result, lambda point: f"{100 * point.accuracy:.2f}"),
        ]
    if result.photons:
        names = {point.hardware for point in result.photons}
        engines = "; ".join(f"{result.hardware.get(name, name)}" for name in sorted(names))
        levels = ", ".join(str(number) for number in sorted({point.levels for point in result.photons}))
        parts += [
            f"Against light, at {levels} levels, shot noise in place of dither ({engines}):",
            _over_photons(result),
        ]
    retrieval = "" if result.retrieval_at_1 is None else f", retrieval@1 {100 * result.retrieval_at_1:.2f} %"
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    parts.append(
        f"{result.task} FP32 has an accuracy of {100 * result.accuracy:.2f} %{retrieval}. Nothing was trained. "
        f"{versions}."
    )
    return "\n\n".join(parts)


def _over_levels(result: SweepResult, cell: Callable[[SweepPoint], str]) -> str:
    levels = sorted({point.levels for point in result.levels})
    found = {(point.hardware, point.levels): point for point in result.levels}
    names = dict.fromkeys(point.hardware for point in result.levels)
    rows = (
        [
            result.hardware.get(name, name),
            *(cell(found[name, number]) if (name, number) in found else "" for number in levels),
        ]
        for name in names
    )
    return _table(["engine", *(f"{number} levels" for number in levels)], rows)


def _over_photons(result: SweepResult) -> str:
    rows = (
        [
            f"{point.photons:g}",
            f"{100 * point.accuracy:.2f}",
            "" if point.retrieval_at_1 is None else f"{100 * point.retrieval_at_1:.2f}",
            f"{point.cosine:.4f}",
            _decibels(point.sqnr_db),
        ]
        for point in result.photons
    )
    return _table(["photons / MAC", "accuracy %", "retrieval@1 %", "cosine", "SQNR dB"], rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    lines.insert(1, "|---|" + "---:|" * (len(header) - 1))
    return "\n".join(lines)


def _decibels(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.1f}"
