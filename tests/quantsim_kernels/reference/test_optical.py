"""The definition of optical numbers, written out by hand."""

from __future__ import annotations

import math

import torch

from quantsim_kernels.reference.noise import element_noise
from quantsim_kernels.reference.optical import accumulator_range, dither, linear, matmul, quantize, raise_to_lut


def test_levels_by_hand() -> None:
    # 5 levels from -1 to 1 are half apart; ties go to the even level.
    x = torch.tensor([-2.0, -1.0, -0.76, -0.75, -0.25, 0.25, 0.75, 0.76, 2.0])
    y = quantize(x, torch.tensor([-1.0, 1.0]), 5)
    assert y.tolist() == [-1.0, -1.0, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_zero_is_no_level_of_a_symmetric_grid() -> None:
    y = quantize(torch.zeros(1), torch.tensor([-1.0, 1.0]), 256)
    assert 0 < y.abs().item() < 1 / 255 + 1e-6


def test_magnitudes_below_the_smallest_transmission_are_raised() -> None:
    y = torch.tensor([-0.03, -0.01, -0.0, 0.0, 0.01, 0.05])
    raised = raise_to_lut(y, torch.tensor(-1.0), torch.tensor(2.0), 0.02)
    assert torch.equal(raised, torch.tensor([-0.03, -0.02, -0.0, 0.0, 0.04, 0.05]))
    assert math.copysign(1, raised[2].item()) == -1
    assert torch.equal(raise_to_lut(y, torch.tensor(0.0), torch.tensor(0.0), 0.5), y)


def test_dither_is_exact_and_symmetric() -> None:
    seed = torch.tensor(3)
    expected = (element_noise((50_000,), seed).double() + 0.5) / 2**24 - 0.5
    values = dither(torch.Size([50_000]), seed)
    assert torch.equal(values.double(), expected)
    assert abs(float(values.mean())) < 0.01


def test_range_of_an_accumulator() -> None:
    assert accumulator_range(torch.tensor([[3.0, -1.0], [0.0, 2.0]])).tolist() == [-1.0, 3.0]
    assert accumulator_range(torch.empty(0, 3)).isnan().all()


def test_products_without_quantized_output_add_the_bias() -> None:
    unit = torch.tensor([-1.0, 1.0])
    x, weight = torch.tensor([[1.0, -1.0, 0.5]]), torch.tensor([[1.0, 1.0, 1.0]])
    y, extremes = linear(x, weight, torch.tensor([2.0]), unit, unit, None, levels=5)
    assert y.tolist() == [[2.5]]
    assert extremes.tolist() == [0.5, 0.5]
    product, _ = matmul(x, weight.t(), unit, unit, None, levels=5)
    assert product.tolist() == [[0.5]]
