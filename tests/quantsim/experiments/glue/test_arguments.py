"""The command line."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.arguments import parse
from quantsim.experiments.transformed_model import TransformKind

BASE = ["--model_name_or_path", "model", "--task_name", "mrpc", "--do_eval", "--output_dir", "out"]
PUBLISHED = """--model_name_or_path FacebookAI/roberta-base --task_name mrpc --do_train --do_eval --max_seq_length 128
    --per_device_train_batch_size 16 --learning_rate 2e-5 --num_train_epochs 3 --output_dir ./output/mrpc_optical
    --overwrite_output_dir --transform_config transform_cfg.yaml --evaluation_strategy epoch --save_strategy epoch
    --logging_steps 50 --seed 42""".split()


def test_the_published_recipe():
    arguments = parse(PUBLISHED)
    training = arguments.training
    assert arguments.task is not None and arguments.task.name == "mrpc"
    assert (arguments.kind, arguments.overwrite_output_dir) == (TransformKind.OPTICAL, True)
    assert (training.learning_rate, training.num_train_epochs, training.seed) == (2e-5, 3.0, 42)
    assert (training.eval_strategy, training.save_strategy) == ("epoch", "epoch")
    assert (arguments.data.max_seq_length, training.per_device_train_batch_size) == (128, 16)


def test_without_a_transform_it_is_the_baseline():
    assert parse(BASE).kind is None
    assert parse([*BASE, "--transform", "squeezelight"]).kind is TransformKind.SQUEEZELIGHT


def test_the_best_can_only_be_kept_if_epochs_are_evaluated():
    optical = [*BASE, "--do_train", "--transform", "optical"]
    assert parse(optical).training.eval_strategy == "epoch"
    assert parse([*optical, "--eval_strategy", "no"]).training.eval_strategy == "no"
    assert parse([*optical, "--no_keep_best"]).training.eval_strategy == "no"
    assert parse([*BASE, "--do_train"]).training.eval_strategy == "no"


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--evaluation_strategy=steps", "--eval_steps=5"], "eval_strategy", "steps"),
        (["--no_cuda"], "use_cpu", True),
        (["--warmup_ratio", "0.1"], "warmup_steps", 0.1),
        (["--per_gpu_eval_batch_size", "3"], "per_device_eval_batch_size", 3),
    ],
)
def test_flags_of_older_recipes(flags, name, value):
    assert getattr(parse([*BASE, *flags]).training, name) == value


def test_flags_without_a_meaning_are_left_out_with_a_word():
    with pytest.warns(UserWarning, match="--logging_dir has no meaning any more"):
        arguments = parse([*BASE, "--logging_dir", "logs", "--seed", "7"])
    assert arguments.training.seed == 7


@pytest.mark.parametrize(("value", "expected"), [([], True), (["true"], True), (["False"], False)])
def test_overwriting_with_or_without_a_value(value, expected):
    assert parse([*BASE, "--overwrite_output_dir", *value]).overwrite_output_dir is expected


def test_several_tasks_by_flags(tmp_path):
    argv = ["--model_name_or_path", "m", "--do_train", "--output_dir", str(tmp_path), "--data_dir", "data"]
    runs = list(parse([*argv, "--task_list", "stsb mrpc cola", "--lr_list", "1e-3 2e-5 1e-5"]).single_tasks())
    found = [(run.data.task_name, run.training.learning_rate, run.output.name) for run in runs]
    assert found == [("stsb", 1e-3, "stsb"), ("mrpc", 2e-5, "mrpc"), ("cola", 1e-5, "cola")]


def test_several_tasks_by_the_environment(monkeypatch):
    monkeypatch.setenv("TASK_LIST", "stsb cola")
    monkeypatch.setenv("LR_LIST", "1e-3 1e-5")
    argv = ["--model_name_or_path", "m", "--do_eval", "--output_dir", "out"]
    assert parse([*argv, "--task_name", "rte"]).task_list == ()
    monkeypatch.setenv("USE_SINGLE_TASK", "false")
    assert parse(argv).task_list == (("stsb", 1e-3), ("cola", 1e-5))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (BASE[2:], "--model_name_or_path: got no such flag"),
        ([*BASE[:4], "--output_dir", "out"], "there is nothing to do"),
        (BASE[:-2], "--output_dir: there is no place for results"),
        ([*BASE[:2], *BASE[4:]], "--task_name: no data is named"),
        ([*BASE, "--task_name", "mrcp"], "did you mean 'mrpc'"),
        ([*BASE, "--do_predict"], "--do_predict"),
        ([*BASE, "--transform", "laser"], "got 'laser'; expected 'optical' or 'squeezelight'"),
        ([*BASE, "--transform", "squeezelight", "--squeezelight_conversion", "mean"], "'average' or 'least_squares'"),
        (
            [*BASE, "--transform", "optical", "--squeezelight_conversion", "average"],
            "expected --transform squeezelight",
        ),
        ([*BASE, "--transform", "optical", "--reinitialize"], "--reinitialize"),
        ([*BASE, "--calibration_batches", "0"], "--calibration_batches: got 0; expected at least 1"),
        ([*BASE, "--max_eval_samples", "0"], "--max_eval_samples: got 0; expected at least 1"),
        ([*BASE, "--task_list", "rte cola", "--lr_list", "1e-5"], "got 2 tasks and 1 learning rates"),
        ([*BASE, "--task_list", "rte", "--lr_list", "fast"], "expected numbers"),
        ([*BASE, "--task_list", "rte rte", "--lr_list", "1 1"], "expected each task once"),
        ([*BASE, "--lr_list", "1e-5"], "expected --task_list"),
        ([*BASE, "--data_dir", "d", "--train_file", "f"], "the folder or files, not both"),
        ([*BASE, "--task_list", "rte", "--lr_list", "1", "--train_file", "f"], "got a file of one task"),
    ],
)
def test_arguments_that_do_not_go_together(argv, message):
    with pytest.raises(ConfigurationError, match=message):
        parse(argv)


def test_an_unknown_flag_is_refused():
    with pytest.raises((SystemExit, ValueError), match="transform_konfig"):
        parse([*BASE, "--transform_konfig", "a.yaml"])
