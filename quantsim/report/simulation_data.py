"""What the page of one simulation shows, as plain values. Nothing here knows how it is measured or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from quantsim.report.data import CoverageSection, Highlight, Histogram, HistogramSection, LayerSection, Tone

__all__ = [
    "DispatchRow",
    "EncodingsSummaryRow",
    "Finding",
    "KindRow",
    "SensitivityRow",
    "SensitivitySection",
    "SimulationPage",
    "Stage",
    "TensorRow",
    "stages_of",
]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence that a reader should not miss.

    Attributes:
        text: The sentence; names of modules between backticks.
        tone: Good news, a warning, or neither.
    """

    text: str
    tone: Tone = Tone.NEUTRAL


@dataclass(frozen=True, kw_only=True)
class SensitivityRow:
    """What the quantizers of one group of modules cost.

    Attributes:
        name: Path of the module, or what the paths of the group have in common.
        formats: The formats of its quantizers in words.
        alone_db: SQNR of the model's output with these quantizers alone.
        without_db: SQNR of the output with all others.
        alone_share: Noise of these alone, as a share of the whole noise.
        removed_share: Share of the whole noise that goes away without these.
    """

    name: str
    formats: str
    alone_db: float
    without_db: float
    alone_share: float
    removed_share: float


@dataclass(frozen=True, kw_only=True)
class KindRow:
    """What one kind of quantizers costs.

    Attributes:
        name: Such as ``weights``.
        count: How many quantizers there are.
        alone_db: SQNR of the model's output with these alone.
        alone_share: Noise of these alone, as a share of the whole noise.
    """

    name: str
    count: int
    alone_db: float
    alone_share: float


@dataclass(frozen=True)
class Stage:
    """Neighbours in running order whose paths begin alike.

    Attributes:
        name: The beginning of the paths.
        first: Index of the first one.
        last: Index of the last one.
    """

    name: str
    first: int
    last: int


def stages_of(names: Sequence[str], most: int = 16) -> tuple[Stage, ...]:
    """Cuts names into stages at the deepest level that gives no more than a number of them.

    Args:
        names: Paths in running order.
        most: Most stages wanted.

    Example:
        >>> [stage.name for stage in stages_of(["enc.0.q", "enc.0.k", "enc.1.q", "head"], most=3)]
        ['enc.0', 'enc.1', 'head']
    """
    best: tuple[Stage, ...] = ()
    for depth in range(1, max((name.count(".") + 1 for name in names), default=1) + 1):
        stages: list[Stage] = []
        for index, name in enumerate(names):
            prefix = ".".join(name.split(".")[:depth])
            if stages and stages[-1].name == prefix:
                stages[-1] = Stage(prefix, stages[-1].first, index)
            else:
                stages.append(Stage(prefix, index, index))
        if len(stages) > most:
            break
        best = tuple(stages)
    return best


@dataclass(frozen=True, kw_only=True)
class SensitivitySection:
    """What each group of modules costs.

    Attributes:
        total_db: SQNR of the whole simulation's output on the batch that was used.
        rows: In running order.
        kinds: Weights, activations.
    """

    total_db: float
    rows: tuple[SensitivityRow, ...]
    kinds: tuple[KindRow, ...]

    @property
    def ranked(self) -> tuple[SensitivityRow, ...]:
        """The rows, the most noise alone first."""
        return tuple(sorted(self.rows, key=lambda row: -row.alone_share))

    @property
    def largest_share(self) -> float:
        """Where the axis of shares ends."""
        shares = [share for row in self.rows for share in (row.alone_share, row.removed_share)]
        return max([0.01, *shares])


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One quantizer, and the float values that came to it.

    Attributes:
        module: Path of the module.
        tensor: ``input 0``, ``output 0``, or a parameter's name.
        format: Format, symmetry and granularity in words.
        low: Smallest value seen; None if nothing was.
        high: Largest value seen.
        grid_low: Low end of the grid; None where the grid moves with the data.
        grid_high: High end of the grid.
        outlier_ratio: Largest magnitude over that of which 99.9 % of the values stay below.
        clipped: Share of values beyond the grid; None where the grid moves with the data.
        sqnr_db: SQNR of the rounded tensor.
        histogram: Values against the grid.
    """

    module: str
    tensor: str
    format: str
    low: float | None = None
    high: float | None = None
    grid_low: float | None = None
    grid_high: float | None = None
    outlier_ratio: float | None = None
    clipped: float | None = None
    sqnr_db: float | None = None
    histogram: Histogram | None = None


@dataclass(frozen=True, kw_only=True)
class DispatchRow:
    """Modules that one thing computes.

    Attributes:
        op: The op.
        modules: How many.
        source: Where what computes them comes from.
        kernel: Name of the kernel; None for fake-quantization.
        reason: Why this.
    """

    op: str
    modules: int
    source: str
    kernel: str | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class EncodingsSummaryRow:
    """Encodings of one kind.

    Attributes:
        tensors: ``weights``, ``inputs`` or ``outputs``, or a parameter's name.
        format: Format, symmetry and granularity in words.
        state: Whether they are calibrated.
        count: How many.
        stored_bytes: Storage, scales included, of parameters; 0 for activations.
    """

    tensors: str
    format: str
    state: str
    count: int
    stored_bytes: int


@dataclass(frozen=True, kw_only=True)
class SimulationPage:
    """The whole page. Sections left empty are left out.

    Attributes:
        title: Headline.
        subtitle: One sentence below it.
        created: When it was measured, with time zone.
        highlights: Large figures at the top.
        findings: What to look at first.
        sensitivity: What each module's quantizers cost.
        layers: SQNR by layer.
        tensors: All quantizers, in running order.
        outliers: Those of them with outliers or clipping, worst first.
        left_out: How many quantizers are not among ``tensors``, to keep the page small.
        histograms: Values of the most sensitive modules against their grids.
        coverage: What is quantized.
        multiplications: How many matrix multiplications are quantized, of how many.
        dispatch: What computes what.
        encodings: Encodings by kind.
        environment: Names and values.
        notes: How it was measured.
    """

    title: str
    subtitle: str
    created: datetime
    highlights: tuple[Highlight, ...] = ()
    findings: tuple[Finding, ...] = ()
    sensitivity: SensitivitySection | None = None
    layers: LayerSection | None = None
    tensors: tuple[TensorRow, ...] = ()
    outliers: tuple[TensorRow, ...] = ()
    left_out: int = 0
    histograms: tuple[HistogramSection, ...] = ()
    coverage: CoverageSection | None = None
    multiplications: tuple[int, int] | None = None
    dispatch: tuple[DispatchRow, ...] = ()
    encodings: tuple[EncodingsSummaryRow, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
