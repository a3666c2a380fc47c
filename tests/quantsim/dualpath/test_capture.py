from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from quantsim.dualpath.capture import QUANTIZER, capture, module_path
from quantsim.errors import NotCalibratedError
from quantsim.sim import QuantizationSimModel


class Twice(nn.Module):
    """Changes its input in place, repeats itself, and asks for the size of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.relu = nn.Linear(4, 4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(4) + torch.arange(4)
        y = self.relu(self.layer(x))
        return (y + positions).reshape(x.shape[0], 2, 2)


def simulated(x: Tensor) -> QuantizationSimModel:
    sim = QuantizationSimModel(Twice().eval(), x, config="integer_w8a8")
    sim.compute_encodings([x])
    return sim


def test_quantizers_are_nodes_and_all_else_is_functional() -> None:
    x = torch.randn(3, 4)
    sim = simulated(x)
    captured = capture(sim.model, x, dynamic_batch=True)
    nodes = list(captured.graph_module.graph.nodes)
    places = [captured.places[node.args[1]] for node in nodes if node.target is QUANTIZER]
    assert any("layer.param_quantizers.weight" in place for place in places)
    assert not any(str(node.target).split(".")[-2].endswith("_") for node in nodes if "aten" in str(node.target))
    assert sum("arange" in str(node.target) for node in nodes) == 1
    assert {module_path(node) for node in nodes if "linear" in str(node.target)} == {"layer"}
    assert sim(x).shape == (3, 2, 2)


@pytest.mark.parametrize(("batch", "dynamic", "symbols"), [(3, True, 1), (1, True, 1), (3, False, 0)])
def test_the_batch_is_left_open_where_wanted(batch: int, dynamic: bool, symbols: int) -> None:
    x = torch.randn(batch, 4)
    captured = capture(simulated(x).model, x, dynamic_batch=dynamic)
    assert len(captured.batch_symbols) == symbols
    assert captured.batch == batch
    assert captured.example[0].shape == (batch, 4)


def test_uncalibrated_quantizers_are_named() -> None:
    x = torch.randn(3, 4)
    sim = QuantizationSimModel(Twice().eval(), x, config="integer_w8a8")
    with pytest.raises(NotCalibratedError, match=r"layer\.output_quantizers|layer\.input_quantizers"):
        capture(sim.model, x, dynamic_batch=False)
