"""Results of several runs in one Markdown page or one JSON file."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

from quantsim.errors import ConfigurationError
from quantsim.experiments.llm.levels_report import levels_table
from quantsim.experiments.llm.results import RESULTS_FILE, LanguageResult, LanguageStage, read_language_results

__all__ = ["gather_results", "stages_table", "write_summary"]

_STAGES = {
    LanguageStage.TRAINED: "trained in float32",
    LanguageStage.POST_TRAINING: "calibrated, not trained",
    LanguageStage.FINE_TUNED: "fine-tuned through the transform",
}


def gather_results(sources: Sequence[str | Path]) -> list[LanguageResult]:
    """Reads the results of output folders, or of files, one after the other; the same result counts once.

    Args:
        sources: Folders with a ``quantsim_results.json``, or such files.

    Raises:
        ConfigurationError: A file is missing or not valid.
    """
    results: list[LanguageResult] = []
    for source in map(Path, sources):
        read = read_language_results(source / RESULTS_FILE if source.is_dir() else source)
        results += [result for result in read if result not in results]
    return results


def stages_table(results: Sequence[LanguageResult]) -> str:
    """A row for each model that is no point of a sweep: what it is, its perplexity, and that relative to the first.

    Args:
        results: In the order of the rows.

    Example:
        >>> print(
        ...     stages_table(
        ...         [
        ...             LanguageResult(system="original", stage="trained", loss=1.5, perplexity=4.5, blocks=4),
        ...             LanguageResult(
        ...                 system="optical", stage="post_training", loss=1.6, perplexity=4.59, blocks=4
        ...             ),
        ...         ]
        ...     )
        ... )
        | System | Stage | Perplexity per byte | Relative | Steps |
        |:-------|:------|-------:|-------:|-------:|
        | original | trained in float32 | 4.500 | +0.00 % | 0 |
        | optical | calibrated, not trained | 4.590 | +2.00 % | 0 |
    """
    shown = [result for result in results if "levels" not in result.settings]
    lines = [
        "| System | Stage | Perplexity per byte | Relative | Steps |",
        "|:-------|:------|-------:|-------:|-------:|",
    ]
    for result in shown:
        relative = 100 * (result.perplexity / shown[0].perplexity - 1)
        lines.append(
            f"| {result.system} | {_STAGES[result.stage]} | {result.perplexity:.3f} | {relative:+.2f} % "
            f"| {result.train_steps} |"
        )
    return "\n".join(lines)


def write_summary(path: str | Path, results: Sequence[LanguageResult]) -> Path:
    """Writes all results: tables as ``.md``, or the figures and what they were measured with as ``.json``.

    Points of a sweep and its float model, which are measured on other blocks than the rest, get a table of their own.

    Args:
        path: The file; its suffix says which.
        results: In order.

    Raises:
        ConfigurationError: Another suffix, or no result.
    """
    path = Path(path)
    if not results:
        raise ConfigurationError("there is no result", where="write_summary", got="none", expected="at least one")
    if path.suffix == ".json":
        import torch
        import transformers

        content = {
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "results": [result.model_dump(mode="json") for result in results],
        }
        text = json.dumps(content, indent=2)
    elif path.suffix == ".md":
        sweep = [result for result in results if "calibration_batches" in result.settings]
        rest = [result for result in results if result not in sweep]
        parts = []
        if rest:
            parts.append(f"{stages_table(rest)}\n\nMeasured on {_blocks(rest)} blocks of text.")
        if sweep:
            parts.append(f"{levels_table(sweep)}\n\nMeasured on {_blocks(sweep)} blocks of text.")
        text = "\n\n".join(parts)
    else:
        raise ConfigurationError(where="output", got=str(path), expected="a name that ends in .md or .json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _blocks(results: Sequence[LanguageResult]) -> str:
    return " or ".join(f"{number:,}" for number in sorted({result.blocks for result in results}))
