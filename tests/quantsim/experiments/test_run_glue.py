"""The program."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("transformers")

from quantsim.experiments.run_glue import main, run_in_terminal


def test_what_goes_wrong_is_said_without_a_traceback(capsys, tmp_path):
    argv = ["--model_name_or_path", "m", "--task_name", "mrcp", "--do_eval", "--output_dir", str(tmp_path)]
    assert run_in_terminal(argv) == 2
    assert capsys.readouterr().err.startswith("error: --task_name: there is no such task; got 'mrcp'")


def test_main_raises_for_callers():
    with pytest.raises(ValueError, match="--model_name_or_path"):
        main(["--task_name", "cola", "--do_eval", "--output_dir", "out"])


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "quantsim.experiments.run_glue", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    for flag in ("--transform_config", "--calibration_batches", "--keep_best", "--num_train_epochs", "--task_list"):
        assert flag in text
