from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantsim.dualpath import to_integer
from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.errors import ConfigurationError
from quantsim.export.chip.sources import chip_source
from quantsim.sim import QuantizationSimModel


def simulated(model: nn.Module, inputs: Tensor) -> QuantizationSimModel:
    sim = QuantizationSimModel(model.eval(), inputs, config="integer_w8a8")
    sim.compute_encodings([inputs])
    return sim


class Partly(nn.Module):
    """Integers, a function that no integer op computes, and integers again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.cumsum(self.first(x), -1))


def test_a_simulation_and_what_was_made_of_it() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(4, 8)
    sim = simulated(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), inputs)
    source = chip_source(sim, inputs, strict=True)
    assert source.sim is sim
    assert source.coverage is not None
    assert source.coverage.floating == ()
    integer = to_integer(sim, inputs)
    from_integer = chip_source(integer, None, strict=True)
    assert from_integer.sim is None
    for name, array in source.vectors.items():
        np.testing.assert_array_equal(from_integer.vectors[name], array)
    other = chip_source(integer, inputs[:1] * 2, strict=True)
    assert other.vectors[other.graph.inputs[0]].shape == (1, 8)


def test_what_stays_float_is_told_or_refused() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(4, 8)
    sim = simulated(Partly(), inputs)
    source = chip_source(sim, inputs, strict=False)
    assert source.coverage is not None
    assert [each.operation for each in source.coverage.floating] == ["cumsum"]
    for model, given in ((sim, inputs), (to_integer(sim, inputs), None)):
        with pytest.raises(ConfigurationError, match="cumsum"):
            chip_source(model, given, strict=True)


def test_what_cannot_be_used_is_refused(block: IntegerGraph) -> None:
    sim = simulated(nn.Sequential(nn.Linear(4, 4)), torch.randn(4, 4))
    with pytest.raises(ConfigurationError, match=r"nn2chip\(example_inputs\): the model is traced"):
        chip_source(sim, None, strict=False)
    with pytest.raises(ConfigurationError, match=r"expected arrays for image"):
        chip_source(block, None, strict=False)
    with pytest.raises(ConfigurationError, match=r"nn2chip\(model\): got str"):
        chip_source("model", None, strict=False)
