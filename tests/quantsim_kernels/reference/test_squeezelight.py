"""The constants and the single steps of SqueezeLight's definition."""

from __future__ import annotations

import math

import pytest
import torch

from quantsim_kernels.reference.squeezelight import (
    crosstalk_factor,
    differential_scale,
    operand_blocks,
    operand_weight,
    phase_index,
    quantized_weight,
    resonance_width,
    scale_count,
    transmission,
)


def test_resonance_width_of_the_published_ring() -> None:
    assert resonance_width() == pytest.approx(0.261, abs=2e-4)
    assert resonance_width(radius=5e3) == pytest.approx(0.261 / 4, abs=1e-4)


def test_transmission_is_that_of_the_complex_amplitude() -> None:
    phase = torch.linspace(-7, 7, 1001, dtype=torch.float64)
    a, r = 0.8578, 0.8985
    turn = torch.exp(1j * phase)
    expected = ((r - a * turn) / (1 - a * r * turn)).abs() ** 2
    torch.testing.assert_close(transmission(phase), expected, rtol=1e-12, atol=1e-14)
    assert transmission(phase).argmin() == 500  # at the resonance
    torch.testing.assert_close(transmission(phase + 2 * math.pi), expected)


def test_crosstalk_counts_at_least_three_neighbours() -> None:
    assert crosstalk_factor(2, 0.1) == pytest.approx(1.3)
    assert crosstalk_factor(8, 0.1) == pytest.approx(1.7)
    assert crosstalk_factor(8, 0.1, drop=0.25) == pytest.approx(1.5)


@pytest.mark.parametrize("blocks", range(1, 9))
def test_factors_come_in_pairs_of_opposite_sign(blocks: int) -> None:
    scale = torch.randn(scale_count(blocks), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    factors = differential_scale(scale, blocks)
    assert factors.shape == (blocks,)
    half = blocks // 2
    torch.testing.assert_close(factors[blocks - half :], -factors[:half])
    if blocks % 2:
        torch.testing.assert_close(factors[half], scale[-1] - scale.mean())
    else:
        torch.testing.assert_close(factors.sum(), torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_quantized_weights_lie_on_levels_from_zero(bits: int) -> None:
    weight = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    largest = weight.tanh().abs().max()
    levels = quantized_weight(weight, bits) / (2 * largest) * (2**bits - 1)
    torch.testing.assert_close(levels, levels.round())
    assert levels.min() >= 0 and levels.max() <= 2**bits - 1 + 1e-9
    assert (quantized_weight(weight, bits) - (weight.tanh() + largest)).abs().max() <= largest / (2**bits - 1) + 1e-12


def test_zeros_stay_finite() -> None:
    assert quantized_weight(torch.zeros(3), 4).isfinite().all()
    assert differential_scale(torch.zeros(3), 4, 4).isfinite().all()


def test_operand_weight_takes_magnitudes_gain_and_crosstalk() -> None:
    weight = torch.tensor([[[-1.0, 0.5]]])
    assert operand_weight(weight, factor=1.5).tolist() == [[[1.5, 0.75]]]
    torch.testing.assert_close(operand_weight(weight, 3, 2.0, 1.5), 3 * quantized_weight(weight, 3))


def test_operand_blocks_pad_the_last_block() -> None:
    blocks = operand_blocks(torch.tensor([[1.0, -2.0, 3.0]]), 2)
    assert blocks.tolist() == [[[1.0, 4.0], [9.0, 0.0]]]
    assert operand_blocks(torch.tensor([0.5, 0.5]), 2, in_bit=1).tolist() == [[0.0, 0.0]]  # a tie, to even


def test_phase_index_counts_row_by_row() -> None:
    shape = (3, 2, 4)
    whole = torch.arange(5 * 24).reshape(5, *shape).transpose(-1, -2).reshape(5, 12, 2)
    assert torch.equal(phase_index(0, 5, 12, shape), whole)
    assert torch.equal(phase_index(2, 2, 10, shape), whole[2:4, :10])
