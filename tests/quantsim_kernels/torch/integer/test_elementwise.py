"""Ops on each element, in torch, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from quantsim_kernels.torch.integer import elementwise

GRIDS = [
    {"zero_point": 3, "low": 0, "high": 255},
    {"zero_point": -128, "low": -128, "high": 127},
    {"zero_point": 0, "low": -(2**15), "high": 2**15 - 1},
]
DTYPES = [np.uint8, np.int8, np.int16, np.int32]


@pytest.fixture(params=["whole", "pieces"], autouse=True)
def _sizes_of_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small operands as a whole, and in pieces as large ones are."""
    if request.param == "pieces":
        monkeypatch.setattr(elementwise, "_PIECE", 100)


def codes(generator: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    limits = np.iinfo(dtype)
    values = generator.integers(max(limits.min, -(2**30)), min(limits.max, 2**30) + 1, shape, dtype=np.int64)
    values.flat[:2] = max(limits.min, -(2**30)), min(limits.max, 2**30)
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid", GRIDS)
def test_requantize_and_scale_shift(
    grid: dict[str, int], dtype: Any, same: Any, generator: np.random.Generator
) -> None:
    x = codes(generator, dtype, (6, 5, 70))
    multiplier, shift = generator.integers(1 << 30, 1 << 31, 5), generator.integers(30, 45, 5)
    same("requantize", x, multiplier=1 << 30, shift=31, zero_point_in=7, **grid)
    same("requantize", x, multiplier=np.array(-(1 << 30)), shift=np.array(36), zero_point_in=0, **grid)
    same("requantize", x, multiplier=multiplier, shift=shift, axis=1, zero_point_in=-7, **grid)
    same("requantize", x, multiplier=multiplier, shift=31, axis=-2, zero_point_in=-7, **grid)
    offset = generator.integers(-(2**50), 2**50, 5)
    same("scale_shift", x, multiplier=multiplier, offset=offset, shift=shift, axis=1, zero_point_in=-7, **grid)
    same("scale_shift", x, multiplier=-multiplier, offset=offset, shift=shift, axis=-2, zero_point_in=4, **grid)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid", GRIDS)
def test_add_and_multiply(grid: dict[str, int], dtype: Any, same: Any, generator: np.random.Generator) -> None:
    a, b = codes(generator, dtype, (6, 1, 70)), codes(generator, np.int8, (5, 70))
    points = {"zero_point_a": 9, "zero_point_b": -128, **grid}
    same("add", a, b, multiplier_a=1 << 30, multiplier_b=1 << 29, shift=31, **points)
    same("add", a, b, multiplier_a=np.array(-(1 << 20)), multiplier_b=np.array(2**31 - 1), shift=np.array(35), **points)
    if dtype is not np.int32:
        same("multiply", a, b, multiplier=1 << 30, shift=37, **points)
        same("multiply", b, a, multiplier=(1 << 30) + 77, shift=44, **points)


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_table_clamp_negate(dtype: Any, same: Any, generator: np.random.Generator) -> None:
    limits = np.iinfo(dtype)
    x = codes(generator, dtype, (9, 40))
    entries = generator.integers(0, 256, limits.max - limits.min + 1)
    assert same("table", x, table=entries.astype(np.uint8), first=int(limits.min)).dtype is torch.uint8
    same("table", x, table=entries, first=int(limits.min))
    for low, high in ((0, 100), (-1000, 50), (limits.min, limits.max), (3, 2**20)):
        assert same("clamp", x, low=int(low), high=int(high)).dtype is torch.as_tensor(x).dtype
    for total in (0, -1, 255, 1000):
        same("negate", x, total=total)


def test_table_refuses_what_it_does_not_hold() -> None:
    from quantsim_kernels.torch.integer import table

    for x in (-1, 4):
        with pytest.raises(IndexError):
            table(torch.tensor([x]), table=torch.arange(4), first=0)
