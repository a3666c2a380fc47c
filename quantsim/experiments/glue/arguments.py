"""The command line of the GLUE experiment: that of transformers' own ``run_glue.py``, and what transforms need."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from transformers import HfArgumentParser, TrainingArguments

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.tasks import GlueTask, glue_task
from quantsim.experiments.transformed_model import TransformKind
from quantsim.optical.squeezelight import RingConversion

__all__ = ["DataArguments", "GlueArguments", "ModelArguments", "TransformArguments", "parse"]

PROGRAM: Final = "python -m quantsim.experiments.run_glue"

_RENAMED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "evaluation_strategy": "eval_strategy",
        "no_cuda": "use_cpu",
        "warmup_ratio": "warmup_steps",  # below 1 it is a ratio
        "per_gpu_train_batch_size": "per_device_train_batch_size",
        "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    }
)
"""Flags that transformers 5 has under another name."""

_DROPPED: Final = frozenset({"logging_dir", "save_safetensors", "overwrite_cache", "use_fast_tokenizer"})
"""Flags of older recipes that nothing depends on any more."""

_BARE: Final = frozenset({"overwrite_cache", "no_cuda"})
"""Those of them that may stand without a value."""


@dataclass
class ModelArguments:
    """Which model; see the help of each."""

    model_name_or_path: str = field(
        default="", metadata={"help": "Folder of a model (a transformed one too), or its name on the hub."}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Folder or name of the tokenizer; default: that of the model."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where what is downloaded is kept."})
    model_revision: str = field(default="main", metadata={"help": "Version of the model on the hub."})
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Draw a new head where the model's is for another number of labels."}
    )
    reinitialize: bool = field(default=False, metadata={"help": "Draw all weights anew: the Random row of the table."})


@dataclass
class DataArguments:
    """Which task and data; see the help of each."""

    task_name: str | None = field(
        default=None, metadata={"help": "A task of GLUE; default: one's own files with columns sentence1, label, ..."}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "CSV, TSV, JSON or JSON lines to train on; default: the hub's data set."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "A file of the same kinds to evaluate on."})
    validation_mismatched_file: str | None = field(
        default=None, metadata={"help": "Second file to evaluate on, for MNLI."}
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of TASK/train.* and TASK/dev.* (dev_matched.*, dev_mismatched.*), for any task."},
    )
    max_seq_length: int = field(default=128, metadata={"help": "Tokens of an example; longer ones are cut."})
    pad_to_max_length: bool = field(
        default=False,
        metadata={"help": "Pad all examples to max_seq_length, not each batch to its longest example."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Examples to train on at most."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Examples to evaluate on at most."})


@dataclass
class TransformArguments:
    """What becomes of the model; see the help of each."""

    transform_config: str | None = field(
        default=None,
        metadata={"help": "YAML or JSON with the transform's parameters; without it and --transform: no transform."},
    )
    transform: str | None = field(
        default=None,
        metadata={
            "help": "Which transform: optical (default where --transform_config is given) or squeezelight. Without "
            "--transform_config all parameters have their defaults."
        },
    )
    calibration_batches: int = field(
        default=16, metadata={"help": "Training batches that ranges are taken from before anything is measured."}
    )
    squeezelight_conversion: str | None = field(
        default=None,
        metadata={"help": "How layers become rings, average or least_squares; default: as --transform_config says."},
    )
    keep_best: bool = field(
        default=True,
        metadata={
            "help": "End with the best of the calibrated start and all evaluations, so that training a transformed "
            "model never ends below where it began. Float models are not touched."
        },
    )


@dataclass
class MultiTaskArguments:
    """Several tasks one after the other; see the help of each."""

    task_list: str | None = field(
        default=None, metadata={"help": "Tasks, as in 'stsb mrpc cola'; each has a folder below --output_dir."}
    )
    lr_list: str | None = field(default=None, metadata={"help": "Their learning rates, as in '1e-3 2e-5 1e-5'."})


@dataclass(frozen=True)
class GlueArguments:
    """Everything that one run, or one run for each of several tasks, is told.

    Attributes:
        model: Which model.
        data: Which task and data.
        transform: What becomes of the model.
        training: Those of transformers' Trainer.
        overwrite_output_dir: Whether a model in the output folder may be replaced.
        task_list: Tasks and learning rates of a run of several; empty: the one of `data`.
    """

    model: ModelArguments
    data: DataArguments
    transform: TransformArguments
    training: TrainingArguments
    overwrite_output_dir: bool = False
    task_list: tuple[tuple[str, float], ...] = ()

    @property
    def task(self) -> GlueTask | None:
        """The task by name; None: own files."""
        return None if self.data.task_name is None else glue_task(self.data.task_name)

    @property
    def kind(self) -> TransformKind | None:
        """The transform that is asked for, if any."""
        if self.transform.transform is not None:
            return TransformKind(self.transform.transform)
        return None if self.transform.transform_config is None else TransformKind.OPTICAL

    @property
    def output(self) -> Path:
        """The folder that is written to."""
        return Path(str(self.training.output_dir))

    def single_tasks(self) -> Iterator[GlueArguments]:
        """One run after the other; each of several tasks has a folder of its own.

        Example:
            >>> arguments = parse(
            ...     [
            ...         "--model_name_or_path",
            ...         "m",
            ...         "--do_eval",
            ...         "--output_dir",
            ...         "out",
            ...         "--task_list",
            ...         "stsb cola",
            ...         "--lr_list",
            ...         "1e-3 2e-5",
            ...     ]
            ... )
            >>> [(run.data.task_name, run.output.as_posix()) for run in arguments.single_tasks()]
            [('stsb', 'out/stsb'), ('cola', 'out/cola')]
        """
        if not self.task_list:
            yield self
        for task, learning_rate in self.task_list:
            yield dataclasses.replace(
                self,
                data=dataclasses.replace(self.data, task_name=task),
                training=_with(self.training, output_dir=str(self.output / task), learning_rate=learning_rate),
                task_list=(),
            )


def _with(training: TrainingArguments, **changes: Any) -> TrainingArguments:
    """Trainer's arguments with some of them changed; `dataclasses.replace` would start its devices again."""
    import copy

    changed = copy.copy(training)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def parse(argv: Sequence[str]) -> GlueArguments:
    """Reads a command line; flags that transformers 5 no longer has are understood as before.

    Args:
        argv: What follows the program's name.

    Raises:
        ConfigurationError: Arguments do not go together.
        SystemExit: A flag is unknown or its value is of another type; argparse has said which.

    Example:
        >>> arguments = parse(
        ...     [
        ...         "--model_name_or_path",
        ...         "m",
        ...         "--task_name",
        ...         "mrpc",
        ...         "--do_eval",
        ...         "--output_dir",
        ...         "out",
        ...         "--overwrite_output_dir",
        ...         "--evaluation_strategy",
        ...         "epoch",
        ...     ]
        ... )
        >>> (
        ...     arguments.data.max_seq_length,
        ...     arguments.overwrite_output_dir,
        ...     arguments.training.eval_strategy.value,
        ... )
        (128, True, 'epoch')
    """
    flags, overwrites = _current_flags(argv)
    classes: Any = (ModelArguments, DataArguments, TransformArguments, MultiTaskArguments, TrainingArguments)
    parser = HfArgumentParser(classes)
    parser.prog = PROGRAM
    model, data, transform, several, training = parser.parse_args_into_dataclasses(args=flags, look_for_args_file=False)
    if training.output_dir is None or not any(flag.partition("=")[0] == "--output_dir" for flag in flags):
        raise ConfigurationError(
            "there is no place for results", where="--output_dir", got="no such flag", expected="a folder"
        )
    arguments = GlueArguments(model, data, transform, training, overwrites, _tasks(several))
    _check(arguments)
    if (
        training.do_train
        and arguments.kind is not None
        and transform.keep_best
        and not any(flag.partition("=")[0] == "--eval_strategy" for flag in flags)
    ):
        training.eval_strategy = type(training.eval_strategy)("epoch")  # else only start and end can be chosen from
    return arguments


def _current_flags(argv: Sequence[str]) -> tuple[list[str], bool]:
    """The flags as the installed transformers has them, and whether the output may be overwritten."""
    known = {item.name for item in dataclasses.fields(TrainingArguments)}
    flags: list[str] = []
    overwrites = False
    items = list(argv)
    while items:
        flag, equals, value = items.pop(0).partition("=")
        name = flag.removeprefix("--").replace("-", "_") if flag.startswith("--") else ""
        follows = bool(items) and not items[0].startswith("--")
        if name == "overwrite_output_dir":
            if not equals and follows:
                value = items.pop(0)
            overwrites = value.lower() not in ("false", "no", "0")
        elif name in _RENAMED and name not in known:
            flags.append(f"--{_RENAMED[name]}{equals}{value}")
        elif name in _DROPPED and name not in known:
            if not equals and follows and name not in _BARE:
                items.pop(0)
            warnings.warn(f"--{name} has no meaning any more and is left out", stacklevel=3)
        else:
            flags.append(f"{flag}{equals}{value}")
    return flags, overwrites


def _tasks(several: MultiTaskArguments) -> tuple[tuple[str, float], ...]:
    """Tasks with their learning rates; from the environment where a recipe says that it is one of several tasks."""
    names, rates = several.task_list, several.lr_list
    if names is None and os.environ.get("USE_SINGLE_TASK", "").lower() == "false":
        names, rates = os.environ.get("TASK_LIST"), rates or os.environ.get("LR_LIST")
    if names is None:
        if rates is not None:
            raise ConfigurationError(where="--lr_list", got=repr(rates), expected="--task_list besides it")
        return ()
    tasks = [glue_task(name).name for name in names.replace(",", " ").split()]
    numbers = (rates or "").replace(",", " ").split()
    if not tasks or len(tasks) != len(numbers):
        raise ConfigurationError(
            "tasks and learning rates do not match",
            where="--task_list, --lr_list",
            got=f"{len(tasks)} tasks and {len(numbers)} learning rates",
            expected="one learning rate for each task, as in --task_list 'stsb mrpc' --lr_list '1e-3 2e-5'",
        )
    if len(set(tasks)) != len(tasks):
        raise ConfigurationError(where="--task_list", got=repr(names), expected="each task once")
    try:
        return tuple(zip(tasks, map(float, numbers), strict=True))
    except ValueError:
        raise ConfigurationError(where="--lr_list", got=repr(rates), expected="numbers, as in '1e-3 2e-5'") from None


def _check(arguments: GlueArguments) -> None:
    model, data, transform = arguments.model, arguments.data, arguments.transform
    if not model.model_name_or_path:
        raise ConfigurationError(where="--model_name_or_path", got="no such flag", expected="a folder or a name")
    if not (arguments.training.do_train or arguments.training.do_eval):
        raise ConfigurationError(
            "there is nothing to do", where=PROGRAM, got="neither flag", expected="--do_train, --do_eval or both"
        )
    if arguments.training.do_predict:
        raise ConfigurationError(
            where="--do_predict",
            got="it",
            expected="--do_train, --do_eval or both",
            fix="GLUE's test labels are secret",
        )
    if data.task_name is not None and not arguments.task_list:
        glue_task(data.task_name)
    files = (data.train_file, data.validation_file, data.validation_mismatched_file)
    if data.data_dir is not None and any(files):
        raise ConfigurationError(where="--data_dir", got="a file besides it", expected="the folder or files, not both")
    if arguments.task_list and any(files):
        raise ConfigurationError(
            where="--task_list", got="a file of one task", expected="--data_dir, with TASK/train.* and TASK/dev.*"
        )
    if data.task_name is None and not arguments.task_list and data.train_file is None:
        raise ConfigurationError(
            "no data is named", where="--task_name", got="no such flag", expected="a task of GLUE, or --train_file"
        )
    for name, value in (
        ("max_seq_length", data.max_seq_length),
        ("calibration_batches", transform.calibration_batches),
    ):
        if value < 1:
            raise ConfigurationError(where=f"--{name}", got=str(value), expected="at least 1")
    for name, limit in (("max_train_samples", data.max_train_samples), ("max_eval_samples", data.max_eval_samples)):
        if limit is not None and limit < 1:
            raise ConfigurationError(where=f"--{name}", got=str(limit), expected="at least 1")
    _require_one_of("transform", transform.transform, TransformKind)
    _require_one_of("squeezelight_conversion", transform.squeezelight_conversion, RingConversion)
    if transform.squeezelight_conversion is not None and arguments.kind is not TransformKind.SQUEEZELIGHT:
        raise ConfigurationError(
            where="--squeezelight_conversion", got="another transform", expected="--transform squeezelight"
        )
    if model.reinitialize and arguments.kind is not None:
        raise ConfigurationError(
            where="--reinitialize",
            got="a transform besides it",
            expected="no transform: the row of a random float model",
        )


def _require_one_of(name: str, value: str | None, choices: type[TransformKind] | type[RingConversion]) -> None:
    allowed = [choice.value for choice in choices]
    if value is not None and value not in allowed:
        raise ConfigurationError(where=f"--{name}", got=repr(value), expected=" or ".join(map(repr, allowed)))
