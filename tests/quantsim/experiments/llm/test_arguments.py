from __future__ import annotations

from pathlib import Path

import pytest

from quantsim.errors import ConfigurationError
from quantsim.experiments.llm.arguments import parse
from quantsim.experiments.transformed_model import TransformKind


def test_flags_reach_their_groups(tmp_path: Path) -> None:
    arguments = parse(
        [
            *("--output_dir", str(tmp_path), "--do_train", "--max_steps", "7", "--hidden_size", "32", "--seed", "5"),
            *("--transform", "squeezelight", "--transform_config", "rings.yaml", "--keep_best", "false"),
        ]
    )
    assert (arguments.training.max_steps, arguments.training.seed) == (7, 5)
    assert arguments.model.size.hidden_size == 32
    assert arguments.transform.transform is TransformKind.SQUEEZELIGHT
    assert arguments.transform.keep_best is False
    assert arguments.overwrite_output_dir is False


@pytest.mark.parametrize(
    ("flags", "overwrites"),
    [
        (["--overwrite_output_dir"], True),
        (["--overwrite_output_dir", "true"], True),
        (["--overwrite_output_dir=False"], False),
        (["--overwrite_output_dir", "false"], False),
    ],
)
def test_flags_of_older_transformers_are_understood(tmp_path: Path, flags: list[str], overwrites: bool) -> None:
    arguments = parse([*flags, "--output_dir", str(tmp_path), "--do_eval", "--evaluation_strategy=steps"])
    assert arguments.overwrite_output_dir is overwrites
    assert arguments.training.eval_strategy.value == "steps"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "nothing to do"),
        (["--do_eval", "--train_file", "a.txt"], "one text is missing"),
        (["--do_eval", "--calibration_batches", "0"], "at least 1"),
        (["--levels", "16"], "needs a trained model"),
    ],
)
def test_what_does_not_go_together_is_told(tmp_path: Path, flags: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse(["--output_dir", str(tmp_path), *flags])


def test_an_unknown_flag_ends_with_a_usage_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, ValueError), match=r"2|not_a_flag"):
        parse(["--output_dir", str(tmp_path), "--do_eval", "--not_a_flag", "1"])


def test_training_arguments_can_be_changed_in_a_copy(tmp_path: Path) -> None:
    arguments = parse(["--output_dir", str(tmp_path), "--do_eval"])
    assert arguments.with_training(seed=9).training.seed == 9
    assert arguments.training.seed == 42
