from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

WORDS = "the quick brown fox jumps over a lazy dog and then it runs away from here to there "


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A text to learn from and one to measure on."""
    folder = tmp_path_factory.mktemp("texts")
    train, validation = folder / "train.txt", folder / "validation.txt"
    train.write_text(WORDS * 60)
    validation.write_text(WORDS[20:] * 6)
    return train, validation


@pytest.fixture
def flags(texts: tuple[Path, Path]) -> Sequence[str]:
    """What all command lines of these tests share: short blocks of the two texts, a tiny new model."""
    return (
        *("--train_file", str(texts[0]), "--validation_file", str(texts[1]), "--block_size", "32"),
        *("--hidden_size", "16", "--num_layers", "1", "--num_heads", "2", "--intermediate_size", "32"),
        *("--per_device_train_batch_size", "8", "--calibration_batches", "2", "--disable_tqdm", "true"),
        *("--save_strategy", "no", "--learning_rate", "1e-2"),
    )


@pytest.fixture(scope="session")
def float_model(tmp_path_factory: pytest.TempPathFactory, texts: tuple[Path, Path]) -> Path:
    """A tiny model that was trained for some steps."""
    from quantsim.experiments.run_clm import main

    folder = tmp_path_factory.mktemp("float")
    main(
        [
            *("--output_dir", str(folder), "--train_file", str(texts[0]), "--validation_file", str(texts[1])),
            *("--hidden_size", "16", "--num_layers", "1", "--num_heads", "2", "--intermediate_size", "32"),
            *("--do_train", "--max_steps", "60", "--learning_rate", "1e-2", "--block_size", "32"),
            *("--save_strategy", "no", "--disable_tqdm", "true", "--seed", "0"),
        ]
    )
    return folder


@pytest.fixture(scope="session")
def optical_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "transform.yaml"
    path.write_text("attn: {q_levels: 64}\nfc: {q_levels: 64}\n")
    return path
