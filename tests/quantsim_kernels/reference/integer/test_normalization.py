"""LayerNorm and RMSNorm against Python's integers, and against the real functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from quantsim_kernels.reference.integer import normalization as ours

Rounded = Callable[[Fraction | int], int]
BITS = {"root_bits": 6, "gain_bits": 8}


def normalized(centred: list[int], gain: list[int], offset: list[int], epsilon: int, rounded: Rounded) -> list[int]:
    root = max(1, math.isqrt((sum(d * d for d in centred) + epsilon) << 12))
    result = []
    for d, g, o in zip(centred, gain, offset, strict=True):
        result.append(min(max(rounded(Fraction(d * g + o * root, root << 8)) - 3, -128), 127))
    return result


@pytest.mark.parametrize("extreme", [None, -128, 255])
@pytest.mark.parametrize("length", [1, 5, 384])
def test_layer_norm(length: int, extreme: int | None, generator: np.random.Generator, rounded: Rounded) -> None:
    x = generator.integers(-128, 256, (2, 3, length)) if extreme is None else np.full((2, 3, length), extreme)
    gain, offset = generator.integers(-(2**20), 2**20, length), generator.integers(-(2**14), 2**14, length)
    grid = {"zero_point": -3, "low": -128, "high": 127}
    y = ours.layer_norm(x, gain=gain, offset=offset, epsilon=5, mean_bits=4, **BITS, **grid)
    for index in np.ndindex(2, 3):
        codes = [int(v) << 4 for v in x[index]]
        mean = rounded(Fraction(sum(codes), length))
        expected = normalized([v - mean for v in codes], gain.tolist(), offset.tolist(), 5, rounded)
        assert y[index].tolist() == expected


def test_rms_norm(generator: np.random.Generator, rounded: Rounded) -> None:
    x = generator.integers(0, 256, (4, 33))
    x[1] = 9
    gain = generator.integers(-(2**22), 2**22, 33)
    for epsilon in (0, 3):
        y = ours.rms_norm(x, zero_point_in=9, gain=gain, epsilon=epsilon, **BITS, zero_point=-3, low=-128, high=127)
        for row, codes in zip(y, x, strict=True):
            expected = normalized([int(v) - 9 for v in codes], gain.tolist(), [0] * 33, epsilon, rounded)
            assert row.tolist() == expected


def test_layer_norm_is_one(generator: np.random.Generator) -> None:
    length, step, bits = 256, 1 / 32, {"mean_bits": 6, "root_bits": 6, "gain_bits": 12}
    x = generator.normal(0, 20, (50, length)).round().astype(np.int64)
    weight, bias = generator.normal(1, 0.2, length), generator.normal(0, 0.2, length)
    gain = np.rint(weight * np.sqrt(length) * 2**6 / step * 2**12).astype(np.int64)
    offset = np.rint(bias / step * 2**12).astype(np.int64)
    y = ours.layer_norm(x, gain=gain, offset=offset, epsilon=1, **bits, zero_point=0, low=-(2**15), high=2**15 - 1)
    real = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) * weight + bias
    # Half a step of the result's own rounding, and little more.
    assert np.abs(y * step - real).max() < 0.52 * step


def test_too_many_bits_are_refused() -> None:
    settings = {"gain": [1] * 4, "epsilon": 0, "zero_point": 0, "low": 0, "high": 1, "gain_bits": 4}
    x = np.full((1, 4), 2**15)
    with pytest.raises(OverflowError, match="layer_norm: an intermediate"):
        ours.layer_norm(x - [[0, 1, 2, 40000]], mean_bits=14, root_bits=4, **settings)
    with pytest.raises(OverflowError, match="rms_norm"):
        ours.rms_norm(x, zero_point_in=0, root_bits=20, **settings)
