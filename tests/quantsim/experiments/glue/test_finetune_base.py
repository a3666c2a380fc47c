"""The recipe of several tasks, told by environment variables."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.arguments import parse
from quantsim.experiments.glue.finetune_base import arguments_from_environment

SEVERAL = {"USE_SINGLE_TASK": "false", "TASK_LIST": "stsb mrpc cola", "LR_LIST": "1e-3 2e-5 1e-5"}


def test_the_published_variables():
    environment = {**SEVERAL, "MODEL_NAME": "FacebookAI/roberta-base", "BATCH_SIZE": "16"}
    arguments = parse(arguments_from_environment(environment))
    assert arguments.task_list == (("stsb", 1e-3), ("mrpc", 2e-5), ("cola", 1e-5))
    assert arguments.model.model_name_or_path == "FacebookAI/roberta-base"
    assert arguments.training.per_device_train_batch_size == 16
    assert arguments.training.do_train and arguments.kind is None


def test_one_task_is_the_default():
    arguments = parse(arguments_from_environment({"TASK_NAME": "rte", "TRANSFORM_CONFIG": "cfg.yaml", "SEED": "7"}))
    assert (arguments.data.task_name, arguments.transform.transform_config, arguments.training.seed) == (
        "rte",
        "cfg.yaml",
        7,
    )


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"USE_SINGLE_TASK": "maybe"}, "expected true or false"),
        ({"USE_SINGLE_TASK": "false"}, "TASK_LIST: got nothing"),
    ],
)
def test_what_makes_no_sense_is_said(environment, message):
    with pytest.raises(ConfigurationError, match=message):
        arguments_from_environment(environment)
