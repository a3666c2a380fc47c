from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from quantsim.quantization import affine
from quantsim.quantization.methods import LSQQuantizeDequantize


def lsq_by_definition(x: Tensor, step: float, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """Result and d result / d step, as the paper's equations 1 to 3 say, in float64."""
    position = x.double() / step
    inside = (position > qmin) & (position < qmax)
    slope = torch.where(inside, position.round() - position, position.clamp(qmin, qmax))
    return position.clamp(qmin, qmax).round() * step, slope


def test_values_and_gradients_are_those_of_the_paper() -> None:
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 2
    quantizer = LSQQuantizeDequantize(shape=(), bitwidth=4, symmetric=True)
    quantizer.set_range(-8 * 0.3, 7 * 0.3)
    step = float(quantizer.step.detach())
    expected, slope = lsq_by_definition(x, step, -8, 7)
    arriving = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    y = quantizer(x)
    torch.testing.assert_close(y, expected.float())
    y.backward(arriving)
    factor = 1 / math.sqrt(4000 * 7)
    torch.testing.assert_close(quantizer.step.grad, ((slope * arriving).sum() * factor).float(), rtol=1e-4, atol=1e-6)
    inside = ((x.detach() / step) > -8) & ((x.detach() / step) < 7)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(inside, arriving, 0.0))


def test_the_gradient_factor_is_no_no_op() -> None:
    """Against the plain learned range, whose scale gets the same gradient without the factor."""
    x = torch.full((64,), 5.0)
    quantizer = LSQQuantizeDequantize(shape=(), bitwidth=8, symmetric=True)
    quantizer.set_range(-1.28, 1.27)
    quantizer(x).sum().backward()
    assert quantizer.step.grad is not None
    assert float(quantizer.step.grad) == pytest.approx(64 * 127 / math.sqrt(64 * 127), rel=1e-5)


def test_channels_share_among_themselves_only() -> None:
    x = torch.full((3, 50), 9.0)
    quantizer = LSQQuantizeDequantize(shape=(3, 1), bitwidth=4, symmetric=True)
    quantizer.set_range(-0.8, 0.7)
    quantizer(x).sum().backward()
    assert quantizer.step.grad is not None
    torch.testing.assert_close(quantizer.step.grad, torch.full((3, 1), 50 * 7 / math.sqrt(50 * 7)))


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_the_first_range_has_the_right_zero_point(shift: float, shape: tuple[int, ...]) -> None:
    """A search that has the zero point's sign wrong ends four orders of magnitude above this."""
    x = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0)) + shift
    quantizer = LSQQuantizeDequantize(shape=shape, bitwidth=8, symmetric=False)
    with quantizer.compute_encodings():
        quantizer(x)
    assert float((quantizer(x) - x).detach().square().mean()) < 3e-4


def test_the_first_range_is_better_than_min_max_at_few_bits() -> None:
    x = torch.randn(16, 500, generator=torch.Generator().manual_seed(0))
    errors = []
    for kind in (LSQQuantizeDequantize, affine.QuantizeDequantize):
        quantizer = kind(shape=(16, 1), bitwidth=3, symmetric=True)
        with quantizer.compute_encodings():
            quantizer(x)
        errors.append(float((quantizer(x) - x).detach().abs().pow(2.4).mean()))
    assert errors[0] < 0.7 * errors[1]


def test_training_finds_the_step_of_data_on_a_grid() -> None:
    x = torch.randint(-7, 8, (2000,), generator=torch.Generator().manual_seed(0)) * 0.25
    quantizer = LSQQuantizeDequantize(shape=(), bitwidth=4, symmetric=True)
    quantizer.set_range(-8 * 0.29, 7 * 0.29)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    assert float(quantizer.step.detach()) == pytest.approx(0.25, rel=0.02)
