from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quantsim.errors import ConfigurationError
from quantsim.experiments.run_clm import main

TINY = (
    *("--hidden_size", "16", "--num_layers", "1", "--num_heads", "2", "--intermediate_size", "32"),
    *("--block_size", "16", "--disable_tqdm", "true", "--save_strategy", "no", "--calibration_batches", "1"),
)


def test_the_module_form_trains_and_a_sweep_follows(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("light in rings, " * 40)
    files = ("--train_file", str(text), "--validation_file", str(text))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "quantsim.experiments.run_clm", *TINY, *files),
            *("--output_dir", str(tmp_path / "float"), "--do_train", "--max_steps", "2"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "original, trained: perplexity" in done.stdout
    results = main(
        [
            *(*TINY, *files, "--output_dir", str(tmp_path / "sweep"), "--model_name_or_path", str(tmp_path / "float")),
            *("--levels", "16", "--sweep_variants", "no_noise"),
        ]
    )
    assert [result.system for result in results] == ["original", "optical"]


def test_an_error_is_words_and_a_status(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        main(["--output_dir", str(tmp_path), "--do_eval", "--train_file", "a.txt", "--validation_file", "b.txt"])
