"""Softmax in torch against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quantsim_kernels.fixed_point import exponential_tables, fixed_point
from quantsim_kernels.torch.integer import attention

GRID = {"zero_point": -128, "low": -128, "high": 127}


@pytest.fixture(params=["whole", "pieces"], autouse=True)
def _sizes_of_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small operands as a whole, and in pieces as large ones are."""
    if request.param == "pieces":
        monkeypatch.setattr(attention, "_PIECE", 100)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
@pytest.mark.parametrize("keys", [1, 17, 1025])
def test_softmax(keys: int, dtype: Any, bits: int, same: Any, generator: np.random.Generator) -> None:
    limits = np.iinfo(dtype)
    x = generator.integers(limits.min, limits.max + 1, (2, 3, 4, keys)).astype(dtype)
    x[0, 0, 0], x[0, 0, 1] = limits.min, limits.max
    values = generator.integers(-128, 128, (2, 1, keys, 5)).astype(np.int8)
    masks = [None, generator.random((2, 1, 1, keys)) < 0.5, np.tril(np.ones((4, keys), np.bool_))]
    masks[1][1] = False
    bias = generator.integers(-5000, 5000, (3, 4, keys))
    multiplier, shift = fixed_point(2048 * (0.05 if dtype is not np.int16 else 0.0004))
    rule = {"multiplier": multiplier, "shift": shift, **exponential_tables(bits)._asdict()}
    product = {"zero_point_values": 17, "result_multiplier": (1 << 30) + 3, "result_shift": 30}
    for mask in masks:
        operands = () if mask is None else (mask,)
        for added in (None, bias):
            same("exponential", x, *operands, bias=added, **rule)
            same("softmax", x, *operands, bias=added, **rule, result_multiplier=255, result_shift=0, **GRID)
            same("softmax", x, *operands, bias=added, **rule, result_multiplier=2**31 - 1, result_shift=22, **GRID)
            same("softmax_matmul", x, values, *operands, bias=added, **rule, **product, **GRID)


def test_masks_that_are_wider_than_the_scores(same: Any, generator: np.random.Generator) -> None:
    x = generator.integers(-128, 128, (1, 3, 4)).astype(np.int8)
    mask = generator.random((5, 1, 4)) < 0.5
    rule = {"multiplier": 1 << 30, "shift": 23, **exponential_tables(8)._asdict()}
    assert same("softmax", x, mask, **rule, result_multiplier=255, result_shift=0, **GRID).shape == (5, 3, 4)
