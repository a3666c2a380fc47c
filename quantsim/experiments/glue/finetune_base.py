"""``python -m quantsim.experiments.glue.finetune_base``: one task or several, told by environment variables.

``USE_SINGLE_TASK`` (``true``, the default, or ``false``), ``TASK_NAME`` and ``LEARNING_RATE``, or ``TASK_LIST`` and
``LR_LIST`` for several; ``MODEL_NAME``, ``BATCH_SIZE``, ``NUM_EPOCHS``, ``MAX_SEQ_LENGTH``, ``TRANSFORM_CONFIG`` (none:
no transform), ``OUTPUT_DIR``, ``SEED``. Flags of `quantsim.experiments.run_glue` may follow and come after these, as
``--data_dir FOLDER`` for files of one's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from quantsim.errors import ConfigurationError
from quantsim.experiments.run_glue import run_in_terminal

__all__ = ["arguments_from_environment"]

_FLAGS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "MODEL_NAME": ("--model_name_or_path", "FacebookAI/roberta-base"),
        "BATCH_SIZE": ("--per_device_train_batch_size", "16"),
        "NUM_EPOCHS": ("--num_train_epochs", "3"),
        "MAX_SEQ_LENGTH": ("--max_seq_length", "128"),
        "TRANSFORM_CONFIG": ("--transform_config", ""),
        "OUTPUT_DIR": ("--output_dir", "./output"),
        "SEED": ("--seed", "42"),
    }
)
_SINGLE: Final = MappingProxyType({"TASK_NAME": ("--task_name", "mrpc"), "LEARNING_RATE": ("--learning_rate", "2e-5")})
_SEVERAL: Final = MappingProxyType({"TASK_LIST": ("--task_list", ""), "LR_LIST": ("--lr_list", "")})


def arguments_from_environment(environment: Mapping[str, str]) -> list[str]:
    """The command line of `quantsim.experiments.run_glue` that environment variables stand for.

    Args:
        environment: Such as `os.environ`.

    Raises:
        ConfigurationError: ``USE_SINGLE_TASK`` is neither ``true`` nor ``false``, or several tasks are named by none.

    Example:
        >>> several = {"USE_SINGLE_TASK": "false", "TASK_LIST": "stsb cola", "LR_LIST": "1e-3 2e-5"}
        >>> arguments_from_environment(several)[:5]
        ['--do_train', '--do_eval', '--overwrite_output_dir', '--task_list', 'stsb cola']
    """
    single = environment.get("USE_SINGLE_TASK", "true").strip().lower()
    if single not in ("true", "false"):
        raise ConfigurationError(where="USE_SINGLE_TASK", got=repr(single), expected="true or false")
    if single == "false" and not environment.get("TASK_LIST"):
        raise ConfigurationError(where="TASK_LIST", got="nothing", expected="tasks, as in 'stsb mrpc cola'")
    flags = ["--do_train", "--do_eval", "--overwrite_output_dir"]
    for name, (flag, default) in {**(_SINGLE if single == "true" else _SEVERAL), **_FLAGS}.items():
        if value := environment.get(name) or default:
            flags += [flag, value]
    return [*flags, "--eval_strategy", "epoch", "--save_strategy", "epoch", "--logging_steps", "50"]


def _main(argv: Sequence[str]) -> int:
    try:
        flags = arguments_from_environment(os.environ)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return run_in_terminal([*flags, *argv])


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
