from __future__ import annotations

import pytest
import torch
from torch import nn

from quantsim.quantization.base import QuantizerBase
from quantsim.sim import QuantizationSimModel
from quantsim.sim.stand_ins import replaced_quantizers


def test_quantizers_compute_something_else_inside_and_themselves_after() -> None:
    x = torch.randn(3, 4)
    linear = nn.Linear(4, 2)
    sim = QuantizationSimModel(linear, x, config="w8a8")
    sim.compute_encodings([x])
    before = sim(x)
    seen: list[QuantizerBase] = []

    def forward_of(quantizer: QuantizerBase):
        seen.append(quantizer)
        return torch.zeros_like

    with pytest.raises(KeyError), replaced_quantizers(sim.model, forward_of):
        assert torch.equal(sim(x), linear.bias.expand(3, 2))
        raise KeyError
    assert len(seen) == 2
    assert torch.equal(sim(x), before)
    assert all("forward" not in module.__dict__ for module in sim.model.modules())


def test_quantizers_may_be_left_as_they_are() -> None:
    x = torch.randn(3, 4)
    sim = QuantizationSimModel(nn.Linear(4, 2), x, config="w8a8")
    sim.compute_encodings([x])
    with replaced_quantizers(sim.model, lambda quantizer: None):
        inside = sim(x)
    assert torch.equal(inside, sim(x))
