"""Exact products in torch against the reference: random codes and extremes, long sums, every way they are made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from quantsim_kernels.torch.integer import _exactness, products

GRID = {"zero_point": -3, "low": -128, "high": 127}
LARGEST = {np.uint8: 255, np.int8: -128, np.int16: -(2**15)}


def codes(generator: np.random.Generator, dtype: Any, shape: tuple[int, ...], extreme: bool) -> np.ndarray:
    if extreme:
        return np.full(shape, LARGEST[dtype], dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max + 1, shape).astype(dtype)


def weights(generator: np.random.Generator, shape: tuple[int, ...], extreme: bool) -> np.ndarray:
    return np.full(shape, -128, np.int8) if extreme else generator.integers(-127, 128, shape).astype(np.int8)


def scales(generator: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    return {
        "multiplier": generator.integers(1 << 30, 1 << 31, count) * generator.choice([-1, 1], count),
        "shift": generator.integers(38, 52, count),
    }


@pytest.fixture(params=["float32", "float64"])
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the self-test found: with or without exact float32."""
    if request.param == "float64":
        monkeypatch.setattr(_exactness, "matmul_is_exact", lambda device: False)
        monkeypatch.setattr(_exactness, "convolution_is_exact", lambda device: False)
    return request.param


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
@pytest.mark.parametrize("length", [3, 500, 4096])
def test_linear(
    length: int, dtype: Any, extreme: bool, precision: str, same: Any, generator: np.random.Generator
) -> None:
    x, weight = codes(generator, dtype, (2, 3, length), extreme), weights(generator, (21, length), extreme)
    bias = generator.integers(-(2**24), 2**24, 21)
    if dtype is np.int16 and extreme and length == 4096:
        bias //= 2
        weight = weight // 64
    sums = same("linear", x, weight=weight, bias=bias)
    assert sums.dtype is torch.int32
    assert same("linear", x, weight=weight, bias=bias, **scales(generator, 21), **GRID).dtype is torch.int8
    same("linear", x[0], weight=weight, bias=bias, multiplier=1 << 30, shift=np.array([44]), **GRID)


SIZES = [
    ((2, 6, 9, 8), (10, 6, 3, 3), {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}),
    ((1, 600, 5, 4), (9, 600, 1, 1), {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}),
    ((1, 128, 6, 6), (8, 128, 3, 3), {"stride": (2, 2), "padding": ((0, 1), (2, 1)), "dilation": (1, 1), "groups": 1}),
    ((2, 16, 9, 8), (16, 1, 3, 3), {"stride": (2, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 2), "groups": 16}),
    ((1, 8, 9, 8), (12, 4, 2, 3), {"stride": (1, 1), "padding": ((0, 0), (1, 1)), "dilation": (2, 1), "groups": 2}),
    ((2, 5, 30), (7, 5, 4), {"stride": (3,), "padding": ((2, 1),), "dilation": (2,), "groups": 1}),
    ((1, 2, 60), (2, 1, 50), {"stride": (1,), "padding": ((24, 25),), "dilation": (1,), "groups": 2}),
]


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
@pytest.mark.parametrize("number", range(len(SIZES)))
def test_convolution(
    number: int, dtype: Any, extreme: bool, precision: str, same: Any, generator: np.random.Generator
) -> None:
    image, kernel, settings = SIZES[number]
    x, weight = codes(generator, dtype, image, extreme), weights(generator, kernel, extreme)
    bias = generator.integers(-(2**24), 2**24, kernel[0])
    if dtype is np.int16 and extreme:
        weight = weight // 64
    for zero_point_in in (0, 127, -128):
        settings = {**settings, "zero_point_in": zero_point_in}
        if number < 2 or zero_point_in == 127:
            same("convolution", x, weight=weight, bias=bias, **settings)
        same("convolution", x, weight=weight, bias=bias, **settings, **scales(generator, kernel[0]), **GRID)


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("dtypes", [(np.uint8, np.int8), (np.int8, np.int8), (np.int16, np.uint8)])
@pytest.mark.parametrize("length", [5, 300, 4096])
def test_matmul(
    length: int, dtypes: Any, extreme: bool, precision: str, same: Any, generator: np.random.Generator
) -> None:
    a, b = codes(generator, dtypes[0], (3, 1, 4, length), extreme), codes(generator, dtypes[1], (2, length, 6), extreme)
    if dtypes[0] is np.int16:
        a = a // np.int16(16)
    for zero_point_a, zero_point_b in ((0, 0), (128, -128), (255, 127)):
        points = {"zero_point_a": zero_point_a, "zero_point_b": zero_point_b, **GRID}
        same("matmul", a, b, multiplier=(1 << 30) + 5, shift=46, **points)


def test_changed_weights_are_prepared_again() -> None:
    x, weight, bias = torch.ones(1, 4, dtype=torch.int8), torch.ones(2, 4, dtype=torch.int8), torch.zeros(2)
    bias = bias.to(torch.int64)
    assert products.linear(x, weight=weight, bias=bias).tolist() == [[4, 4]]
    weight[0] = 3
    assert products.linear(x, weight=weight, bias=bias).tolist() == [[12, 4]]
    with torch.inference_mode():
        fresh = torch.full((2, 4), 5, dtype=torch.int8)
        assert products.linear(x, weight=fresh, bias=bias).tolist() == [[20, 20]]


def test_sums_beyond_float64_are_refused() -> None:
    huge = torch.full((1, 4), 2**40)
    with pytest.raises(OverflowError, match="expected less than 2"):
        products.linear(huge, weight=torch.full((1, 4), 2**12), bias=0)
    with pytest.raises(OverflowError, match="matmul: sums may reach"):
        products.exact_matmul(huge, huge.T, 0, 0)


def test_sums_beyond_int32_are_refused() -> None:
    x, weight = torch.full((1, 2), 2**25, dtype=torch.int32), torch.full((1, 2), 127, dtype=torch.int8)
    with pytest.raises(OverflowError, match="sums from 8522825728 to 8522825728 do not fit int32"):
        products.linear(x, weight=weight, bias=torch.zeros(1, dtype=torch.int32))


def test_a_weight_with_and_without_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-128, 128, (2, 800, 1), generator=generator).to(torch.int8)
    sizes: dict[str, Any] = {
        "stride": (1,),
        "padding": ((0, 0),),
        "dilation": (1,),
        "bias": torch.zeros(2, dtype=torch.int64),
    }
    for groups in (1, 2):
        x = torch.randint(0, 256, (1, 800 * groups, 3), generator=generator).to(torch.uint8)
        expected = torch.nn.functional.conv1d(x.double(), weight.double(), groups=groups)
        assert torch.equal(products.convolution(x, weight=weight, groups=groups, **sizes).double(), expected)
