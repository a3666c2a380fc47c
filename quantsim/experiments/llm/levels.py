"""The sweep: perplexity after training against the number of optical levels."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from quantsim.errors import ConfigurationError
from quantsim.experiments.llm.arguments import LanguageArguments
from quantsim.experiments.llm.levels_report import write_levels_report
from quantsim.experiments.llm.model import load_language_model
from quantsim.experiments.llm.results import (
    RESULTS_FILE,
    LanguageResult,
    LanguageStage,
    read_language_results,
    write_language_results,
)
from quantsim.experiments.llm.training import LanguageTrainer, load_blocks, perplexity
from quantsim.experiments.transformed_model import (
    TransformKind,
    TransformRecord,
    apply_transform,
    calibrate_transformed,
    default_transform_config,
)
from quantsim.transforms import load_transform_config

__all__ = ["DEFAULT_LEVELS", "SweepVariant", "parse_levels", "parse_variants", "run_sweep", "sweep_config"]

DEFAULT_LEVELS: Final = (16, 32, 64, 128, 256, 512, 1024)
"""Numbers of levels of a sweep."""

_KINDS: Final = ("attn", "fc")


class SweepVariant(StrEnum):
    """What a sweep changes besides the levels."""

    CONFIGURED = "configured"
    """Nothing: the configuration as it is, which by default is the published one."""
    NO_NOISE = "no_noise"
    """The detector is without noise."""
    NO_FLOOR = "no_floor"
    """The modulator has no smallest transmission."""
    ROW_RANGE = "row_range"
    """Attention probabilities are quantized up to the largest of each row instead of up to 1."""

    @property
    def changes(self) -> dict[str, Any]:
        """Parameters of the optical pass that it sets."""
        return dict(_CHANGES[self])


_CHANGES: Final[Mapping[SweepVariant, Mapping[str, Any]]] = {
    SweepVariant.CONFIGURED: {},
    SweepVariant.NO_NOISE: {"noise": "none", "photons": None},
    SweepVariant.NO_FLOOR: {"q_lut_min": None},
    SweepVariant.ROW_RANGE: {"attn_range": "row"},
}


def parse_levels(text: str) -> tuple[int, ...]:
    """Reads numbers of levels, separated by commas.

    Raises:
        ConfigurationError: One is no whole number from 2, or occurs twice.

    Example:
        >>> parse_levels("16, 64,256")
        (16, 64, 256)
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    levels = [int(part) for part in parts if part.isascii() and part.isdigit()]
    if len(levels) != len(parts) or not levels or min(levels) < 2 or len(set(levels)) != len(levels):
        raise ConfigurationError(
            where="levels", got=repr(text), expected="different whole numbers from 2 on, such as '16,64,256'"
        )
    return tuple(levels)


def parse_variants(text: str) -> tuple[SweepVariant, ...]:
    """Reads names of variants, separated by commas.

    Raises:
        ConfigurationError: There is none of that name, or none is named.

    Example:
        >>> parse_variants("configured,no_noise")
        (<SweepVariant.CONFIGURED: 'configured'>, <SweepVariant.NO_NOISE: 'no_noise'>)
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    try:
        variants = tuple(dict.fromkeys(SweepVariant(name) for name in names))
    except ValueError:
        variants = ()
    if not variants:
        raise ConfigurationError(
            where="sweep_variants", got=repr(text), expected=f"some of {', '.join(SweepVariant)}, separated by commas"
        )
    return variants


def sweep_config(base: Mapping[str, Any], levels: int, variant: SweepVariant) -> dict[str, Any]:
    """The transform's arguments at one point of a sweep.

    Args:
        base: Arguments under ``attn`` and ``fc``; not changed.
        levels: Number of levels of every quantizer.
        variant: What else is changed.

    Raises:
        ConfigurationError: ``base`` has keys for paths.

    Example:
        >>> sweep_config({"fc": {"noise": "none"}}, 64, SweepVariant.NO_FLOOR)
        {'fc': {'noise': 'none', 'q_levels': 64, 'q_lut_min': None}}
    """
    if not base or set(base) - set(_KINDS):
        raise ConfigurationError(
            "a sweep sets the levels of all layers",
            where="--transform_config",
            got=f"the keys {', '.join(map(repr, base)) or 'none'}",
            expected="'attn', 'fc' or both",
        )
    return {
        kind: None if parameters is None else {**parameters, "q_levels": levels, **variant.changes}
        for kind, parameters in base.items()
    }


def run_sweep(arguments: LanguageArguments) -> list[LanguageResult]:
    """Measures a float model, and the same transformed and calibrated at each number of levels; trains nothing.

    Points that the output folder has already are not measured again, so a sweep that was interrupted goes on.

    Args:
        arguments: Of the run.

    Returns:
        The float model first, then the points by variant and levels. In the output folder: them as
        ``quantsim_results.json``, and ``levels.md``, ``levels.png`` and ``levels.svg``.

    Raises:
        ConfigurationError: Arguments, files and model do not fit each other.
    """
    asked, training = arguments.transform, arguments.training
    levels, variants = parse_levels(asked.levels or ""), parse_variants(asked.sweep_variants)
    base = (
        default_transform_config() if asked.transform_config is None else load_transform_config(asked.transform_config)
    )
    if asked.transform is not TransformKind.OPTICAL:
        raise ConfigurationError(where="--transform", got=asked.transform.value, expected="optical, which has levels")
    points = [(variant, number, sweep_config(base, number, variant)) for variant in variants for number in levels]
    for _, _, config in points:
        TransformRecord.of(config)
    output = Path(str(training.output_dir))
    loaded = load_language_model(str(arguments.model.model_name_or_path))
    if loaded.record is not None:
        raise ConfigurationError(
            "a sweep needs a float model", where="--model_name_or_path", got="a model that is transformed already"
        )
    train, validation = load_blocks(arguments, loaded.encode)
    quiet = dataclasses.replace(training, disable_tqdm=True)
    fixed = {"model": str(arguments.model.model_name_or_path), "calibration_batches": asked.calibration_batches}
    known = _known(output)
    results: list[LanguageResult] = []

    def measure(model: Any, system: str, stage: LanguageStage, settings: dict[str, Any]) -> LanguageResult:
        began = time.perf_counter()
        loss = LanguageTrainer(model, quiet, None, validation, quiet=True).evaluate()["eval_loss"]
        return LanguageResult(
            system=system,
            stage=stage,
            loss=loss,
            perplexity=perplexity(loss, validation.bytes_per_token),
            blocks=len(validation),
            seconds=time.perf_counter() - began,
            seed=training.seed,
            parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
            settings=settings,
        )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("float model", total=1 + len(points))
        results.append(
            _same(known, fixed, training.seed, len(validation))
            or measure(loaded.model, "original", LanguageStage.TRAINED, dict(fixed))
        )
        progress.advance(task)
        for variant, number, config in points:
            progress.update(task, description=f"{variant.value}, {number} levels")
            settings = {**fixed, "variant": variant.value, "levels": number, "config": config}
            result = _same(known, settings, training.seed, len(validation))
            if result is None:
                model = apply_transform(copy.deepcopy(loaded.model), config)
                calibrate_transformed(
                    model.to(training.device),
                    train.batches(asked.calibration_batches, training.per_device_train_batch_size),
                )
                result = measure(model, "optical", LanguageStage.POST_TRAINING, settings)
            results.append(result)
            write_language_results(output, results)
            progress.advance(task)
    write_levels_report(output, results)
    return results


def _known(output: Path) -> list[LanguageResult]:
    path = output / RESULTS_FILE
    return read_language_results(path) if path.is_file() else []


def _same(
    known: Sequence[LanguageResult], settings: Mapping[str, Any], seed: int, blocks: int
) -> LanguageResult | None:
    return next(
        (item for item in known if (item.settings, item.seed, item.blocks) == (dict(settings), seed, blocks)), None
    )
