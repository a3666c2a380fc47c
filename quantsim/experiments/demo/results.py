"""What the demo measured, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["DemoResult", "EncodingsFile", "ExperimentResult", "SchemeResult"]

FP32 = "fp32"


@dataclass(frozen=True, kw_only=True)
class SchemeResult:
    """One model under one scheme.

    Attributes:
        scheme: Name of the preset, or ``"fp32"``.
        accuracy: Share of right answers, 0 to 1.
        retrieval_at_1: Share of queries whose own passage came first, 0 to 1; None where the task has no retrieval.
        cosine: Mean cosine of the outputs to those in FP32.
        sqnr_db: SQNR of the outputs against those in FP32, in decibels; ``inf`` for FP32 itself.
        size_bytes: Storage of the parameters in their formats, scales and offsets included.
        seconds: Time of the evaluation.
    """

    scheme: str
    accuracy: float
    retrieval_at_1: float | None
    cosine: float
    sqnr_db: float
    size_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EncodingsFile:
    """An encodings file that was written, or why a format could not hold the encodings.

    Attributes:
        scheme: Name of the preset.
        version: Encodings version, such as ``"quantsim-1"``.
        path: The file; None if it was not written.
        formats: Formats of the encodings in it, each with their number; empty if it was not written.
        size_bytes: Size of the file.
        problem: Why the version cannot hold these encodings; None if it can.
    """

    scheme: str
    version: str
    path: Path | None
    formats: tuple[tuple[str, int], ...] = ()
    size_bytes: int = 0
    problem: str | None = None

    @property
    def entries(self) -> int:
        """Number of encodings in it."""
        return sum(count for _, count in self.formats)


@dataclass(frozen=True, kw_only=True)
class ExperimentResult:
    """One model on its tasks under every scheme.

    Attributes:
        model: Short name, used in file names.
        title: Name for people.
        task: What is measured on what, in a sentence.
        parameters: Number of parameters.
        reference: FP32.
        schemes: Each preset, in the order it ran.
        files: Encodings files.
    """

    model: str
    title: str
    task: str
    parameters: int
    reference: SchemeResult
    schemes: tuple[SchemeResult, ...]
    files: tuple[EncodingsFile, ...]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Everything one run of the demo measured.

    Attributes:
        experiments: The models.
        quick: Whether the short form ran (a quarter of the texts): its figures are rough.
        seconds: Time of the whole run.
    """

    experiments: tuple[ExperimentResult, ...]
    quick: bool
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The result as JSON can hold it: paths as text, an infinite SQNR as null."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return [plain(item) for item in value]
            if isinstance(value, Path):
                return value.as_posix()
            return None if value == float("inf") else value

        return plain(asdict(self))
