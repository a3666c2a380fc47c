from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from quantsim.dualpath.conversion import to_integer
from quantsim.dualpath.host_steps import HostStep
from quantsim.sim import QuantizationSimModel


def test_preparation_gives_the_inputs_of_the_graph(converted: Callable[[str], Any]) -> None:
    model = converted("bert")
    (step,) = (part.host for part in model.integer.rounds)
    assert isinstance(step, HostStep)
    assert step.makes == model.integer.graph.inputs
    assert step.reads == ()
    given = dict(zip(step.makes, step.module(*model.integer.flat_inputs(model.kwargs)), strict=True))
    mask = next(value for name, value in given.items() if model.integer.graph.values[name].dtype == "bool")
    assert torch.equal(mask[:, 0, 0], model.kwargs["attention_mask"].bool())
    assert torch.equal(given["input_ids"], model.kwargs["input_ids"])


def test_host_and_integers_take_turns() -> None:
    class Alternating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.cumsum(layer(x), -1)
            return torch.cumprod(x, -1)

    torch.manual_seed(0)
    x = torch.randn(6, 4)
    sim = QuantizationSimModel(Alternating().eval(), x, config="integer_w8a8")
    sim.compute_encodings([x])
    integer = to_integer(sim, x)
    assert [len(part.graph.nodes) > 0 for part in integer.rounds] == [True, True, True, False]
    assert [len(part.host.reads) for part in integer.rounds] == [0, 1, 1, 1]
    assert integer.results is not None
    assert torch.allclose(integer(x[:2]), sim(x[:2]), atol=0.1, rtol=0.05)
    assert len(integer.coverage.floating) == 4
