from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantsim.dualpath.conversion import to_integer
from quantsim.quantization import affine
from quantsim.sim import QuantizationSimModel

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "mean": (lambda x: x.mean(1), ["mean"]),
    "matmul": (lambda x: x @ x.transpose(-1, -2), ["transpose", "matmul"]),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_function_has_its_integer_form(name: str, ops_after_linear: Callable[..., list[str]]) -> None:
    function, expected = FUNCTIONS[name]
    assert ops_after_linear(function) == expected


@pytest.mark.parametrize("layer", [nn.Conv1d(3, 6, 3, padding="same"), nn.Conv1d(3, 6, 3, 2, 1, groups=3)])
def test_convolutions_over_one_dimension(layer: nn.Module, convert: Callable[..., Any]) -> None:
    assert [node.op.value for node in convert(nn.Sequential(layer), torch.randn(2, 3, 9)).graph.nodes] == [
        "convolution"
    ]


def test_pools(convert: Callable[..., Any]) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    expected = ["convolution", "max_pool", "average_pool", "mean", "reshape"]
    assert [node.op.value for node in convert(model, torch.randn(2, 2, 12, 12)).graph.nodes] == expected


def test_zero_points_are_in_the_bias() -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 8) + 2.0
    sim = QuantizationSimModel(nn.Linear(8, 3).eval(), x, config="integer_w8a8")
    sim.compute_encodings([x - 3.0, x])
    integer = to_integer(sim, x)
    node = integer.graph.nodes[0]
    grid = integer.graph.values[node.inputs[0]].grid
    assert grid is not None
    assert grid.zero_point != 0
    weight, bias = node.constants["weight"].astype(np.int64), node.constants["bias"]
    assert bias.dtype == np.int32
    unbiased = bias + grid.zero_point * weight.sum(1)
    linear: Any = sim.module("")
    steps = linear.bias.detach().double().numpy() / (
        float(grid.scale) * linear.param_quantizers["weight"].get_scale().detach().double().numpy().reshape(-1)
    )
    assert np.abs(unbiased - steps).max() <= 0.5


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: torch.nn.functional.avg_pool2d(x, 2),
        lambda x: torch.nn.functional.max_pool2d(x, 2),
        lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 2),
    ],
)
def test_pools_of_images_without_a_batch_stay_float(pool: Callable[[Tensor], Tensor]) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = (affine.QuantizeDequantize((), bitwidth=8, symmetric=False) for _ in range(2))
            self.before.set_range(-3.0, 3.0)
            self.after.set_range(-4.0, 4.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.after(pool(self.before(x)))

    x, model = torch.randn(2, 4, 8), Pooled().eval()
    integer = to_integer(model, x)
    assert "no batch dimension" in str(integer.coverage)
    assert torch.equal(integer(x), model(x))
