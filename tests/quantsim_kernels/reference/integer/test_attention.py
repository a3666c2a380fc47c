"""Softmax on integers against Python's integers; its error against the real softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from quantsim_kernels.fixed_point import exponential_tables, fixed_point
from quantsim_kernels.reference.integer import attention as ours

Rounded = Callable[[Fraction | int], int]
Placed = Callable[[Fraction | int, int, int, int], int]


def numerators(
    x: np.ndarray, mask: np.ndarray | None, bias: np.ndarray | None, rule: dict[str, Any], rounded: Rounded
) -> list[int]:
    """Of one row."""
    scale = Fraction(int(rule["multiplier"]), 1 << int(rule["shift"]))
    scores = [rounded(int(v) * scale) + (0 if bias is None else int(b)) for v, b in zip(x, bias_or_x(bias, x))]  # noqa: B905
    part = [True] * len(scores) if mask is None else [bool(m) for m in mask]
    peak = max((t for t, p in zip(scores, part, strict=True) if p), default=0)
    result = []
    for t, p in zip(scores, part, strict=True):
        d = min(max(peak - t, 0), 65535)
        product = int(rule["exponential_high"][d >> 8]) * int(rule["exponential_low"][d & 255])
        result.append(rounded(Fraction(product, 1 << rule["exponential_shift"])) if p else 0)
    return result


def bias_or_x(bias: np.ndarray | None, x: np.ndarray) -> np.ndarray:
    return x if bias is None else bias


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("variant", ["plain", "mask", "bias", "both"])
def test_softmax_and_product(
    variant: str, bits: int, generator: np.random.Generator, rounded: Rounded, placed: Placed
) -> None:
    x, values = generator.integers(-128, 128, (2, 3, 9)), generator.integers(0, 256, (2, 9, 4))
    x[0, 0] = -128
    mask = generator.random((2, 1, 9)) < 0.6 if variant in ("mask", "both") else None
    if mask is not None:
        mask[1] = False
    bias = generator.integers(-9000, 9000, (3, 9)) if variant in ("bias", "both") else None
    multiplier, shift = fixed_point(0.08 * 2048)
    rule = {"multiplier": multiplier, "shift": shift, **exponential_tables(bits)._asdict()}
    grid = {"zero_point": -128, "low": -128, "high": 127}
    y = ours.softmax(x, mask, bias=bias, **rule, result_multiplier=255, result_shift=0, **grid)
    z = ours.softmax_matmul(
        x, values, mask, bias=bias, **rule, zero_point_values=128, result_multiplier=1 << 30, result_shift=30, **grid
    )
    for i, j in np.ndindex(2, 3):
        e = numerators(x[i, j], None if mask is None else mask[i, 0], None if bias is None else bias[j], rule, rounded)
        total = sum(e)
        expected = [placed(Fraction(255 * v, total) if total else 0, -128, -128, 127) for v in e]
        assert y[i, j].tolist() == expected
        sums = [sum(e[k] * (int(values[i, k, p]) - 128) for k in range(9)) for p in range(4)]
        assert z[i, j].tolist() == [placed(Fraction(s, total) if total else 0, -128, -128, 127) for s in sums]
    if mask is not None:
        assert (y[1] == -128).all()


@pytest.mark.parametrize("tokens", [17, 197, 512, 2048])
def test_error_of_the_product_does_not_grow(tokens: int, generator: np.random.Generator) -> None:
    scores, values = generator.normal(0, 1, (64, tokens)), generator.normal(0, 1, (tokens, 32))
    step, step_values, step_result = np.abs(scores).max() / 32767, np.abs(values).max() / 127, 2.0**-20
    codes = np.rint(scores / step).astype(np.int64)
    value_codes = np.rint(values / step_values).astype(np.int64)
    multiplier, shift = fixed_point(step * 2048)
    result_multiplier, result_shift = fixed_point(step_values / step_result)
    y = ours.softmax_matmul(
        codes,
        value_codes,
        multiplier=multiplier,
        shift=shift,
        **exponential_tables(8)._asdict(),
        zero_point_values=0,
        result_multiplier=result_multiplier,
        result_shift=int(result_shift),
        zero_point=0,
        low=-(2**31),
        high=2**31 - 1,
    )
    e = np.exp(scores - scores.max(1, keepdims=True))
    probabilities = e / e.sum(1, keepdims=True)
    exact = probabilities @ (value_codes * step_values)
    error = np.linalg.norm(y * step_result - exact) / np.linalg.norm(exact)
    codes_of_255 = np.rint(255 * probabilities) / 255
    naive = np.linalg.norm(codes_of_255 @ (value_codes * step_values) - exact) / np.linalg.norm(exact)
    assert error <= 0.015
    assert tokens < 100 or naive > 5 * error


def test_far_scores_vanish_and_masks_are_checked() -> None:
    rule = {"multiplier": 1 << 30, "shift": 19, **exponential_tables(8)._asdict()}
    assert ours.exponential([[0, 40, 127]], **rule).tolist() == [[0, 0, 255]]
    with pytest.raises(TypeError, match="expected bool"):
        ours.exponential([[0, 40]], [[1, 0]], **rule)
    with pytest.raises(ValueError, match=r"exponential_low\): got shape \(2,\)"):
        ours.exponential([[0, 40]], **{**rule, "exponential_low": [1, 2]})


def test_numerators_follow_the_exponential() -> None:
    tables = exponential_tables(16)
    codes = -np.arange(0, 20000, 7).reshape(1, -1)
    e = ours.exponential(codes, multiplier=1 << 30, shift=30, **tables._asdict())
    real = np.exp(codes / 2048) * 65535
    assert np.abs(e - real).max() < 4
    assert e[0, 0] == 65534
    assert math.isclose(e[0, 1000], real[0, 1000], rel_tol=2e-3)
