"""Runs commands in this process, and writes the files that they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from quantsim.cli.main import main


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finished]:
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: str | Path) -> Finished:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        code = ended.value.code
        assert isinstance(code, int)
        return Finished(int(code), captured.out, captured.err)

    return call


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A Python file with models, data, and functions that go wrong."""
    path = tmp_path / "my_models.py"
    path.write_text(
        """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))

def model_with_inputs():
    return model(), torch.zeros(1, 32)

def batches():
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(8, 32, generator=generator) for _ in range(6))

def wrong_width():
    return [torch.zeros(1, 31)]

def nan():
    return [torch.full((2, 32), float("nan"))]

def nothing():
    return []

def number():
    return 3

def fails():
    raise ValueError("the disk is full\\nsecond line")

not_a_function = 7
"""
    )
    return path
