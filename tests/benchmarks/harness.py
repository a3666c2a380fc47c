"""Measuring: interleaved rounds in one process, minimum and median, ratios to a baseline, gates printed and never
asserted.

A benchmark file holds one subject and offers ``subject(options)``, a generator of ``Comparison`` (functions timed
against each other) and ``Figure`` (one number measured otherwise). It is a generator so that one comparison's tensors
are gone before the next begins.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# OpenMP workers that spin between operators make two busy cores ten times slower on small models.
THREADING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}

# The default allocator returns large blocks to the system, so that every pass over a fresh 64 MiB tensor is bound by
# page faults and costs the same whatever it computes. With these, glibc keeps the pages.
PAGE_REUSE = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "34359738368", "MALLOC_TOP_PAD_": "536870912"}

MARKER = "QUANTSIM_BENCHMARK_ENVIRONMENT"


def restart_with_environment(*, page_reuse: bool) -> None:
    """Replace this process by itself with the variables set: they are read when torch and the allocator start."""
    wanted = f"page_reuse={page_reuse}"
    if os.environ.get(MARKER) == wanted:
        return
    environment = {**os.environ, **THREADING, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", MARKER: wanted}
    if page_reuse:
        environment |= PAGE_REUSE
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


class Gate(StrEnum):
    """What became of a row's gate."""

    PASS = "pass"
    FAIL = "FAIL"
    NONE = ""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line chose."""

    seconds: float = 4.0
    """How long one comparison is measured, after warming up."""
    minimum_rounds: int = 5
    compiled: bool = True
    peers: bool = True
    quick: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Functions that do the same work, timed in turn.

    ``gates`` are upper bounds of the ratio to ``baseline`` (or to another function, in ``against``).
    """

    title: str
    baseline: str
    functions: Mapping[str, Callable[[], object]]
    gates: Mapping[str, float] = field(default_factory=dict)
    against: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number measured otherwise, with the most it may be."""

    title: str
    label: str
    value: float
    unit: str
    gate: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table (and an entry of the JSON)."""

    subject: str
    title: str
    label: str
    minimum: float
    median: float
    unit: str
    ratio_of_minima: float | None = None
    ratio_of_medians: float | None = None
    against: str = ""
    gate: float | None = None
    verdict: Gate = Gate.NONE
    note: str = ""


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one entry a round."""

    rounds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        """The least disturbed round."""
        return min(self.rounds)

    @property
    def median(self) -> float:
        """The ordinary round."""
        return statistics.median(self.rounds)


def _calls_per_sample(function: Callable[[], object], least_seconds: float = 2e-3) -> int:
    """How many calls make one sample long enough for the clock (1 for anything slow)."""
    start = time.perf_counter()
    function()
    once = time.perf_counter() - start
    return max(1, min(2000, int(least_seconds / max(once, 1e-7))))


def time_interleaved(functions: Mapping[str, Callable[[], object]], options: Options) -> dict[str, Timing]:
    """Time all functions in turn, round after round, each round beginning with another one."""
    for function in functions.values():
        function()
        function()
    calls = {label: _calls_per_sample(function) for label, function in functions.items()}
    samples: dict[str, list[float]] = {label: [] for label in functions}
    labels = list(functions)
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + options.seconds
        done = 0
        while done < options.minimum_rounds or time.perf_counter() < end:
            for label in labels[done % len(labels) :] + labels[: done % len(labels)]:
                function, count = functions[label], calls[label]
                start = time.perf_counter()
                for _ in range(count):
                    function()
                samples[label].append((time.perf_counter() - start) / count)
            done += 1
    finally:
        gc.enable()
    return {label: Timing(tuple(rounds)) for label, rounds in samples.items()}


def compare(subject: str, comparison: Comparison, options: Options) -> Iterator[Row]:
    """Measure one comparison and give its rows; the gate is held against the ratio of minima, the medians stand
    beside it."""
    timings = time_interleaved(comparison.functions, options)
    for label, timing in timings.items():
        against = comparison.against.get(label, comparison.baseline)
        base = timings[against]
        ratio = timing.minimum / base.minimum
        gate = comparison.gates.get(label)
        yield Row(
            subject=subject,
            title=comparison.title,
            label=label,
            minimum=timing.minimum * 1e3,
            median=timing.median * 1e3,
            unit="ms",
            ratio_of_minima=ratio,
            ratio_of_medians=timing.median / base.median,
            against="" if label == against else against,
            gate=gate,
            verdict=Gate.NONE if gate is None else Gate.PASS if ratio <= gate else Gate.FAIL,
            note=comparison.notes.get(label, ""),
        )


def figure_row(subject: str, figure: Figure) -> Row:
    """The row of a number measured otherwise."""
    return Row(
        subject=subject,
        title=figure.title,
        label=figure.label,
        minimum=figure.value,
        median=figure.value,
        unit=figure.unit,
        gate=figure.gate,
        verdict=Gate.NONE if figure.gate is None else Gate.PASS if figure.value <= figure.gate else Gate.FAIL,
        note=figure.note,
    )
