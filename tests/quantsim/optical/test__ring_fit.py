"""Steps of the fit of rings to a linear layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quantsim.optical._ring_fit import average_blocks, circulant_blocks, fit_rings, sample_inputs
from quantsim.optical.squeezelight import SqueezeLightLinear


def circulant(column: torch.Tensor) -> torch.Tensor:
    size = column.numel()
    return torch.stack([torch.stack([column[(i - j) % size] for j in range(size)]) for i in range(size)])


def test_nearest_circulant_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(7, 10, generator=generator)
    padded = torch.zeros(8, 12)
    padded[:7, :10] = matrix
    found = circulant_blocks(matrix, 4)
    assert found.shape == (2, 3, 4)
    basis = torch.stack([circulant(row).reshape(-1) for row in torch.eye(4)], 1)
    for p in range(2):
        for q in range(3):
            block = padded[4 * p : 4 * p + 4, 4 * q : 4 * q + 4].reshape(-1, 1)
            nearest = torch.linalg.lstsq(basis, block).solution.reshape(-1)
            torch.testing.assert_close(found[p, q], nearest)


def test_average_blocks_take_rows() -> None:
    assert average_blocks(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), 2).tolist() == [[[2.0, 6.0]]]


def test_sampled_inputs_suit_the_bits_and_leave_torch_alone() -> None:
    linear = nn.Linear(6, 2)
    state = torch.get_rng_state()
    normal, uniform = sample_inputs(linear, 2000, 32), sample_inputs(linear, 2000, 8)
    assert normal.min() < -2 and uniform.min() >= 0 and uniform.max() < 1
    assert torch.equal(normal, sample_inputs(linear, 2000, 32))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("inputs", "bits"), [(20, 32), (20, 6), (24, 32), (2, 32)])
def test_factors_are_the_least_squares_solution(inputs: int, bits: int) -> None:
    """Moving any factor or bias from where the fit put it does not lessen the error."""
    torch.manual_seed(1)
    linear = nn.Linear(inputs, 12).double()
    rings = SqueezeLightLinear(inputs, 12, w_bit=bits, in_bit=bits, dtype=torch.float64)
    x = torch.rand(300, inputs, dtype=torch.float64)
    fit_rings(rings, linear, x, 0)
    if bits < 16:
        assert rings.scale.tanh().abs().max() < 1
        return

    def error() -> float:
        with torch.no_grad():
            return float((rings.transmit(x) - linear(x)).square().mean())

    least = error()
    for parameter in (rings.scale, rings.bias):
        assert parameter is not None
        for place in range(parameter.numel()):
            for step in (1e-2, -1e-2):
                with torch.no_grad():
                    parameter[place] += step
                    assert error() >= least * (1 - 1e-5)
                    parameter[place] -= step


def test_descent_never_keeps_what_is_worse() -> None:
    torch.manual_seed(2)
    linear = nn.Linear(16, 8)
    x = torch.rand(80, 16)
    rings = [SqueezeLightLinear(16, 8) for _ in range(2)]
    errors = []
    for layer, steps in zip(rings, (0, 40), strict=True):
        fit_rings(layer, linear, x, steps)
        errors.append(float((layer(x[:20]) - linear(x[:20])).square().mean().detach()))
    assert errors[1] <= errors[0] * (1 + 1e-6)
