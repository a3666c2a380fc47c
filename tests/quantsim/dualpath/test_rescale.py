"""Fixed-point factors against Python's integers and fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from quantsim.dualpath import MulQuant, MulShift
from quantsim.dualpath.rescale import AccumulatorBias
from quantsim.errors import ConfigurationError


def half_away(value: Fraction) -> int:
    magnitude = int(abs(value) + Fraction(1, 2))
    return magnitude if value >= 0 else -magnitude


def test_codes_are_the_exact_quotient_rounded_half_away() -> None:
    generator = np.random.default_rng(0)
    sums = generator.integers(-(2**31) + 2**20, 2**31 - 2**20, (200, 4), dtype=np.int64)
    bias = generator.integers(-(2**19), 2**19, 4)
    ratios = np.array([2e-8, 3.1e-8, 0.5e-8, 7.7e-8])
    rescaler = MulQuant(8, unsigned=False, scale=ratios, bias=bias, zero_point=-7)
    codes = rescaler(torch.tensor(sums, dtype=torch.int64)).numpy()
    assert codes.dtype == np.int8
    for row, found in zip(sums, codes, strict=True):
        for channel in range(4):
            factor = Fraction(int(rescaler.multiplier[channel]), 2 ** int(rescaler.shift[channel]))
            exact = half_away((int(row[channel]) + int(bias[channel])) * factor) - 7
            assert found[channel] == min(max(exact, -128), 127)
            assert abs(float(factor) / ratios[channel] - 1) < 2**-30


def test_no_bias_is_lost_where_a_26_bit_fraction_lost_624_of_2048() -> None:
    """The published fixed-point scale truncates small factors; 31 significant bits do not."""
    generator = np.random.default_rng(1)
    sums = generator.integers(-(2**20), 2**20, 2048)
    bias = generator.integers(-(2**24), 2**24, 2048)
    ratio = 6.1e-6
    exact = np.clip(np.rint((sums + bias) * ratio), -128, 127)
    codes = MulQuant(8, unsigned=False, scale=ratio, bias=bias)(torch.tensor(sums, dtype=torch.int32))
    assert int((codes.numpy() != exact).sum()) == 0


def test_both_paths_of_a_factor_agree_to_half_a_step() -> None:
    rescaler = MulShift(64**-0.5)
    integers = torch.arange(-1000, 1000, dtype=torch.int32)
    real = rescaler(integers * 0.01)
    rescaler.inference(input_scale=0.01, output_scale=2**-11)
    steps = rescaler(integers)
    assert steps.dtype == torch.int32
    assert float((steps * 2**-11 - real).abs().max()) <= 0.5001 * 2**-11
    assert torch.equal(rescaler.inference(False)(integers * 0.01), real)


def test_a_bias_is_in_steps_of_the_result() -> None:
    rescaler = MulShift(torch.tensor([0.5, -0.25]), torch.tensor([3.0, 1.0]), axis=1)
    x = torch.tensor([[4, 4], [5, 6]], dtype=torch.int32)
    assert rescaler(x.float()).tolist() == [[5.0, 0.0], [5.5, -0.5]]
    assert rescaler.inference()(x).tolist() == [[5, 0], [6, -1]]


def test_a_fixed_point_format_of_ones_own() -> None:
    rescaler = MulShift(0.3, integer_bits=16, fraction_bits=12).inference()
    assert rescaler(torch.tensor([4096], dtype=torch.int32)).tolist() == [round(0.3 * 4096)]
    for factor in (2.0**15, -(2.0**16)):
        with pytest.raises(ConfigurationError, match=r"16\.12"):
            MulShift(factor, integer_bits=16, fraction_bits=12)
    with pytest.raises(ConfigurationError, match="both"):
        MulShift(1.0, integer_bits=16)
    assert "16.12" in repr(rescaler)


def test_reals_are_refused_where_integers_are_wanted() -> None:
    for rescaler in (MulQuant(8), MulShift(1.0).inference()):
        with pytest.raises(ConfigurationError, match="real numbers"):
            rescaler(torch.ones(2))


def test_sums_keep_32_bits() -> None:
    x = torch.full((1, 2, 1), 2**31 - 10, dtype=torch.int32)
    total = AccumulatorBias([5, -5], axis=1)(x)
    assert total.dtype == torch.int32
    assert total.flatten().tolist() == [2**31 - 5, 2**31 - 15]


def test_a_bias_beyond_64_bits_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"MulShift.bias"):
        MulShift(1e-6, bias=1e9)


def test_factors_of_models_in_bfloat16() -> None:
    rescaler = MulShift(0.25).to(torch.bfloat16)
    assert rescaler.inference()(torch.tensor([10, -6])).tolist() == [3, -2]
