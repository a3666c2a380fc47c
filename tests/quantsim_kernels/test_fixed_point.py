"""Multipliers and shifts against fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantsim_kernels.fixed_point import common_fixed_point, exponential_tables, fixed_point, fixed_point_width


@given(
    st.floats(2.0**-31, 2.0**14, allow_nan=False),
    st.integers(16, 31),
    st.booleans(),
)
def test_ratio_is_held_to_all_bits(ratio: float, bits: int, negative: bool) -> None:
    multiplier, shift = (int(value) for value in fixed_point(-ratio if negative else ratio, bits))
    assert 2 ** (bits - 1) <= abs(multiplier) < 2**bits or shift == 62
    assert 1 <= shift <= 62
    assert (multiplier < 0) == negative
    error = abs(Fraction(abs(multiplier), 1 << shift) - Fraction(ratio))
    assert error <= Fraction(1, 1 << (shift + 1))


def test_edges_of_the_range() -> None:
    assert [int(value) for value in fixed_point(0.0)] == [0, 1]
    assert [int(value) for value in fixed_point(1.0)] == [1 << 30, 30]
    # What rounds up to the next power of two is normalised again.
    assert [int(value) for value in fixed_point(1 - 2.0**-40)] == [1 << 30, 30]
    assert [int(value) for value in fixed_point(2.0**-40)] == [1 << 22, 62]
    assert [int(value) for value in fixed_point(2.0**-40, max_shift=50)] == [1 << 10, 50]
    assert [int(value) for value in fixed_point(2.0**-70)] == [0, 62]
    multiplier, shift = fixed_point([[0.5, 0.25]], 16)
    assert (multiplier.tolist(), shift.tolist()) == ([[1 << 15, 1 << 15]], [[16, 17]])
    for wrong in (2.0**30, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"fixed_point\(ratio\): got"):
            fixed_point(wrong)
    for bits in (1, 32):
        with pytest.raises(ValueError, match=r"fixed_point\(bits\)"):
            fixed_point(0.5, bits)
    with pytest.raises(ValueError, match="max_shift"):
        fixed_point(0.5, max_shift=63)


def test_common_shift() -> None:
    (a, b, c), shift = common_fixed_point(0.3, [1e-5, -2.7], 0.0)
    assert shift == int(fixed_point(2.7)[1])
    for multiplier, ratio in ((a, 0.3), (b[0], 1e-5), (b[1], -2.7), (c, 0)):
        assert abs(Fraction(int(multiplier), 1 << shift) - Fraction(ratio)) <= Fraction(1, 1 << (shift + 1))
    assert int(abs(b[1])) >= 1 << 30


def test_width_of_ones_own() -> None:
    multiplier, shift = fixed_point_width([0.3, -1.0], 4, 12)
    assert (multiplier.tolist(), shift) == ([1229, -4096], 12)
    assert int(fixed_point_width(-8.0, 4, 12)[0]) == -(1 << 15)
    for wrong in (8.0, 7.99999, -8.01):
        with pytest.raises(ValueError, match=r"a number that 4\.12 holds"):
            fixed_point_width(wrong, 4, 12)
    for widths in ((0, 12), (4, 0), (17, 16)):
        with pytest.raises(ValueError, match="at most 32 together"):
            fixed_point_width(0.5, *widths)


@pytest.mark.parametrize("bits", range(2, 17))
def test_exponential_tables(bits: int) -> None:
    high, low, shift = exponential_tables(bits)
    assert high.shape == low.shape == (256,)
    largest = (int(high[0]) * int(low[0]) + (1 << (shift - 1))) >> shift
    assert 2**bits - 2 <= largest <= 2**bits - 1
    distance = np.arange(0, 65536, 11)
    real = np.exp(-distance / 2048) * (2**bits - 1)
    products = high[distance >> 8] * low[distance & 255] / 2.0**shift
    assert np.abs(products - real).max() < 2.0 ** (bits - 14) + 1e-3


def test_exponential_tables_of_too_many_bits() -> None:
    with pytest.raises(ValueError, match="expected 2 to 16"):
        exponential_tables(17)
