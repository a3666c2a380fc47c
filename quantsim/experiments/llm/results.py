"""What the language-model experiment measured, as plain values and as files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from quantsim.errors import ConfigurationError

__all__ = ["RESULTS_FILE", "LanguageResult", "LanguageStage", "read_language_results", "write_language_results"]

RESULTS_FILE: Final = "quantsim_results.json"
"""Name of the file in the output folder of a run."""


class LanguageStage(StrEnum):
    """What a figure was measured after."""

    TRAINED = "trained"
    """A float model, as loaded or trained."""
    POST_TRAINING = "post_training"
    """Transformed and calibrated, not trained since."""
    FINE_TUNED = "fine_tuned"
    """Trained through the transform."""


class LanguageResult(BaseModel):
    """One model, measured.

    Example:
        >>> result = LanguageResult(system="original", stage="trained", loss=1.5, perplexity=4.48, blocks=10)
        >>> result.stage.value
        'trained'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    system: str
    """``original``, or the name of the transform."""
    stage: LanguageStage
    """What came before."""
    loss: float
    """Mean negative log-likelihood of a token, in nats."""
    perplexity: float
    """``exp`` of the loss by byte of text; where tokens are bytes, ``exp(loss)``."""
    blocks: int
    """Blocks of text that it was measured on."""
    train_steps: int = 0
    """Optimizer steps of this run."""
    kept_step: int = 0
    """The step whose weights were kept; 0: those before training."""
    seconds: float = 0.0
    """Time of the training, if there was one, and of its evaluations."""
    seed: int = 0
    """Seed of the run."""
    parameters: int = 0
    """Number of parameters."""
    settings: dict[str, Any] = {}
    """The transform's arguments and what else tells runs apart."""


def write_language_results(folder: str | Path, results: Sequence[LanguageResult]) -> Path:
    """Writes `RESULTS_FILE`, whole or not at all.

    Args:
        folder: Made if there is none.
        results: In the order they were measured.

    Example:
        >>> import tempfile
        >>> result = LanguageResult(system="original", stage="trained", loss=1.5, perplexity=4.48, blocks=10)
        >>> read_language_results(write_language_results(tempfile.mkdtemp(), [result])) == [result]
        True
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{RESULTS_FILE}.{os.getpid()}"
    try:
        text = json.dumps([result.model_dump(mode="json") for result in results], indent=2)
        unfinished.write_text(text + "\n", encoding="utf-8")
        return unfinished.replace(folder / RESULTS_FILE)
    finally:
        unfinished.unlink(missing_ok=True)


def read_language_results(path: str | Path) -> list[LanguageResult]:
    """Reads what `write_language_results` wrote.

    Args:
        path: The file.

    Raises:
        ConfigurationError: The file is missing or not valid.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return [LanguageResult.model_validate(value) for value in values]
    except (OSError, ValidationError, ValueError, TypeError) as error:
        raise ConfigurationError(
            "the results cannot be read", where=str(path), got=" ".join(str(error).split())[:300]
        ) from None
