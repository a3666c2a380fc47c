"""Codes against ml_dtypes and NumPy, and there and back for every code of every format up to 16 bits."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from quantsim_encodings.formats import NAMED_FLOAT_FORMATS, FloatFormat, NanEncoding, float_format
from quantsim_kernels.reference import float_codes as reference


def fnuz(exponent_bits: int, mantissa_bits: int, bias: int) -> FloatFormat:
    return FloatFormat(
        exponent_bits,
        mantissa_bits,
        bias=bias,
        has_infinity=False,
        nan=NanEncoding.NEGATIVE_ZERO,
        has_negative_zero=False,
    )


ML_DTYPES: dict[str, tuple[FloatFormat, Any]] = {
    "fp16": (float_format("fp16"), np.float16),
    "bf16": (float_format("bf16"), ml_dtypes.bfloat16),
    "e4m3fn": (float_format("e4m3fn"), ml_dtypes.float8_e4m3fn),
    "e4m3": (float_format("e4m3"), ml_dtypes.float8_e4m3),
    "e5m2": (float_format("e5m2"), ml_dtypes.float8_e5m2),
    "e3m4": (float_format("e3m4"), ml_dtypes.float8_e3m4),
    "e3m2": (float_format("e3m2"), ml_dtypes.float6_e3m2fn),
    "e2m3": (float_format("e2m3"), ml_dtypes.float6_e2m3fn),
    "e2m1": (float_format("e2m1"), ml_dtypes.float4_e2m1fn),
    "e8m0": (float_format("e8m0"), ml_dtypes.float8_e8m0fnu),
    "e4m3fnuz": (fnuz(4, 3, 8), ml_dtypes.float8_e4m3fnuz),
    "e5m2fnuz": (fnuz(5, 2, 16), ml_dtypes.float8_e5m2fnuz),
    "e4m3b11fnuz": (fnuz(4, 3, 11), ml_dtypes.float8_e4m3b11fnuz),
}


def small_formats() -> list[FloatFormat]:
    """Every pair of widths up to 16 bits in each family of special codes, and the named formats."""
    formats = [format for format in NAMED_FLOAT_FORMATS.values() if format.bits <= 16]
    for exponent_bits in range(1, 9):
        for mantissa_bits in range(16 - exponent_bits):
            finite: dict[str, Any] = {"has_infinity": False}
            formats.append(FloatFormat(exponent_bits, mantissa_bits, **finite, nan=NanEncoding.NONE))
            if exponent_bits + mantissa_bits > 1:
                formats.append(FloatFormat(exponent_bits, mantissa_bits, **finite, nan=NanEncoding.ALL_ONES))
            formats.append(fnuz(exponent_bits, mantissa_bits, 2 ** (exponent_bits - 1)))
            if exponent_bits > 1:
                formats.append(FloatFormat(exponent_bits, mantissa_bits))
    return formats


def all_codes(format: FloatFormat) -> Tensor:
    return torch.arange(2**format.bits)


@pytest.mark.parametrize("name", ML_DTYPES)
def test_decoded_numbers_equal_those_of_ml_dtypes(name: str, assert_same_bits: Any) -> None:
    format, dtype = ML_DTYPES[name]
    codes = all_codes(format)
    stored = codes.numpy().astype(np.uint16 if format.bits > 8 else np.uint8).view(dtype)
    with np.errstate(invalid="ignore"):
        expected = torch.from_numpy(stored.astype(np.float64))
    assert_same_bits(reference.decode(codes, format), expected)


@pytest.mark.parametrize("name", ML_DTYPES)
def test_codes_equal_those_of_ml_dtypes(name: str) -> None:
    format, dtype = ML_DTYPES[name]
    values = reference.decode(all_codes(format), format)
    values = values[~values.isnan()]
    bits = values.numpy().astype(dtype).view(np.uint16 if format.bits > 8 else np.uint8)
    assert torch.equal(reference.encode(values, format).to(torch.int64), torch.from_numpy(bits.astype(np.int64)))


def test_every_code_comes_back() -> None:
    formats = small_formats()
    assert len(formats) > 350
    for format in formats:
        codes = all_codes(format)
        values = reference.decode(codes, format)
        back = reference.encode(values, format)
        assert back.dtype is reference.code_dtype(format)
        number = ~values.isnan()
        if not format.has_negative_zero and format.signed and format.nan is not NanEncoding.NEGATIVE_ZERO:
            number &= codes != 2 ** (format.bits - 1)
        assert torch.equal(back.to(torch.int64)[number], codes[number]), format
        nan = values.isnan()
        if nan.any():
            assert reference.decode(back[nan], format).isnan().all(), format
        finite = values[values.isfinite()]
        assert finite.abs().max().item() == format.max, format
        assert finite[finite > 0].min().item() == format.tiny, format


def test_signs_of_nan_are_kept_where_there_are_two() -> None:
    nan = torch.tensor([math.nan, math.copysign(math.nan, -1.0)])
    assert reference.encode(nan, float_format("e4m3fn")).tolist() == [0x7F, 0xFF]
    assert reference.encode(nan, float_format("fp16")).tolist() == [0x7E00, 0xFE00]
    assert reference.encode(nan, fnuz(4, 3, 8)).tolist() == [0x80, 0x80]
    assert reference.encode(nan, float_format("e8m0")).tolist() == [0xFF, 0xFF]
    assert reference.encode(nan, float_format("e2m1")).tolist() == [0, 0]
    assert reference.nan_code(FloatFormat(5, 0)) is None


@pytest.mark.parametrize(("format", "dtype"), [(float_format("fp32"), np.uint32), (FloatFormat(11, 52), np.uint64)])
def test_wide_codes_are_the_bits_themselves(format: FloatFormat, dtype: Any, assert_same_bits: Any) -> None:
    bits = np.random.default_rng(5).integers(0, 2**format.bits, 20_000, dtype=dtype)
    bits[:4] = [1, 2 ** (format.bits - 1), 2 ** (format.bits - 1) + 5, 2**format.mantissa_bits - 1]
    with np.errstate(invalid="ignore"):
        values = bits.view(np.float32 if format.bits == 32 else np.float64).astype(np.float64)
    number = ~np.isnan(values)
    codes = torch.from_numpy(bits.astype(np.uint64).view(np.int64))
    assert_same_bits(reference.decode(codes, format), torch.from_numpy(values))
    assert torch.equal(reference.encode(torch.from_numpy(values[number]), format), codes[torch.from_numpy(number)])


def test_codes_of_subnormals_are_zero_in_a_format_without() -> None:
    format = FloatFormat(3, 2, has_subnormals=False)
    assert reference.decode(torch.tensor([0, 1, 3, 4, 33]), format).tolist() == [0.0, 0.0, 0.0, 0.25, -0.0]


def test_codes_as_signed_integers() -> None:
    codes = torch.tensor([-1, -128, 127], dtype=torch.int8)
    assert reference.decode(codes, float_format("e5m2")).tolist()[1] == 0.0
    assert reference.decode(codes, float_format("e4m3fn"))[0].isnan()
