"""Whole runs on a very small model."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

pytest.importorskip("transformers")
pytest.importorskip("sklearn")

import torch

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue import Stage, System
from quantsim.experiments.glue.training import RESULTS_FILE, BestState, parse, run, task_metrics
from quantsim.experiments.transformed_model import TRANSFORM_FILE

QUIET = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none", "--save_strategy", "no"]
QUICK = ["--per_device_train_batch_size", "32", "--per_device_eval_batch_size", "24", "--seed", "1"]


def _run(model, data, output, *flags, task="cola"):
    base = ["--model_name_or_path", str(model), "--task_name", task, "--data_dir", str(data), "--do_eval"]
    return run(parse([*base, "--output_dir", str(output), *QUIET, *QUICK, *flags]))


@pytest.fixture(scope="module")
def fine_tuned(tiny_roberta, tiny_data, tmp_path_factory):
    """The float model after training, and what was measured."""
    output = tmp_path_factory.mktemp("float")
    flags = ("--do_train", "--max_steps", "24", "--learning_rate", "3e-3")
    return output, _run(tiny_roberta, tiny_data, output, *flags)


@pytest.fixture(scope="module")
def optical(fine_tuned, tiny_data, tmp_path_factory):
    """The optical model after training through the transform."""
    output = tmp_path_factory.mktemp("optical")
    flags = ("--do_train", "--max_steps", "6", "--learning_rate", "1e-4", "--transform", "optical")
    return output, _run(fine_tuned[0], tiny_data, output, *flags)


def test_the_float_model_learns(fine_tuned):
    output, results = fine_tuned
    assert [(result.system, result.stage) for result in results] == [(System.ORIGINAL, Stage.FINE_TUNED)]
    assert results[0].headline == results[0].metrics["matthews_correlation"] > 0.9
    assert (results[0].train_steps, results[0].seed) == (24, 1)
    assert not (output / TRANSFORM_FILE).exists()


def test_optics_are_measured_before_and_after_training(optical):
    output, results = optical
    assert [result.stage for result in results] == [Stage.POST_TRAINING, Stage.FINE_TUNED]
    assert all(result.system is System.OPTICAL for result in results)
    assert results[0].headline > 0.8
    assert results[1].headline >= results[0].headline
    assert results[1].train_steps == 6 and results[1].settings["transform"]["kind"] == "optical"
    written = json.loads((output / RESULTS_FILE).read_text())["results"]
    assert written == [result.model_dump(mode="json") for result in results]


def test_evaluation_from_the_folder_gives_the_same_to_the_last_bit(optical, tiny_data, tmp_path):
    output, results = optical
    for number in range(2):  # and evaluation changes nothing
        again = _run(output, tiny_data, tmp_path / str(number))
        assert [(result.stage, result.metrics, result.train_steps) for result in again] == [
            (Stage.FINE_TUNED, results[1].metrics, 6)
        ]
    assert not (tmp_path / "0" / "model.safetensors").exists()


def test_post_training_from_the_folder_gives_the_same_too(fine_tuned, tiny_data, tmp_path):
    config = tmp_path / "noisy.json"
    config.write_text(json.dumps({"attn": {"q_levels": 16}, "fc": {"q_levels": 16}}))  # so that noise is seen
    flags = ("--transform_config", str(config))
    first = _run(fine_tuned[0], tiny_data, tmp_path / "optical", *flags)
    again = _run(tmp_path / "optical", tiny_data, tmp_path / "again", *flags)
    assert [result.metrics for result in first] == [result.metrics for result in again]
    assert [result.stage for result in again] == [Stage.POST_TRAINING]
    fewer = _run(fine_tuned[0], tiny_data, tmp_path / "fewer", *flags, "--calibration_batches", "1")
    assert fewer[0].metrics["loss"] != first[0].metrics["loss"]


def test_a_collapse_ends_where_it_began(fine_tuned, tiny_data, tmp_path, monkeypatch):
    from quantsim.experiments.glue import training

    said: list[str] = []
    monkeypatch.setattr(training._logger, "warning", said.append)
    flags = ("--do_train", "--max_steps", "4", "--learning_rate", "1.0", "--transform", "optical")
    post, tuned = _run(fine_tuned[0], tiny_data, tmp_path / "a", *flags)
    assert tuned.metrics == post.metrics and tuned.settings["kept_step"] == 0
    assert any("training on cola ended at matthews_correlation" in text for text in said)
    assert any("the state of step 0 is kept" in text for text in said)
    assert _run(tmp_path / "a", tiny_data, tmp_path / "b")[0].metrics == post.metrics
    lost = _run(fine_tuned[0], tiny_data, tmp_path / "c", *flags, "--no_keep_best")[-1]
    assert lost.headline < post.headline - 0.3


def test_the_same_seed_gives_the_same_figures(optical, fine_tuned, tiny_data, tmp_path):
    flags = ("--do_train", "--max_steps", "6", "--learning_rate", "1e-4", "--transform", "optical")
    again = _run(fine_tuned[0], tiny_data, tmp_path, *flags)
    assert [result.metrics for result in again] == [result.metrics for result in optical[1]]


def test_random_weights_are_at_chance(fine_tuned, tiny_data, tmp_path):
    (result,) = _run(fine_tuned[0], tiny_data, tmp_path, "--reinitialize")
    assert (result.system, result.stage) == (System.RANDOM, Stage.POST_TRAINING)
    assert abs(result.headline) < 0.4
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("conversion", ["average", "least_squares"])
def test_squeezelight(fine_tuned, tiny_data, tmp_path, conversion):
    flags = ("--transform", "squeezelight", "--squeezelight_conversion", conversion, "--do_train", "--max_steps", "2")
    post, tuned = _run(fine_tuned[0], tiny_data, tmp_path / "a", *flags)
    assert post.system.value == tuned.system.value == f"squeezelight_{conversion}"
    assert tuned.headline >= post.headline
    assert _run(tmp_path / "a", tiny_data, tmp_path / "b")[0].metrics == tuned.metrics


def test_checkpoints_can_be_evaluated_and_training_resumed(fine_tuned, tiny_data, tmp_path):
    flags = ["--do_train", "--max_steps", "4", "--learning_rate", "1e-4", "--transform", "optical"]
    flags += ["--save_strategy", "steps", "--save_steps", "2"]
    _run(fine_tuned[0], tiny_data, tmp_path / "a", *flags)
    checkpoint = tmp_path / "a" / "checkpoint-2"
    assert _run(checkpoint, tiny_data, tmp_path / "b")[0].system is System.OPTICAL
    resumed = _run(fine_tuned[0], tiny_data, tmp_path / "a", *flags, "--resume_from_checkpoint", str(checkpoint))
    assert resumed[-1].train_steps == 4


def test_a_transformed_model_is_trained_further(optical, tiny_data, tmp_path):
    flags = ("--do_train", "--max_steps", "2", "--learning_rate", "1e-5")
    (result,) = _run(optical[0], tiny_data, tmp_path, *flags)
    assert result.stage is Stage.FINE_TUNED
    assert result.headline >= optical[1][1].headline


def test_a_baseline_leaves_no_transform_behind(optical, tiny_roberta, tiny_data, tmp_path):
    (tmp_path / TRANSFORM_FILE).write_text((optical[0] / TRANSFORM_FILE).read_text())
    _run(tiny_roberta, tiny_data, tmp_path, "--do_train", "--max_steps", "1", "--overwrite_output_dir")
    assert not (tmp_path / TRANSFORM_FILE).exists()


def test_several_tasks_and_numbers_as_labels(tiny_roberta, tiny_data, tmp_path):
    flags = ["--model_name_or_path", str(tiny_roberta), "--data_dir", str(tiny_data), "--output_dir", str(tmp_path)]
    flags += ["--task_list", "stsb mnli", "--lr_list", "1e-2 1e-4", "--do_train", "--do_eval", "--max_steps", "30"]
    stsb, mnli = run(parse([*flags, *QUIET, *QUICK]))
    assert (stsb.task, stsb.settings["learning_rate"], mnli.settings["learning_rate"]) == ("stsb", 1e-2, 1e-4)
    assert stsb.headline == pytest.approx((stsb.metrics["pearson"] + stsb.metrics["spearmanr"]) / 2)
    assert stsb.headline > 0.5
    assert {"accuracy", "accuracy_mismatched"} <= set(mnli.metrics) and mnli.headline == mnli.metrics["accuracy"]
    assert len(json.loads((tmp_path / RESULTS_FILE).read_text())["results"]) == 2
    assert (tmp_path / "stsb" / "model.safetensors").exists()


def test_accumulated_batches_are_one_large_batch(tiny_roberta, tiny_data, tmp_path):
    flags = ("--do_train", "--max_steps", "3", "--learning_rate", "0.5", "--optim", "sgd", "--max_grad_norm", "0")
    (whole,) = _run(tiny_roberta, tiny_data, tmp_path / "a", *flags, "--per_device_train_batch_size", "32")
    halves = ("--per_device_train_batch_size", "16", "--gradient_accumulation_steps", "2")
    (parts,) = _run(tiny_roberta, tiny_data, tmp_path / "b", *flags, *halves)
    assert parts.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-5)


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(tiny_roberta, tiny_data, tmp_path):
    flags = [
        "--model_name_or_path",
        str(tiny_roberta),
        "--task_name",
        "cola",
        "--data_dir",
        str(tiny_data),
        "--do_eval",
    ]
    flags += ["--do_train", "--max_steps", "3", "--learning_rate", "0.5", "--optim", "sgd", "--max_grad_norm", "0"]
    flags += [*QUIET, "--seed", "1", "--per_device_eval_batch_size", "24"]
    (one,) = run(parse([*flags, "--per_device_train_batch_size", "32", "--output_dir", str(tmp_path / "one")]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "quantsim.experiments.run_glue", *flags, "--output_dir", str(tmp_path / "two")]
    subprocess.run([*command, "--per_device_train_batch_size", "16"], check=True, capture_output=True, timeout=600)
    (two,) = json.loads((tmp_path / "two" / RESULTS_FILE).read_text())["results"]
    assert two["metrics"]["loss"] == pytest.approx(one.metrics["loss"], rel=1e-5)


def test_a_model_is_not_overwritten_unasked(fine_tuned, tiny_data):
    before = (fine_tuned[0] / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(ConfigurationError, match=r"holds a model already.*--overwrite_output_dir"):
        _run(fine_tuned[0], tiny_data, fine_tuned[0], "--transform", "optical")
    assert (fine_tuned[0] / "model.safetensors").stat().st_mtime_ns == before


def test_calibration_needs_training_data(tiny_roberta, tiny_data, tmp_path):
    argv = ["--model_name_or_path", str(tiny_roberta), "--task_name", "cola", "--do_eval", "--transform", "optical"]
    argv += ["--validation_file", str(tiny_data / "cola" / "dev.tsv"), "--output_dir", str(tmp_path), *QUIET]
    with pytest.raises(ConfigurationError, match=r"--train_file: a file is missing"):
        run(parse(argv))
    assert not any(tmp_path.iterdir())


def test_the_best_of_states_is_the_one_of_the_highest_headline():
    model = torch.nn.Linear(1, 1, bias=False)
    best = BestState("accuracy")
    for step, (accuracy, loss) in enumerate([(0.5, 1.0), (0.75, 0.9), (0.75, 0.8), (0.75, math.inf), (0.25, 0.1)]):
        torch.nn.init.constant_(model.weight, step)
        best.consider(model, {"accuracy": accuracy, "loss": loss}, step)
    best.restore(model)
    assert (best.step, best.metrics["loss"], model.weight.item()) == (2, 0.8, 2.0)


def test_metrics_of_trainer_are_renamed():
    values = {"eval_loss": math.nan, "eval_f1": 0.5, "eval_runtime": 2.0, "epoch": 1.0, "eval_mismatched_loss": 0.25}
    assert task_metrics(values) == {"f1": 0.5, "loss_mismatched": 0.25}
