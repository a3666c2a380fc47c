"""Which runs a comparison of all systems is made of.

For each task and seed the float model is fine-tuned once. All else starts from it: *Original* is that model; *Random*
has its shape with weights drawn anew; *Optical Transformer* and the two conversions to *SqueezeLight* transform it,
calibrate it and evaluate it (post-training), then train it further through the transform (fine-tuned). Each run is one
call of `quantsim.experiments.run_glue.main`, whose command line the result's settings hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.preparation import task_files
from quantsim.experiments.glue.results import Stage, System
from quantsim.experiments.glue.tasks import glue_task

__all__ = ["ComparisonSettings", "PlannedRun", "plan_runs"]

_Count = Annotated[int, Field(ge=1)]
_Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class ComparisonSettings(BaseModel):
    """What is compared, and how each run trains.

    Example:
        >>> settings = ComparisonSettings.of(model="roberta", data="glue", output="out", seeds=[3, 3, 4])
        >>> settings.tasks, settings.seeds, settings.steps
        (('cola', 'mrpc'), (3, 4), 200)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str
    """Folder of the pretrained model, or its name on the hub."""
    data: Path
    """Folder with ``TASK/train.*`` and ``TASK/dev.*``."""
    output: Path
    """Folder of the results; made if it is not there."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = ("cola", "mrpc")
    """GLUE tasks."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds: of the classifier's start, of the order of the data, of dropout."""
    systems: Annotated[tuple[System, ...], Field(min_length=1)] = tuple(System)
    """Rows of the table."""
    steps: _Count = 200
    """Optimizer steps of the float model."""
    fine_tune_steps: Annotated[int, Field(ge=0)] = 60
    """Further steps through the optical transform; 0: post-training only."""
    squeezelight_steps: Annotated[int, Field(ge=0)] = 60
    """Further steps through SqueezeLight; 0: post-training only."""
    continue_original: bool = False
    """Whether the float model is also trained for ``fine_tune_steps`` further: what training alone adds."""
    learning_rate: _Rate = 3e-4
    """Highest learning rate of the float model."""
    fine_tune_learning_rate: _Rate = 5e-5
    """Highest learning rate through the optical transform."""
    squeezelight_learning_rate: _Rate = 3e-4
    """Highest learning rate through SqueezeLight."""
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    """Steps in which the learning rate rises; at most a tenth of the further steps."""
    batch_size: _Count = 32
    """Examples of a training step."""
    max_seq_length: _Count = 48
    """Tokens; longer examples are cut."""
    calibration_batches: _Count = 16
    """Training batches that ranges are taken from."""
    transform_config: Path | None = None
    """YAML or JSON of the optical transform; without it the published parameters."""
    max_eval_samples: _Count | None = None
    """Validation examples; None: all."""
    keep_models: bool = False
    """Whether the transformed models are kept; the fine-tuned float models always are."""

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(glue_task(task).name for task in tasks)

    @field_validator("tasks", "seeds", "systems")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(values))

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Settings from values that a user gave.

        Raises:
            ConfigurationError: A value is not valid.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ConfigurationError(
                where=f"comparison, {'.'.join(map(str, first['loc']))}", got=repr(first["input"]), expected=first["msg"]
            ) from None


@dataclass(frozen=True)
class PlannedRun:
    """One call of the driver.

    Attributes:
        system: Row of the table.
        stage: What the run is for.
        task: GLUE task.
        seed: Seed.
        arguments: Command line of `quantsim.experiments.run_glue`.
        folder: Where it writes.
    """

    system: System
    stage: Stage
    task: str
    seed: int
    arguments: tuple[str, ...]
    folder: Path

    @property
    def key(self) -> tuple[System, Stage, str, int]:
        """What tells its result from others."""
        return self.system, self.stage, self.task, self.seed

    @property
    def title(self) -> str:
        """Name for people."""
        system, stage = (word.value.replace("_", " ") for word in (self.system, self.stage))
        return f"{self.task}, seed {self.seed}: {system}, {stage}"


def plan_runs(settings: ComparisonSettings) -> tuple[PlannedRun, ...]:
    """Every run of a comparison, in order; the float model of a task and seed comes before all that start from it.

    The first run of each task and seed is listed as Original, post-training: it trains the float model that everything
    else takes as it is. A fine-tuning run comes before the post-training run of its system, since the driver evaluates
    before it trains, which may spare the other.

    Args:
        settings: What is compared.

    Raises:
        ConfigurationError: A task has no data.
    """
    return tuple(
        run
        for task in settings.tasks
        for files in (task_files(settings.data, task),)
        for seed in settings.seeds
        for run in _runs_of(settings, task, files, seed)
    )


def _runs_of(settings: ComparisonSettings, task: str, files: tuple[Path, Path], seed: int) -> Iterator[PlannedRun]:
    float_folder = settings.output / "original" / f"{task}-seed{seed}"
    rate, warmup = settings.learning_rate, settings.warmup_steps
    common = _common(settings, task, files, seed)
    arguments = [*common, *_places(settings.model, float_folder), *_training(settings.steps, rate, warmup)]
    yield PlannedRun(System.ORIGINAL, Stage.POST_TRAINING, task, seed, tuple(arguments), float_folder)
    for system in settings.systems:
        steps, rate = _further_training(settings, system)
        for stage in (Stage.FINE_TUNED, Stage.POST_TRAINING):
            if (stage is Stage.FINE_TUNED and steps == 0) or (system, stage) == (System.ORIGINAL, Stage.POST_TRAINING):
                continue
            folder = settings.output / "runs" / f"{task}-seed{seed}-{system.value}-{stage.value}"
            arguments = [*common, *_places(str(float_folder), folder), *_transform(settings, system)]
            if stage is Stage.FINE_TUNED:
                arguments += _training(steps, rate, min(warmup, steps // 10))
            yield PlannedRun(system, stage, task, seed, tuple(arguments), folder)


def _further_training(settings: ComparisonSettings, system: System) -> tuple[int, float]:
    match system:
        case System.ORIGINAL:
            steps = settings.fine_tune_steps if settings.continue_original else 0
            return steps, settings.fine_tune_learning_rate
        case System.RANDOM:
            return 0, settings.learning_rate
        case System.OPTICAL:
            return settings.fine_tune_steps, settings.fine_tune_learning_rate
        case System.SQUEEZELIGHT_AVERAGE | System.SQUEEZELIGHT_LEAST_SQUARES:
            return settings.squeezelight_steps, settings.squeezelight_learning_rate


def _places(model: str, folder: Path) -> list[str]:
    return ["--model_name_or_path", model, "--output_dir", str(folder), "--overwrite_output_dir"]


def _common(settings: ComparisonSettings, task: str, files: tuple[Path, Path], seed: int) -> list[str]:
    arguments = [
        *("--task_name", task),
        *("--train_file", str(files[0])),
        *("--validation_file", str(files[1])),
        "--do_eval",
        *("--max_seq_length", str(settings.max_seq_length)),
        *("--per_device_train_batch_size", str(settings.batch_size)),
        *("--per_device_eval_batch_size", str(settings.batch_size)),
        *("--save_strategy", "no"),
        *("--eval_strategy", "no"),
        *("--report_to", "none"),
        *("--disable_tqdm", "true"),
        *("--seed", str(seed)),
    ]
    if settings.max_eval_samples is not None:
        arguments += ["--max_eval_samples", str(settings.max_eval_samples)]
    return arguments


def _training(steps: int, learning_rate: float, warmup: int) -> list[str]:
    return [
        "--do_train",
        *("--max_steps", str(steps)),
        *("--learning_rate", f"{learning_rate:g}"),
        *("--warmup_steps", str(min(warmup, steps))),
        *("--logging_steps", str(max(1, steps // 10))),
    ]


def _transform(settings: ComparisonSettings, system: System) -> list[str]:
    calibration = ["--calibration_batches", str(settings.calibration_batches)]
    match system:
        case System.ORIGINAL:
            return []
        case System.RANDOM:
            return ["--reinitialize"]
        case System.OPTICAL:
            config = [] if settings.transform_config is None else ["--transform_config", str(settings.transform_config)]
            return ["--transform", "optical", *config, *calibration]
        case System.SQUEEZELIGHT_AVERAGE:
            return ["--transform", "squeezelight", "--squeezelight_conversion", "average", *calibration]
        case System.SQUEEZELIGHT_LEAST_SQUARES:
            return ["--transform", "squeezelight", "--squeezelight_conversion", "least_squares", *calibration]
