from __future__ import annotations

import math

import pytest
import torch

from quantsim.quantization.methods.gradient_scale import scale_gradient, step_gradient_factor


@pytest.mark.parametrize("factor", [0.0, 1e-3, 1.0, 7.0])
def test_the_value_is_exact_and_the_gradient_is_scaled(factor: float) -> None:
    values = torch.tensor([0.1, -3e-8, 1e20, -0.0, 3.0], requires_grad=True)
    scaled = scale_gradient(values, factor)
    assert torch.equal(scaled, values)
    (scaled * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
    torch.testing.assert_close(values.grad, factor * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))


def test_constants_pass() -> None:
    values = torch.tensor([1.0])
    assert scale_gradient(values, 0.5) is values


def test_the_factor_of_a_step() -> None:
    assert step_gradient_factor(elements=600, steps=6, qmax=7) == pytest.approx(1 / math.sqrt(100 * 7))
    assert step_gradient_factor(elements=0, steps=1, qmax=0) == 1.0
