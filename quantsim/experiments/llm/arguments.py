"""The command line of the language-model experiment, in the style of transformers' own examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import HfArgumentParser, TrainingArguments

from quantsim.errors import ConfigurationError
from quantsim.experiments.llm.model import ByteLlamaSize
from quantsim.experiments.transformed_model import TransformKind

__all__ = ["DataArguments", "LanguageArguments", "ModelArguments", "TransformArguments", "parse"]


@dataclass
class ModelArguments:
    """Which model; see the help of each."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Folder or name of a causal language model; default: a new Llama that reads bytes."},
    )
    hidden_size: int = field(default=160, metadata={"help": "Width of a new model."})
    num_layers: int = field(default=4, metadata={"help": "Layers of a new model."})
    num_heads: int = field(default=5, metadata={"help": "Attention heads of a new model."})
    intermediate_size: int = field(default=448, metadata={"help": "Width of a new model's feed-forward part."})

    @property
    def size(self) -> ByteLlamaSize:
        """Sizes of a new model."""
        return ByteLlamaSize(
            hidden_size=self.hidden_size,
            layers=self.num_layers,
            heads=self.num_heads,
            intermediate_size=self.intermediate_size,
        )


@dataclass
class DataArguments:
    """Which text; see the help of each."""

    train_file: str | None = field(
        default=None, metadata={"help": "Plain text to learn from; default: docstrings of the standard library."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "Plain text to measure on."})
    block_size: int = field(default=128, metadata={"help": "Tokens of a block."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Blocks to learn from at most."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Blocks to measure on at most."})


@dataclass
class TransformArguments:
    """What becomes of the model; see the help of each."""

    transform_config: str | None = field(
        default=None, metadata={"help": "YAML or JSON with the transform's arguments; default: no transform."}
    )
    transform: TransformKind = field(
        default=TransformKind.OPTICAL, metadata={"help": "Which transform --transform_config is for."}
    )
    calibration_batches: int = field(
        default=16, metadata={"help": "Training batches that ranges are set from before anything is measured."}
    )
    keep_best: bool = field(
        default=True,
        metadata={"help": "Keep the best of the start and all evaluations, so that tuning never ends below it."},
    )
    levels: str | None = field(
        default=None, metadata={"help": "Sweep instead: numbers of levels, such as '16,64,256'; needs a float model."}
    )
    sweep_variants: str = field(
        default="configured,no_noise,no_floor,row_range",
        metadata={"help": "What a sweep changes besides levels: configured, no_noise, no_floor, row_range."},
    )

    def __post_init__(self) -> None:
        self.transform = TransformKind(self.transform)  # the parser gives text


@dataclass(frozen=True)
class LanguageArguments:
    """Everything that one run is told.

    Attributes:
        model: Which model.
        data: Which text.
        transform: What becomes of the model.
        training: Those of transformers' Trainer.
        overwrite_output_dir: Whether a model in the output folder may be replaced.
    """

    model: ModelArguments
    data: DataArguments
    transform: TransformArguments
    training: TrainingArguments
    overwrite_output_dir: bool = False

    def with_training(self, **changes: Any) -> LanguageArguments:
        """The same with other arguments of Trainer."""
        return dataclasses.replace(self, training=dataclasses.replace(self.training, **changes))


def parse(argv: Sequence[str]) -> LanguageArguments:
    """Reads a command line; flags that transformers 5 no longer has are understood as before.

    Args:
        argv: What follows the program's name.

    Raises:
        ConfigurationError: Arguments do not go together.
        SystemExit: A flag is unknown or its value is of another type; argparse has said which.

    Example:
        >>> arguments = parse(["--output_dir", "out", "--do_eval", "--evaluation_strategy", "no"])
        >>> arguments.training.do_eval, arguments.data.block_size
        (True, 128)
    """
    current, overwrites = _current_flags(argv)
    parser = HfArgumentParser((ModelArguments, DataArguments, TransformArguments, TrainingArguments))  # pyright: ignore[reportArgumentType]
    parser.prog = "python -m quantsim.experiments.run_clm"
    model, data, transform, training = parser.parse_args_into_dataclasses(args=current, look_for_args_file=False)
    arguments = LanguageArguments(model, data, transform, training, overwrites)
    _check(arguments)
    return arguments


def _current_flags(argv: Sequence[str]) -> tuple[list[str], bool]:
    """Renames ``--evaluation_strategy`` and takes ``--overwrite_output_dir`` out; both left transformers."""
    flags: list[str] = []
    overwrites = False
    items = list(argv)
    while items:
        name, equals, value = items.pop(0).partition("=")
        if name == "--evaluation_strategy":
            flags.append(f"--eval_strategy{equals}{value}")
        elif name == "--overwrite_output_dir":
            if not equals and items and items[0].lower() in ("true", "false"):
                value = items.pop(0)
            overwrites = value.lower() != "false"
        else:
            flags.append(f"{name}{equals}{value}")
    return flags, overwrites


def _check(arguments: LanguageArguments) -> None:
    data, transform, training = arguments.data, arguments.transform, arguments.training
    if (data.train_file is None) != (data.validation_file is None):
        raise ConfigurationError(
            "one text is missing",
            where="--train_file, --validation_file",
            got=f"{data.train_file}, {data.validation_file}",
            expected="both, or none for docstrings of the standard library",
        )
    if transform.calibration_batches < 1:
        raise ConfigurationError(
            where="--calibration_batches", got=str(transform.calibration_batches), expected="at least 1"
        )
    if transform.levels is not None and arguments.model.model_name_or_path is None:
        raise ConfigurationError(
            "a sweep needs a trained model", where="--levels", got="no --model_name_or_path", fix="give its folder"
        )
    if not (training.do_train or training.do_eval or transform.levels):
        raise ConfigurationError(
            "there is nothing to do", where="run_clm", got="neither flag", expected="--do_train, --do_eval or --levels"
        )
