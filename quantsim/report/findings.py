"""What a reader of a report should not miss, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from quantsim.report.data import Tone
from quantsim.report.simulation_data import Finding, KindRow, SensitivitySection, TensorRow
from quantsim.sim import Coverage

__all__ = ["find"]

_GREAT_SHARE = 0.1
_GREAT_RATIO = 8.0
_MUCH_CLIPPED = 0.01
_CLEAR_DIFFERENCE_DB = 1.0
_GREAT_DIFFERENCE_DB = 6.0


def find(
    coverage: Coverage, tensors: Sequence[TensorRow], sensitivity: SensitivitySection | None
) -> tuple[Finding, ...]:
    """The findings of one simulation, what weighs most first.

    Args:
        coverage: What is quantized.
        tensors: The quantizers.
        sensitivity: What the modules cost, if it was measured.
    """
    found = [*_of_coverage(coverage)]
    if sensitivity is not None:
        found += [*_of_kinds(sensitivity.kinds), *_of_modules(sensitivity)]
    found += [*_of_tensors(tensors)]
    return tuple(found)


def _of_coverage(coverage: Coverage) -> Iterator[Finding]:
    total, quantized = coverage.multiplications, coverage.quantized_multiplications
    if total is not None and quantized is not None and quantized < total:
        yield Finding(
            text=f"{total - quantized} of {total} matrix multiplications compute in floating point: see Coverage.",
            tone=Tone.WARNING,
        )
    if coverage.uncalled:
        yield Finding(
            text=f"{_count(coverage.uncalled, 'module')} with quantizers did not run on the example inputs, such as "
            f"`{coverage.uncalled[0]}`: calibration may not reach them.",
            tone=Tone.WARNING,
        )


def _of_kinds(kinds: Sequence[KindRow]) -> Iterator[Finding]:
    if len(kinds) < 2 or any(math.isinf(row.alone_db) for row in kinds):
        return
    worst, next_worst = sorted(kinds, key=lambda row: row.alone_db)[:2]
    difference = next_worst.alone_db - worst.alone_db
    if difference >= _CLEAR_DIFFERENCE_DB:
        text = (
            f"The {worst.name} cost most: alone they leave {worst.alone_db:.1f} dB, the {next_worst.name} alone "
            f"{next_worst.alone_db:.1f} dB."
        )
        if difference >= _GREAT_DIFFERENCE_DB:
            text += f" More bits for the {next_worst.name} would hardly show."
        yield Finding(text=text)


def _of_modules(section: SensitivitySection) -> Iterator[Finding]:
    rows = section.ranked
    total = sum(row.alone_share for row in rows)
    if not rows or total <= 0 or math.isinf(section.total_db):
        return
    half, needed = 0.0, 0
    while half < total / 2:
        half += rows[needed].alone_share
        needed += 1
    if len(rows) >= 4:
        if needed == 1:
            text = f"One module of {len(rows)} makes half of all noise: `{rows[0].name}`."
        else:
            text = f"{needed} of {len(rows)} modules make half of all noise; the rest share the other half."
        yield Finding(text=text)
    worst = max(rows, key=lambda row: row.removed_share)
    gain = worst.without_db - section.total_db
    if worst.removed_share >= _GREAT_SHARE and gain > 0.1:
        outcome = (
            "no error would be left"
            if math.isinf(worst.without_db)
            else f"the output's SQNR would rise from {section.total_db:.1f} to {worst.without_db:.1f} dB"
        )
        yield Finding(
            text=f"Without the quantizers of `{worst.name}` {outcome}: the first candidate for more bits.",
            tone=Tone.WARNING if gain >= 3 else Tone.NEUTRAL,
        )


def _of_tensors(tensors: Sequence[TensorRow]) -> Iterator[Finding]:
    tensors = [row for row in tensors if row.clipped is not None]  # a grid that moves with the data clips nothing
    outliers = [row for row in tensors if (row.outlier_ratio or 0) >= _GREAT_RATIO]
    if outliers:
        worst = max(outliers, key=lambda row: row.outlier_ratio or 0)
        yield Finding(
            text=f"{_count(outliers, 'tensor')} with outliers that a fixed grid must hold or clip: the largest value "
            f"of `{worst.module}` ({worst.tensor}) is {worst.outlier_ratio:.0f} times what 99.9 % stay below.",
            tone=Tone.WARNING,
        )
    clipped = [row for row in tensors if (row.clipped or 0) > _MUCH_CLIPPED]
    if clipped:
        worst = max(clipped, key=lambda row: row.clipped or 0)
        yield Finding(
            text=f"{_count(clipped, 'quantizer')} clip{'s' * (len(clipped) == 1)} more than 1 % of what comes in, most "
            f"of all `{worst.module}` ({worst.tensor}) with {100 * (worst.clipped or 0):.1f} %: was calibration data "
            "too narrow?",
            tone=Tone.WARNING,
        )
    if tensors and not outliers and not clipped:
        yield Finding(
            text="Ranges fit: no quantizer clips more than 1 % of its values, and none is stretched by outliers.",
            tone=Tone.GOOD,
        )


def _count(items: Sequence[object], noun: str) -> str:
    return f"One {noun}" if len(items) == 1 else f"{len(items)} {noun}s"
