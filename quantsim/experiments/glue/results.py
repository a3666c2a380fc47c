"""One line of JSON for each finished run of the GLUE experiment."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator


class System(StrEnum):
    """What computed the predictions: the rows of the experiment's table."""

    ORIGINAL = "original"
    RANDOM = "random"
    OPTICAL = "optical"
    SQUEEZELIGHT_AVERAGE = "squeezelight_average"
    SQUEEZELIGHT_LEAST_SQUARES = "squeezelight_least_squares"


class Stage(StrEnum):
    """Whether the system was trained further before it was judged.

    `POST_TRAINING` means that nothing was trained in this run: the model was read (or drawn anew), transformed,
    calibrated and evaluated. `FINE_TUNED` means that training ran through the system (an evaluation of a folder that
    holds a fine-tuned transformed model counts as well).
    """

    POST_TRAINING = "post_training"
    FINE_TUNED = "fine_tuned"


class RunResult(BaseModel):
    """The figures of one system on one task with one seed.

    Attributes:
        system: Row of the table.
        stage: Before or after training.
        task: Name of the GLUE task, for example `"cola"`.
        seed: Seed of the run.
        metrics: Every metric of the task, by name (`"matthews_correlation"`, `"accuracy_mismatched"`, ...).
        headline: The one figure that the table shows for the task: one of the metrics.
        train_steps: Optimiser steps of training; 0 for `POST_TRAINING`. Which of them is kept, settings say.
        seconds: Wall-clock time of the run, in seconds.
        settings: Everything else needed to repeat the run (arguments, transform); plain JSON values.

    Example:
        >>> result = RunResult(
        ...     system="optical",
        ...     stage="post_training",
        ...     task="cola",
        ...     seed=0,
        ...     metrics={"matthews_correlation": 0.5},
        ...     headline=0.5,
        ...     train_steps=0,
        ...     seconds=1.0,
        ... )
        >>> result.system, result.stage.value
        (<System.OPTICAL: 'optical'>, 'post_training')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: System
    stage: Stage
    task: str = Field(min_length=1)
    seed: int
    metrics: dict[str, float]
    headline: float
    train_steps: int = Field(ge=0)
    seconds: float = Field(ge=0)
    settings: dict[str, Any] = Field(default_factory=dict)

    @field_validator("headline")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError(
                f"headline must be a finite number, got {value}. A metric that is undefined (constant predictions) "
                f"counts as 0"
            )
        return value


def append_result(path: str | Path, result: RunResult) -> None:
    """Add one result at the end of a JSON-lines file, creating the file and its folder when needed.

    Args:
        path: The file, for example `results.jsonl`.
        result: What to add.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(result.model_dump_json() + "\n")


def read_results(path: str | Path) -> list[RunResult]:
    """Read the results that `append_result` wrote, in order.

    Args:
        path: The file. A file that is not there holds no results.

    Returns:
        One result a line; blank lines are skipped.

    Raises:
        ValueError: When a line is no result; names file and line.
    """
    path = Path(path)
    if not path.exists():
        return []
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            results.append(RunResult.model_validate_json(line))
        except ValidationError as error:
            raise ValueError(
                f"{path}, line {number}: expected one run's result as a JSON object, got {line[:80]!r}. "
                f"Delete the line if a run was cut off while writing it. Details: {error}"
            ) from error
    return results
