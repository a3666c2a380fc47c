"""What a report shows, as plain values. Nothing here knows how it is measured or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

__all__ = [
    "AccuracySection",
    "CoverageRow",
    "CoverageSection",
    "EncodingsRow",
    "Highlight",
    "Histogram",
    "HistogramSection",
    "LayerRow",
    "LayerSection",
    "RangeRow",
    "RangeSection",
    "ReportData",
    "SchemeRow",
    "Tone",
    "UnquantizedRow",
    "grid_reach",
]


class Tone(StrEnum):
    """How a headline figure is coloured."""

    NEUTRAL = "neutral"
    GOOD = "good"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Highlight:
    """One large figure at the top.

    Attributes:
        label: What it is.
        value: The figure with its unit.
        note: What it is compared with.
        tone: Its colour.
    """

    label: str
    value: str
    note: str
    tone: Tone = Tone.NEUTRAL


@dataclass(frozen=True, kw_only=True)
class SchemeRow:
    """One scheme in an accuracy table.

    Attributes:
        scheme: Name of the preset, or ``"fp32"``.
        description: What the name means.
        scores: One for each of the section's ``score_names``, 0 to 1.
        cosine: Mean cosine to FP32.
        sqnr_db: SQNR against FP32 in decibels; ``inf`` for FP32 itself.
        size_bytes: Storage of the parameters.
    """

    scheme: str
    description: str
    scores: tuple[float, ...]
    cosine: float
    sqnr_db: float
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class AccuracySection:
    """One model under every scheme.

    Attributes:
        title: The model.
        task: What was measured, in sentences.
        score_names: Column heads of ``SchemeRow.scores``.
        reference: FP32.
        schemes: The schemes, in order.

    Raises:
        ValueError: A row has another number of scores than there are names.
    """

    title: str
    task: str
    score_names: tuple[str, ...]
    reference: SchemeRow
    schemes: tuple[SchemeRow, ...]

    def __post_init__(self) -> None:
        for row in (self.reference, *self.schemes):
            if len(row.scores) != len(self.score_names):
                raise ValueError(
                    f"scheme {row.scheme!r} of {self.title!r} has {len(row.scores)} scores; expected "
                    f"{len(self.score_names)}, one for each of {self.score_names}"
                )


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One quantized module.

    Attributes:
        module: Its path.
        op: Name of its torch class.
        sqnr_db: SQNR of its output against FP32 under each scheme of the section; None where the scheme does not
            quantize it.
    """

    module: str
    op: str
    sqnr_db: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class LayerSection:
    """SQNR by layer: the error that has built up at the output of each module when the whole model is quantized.

    Attributes:
        title: The model.
        schemes: Column heads of ``LayerRow.sqnr_db``.
        layers: Modules in the order they run.
    """

    title: str
    schemes: tuple[str, ...]
    layers: tuple[LayerRow, ...]

    def __post_init__(self) -> None:
        for row in self.layers:
            if len(row.sqnr_db) != len(self.schemes):
                raise ValueError(
                    f"layer {row.module!r} has {len(row.sqnr_db)} figures; expected one for each of {self.schemes}"
                )


@dataclass(frozen=True, kw_only=True)
class RangeRow:
    """Values seen at one quantizer, and what its grid holds.

    Attributes:
        module: Path of the module.
        tensor: ``"input 0"``, ``"output 0"`` or a parameter's name.
        observed_low, observed_high: Smallest and largest float value.
        grid_low, grid_high: Ends of the grid (of all its channels or blocks).
        format: Short words for the format.
    """

    module: str
    tensor: str
    observed_low: float
    observed_high: float
    grid_low: float
    grid_high: float
    format: str


@dataclass(frozen=True, kw_only=True)
class RangeSection:
    """Ranges of one model under one scheme.

    Attributes:
        title: The model and the scheme.
        rows: One for each calibrated quantizer.
    """

    title: str
    rows: tuple[RangeRow, ...]

    def first(self, count: int) -> RangeSection:
        """The same section with its first rows only."""
        return replace(self, rows=self.rows[:count])


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Values of one tensor against its grid.

    Attributes:
        title: The tensor.
        caption: Format, granularity, how much is clipped.
        scheme: The scheme, which gives the colour.
        edges: Bin edges, one more than counts.
        counts: Values in each bin.
        grid: Points of the grid, in the unit of the edges, rising.
        unit: What the horizontal axis counts.
        logarithmic: Whether counts are drawn on a logarithmic axis.
        clipped: Share of the values that lie beyond the grid.
    """

    title: str
    caption: str
    scheme: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    grid: tuple[float, ...]
    unit: str
    logarithmic: bool = False
    clipped: float = 0.0

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1 or not self.counts:
            raise ValueError(
                f"histogram {self.title!r} has {len(self.edges)} edges; expected one more than its "
                f"{len(self.counts)} bins, and at least one bin"
            )


def grid_reach(grid: Sequence[float]) -> tuple[float, float]:
    """How far values are rounded to the ends of a grid; what lies beyond is clipped to them.

    Args:
        grid: Rising points, at least one.

    Returns:
        The ends, each moved out by half of the last step.

    Example:
        >>> grid_reach((-1.0, 0.0, 2.0))
        (-1.5, 3.0)
    """
    if len(grid) < 2:
        return grid[0], grid[0]
    return grid[0] - (grid[1] - grid[0]) / 2, grid[-1] + (grid[-1] - grid[-2]) / 2


@dataclass(frozen=True, kw_only=True)
class HistogramSection:
    """Histograms of one module.

    Attributes:
        title: The module and why it was chosen.
        histograms: Its tensors.
    """

    title: str
    histograms: tuple[Histogram, ...]


@dataclass(frozen=True, kw_only=True)
class CoverageRow:
    """How much of one class of modules a scheme quantizes.

    Attributes:
        op: Name of the torch class.
        modules: How many there are.
        weights: How many have their weight quantized.
        activations: How many have an input or output quantized.
        parameters: Number of parameters in them.
    """

    op: str
    modules: int
    weights: int
    activations: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class UnquantizedRow:
    """A computing module or functional op that stays in floating point.

    Attributes:
        op: Name of its class or function.
        where: Paths of the modules.
        reason: Why, as far as it is known.
    """

    op: str
    where: tuple[str, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class CoverageSection:
    """What is quantized and what is not.

    Attributes:
        title: The model and the scheme.
        rows: By class of module.
        unquantized: What stays in floating point.
    """

    title: str
    rows: tuple[CoverageRow, ...]
    unquantized: tuple[UnquantizedRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EncodingsRow:
    """One encodings file.

    Attributes:
        model: The model.
        scheme: The scheme.
        version: Encodings version.
        file: File name; None if it was not written.
        entries: Number of encodings.
        formats: Formats in it with their counts.
        size_bytes: Size of the file.
        problem: Why it was not written.
    """

    model: str
    scheme: str
    version: str
    file: str | None
    entries: int = 0
    formats: tuple[tuple[str, int], ...] = ()
    size_bytes: int = 0
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """A whole report. Sections left empty are left out.

    Attributes:
        title: Headline.
        subtitle: One sentence below it.
        created: When it was measured, with time zone.
        highlights: Large figures at the top.
        accuracy: Models by scheme.
        layers: SQNR by layer.
        ranges: Ranges by layer.
        histograms: Values against grids.
        coverage: What is quantized.
        encodings: Files written.
        environment: Names and values: versions, machine, settings.
        notes: What a reader should know of how it was measured.

    Example:
        >>> from datetime import UTC
        >>> ReportData(title="t", subtitle="s", created=datetime(2026, 1, 1, tzinfo=UTC)).accuracy
        ()
    """

    title: str
    subtitle: str
    created: datetime
    highlights: tuple[Highlight, ...] = ()
    accuracy: tuple[AccuracySection, ...] = ()
    layers: tuple[LayerSection, ...] = ()
    ranges: tuple[RangeSection, ...] = ()
    histograms: tuple[HistogramSection, ...] = ()
    coverage: tuple[CoverageSection, ...] = ()
    encodings: tuple[EncodingsRow, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
