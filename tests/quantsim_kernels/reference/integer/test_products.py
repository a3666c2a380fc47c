"""Linear layers, convolutions and matrix products against Python's integers, at extremes too."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from quantsim_kernels.reference.integer import products as ours

Placed = Callable[[Fraction | int, int, int, int], int]


@pytest.mark.parametrize("x_value", [-128, 255, None])
@pytest.mark.parametrize("length", [1, 7, 4096])
def test_linear(x_value: int | None, length: int, generator: np.random.Generator, placed: Placed) -> None:
    x = generator.integers(0, 256, (2, 2, length)) if x_value is None else np.full((2, 2, length), x_value)
    weight = generator.integers(-128, 128, (3, length))
    weight[0] = -128
    bias = generator.integers(-(2**30), 2**30, 3)
    sums = ours.linear(x, weight=weight, bias=bias)
    multiplier, shift = [1 << 30, 2**31 - 1, -(1 << 30) - 1], [40, 49, 50]
    y = ours.linear(x, weight=weight, bias=bias, multiplier=multiplier, shift=shift, zero_point=5, low=-128, high=127)
    for i, j, o in np.ndindex(2, 2, 3):
        total = sum(int(p) * int(q) for p, q in zip(x[i, j], weight[o], strict=True)) + int(bias[o])
        assert sums[i, j, o] == total
        assert y[i, j, o] == placed(Fraction(total * multiplier[o], 1 << shift[o]), 5, -128, 127)


def convolved(
    x: np.ndarray, weight: np.ndarray, index: tuple[int, ...], settings: dict[str, Any], zero_point: int
) -> int:
    """One sum of a convolution, by its definition."""
    n, o, *position = index
    per_group = weight.shape[1]
    first = o // (weight.shape[0] // settings["groups"]) * per_group
    total = 0
    for offsets in np.ndindex(*weight.shape[1:]):
        place = [
            position[d] * settings["stride"][d] + offsets[1 + d] * settings["dilation"][d] - settings["padding"][d][0]
            for d in range(weight.ndim - 2)
        ]
        inside = all(0 <= p < size for p, size in zip(place, x.shape[2:], strict=True))
        value = int(x[(n, first + offsets[0], *place)]) if inside else zero_point
        total += value * int(weight[(o, *offsets)])
    return total


@pytest.mark.parametrize(
    ("image", "kernel", "settings"),
    [
        ((2, 4, 6, 5), (6, 4, 3, 3), {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}),
        ((1, 4, 6, 5), (8, 1, 3, 2), {"stride": (2, 1), "padding": ((1, 1), (0, 1)), "dilation": (1, 1), "groups": 4}),
        ((1, 4, 7, 6), (4, 2, 2, 2), {"stride": (1, 3), "padding": ((0, 0), (2, 0)), "dilation": (2, 1), "groups": 2}),
        ((2, 3, 8), (5, 3, 3), {"stride": (2,), "padding": ((2, 1),), "dilation": (2,), "groups": 1}),
    ],
)
def test_convolution(
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    settings: dict[str, Any],
    generator: np.random.Generator,
    placed: Placed,
) -> None:
    weight, bias = generator.integers(-128, 128, kernel), generator.integers(-1000, 1000, kernel[0])
    multiplier, shift = np.full(kernel[0], 1 << 30), np.full(kernel[0], 40)
    shift[0] = 41
    for x in (generator.integers(0, 256, image), np.full(image, 255), np.full(image, -128)):
        sums = ours.convolution(x, weight=weight, bias=bias, zero_point_in=77, **settings)
        y = ours.convolution(
            x,
            weight=weight,
            bias=bias,
            zero_point_in=77,
            multiplier=multiplier,
            shift=shift,
            zero_point=3,
            low=0,
            high=255,
            **settings,
        )
        for index in np.ndindex(*sums.shape):
            total = convolved(x, weight, index, settings, 77) + int(bias[index[1]])
            assert sums[index] == total
            assert y[index] == placed(Fraction(total << 30, 1 << int(shift[index[1]])), 3, 0, 255)


def test_matmul(generator: np.random.Generator, placed: Placed) -> None:
    a, b = generator.integers(0, 256, (2, 1, 3, 9)), generator.integers(-128, 128, (4, 9, 2))
    grid = {"multiplier": (1 << 30) + 3, "shift": 41, "zero_point": -7, "low": -128, "high": 127}
    y = ours.matmul(a, b, zero_point_a=200, zero_point_b=-5, **grid)
    assert y.shape == (2, 4, 3, 2)
    for i, j, m, n in np.ndindex(*y.shape):
        total = sum((int(p) - 200) * (int(q) + 5) for p, q in zip(a[i, 0, m], b[j, :, n], strict=True))
        assert y[i, j, m, n] == placed(Fraction(total * ((1 << 30) + 3), 1 << 41), -7, -128, 127)


def test_a_convolution_of_no_images() -> None:
    sizes: dict[str, Any] = {"stride": (1,), "padding": ((1, 1),), "dilation": (1,)}
    weight = np.ones((4, 1, 3), np.int64)
    result = ours.convolution(
        np.zeros((0, 2, 5), np.int64), weight=weight, bias=np.zeros(4, np.int64), groups=2, **sizes
    )
    assert result.shape == (0, 4, 5)
