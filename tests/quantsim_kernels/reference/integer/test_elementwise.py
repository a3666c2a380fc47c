"""Ops on each element against Python's integers."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from quantsim_kernels.reference.integer import elementwise as ours

Placed = Callable[[Fraction | int, int, int, int], int]
GRIDS = [(0, 0, 255), (-128, -128, 127), (7, -128, 127), (0, -(2**15), 2**15 - 1)]


@pytest.mark.parametrize("grid", GRIDS)
def test_requantize(grid: tuple[int, int, int], generator: np.random.Generator, placed: Placed) -> None:
    x = np.concatenate([[0, 255, -128], generator.integers(-(2**31) + 1, 2**31, 50)])
    x = np.concatenate([x, generator.integers(-300, 300, 50)])
    for multiplier in (1 << 30, (1 << 31) - 1, -(1 << 30), 0, 3):
        for shift in (1, 31, 40, 62):
            if shift == 1 and multiplier > 3:
                continue
            y = ours.requantize(
                x,
                multiplier=multiplier,
                shift=shift,
                zero_point_in=3,
                zero_point=grid[0],
                low=grid[1],
                high=grid[2],
            )
            assert y.dtype == np.int64
            expected = [placed(Fraction((int(v) - 3) * multiplier, 1 << shift), *grid) for v in x]
            assert y.tolist() == expected


def test_requantize_channels(generator: np.random.Generator, placed: Placed) -> None:
    x = generator.integers(-(2**20), 2**20, (4, 3, 5))
    multipliers, shifts = [1 << 30, -(1 << 30) - 9, 2**31 - 1], [42, 43, 44]
    settings = {"zero_point_in": 0, "zero_point": 2, "low": -128, "high": 127}
    y = ours.requantize(x, multiplier=multipliers, shift=shifts, axis=1, **settings)
    for index in np.ndindex(*x.shape):
        value = Fraction(int(x[index]) * multipliers[index[1]], 1 << shifts[index[1]])
        assert y[index] == placed(value, 2, -128, 127)


@pytest.mark.parametrize("grid", GRIDS)
def test_add(grid: tuple[int, int, int], generator: np.random.Generator, placed: Placed) -> None:
    a, b = generator.integers(-(2**15), 2**15, (6, 5)), generator.integers(0, 256, 5)
    factors = {"multiplier_a": (1 << 30) + 11, "multiplier_b": -(1 << 22), "shift": 31}
    points = {"zero_point_a": -3, "zero_point_b": 128, "zero_point": grid[0], "low": grid[1], "high": grid[2]}
    y = ours.add(a, b, **factors, **points)
    for i, j in np.ndindex(6, 5):
        total = (int(a[i, j]) + 3) * ((1 << 30) + 11) - (int(b[j]) - 128) * (1 << 22)
        assert y[i, j] == placed(Fraction(total, 1 << 31), *grid)


def test_multiply(generator: np.random.Generator, placed: Placed) -> None:
    a, b = generator.integers(-128, 128, (6, 1)), generator.integers(0, 256, 5)
    points = {"zero_point_a": -3, "zero_point_b": 128, "zero_point": 1, "low": -128, "high": 127}
    y = ours.multiply(a, b, **points, multiplier=(1 << 30) + 5, shift=37)
    for i, j in np.ndindex(6, 5):
        value = Fraction((int(a[i, 0]) + 3) * (int(b[j]) - 128) * ((1 << 30) + 5), 1 << 37)
        assert y[i, j] == placed(value, 1, -128, 127)


def test_scale_shift(generator: np.random.Generator, placed: Placed) -> None:
    x = generator.integers(0, 256, (2, 3, 4))
    multipliers, shifts = [1 << 30, -(1 << 30) - 9, 0], [30, 31, 33]
    offsets = [5 << 29, -(1 << 40), 7 << 32]
    grid = {"zero_point_in": 9, "zero_point": -2, "low": -128, "high": 127}
    y = ours.scale_shift(x, multiplier=multipliers, offset=offsets, shift=shifts, axis=1, **grid)
    for index in np.ndindex(*x.shape):
        c = index[1]
        value = Fraction((int(x[index]) - 9) * multipliers[c] + offsets[c], 1 << shifts[c])
        assert y[index] == placed(value, -2, -128, 127)


def test_table_clamp_negate() -> None:
    assert ours.table([[-128, 127]], table=list(range(256, 0, -1)), first=-128).tolist() == [[256, 1]]
    for x in (-129, 128):
        with pytest.raises(IndexError, match=r"expected -128 to 127, the operands in the table"):
            ours.table([x], table=list(range(256)), first=-128)
    assert ours.clamp([-5, 0, 5], low=-1, high=2).tolist() == [-1, 0, 2]
    assert ours.negate([-128, 127], total=-1).tolist() == [127, -128]


def test_what_may_leave_int64_is_refused() -> None:
    grid = {"zero_point_in": 0, "zero_point": 0, "low": 0, "high": 1}
    with pytest.raises(OverflowError, match="requantize: an intermediate may reach"):
        ours.requantize([2**40], multiplier=1 << 30, shift=31, **grid)
    with pytest.raises(OverflowError, match="scale_shift"):
        ours.scale_shift([2**33], multiplier=[1 << 30], offset=[0], shift=[31], axis=0, **grid)
    points = {"zero_point_a": 0, "zero_point_b": 0, "zero_point": 0, "low": 0, "high": 1}
    with pytest.raises(OverflowError, match="add"):
        ours.add([2**32], [2**32], multiplier_a=1 << 30, multiplier_b=1 << 30, shift=30, **points)
    with pytest.raises(OverflowError, match="multiply"):
        ours.multiply([2**32], [2**32], multiplier=1, shift=30, **points)
