"""Calibrated simulations of small models; ONNX Runtime's result of an exported graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.sim import QuantizationSimModel


@dataclass(frozen=True)
class Simulated:
    """A calibrated simulation and an input for it."""

    sim: QuantizationSimModel
    inputs: Tensor

    @property
    def output(self) -> Tensor:
        with torch.no_grad():
            return self.sim(self.inputs)


class Block(nn.Module):
    """Linear layers, attention and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.query, self.key, self.value, self.out = (nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(x)
        parts = [layer(hidden).unflatten(-1, (4, 16)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        mixed = nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(-2)
        return x + self.out(mixed)


def make_mlp() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)).eval()


def make_block() -> nn.Module:
    torch.manual_seed(3)
    return Block().eval()


def simulated(model: nn.Module, inputs: Tensor, config: Any = "w8a8") -> Simulated:
    sim = QuantizationSimModel(model, inputs, config=config)
    sim.compute_encodings([inputs])
    return Simulated(sim, inputs)


@pytest.fixture
def mlp() -> Simulated:
    return simulated(make_mlp(), torch.randn(16, 64))


@pytest.fixture
def block() -> Simulated:
    return simulated(make_block(), torch.randn(2, 12, 64))
