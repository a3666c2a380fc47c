from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from quantsim.nn.functional_modules import MatMul
from quantsim.sim import QuantizationSimModel
from quantsim.sim.summed_axes import summed_axis_of_input, summed_axis_of_parameter

MX = {"kind": "mx", "format": "mxfp8_e4m3"}


@pytest.mark.parametrize(
    ("module", "op", "axis"),
    [
        (nn.Linear(64, 8), "linear", 1),
        (nn.Conv1d(64, 8, 3), "conv1d", 1),
        (nn.Conv2d(64, 8, 3), "conv2d", 1),
        (nn.Conv3d(64, 8, 3), "conv3d", 1),
        (nn.ConvTranspose2d(64, 8, 3), "conv_transpose2d", 0),
        (nn.Bilinear(8, 64, 4), "bilinear", -1),
        (nn.Embedding(9, 64), "embedding", 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_weight_is_summed_over_its_inputs(module: Any, op: str, axis: int) -> None:
    assert summed_axis_of_parameter(op, module.weight) == axis
    assert module.weight.shape[axis] == 64
    assert summed_axis_of_parameter(op, torch.zeros(5)) == -1


@pytest.mark.parametrize(
    ("op", "position", "axis"),
    [
        ("conv1d", 0, -2),
        ("conv2d", 0, -3),
        ("conv_transpose3d", 0, -4),
        ("dynamic_conv2d", 1, 1),
        ("matmul", 0, None),
        ("matmul", 1, -2),
        ("baddbmm", 2, -2),
        ("baddbmm", 1, None),
        ("scaled_dot_product_attention", 1, None),
        ("scaled_dot_product_attention", 2, -2),
        ("batch_norm", 0, 1),
        ("layer_norm", 0, -1),
        ("relu", 0, None),
        (None, 0, None),
    ],
)
def test_inputs_by_op(op: str | None, position: int, axis: int | None) -> None:
    assert summed_axis_of_input(op, position) == axis


def axes(model: nn.Module, example: Any, **config: Any) -> dict[str, int]:
    sim = QuantizationSimModel(model, example, config={"weights": MX, "activations": MX, **config})
    result: dict[str, int] = {}
    for place, quantizer in sim.quantizers():
        granularity: Any = quantizer.granularity
        result[place] = granularity.axis
    return result


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()


def test_operands_of_a_network() -> None:
    found = axes(network(), torch.zeros(2, 3, 9, 9))
    assert found == {
        "0.param_quantizers['weight']": 1,
        "0.input_quantizers[0]": -3,
        "5.param_quantizers['weight']": 1,
        "5.input_quantizers[0]": -1,
    }


def test_outputs_take_the_axis_of_what_feeds_them() -> None:
    found = axes(network(), torch.zeros(2, 3, 9, 9), activation_placement="outputs")
    outputs = {place: axis for place, axis in found.items() if "output" in place}
    assert outputs == {
        "1.output_quantizers[0]": 1,  # the convolution in front is absorbed
        "2.output_quantizers[0]": 1,
        "3.output_quantizers[0]": 1,
        "5.output_quantizers[0]": -1,
    }


class _Product(nn.Module):
    def __init__(self, product: Any) -> None:
        super().__init__()
        self.query, self.key, self.product = nn.Linear(16, 16), nn.Linear(16, 16), product

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(self.query(x), self.key(x).transpose(-2, -1))


def test_the_factors_of_a_product_have_blocks_along_the_same_sum() -> None:
    found = axes(_Product(MatMul()), torch.zeros(2, 5, 16))
    assert (found["product.input_quantizers[0]"], found["product.input_quantizers[1]"]) == (-1, -2)


def test_without_a_run_unknown_places_lie_along_the_last_axis() -> None:
    found = axes(network(), None, activation_placement="outputs")
    assert found["2.output_quantizers[0]"] == -1
    assert found["0.output_quantizers[0]"] == -3


class _Flattened(nn.Module):
    """A view between a convolution and what is neither a convolution nor a product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.conv(image).flatten(2).transpose(1, 2)))


def test_a_view_has_axes_of_its_own() -> None:
    found = axes(_Flattened(), torch.zeros(2, 3, 9, 9), activation_placement="outputs")
    assert (found["conv.output_quantizers[0]"], found["act.output_quantizers[0]"]) == (-3, -1)


def test_a_matrix_times_a_vector() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.product = MatMul()

        def forward(self, matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
            return self.product(matrix, vector)

    found = axes(Product(), (torch.zeros(3, 8), torch.zeros(8)))
    assert found == {"product.input_quantizers[0]": -1, "product.input_quantizers[1]": -1}
