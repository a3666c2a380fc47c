"""Every deterministic cast, bit for bit, against three oracles on every backend: an own one that looks up neighbours in
integers, gfloat for the laws that it has, and ml_dtypes for the dtypes that it has."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gfloat import Domain, FormatInfo, RoundMode
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, NanEncoding, RoundingMode, float_format
from quantsim_kernels import Backend, Scheme, backends, explain, float_cast, force_backend

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def fnuz(exponent_bits: int, mantissa_bits: int, bias: int) -> FloatFormat:
    return FloatFormat(
        exponent_bits,
        mantissa_bits,
        bias=bias,
        has_infinity=False,
        nan=NanEncoding.NEGATIVE_ZERO,
        has_negative_zero=False,
    )


FORMATS: dict[str, FloatFormat] = {
    **{name: float_format(name) for name in ("fp16", "bf16", "tf32", "fp32", "e4m3fn", "e4m3", "e5m2", "e3m4")},
    **{name: float_format(name) for name in ("e3m2", "e2m3", "e2m1")},
    "e4m3fnuz": fnuz(4, 3, 8),
    "e5m2fnuz": fnuz(5, 2, 16),
    "e4m3b11fnuz": fnuz(4, 3, 11),
    "e6m9": FloatFormat(6, 9),
    "e7m20": FloatFormat(7, 20),
    "e5m0": FloatFormat(5, 0, has_infinity=False, nan=NanEncoding.NONE),
    "e1m2": FloatFormat(1, 2, has_infinity=False, nan=NanEncoding.NONE),
}
assert len(FORMATS) == 18
MODES = [mode for mode in RoundingMode if not mode.is_stochastic]
GFLOAT_MODES = {
    RoundingMode.NEAREST_EVEN: RoundMode.TiesToEven,
    RoundingMode.NEAREST_AWAY: RoundMode.TiesToAway,
    RoundingMode.UP: RoundMode.TowardPositive,
    RoundingMode.DOWN: RoundMode.TowardNegative,
    RoundingMode.TOWARD_ZERO: RoundMode.TowardZero,
}
ML_DTYPES: dict[str, Any] = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e4m3": ml_dtypes.float8_e4m3,
    "e5m2": ml_dtypes.float8_e5m2,
    "e3m4": ml_dtypes.float8_e3m4,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
}


@lru_cache(maxsize=1)
def inputs(random: int) -> npt.NDArray[np.float32]:
    """All float16, all bfloat16, and random float32 bit patterns."""
    every = np.arange(2**16, dtype=np.uint16)
    patterns = np.random.default_rng(11).integers(0, 2**32, random, dtype=np.uint32)
    parts = [every.view(np.float16), every.view(ml_dtypes.bfloat16), patterns.view(np.float32)]
    with np.errstate(invalid="ignore"):
        values = np.concatenate([part.astype(np.float32) for part in parts])
    # Payloads of NaN are no part of the rule.
    return np.where(np.isnan(values), np.float32(np.nan), values)


@dataclass(frozen=True)
class Neighbours:
    """The numbers of an unbounded format around each magnitude, as integers that count its codes from zero up."""

    lower: Integers
    below_half: Bools
    half: Bools
    exact: Bools


@lru_cache(maxsize=1)
def neighbours(name: str, random: int) -> Neighbours:
    """The codes at or below each magnitude, and where between it and the next one the magnitude lies.

    A float32's magnitude is the integer ``significand * 2**(exponent + 149)`` times ``2**-149``; the format's code of
    the number at or below it follows from shifts alone. The exponent field may go beyond the format's.
    """
    format = FORMATS[name]
    bits = inputs(random).view(np.int32).astype(np.int64) & 0x7FFFFFFF
    field, fraction = bits >> 23, bits & 0x7FFFFF
    significand = np.where(field == 0, fraction, fraction | 0x800000)
    exponent = np.where(field == 0, -126, field - 127)
    # Normalise float32's subnormals: the code of a format with smaller numbers than float32 is none of theirs.
    for _ in range(23):
        small = (significand != 0) & (significand < 0x800000)
        significand, exponent = np.where(small, significand * 2, significand), exponent - small
    lowest = 1 - format.exponent_bias
    own = np.maximum(exponent, lowest)
    dropped = np.minimum(own - exponent + 23 - format.mantissa_bits, 40)
    kept = significand >> dropped
    rest = significand - (kept << dropped)
    half = np.int64(1) << np.maximum(dropped - 1, 0)
    # Code: (field, fraction) read as one integer, with the hidden bit counted into the field.
    lower = kept + ((own - lowest) << format.mantissa_bits)
    exact = rest == 0
    return Neighbours(lower, ~exact & (rest < half), ~exact & (rest == half), exact)


def value_of_code(code: Integers, format: FloatFormat) -> Floats:
    """The magnitude of a code, decoded as IEEE 754 says, without special codes."""
    field = code >> format.mantissa_bits
    fraction = code & ((1 << format.mantissa_bits) - 1)
    hidden = np.where(field == 0, 0, 1 << format.mantissa_bits)
    exponent = np.maximum(field, 1) - format.exponent_bias - format.mantissa_bits
    with np.errstate(over="ignore"):
        return np.ldexp((fraction + hidden).astype(np.float64), exponent)


def largest_code(format: FloatFormat) -> int:
    """The code of the largest number: the codes of a sign less those of infinities and NaN."""
    codes = 2 ** (format.exponent_bits + format.mantissa_bits)
    special = {
        NanEncoding.IEEE: 2**format.mantissa_bits,
        NanEncoding.ALL_ONES: 1,
        NanEncoding.NEGATIVE_ZERO: 0,
        NanEncoding.NONE: 0,
    }
    return codes - 1 - special[format.nan]


def oracle(
    name: str, mode: RoundingMode, saturate: bool, subnormal: bool, saturate_infinity: bool, random: int
) -> npt.NDArray[np.float32]:
    """The cast by choosing between neighbouring codes."""
    format, x, near = FORMATS[name], inputs(random), neighbours(name, random)
    negative, odd = np.signbit(x), near.lower % 2 == 1
    upwards = (
        ~near.exact
        & {
            RoundingMode.NEAREST_ODD: ~near.below_half & ~(near.half & odd),
            RoundingMode.NEAREST_EVEN: ~near.below_half & ~(near.half & ~odd),
            RoundingMode.NEAREST_ZERO: ~near.below_half & ~near.half,
            RoundingMode.NEAREST_AWAY: ~near.below_half,
            RoundingMode.UP: ~negative,
            RoundingMode.DOWN: negative,
            RoundingMode.TOWARD_ZERO: np.zeros_like(negative),
            RoundingMode.ODD: ~odd,
        }[mode]
    )
    code = near.lower + upwards
    top = largest_code(format)
    result = value_of_code(np.minimum(code, top), format)
    if not subnormal:
        result = np.where(code < 2**format.mantissa_bits, 0.0, result)
    away = {RoundingMode.UP: ~negative, RoundingMode.DOWN: negative}.get(
        mode, np.full_like(negative, mode not in (RoundingMode.TOWARD_ZERO, RoundingMode.ODD))
    )
    special = math.inf if format.has_infinity else math.nan
    if not saturate:
        result = np.where((code > top) & away, special, result)
    keeps_infinity = not saturate_infinity and not (saturate and not format.has_infinity)
    result = np.where(np.isinf(x), special if keeps_infinity else value_of_code(np.array(top), format), result)
    result = np.copysign(result, x)
    if not format.has_negative_zero:
        result = np.where(result == 0, 0.0, result)
    return np.where(np.isnan(x), np.float64(np.nan), result).astype(np.float32)


def gfloat_format(format: FloatFormat) -> FormatInfo:
    high_nans = {NanEncoding.IEEE: 2**format.mantissa_bits - 1, NanEncoding.ALL_ONES: 1}.get(format.nan, 0)
    return FormatInfo(
        format.label,
        format.bits,
        format.mantissa_bits + 1,
        bias=format.exponent_bias,
        is_signed=True,
        domain=Domain.Extended if format.has_infinity else Domain.Finite,
        has_nz=format.has_negative_zero,
        num_high_nans=high_nans,
        has_subnormals=True,
        is_twos_complement=False,
    )


def representable(format: FloatFormat, saturate: bool) -> bool:
    return saturate or format.has_infinity or format.nan is not NanEncoding.NONE


def enter(backend: Backend, x: Tensor, format: FloatFormat, mode: RoundingMode) -> Any:
    with force_backend(backend):
        decision = next(d for d in explain("float_cast", Scheme.FLOAT, x, format, mode) if d.kernel.backend is backend)
    if not decision.chosen:
        pytest.skip(f"{backend}: {decision.reason}")
    return force_backend(backend)


def check_against_own_oracle(
    backend: Backend, name: str, mode: RoundingMode, random: int, stride: int, assert_same_bits: Any
) -> None:
    format = FORMATS[name]
    full = torch.from_numpy(inputs(random))
    with enter(backend, full, format, mode):
        for number, (saturate, subnormal, saturate_infinity) in enumerate(
            ((False, True, False), (True, True, False), (False, False, False), (True, False, True))
        ):
            if not representable(format, saturate):
                continue
            # Four quarters of the inputs: each is seen by some case of each format and law.
            part = slice(number % stride, None, stride)
            expected = oracle(name, mode, saturate, subnormal, saturate_infinity, random)[part]
            actual = float_cast(
                full[part].contiguous(),
                format,
                mode,
                saturate=saturate,
                subnormal=subnormal,
                saturate_infinity=saturate_infinity,
            )
            assert_same_bits(actual, torch.from_numpy(expected))


@pytest.mark.parametrize("backend", backends("float_cast"))
@pytest.mark.parametrize("name", FORMATS)
def test_casts_choose_the_right_neighbour(name: str, backend: Backend, assert_same_bits: Any) -> None:
    for mode in MODES:
        check_against_own_oracle(backend, name, mode, 60_000, 4, assert_same_bits)


@pytest.mark.slow
@pytest.mark.parametrize("backend", backends("float_cast"))
@pytest.mark.parametrize("name", FORMATS)
def test_casts_choose_the_right_neighbour_everywhere(name: str, backend: Backend, assert_same_bits: Any) -> None:
    for mode in MODES:
        check_against_own_oracle(backend, name, mode, 2_000_000, 1, assert_same_bits)


def check_against_gfloat(backend: Backend, name: str, random: int, stride: int, assert_same_bits: Any) -> None:
    format = FORMATS[name]
    x = inputs(random)[::stride]
    for mode, theirs in GFLOAT_MODES.items():
        tensor = torch.from_numpy(np.ascontiguousarray(x))
        with enter(backend, tensor, format, mode):
            for saturate in (False, True):
                if not representable(format, saturate):
                    continue
                with np.errstate(invalid="ignore"):
                    expected = gfloat.round_ndarray(gfloat_format(format), x.astype(np.float64), theirs, saturate)
                actual = float_cast(tensor, format, mode, saturate=saturate, saturate_infinity=saturate)
                # gfloat has no sign for zeros and infinities of formats that have none.
                assert_same_bits(actual, torch.from_numpy(expected.astype(np.float32)))


@pytest.mark.parametrize("backend", backends("float_cast"))
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "e1m2"])
def test_casts_equal_gfloat(name: str, backend: Backend, assert_same_bits: Any) -> None:
    check_against_gfloat(backend, name, 60_000, 17, assert_same_bits)


@pytest.mark.slow
@pytest.mark.parametrize("backend", backends("float_cast"))
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "e1m2"])
def test_casts_equal_gfloat_everywhere(name: str, backend: Backend, assert_same_bits: Any) -> None:
    check_against_gfloat(backend, name, 2_000_000, 1, assert_same_bits)


@pytest.mark.parametrize("backend", backends("float_cast"))
@pytest.mark.parametrize("name", ML_DTYPES)
def test_nearest_even_equals_ml_dtypes(name: str, backend: Backend, assert_same_bits: Any) -> None:
    check_against_ml_dtypes(backend, name, 60_000, assert_same_bits)


@pytest.mark.slow
@pytest.mark.parametrize("backend", backends("float_cast"))
@pytest.mark.parametrize("name", ML_DTYPES)
def test_nearest_even_equals_ml_dtypes_everywhere(name: str, backend: Backend, assert_same_bits: Any) -> None:
    check_against_ml_dtypes(backend, name, 2_000_000, assert_same_bits)


def check_against_ml_dtypes(backend: Backend, name: str, random: int, assert_same_bits: Any) -> None:
    format, x = FORMATS[name], inputs(random)
    if format.nan is NanEncoding.NONE:
        x = x[np.isfinite(x)]
    with np.errstate(over="ignore"):
        expected = x.astype(ML_DTYPES[name]).astype(np.float32)
    tensor = torch.from_numpy(x)
    with enter(backend, tensor, format, RoundingMode.NEAREST_EVEN):
        actual = float_cast(tensor, format, saturate=not representable(format, False))
    assert_same_bits(actual, torch.from_numpy(expected))


@pytest.mark.parametrize("backend", backends("float_cast"))
def test_power_of_two_scales_equal_gfloat_and_ml_dtypes(backend: Backend, assert_same_bits: Any) -> None:
    """e8m0 has neither sign nor zero: positive numbers only."""
    format = float_format("e8m0")
    x = np.abs(inputs(60_000))
    x = x[np.isfinite(x) & (x >= 2.0**-127)]
    tensor = torch.from_numpy(x)
    with enter(backend, tensor, format, RoundingMode.NEAREST_EVEN):
        for mode, theirs in GFLOAT_MODES.items():
            expected = gfloat.round_ndarray(gfloat.formats.format_info_ocp_e8m0, x.astype(np.float64), theirs)
            actual = float_cast(tensor, format, mode, saturate=False)
            assert_same_bits(actual, torch.from_numpy(expected.astype(np.float32)))
        # ml_dtypes rounds half-way cases of this one dtype away from zero, and float32's subnormals in its own way.
        tensor = tensor[tensor >= 2.0**-126]
        expected = torch.from_numpy(tensor.numpy().astype(ml_dtypes.float8_e8m0fnu).astype(np.float32))
        assert_same_bits(float_cast(tensor, format, "nearest_away", saturate=False), expected)


def test_flushing_is_that_of_a_format_without_subnormals(assert_same_bits: Any) -> None:
    x = torch.from_numpy(inputs(60_000)[::5].copy())
    for format in FORMATS.values():
        for mode in MODES:
            flushed = float_cast(x, replace(format, has_subnormals=False), mode)
            assert_same_bits(float_cast(x, format, mode, subnormal=False), flushed)
