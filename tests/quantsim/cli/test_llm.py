from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("light in rings and waves, " * 60)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    from quantsim.experiments.llm.model import ByteLlamaSize, new_byte_llama

    folder = tmp_path / "tiny"
    new_byte_llama(ByteLlamaSize(hidden_size=16, layers=1, heads=2, intermediate_size=32)).save_pretrained(folder)
    return folder


def test_training_tuning_and_a_sweep(run: Run, tmp_path: Path, text: Path, tiny: Path) -> None:
    common = ("--train-file", text, "--validation-file", text, "--block-size", 16, "--batch-size", 4)
    done = run("llm", "train", "-o", tmp_path / "float", "-m", tiny, "--steps", 3, *common)
    assert done.code == 0, done.err
    assert "original" in done.out
    config = tmp_path / "optical.yaml"
    config.write_text("attn: {q_levels: 64}\nfc: {q_levels: 64}\n")
    done = run(
        *("llm", "train", "-o", tmp_path / "optical", "-m", tmp_path / "float", "-c", config, "--steps", 2),
        *(*common, "--calibration-batches", 1),
    )
    assert done.code == 0, done.err
    assert "post training" in done.out
    assert "fine tuned" in done.out
    results = json.loads((tmp_path / "optical" / "quantsim_results.json").read_text())
    assert [item["stage"] for item in results] == ["post_training", "fine_tuned"]
    done = run(
        *("llm", "sweep", tmp_path / "float", "-o", tmp_path / "sweep", "--levels", "16,64"),
        *(*common, "--variants", "no_noise", "--calibration-batches", 1, "--max-eval-blocks", 4),
    )
    assert done.code == 0, done.err
    assert "post training, 64 levels, no noise" in done.out
    assert (tmp_path / "sweep" / "levels.svg").is_file()
    page = tmp_path / "page.md"
    done = run("llm", "table", tmp_path / "float", tmp_path / "optical", tmp_path / "sweep", "-o", page)
    assert done.code == 0, done.err
    assert done.out.count("fine tuned") == 1
    assert "| optical | fine-tuned through the transform |" in page.read_text()


def test_errors_are_words(run: Run, tmp_path: Path, tiny: Path) -> None:
    done = run("llm", "sweep", tiny, "-o", tmp_path / "x", "--levels", "1,2")
    assert done.code == 1
    assert "whole numbers from 2" in done.err
    done = run("llm", "train", "-o", tmp_path / "x", "-c", tmp_path / "missing.yaml")
    assert done.code == 1
    assert "missing.yaml" in done.err
    assert run("llm").code == 2
