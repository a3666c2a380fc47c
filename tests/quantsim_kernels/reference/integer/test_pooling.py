"""Means and poolings against Python's integers."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from quantsim_kernels.reference.integer import pooling as ours

Placed = Callable[[Fraction | int, int, int, int], int]
GRID = {"multiplier": (1 << 30) + 1, "shift": 34, "zero_point": 2, "low": -128, "high": 127}


def test_mean(generator: np.random.Generator, placed: Placed) -> None:
    x = generator.integers(-128, 128, (3, 4, 5))
    kept = ours.mean(x, axes=(0, -1), keepdim=True, zero_point_in=4, **GRID)
    assert kept.shape == (1, 4, 1)
    assert (ours.mean(x, axes=(0, 2), keepdim=False, zero_point_in=4, **GRID) == kept.reshape(4)).all()
    for c in range(4):
        total = sum(int(v) - 4 for v in x[:, c].flat)
        assert kept[0, c, 0] == placed(Fraction(total * ((1 << 30) + 1), 1 << 34), 2, -128, 127)


def test_average_pool(generator: np.random.Generator, placed: Placed) -> None:
    x = generator.integers(0, 256, (2, 3, 5, 6))
    y = ours.average_pool(x, kernel=(3, 2), stride=(2, 2), padding=((1, 0), (1, 1)), zero_point_in=99, **GRID)
    padded = np.full((2, 3, 6, 8), 99)
    padded[:, :, 1:, 1:-1] = x
    assert y.shape == (2, 3, 2, 4)
    for n, c, i, j in np.ndindex(*y.shape):
        total = sum(int(v) - 99 for v in padded[n, c, 2 * i : 2 * i + 3, 2 * j : 2 * j + 2].flat)
        assert y[n, c, i, j] == placed(Fraction(total * ((1 << 30) + 1), 1 << 34), 2, -128, 127)


def test_max_pool(generator: np.random.Generator) -> None:
    x = generator.integers(-128, 128, (2, 3, 9))
    y = ours.max_pool(x, kernel=(3,), stride=(2,), padding=((2, 1),), dilation=(2,), lowest=-128)
    assert y.shape == (2, 3, 4)
    for n, c, i in np.ndindex(*y.shape):
        places = [2 * i - 2 + 2 * k for k in range(3)]
        assert y[n, c, i] == max(int(x[n, c, p]) if 0 <= p < 9 else -128 for p in places)
