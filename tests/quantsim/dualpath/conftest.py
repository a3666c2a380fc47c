"""Models of every kind, converted once."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.dualpath.agreement import compare_with_fake_quantization
from quantsim.dualpath.conversion import to_integer
from quantsim.dualpath.integer_model import IntegerModel
from quantsim.sim import (
    ActivationPlacement,
    GranularityKind,
    IntegerSetting,
    OperationSetting,
    QuantizationSimModel,
    SimulationConfig,
)

_specification = importlib.util.spec_from_file_location("integer_models", Path(__file__).with_name("integer_models.py"))
assert _specification is not None and _specification.loader is not None
_models = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(_models)
MODELS: tuple[str, ...] = tuple(_models.MODELS)


@dataclass(frozen=True)
class Converted:
    """A float model, its simulation, its integer form, and the arguments of one call."""

    model: torch.nn.Module
    sim: QuantizationSimModel
    integer: IntegerModel
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@cache
def _converted(name: str) -> Converted:
    model, args, kwargs = _models.example(name)
    with torch.random.fork_rng(devices=[]):
        sim = QuantizationSimModel(model, (args, kwargs), config="integer_w8a8")
        sim.compute_encodings([(args, kwargs)])
        return Converted(model, sim, to_integer(sim, (args, kwargs)), args, kwargs)


@pytest.fixture(scope="session")
def converted() -> Callable[[str], Converted]:
    """A model of `integer_models` by name; the same object each time."""
    return _converted


@pytest.fixture(params=MODELS)
def any_model(request: pytest.FixtureRequest) -> Converted:
    """Each model in turn."""
    return _converted(request.param)


EVERYTHING = SimulationConfig(
    weights=IntegerSetting(bits=8, granularity=GranularityKind.CHANNEL),
    activations=IntegerSetting(bits=8, symmetric=False),
    activation_placement=ActivationPlacement.OUTPUTS,
    operations={"softmax": OperationSetting(outputs=IntegerSetting(bits=8, symmetric=False, fixed_range=(0.0, 1.0)))},
)
"""Eight bits at every output."""


class _Function(nn.Module):
    """A linear layer, so that all begins on a grid, then a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before = nn.Linear(8, 8)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.before(x))


def _checked(model: nn.Module, x: Tensor) -> IntegerModel:
    sim = QuantizationSimModel(model.eval(), x, config=EVERYTHING)
    sim.compute_encodings([x])
    integer = to_integer(sim, x, strict=True)
    found = compare_with_fake_quantization(integer, x)
    assert max(each.steps for each in found) <= 1, found
    real = sim(x)
    assert torch.allclose(integer(x, executor="numpy"), real, atol=0.03 * real.abs().max().item())
    return integer


@pytest.fixture(scope="session")
def convert() -> Callable[[nn.Module, Tensor], IntegerModel]:
    """Converts a model with 8 bits at every output; each node is within one step of fake quantization."""
    return _checked


@pytest.fixture(scope="session")
def ops_after_linear() -> Callable[[Callable[[Tensor], Tensor]], list[str]]:
    """The ops of the nodes that a function of shape (2, 4, 8) becomes, which reads a linear layer's result."""

    def ops(function: Callable[[Tensor], Tensor]) -> list[str]:
        integer = _checked(_Function(function), torch.randn(2, 4, 8))
        names = [node.op.value for node in integer.graph.nodes]
        assert names[0] == "linear"
        return names[1:]

    return ops
