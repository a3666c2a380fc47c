"""What a sweep measured, as plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from quantsim.errors import ConfigurationError

__all__ = ["SweepPoint", "SweepResult"]


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One engine, calibrated and measured; nothing was trained.

    Attributes:
        hardware: Name of the engine.
        levels: Its number of levels.
        photons: Photons for each multiply-accumulate; None where there was no shot noise.
        accuracy: Share of right answers, 0 to 1.
        retrieval_at_1: Share of queries whose own passage came first, 0 to 1; None where there is no retrieval.
        cosine: Mean cosine of the outputs to those in FP32.
        sqnr_db: SQNR of the outputs against those in FP32, in decibels.
        seconds: Time of calibration and evaluation.
    """

    hardware: str
    levels: int
    photons: float | None
    accuracy: float
    retrieval_at_1: float | None
    cosine: float
    sqnr_db: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """Everything one sweep measured.

    Attributes:
        title: Name of the model.
        task: What was measured on what, in sentences.
        versions: Versions of what the figures depend on.
        hardware: Settings of each engine by name, in words.
        accuracy: FP32's share of right answers.
        retrieval_at_1: FP32's; None where there is no retrieval.
        levels: Points over levels.
        photons: Points over photons.

    Example:
        >>> result = SweepResult(
        ...     title="m",
        ...     task="t",
        ...     versions={},
        ...     hardware={},
        ...     accuracy=1.0,
        ...     retrieval_at_1=None,
        ...     levels=(),
        ...     photons=(),
        ... )
        >>> SweepResult.from_json(result.as_json()) == result
        True
    """

    title: str
    task: str
    versions: dict[str, str]
    hardware: dict[str, str]
    accuracy: float
    retrieval_at_1: float | None
    levels: tuple[SweepPoint, ...]
    photons: tuple[SweepPoint, ...]

    def as_json(self) -> dict[str, Any]:
        """The result as JSON holds it: an infinite SQNR as null."""
        values = asdict(self)
        for group in ("levels", "photons"):
            for point in values[group]:
                point["sqnr_db"] = None if math.isinf(point["sqnr_db"]) else point["sqnr_db"]
            values[group] = list(values[group])
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `as_json` gave.

        Raises:
            ConfigurationError: Something is missing or unknown.
        """
        try:
            given = dict(values)
            for group in ("levels", "photons"):
                given[group] = tuple(
                    SweepPoint(**{**point, "sqnr_db": math.inf if point["sqnr_db"] is None else point["sqnr_db"]})
                    for point in given[group]
                )
            return cls(**given)
        except (TypeError, KeyError) as error:
            raise ConfigurationError(
                "these are no results of a sweep",
                where="results",
                got=str(error),
                expected=f"the fields {', '.join(field.name for field in fields(cls))}",
                fix="run `python -m quantsim.experiments.optical_sweep`, which writes them",
            ) from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a file that `save` wrote.

        Raises:
            ConfigurationError: It cannot be read, or holds something else.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                "the file cannot be read", where=str(path), got=" ".join(str(error).split()), expected="a JSON file"
            ) from None
        if not isinstance(values, dict):
            raise ConfigurationError(where=str(path), got=type(values).__name__, expected="one mapping")
        return cls.from_json(values)

    def save(self, path: Path) -> None:
        """Writes the result as JSON; folders are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
