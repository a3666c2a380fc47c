"""Encoding and decoding as callers do it: carriers, rounding, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from quantsim_encodings.formats import FloatFormat, NanEncoding, RoundingMode, float_format
from quantsim_kernels import float_cast, float_decode, float_encode


@pytest.mark.parametrize("mode", RoundingMode)
@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "fp16", "bf16", "e6m9", "e2m1", "e8m23"])
def test_codes_are_those_of_the_cast(name: str, mode: RoundingMode, assert_same_bits: Any) -> None:
    x = torch.randn(500) * 10
    codes = float_encode(x, name, mode, saturate=True, seed=5)
    assert_same_bits(float_decode(codes, name), float_cast(x, name, mode, saturate=True, seed=5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_carriers_need_not_hold_the_format(dtype: torch.dtype) -> None:
    """bfloat16 has no 255.875: the code is made before anything is rounded to the carrier again."""
    x = torch.tensor([300.0, 1e-3]).to(dtype)
    decoded = float_decode(float_encode(x, "e4m10", saturate=True), "e4m10", torch.float64)
    assert decoded[0].item() == 255.875
    wide = FloatFormat(11, 30)
    assert torch.equal(float_decode(float_encode(x, wide), wide, torch.float64), x.double())


def test_dtypes_of_codes() -> None:
    x = torch.ones(2)
    assert float_encode(x, "e4m3fn").dtype is torch.uint8
    assert float_encode(x, "fp16").dtype is torch.int32
    assert float_encode(x, "fp32").dtype is torch.int64
    assert float_decode(float_encode(x, "fp16"), "fp16", torch.bfloat16).dtype is torch.bfloat16


def test_flushed_and_overflowing_codes() -> None:
    x = torch.tensor([2.0**-8, 1e9, -math.inf])
    assert float_encode(x, "e4m3", subnormal=False).tolist() == [0, 0x78, 0xF8]
    assert float_encode(x, "e4m3", saturate=True).tolist() == [0x02, 0x77, 0xF8]
    assert float_encode(x, "e4m3fn", saturate=False).tolist() == [0x02, 0x7F, 0xFF]


def test_shapes() -> None:
    assert float_encode(torch.tensor(1.5), "e2m1").item() == 3
    assert float_encode(torch.empty(0, 4), "e2m1").shape == (0, 4)
    assert float_decode(torch.empty(0, 4, dtype=torch.uint8), "e2m1").shape == (0, 4)
    x = torch.randn(4, 6).t()
    assert torch.equal(float_encode(x, "e4m3fn"), float_encode(x.contiguous(), "e4m3fn"))
    assert float_encode(torch.ones(3, device="meta"), "e2m1").is_meta
    assert float_decode(torch.ones(3, device="meta", dtype=torch.uint8), "e2m1").is_meta


def test_compiled_codes_equal_eager() -> None:
    def both(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes = float_encode(x, "e4m3fn")
        return codes, float_decode(codes, "e4m3fn")

    x = torch.randn(64)
    for actual, expected in zip(torch.compile(both, fullgraph=True, backend="aot_eager")(x), both(x), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: float_encode(torch.tensor([math.nan, 1.0]), "e2m1"), ValueError, "1 NaN.*e2m1 has no code"),
        (lambda: float_encode(torch.ones(2, dtype=torch.int32), "e2m1"), TypeError, "torch.int32"),
        (lambda: float_encode([1.0], "e2m1"), TypeError, "got list"),  # type: ignore[arg-type]
        (lambda: float_encode(torch.ones(2), 3), TypeError, "format: got int"),  # type: ignore[arg-type]
        (lambda: float_encode(torch.ones(2), "e0m3"), ValueError, "exponent_bits: got 0"),
        (lambda: float_encode(torch.ones(2), "e2m1", 10), ValueError, "0 nearest_odd, 1 nearest_even"),
        (lambda: float_decode(torch.tensor([16]), "e2m1"), ValueError, "e2m1, which has 4 bits"),
        (lambda: float_decode(torch.tensor([-9]), "e2m1"), ValueError, "from -9"),
        (lambda: float_decode(torch.ones(2), "e2m1"), TypeError, "torch.float32"),
        (lambda: float_decode(torch.tensor([True]), "e2m1"), TypeError, "torch.bool"),
        (lambda: float_decode(torch.tensor([1]), "e2m1", torch.int32), TypeError, "dtype: got torch.int32"),
        (lambda: float_decode(torch.tensor([1]), "e11m52"), ValueError, "at most 8 and 23"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_formats_without_negative_zero() -> None:
    format = FloatFormat(4, 3, has_infinity=False, nan=NanEncoding.NONE, has_negative_zero=False)
    assert float_encode(torch.tensor([-0.0, -1e-9]), format).tolist() == [0, 0]
    assert math.copysign(1, float_decode(torch.tensor([0x80]), format).item()) == 1
    assert float_format("e4m3fn").label == "e4m3fn"
