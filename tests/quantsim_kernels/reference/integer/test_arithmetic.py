"""Rounded shifts, divisions and roots against Python's integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantsim_kernels.reference.integer import arithmetic


@given(st.integers(-(2**62), 2**62), st.integers(1, 61))
def test_rounded_shift(value: int, shift: int) -> None:
    whole = math.floor(abs(Fraction(value, 1 << shift)) + Fraction(1, 2))
    assert int(arithmetic.rounded_shift(value, shift)) == (whole if value >= 0 else -whole)


@given(st.integers(-(2**62), 2**62), st.integers(1, 2**62))
def test_rounded_division(numerator: int, denominator: int) -> None:
    whole = math.floor(abs(Fraction(numerator, denominator)) + Fraction(1, 2))
    assert int(arithmetic.rounded_division(numerator, denominator)) == (whole if numerator >= 0 else -whole)


@given(st.integers(0, 2**63 - 1))
def test_square_root(value: int) -> None:
    assert int(arithmetic.square_root(value)) == math.isqrt(value)


def test_square_root_around_squares() -> None:
    roots = [1, 2, 3, 94906265, 94906266, 2**31 - 1, 2**31, 3037000498, 3037000499]
    values = [root * root + step for root in roots for step in (-1, 0, 1)]
    assert arithmetic.square_root(values).tolist() == [math.isqrt(value) for value in values]


@pytest.mark.parametrize("shift", [1, 2, 30, 61])
def test_halves_go_away_from_zero(shift: int, rounded: Callable[[Fraction], int]) -> None:
    half = 1 << (shift - 1)
    values = [sign * (count * 2 + 1) * half + step for count in (0, 1) for sign in (1, -1) for step in (-1, 0, 1)]
    values = [value for value in values if abs(value) < 2**62]
    expected = [rounded(Fraction(value, 1 << shift)) for value in values]
    assert arithmetic.rounded_shift(values, shift).tolist() == expected


def test_shifts_and_divisions_refuse_what_they_cannot() -> None:
    for shift in (0, 63, -1):
        with pytest.raises(ValueError, match=r"rounded_shift\(shift\): got .* expected 1 to 62"):
            arithmetic.rounded_shift(1, shift)
    with pytest.raises(OverflowError, match="rounded_shift"):
        arithmetic.rounded_shift(2**63 - 1, 1)
    with pytest.raises(OverflowError, match="rounded_division"):
        arithmetic.rounded_division(2**63 - 1, 2)
    with pytest.raises(ValueError, match="expected positive numbers"):
        arithmetic.rounded_division([1, 1], [1, 0])
    with pytest.raises(ValueError, match="expected at least 0"):
        arithmetic.square_root(-1)


@pytest.mark.parametrize("values", [[0.5], [True], np.array([1], np.uint64)])
def test_only_integers_are_taken(values: object) -> None:
    with pytest.raises(TypeError, match="codes: got dtype"):
        arithmetic.integers(np.asarray(values), "codes")


def test_exact_matmul_on_both_sides_of_float64() -> None:
    for peak in (255, 2**29 + 1):
        generator = np.random.default_rng(0)
        a, b = (generator.integers(-peak, peak + 1, shape) for shape in ((3, 2, 4, 7), (2, 7, 5)))
        product = arithmetic.exact_matmul(a, b, "here")
        for batch in np.ndindex(3, 2, 4, 5):
            left, right = a[batch[:3]], b[batch[1], :, batch[3]]
            assert product[batch] == sum(int(x) * int(y) for x, y in zip(left, right, strict=True))
    with pytest.raises(OverflowError, match="here: an intermediate"):
        arithmetic.exact_matmul(np.full((1, 4), 2**31), np.full((4, 1), 2**31), "here")


def test_parameters_of_channels() -> None:
    assert arithmetic.along([1, 2], 1, 3, "here").shape == (1, 2, 1)
    assert arithmetic.along([5], None, 3, "here").shape == ()
    with pytest.raises(ValueError, match="expected one number, or one each of axis"):
        arithmetic.along([1, 2], None, 3, "here")


def test_windows() -> None:
    x = np.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4)
    view = arithmetic.windows(x, (2, 3), (2, 1), ((1, 0), (0, 2)), (3, 1), -7)
    padded = np.full((2, 3, 6, 6), -7)
    padded[:, :, 1:, :4] = x
    assert view.shape == (2, 3, 2, 4, 2, 3)
    for n, c, i, j, k, m in np.ndindex(*view.shape):
        assert view[n, c, i, j, k, m] == padded[n, c, 2 * i + 3 * k, j + m]
