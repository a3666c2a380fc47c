from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantsim.dualpath.agreement import compare_with_fake_quantization
from quantsim.dualpath.conversion import to_integer
from quantsim.dualpath.integer_model import IntegerModel
from quantsim.quantization import affine


def quantizer(low: float, high: float) -> affine.QuantizeDequantize:
    made = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
    made.set_range(low, high)
    return made


class Clipped(nn.Module):
    """A product that is clipped to less than its quantizer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = quantizer(-3, 3), quantizer(-8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        return self.after((y * y).clamp(0.5, 4.0))


def test_a_clip_that_is_too_narrow_is_seen() -> None:
    x = torch.linspace(-3, 3, 64).reshape(4, 16)
    integer = to_integer(Clipped().eval(), x, strict=True)
    assert max(each.steps for each in compare_with_fake_quantization(integer, x)) <= 1

    (node,) = integer.graph.nodes
    value = integer.graph.values[node.output]
    assert value.grid is not None
    narrow = replace(integer.graph.values[node.output], grid=replace(value.grid, high=value.grid.high - 20))
    wrong = replace(
        integer.graph,
        nodes=(replace(node, attributes={**node.attributes, "high": value.grid.high - 20}),),
        values={**integer.graph.values, node.output: narrow},
    )
    (part,) = integer.rounds
    tampered = replace(integer, graph=wrong, rounds=(replace(part, graph=wrong),), _executors={})
    assert max(each.steps for each in compare_with_fake_quantization(tampered, x)) == 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_types_are_compared(dtype: torch.dtype) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
            self.weights = quantizer(-0.4, 0.4)
            self.before, self.middle, self.after = quantizer(-3, 3), quantizer(-8, 8), quantizer(-4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.nn.functional.linear(self.before(x), self.weights(self.layer.weight), self.layer.bias)
            return self.after(self.last(torch.cumsum(self.middle(y), -1)))

    torch.manual_seed(0)
    model, x = Mixed().to(dtype).eval(), torch.randn(4, 8).to(dtype)
    integer: IntegerModel = to_integer(model, x)
    assert [each.is_integer for each in integer.coverage.operations] == [True, False, False]
    found = compare_with_fake_quantization(integer, x)
    assert found
    assert max(each.steps for each in found) <= 1
    with torch.no_grad():
        real = model(x).double().numpy()
    assert np.abs(integer(x).double().numpy() - real).max() < 0.25
