"""The definition of the float cast against two independent oracles, ml_dtypes and gfloat."""

from __future__ import annotations

import math
from typing import Any

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, NanEncoding, float_format
from quantsim_kernels.reference import float_cast as reference

ML_DTYPES: dict[str, tuple[FloatFormat, Any]] = {
    "fp16": (float_format("fp16"), np.float16),
    "bf16": (float_format("bf16"), ml_dtypes.bfloat16),
    "e5m2": (float_format("e5m2"), ml_dtypes.float8_e5m2),
    "e4m3fn": (float_format("e4m3fn"), ml_dtypes.float8_e4m3fn),
    "e4m3": (float_format("e4m3"), ml_dtypes.float8_e4m3),
    "e3m4": (float_format("e3m4"), ml_dtypes.float8_e3m4),
    "e4m3fnuz": (
        FloatFormat(4, 3, bias=8, has_infinity=False, nan=NanEncoding.NEGATIVE_ZERO, has_negative_zero=False),
        ml_dtypes.float8_e4m3fnuz,
    ),
    "e5m2fnuz": (
        FloatFormat(5, 2, bias=16, has_infinity=False, nan=NanEncoding.NEGATIVE_ZERO, has_negative_zero=False),
        ml_dtypes.float8_e5m2fnuz,
    ),
}
FINITE_ML_DTYPES: dict[str, Any] = {
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
}


def float32_inputs() -> Tensor:
    """All float16, all bfloat16, random float32 bit patterns, and midpoints with their neighbours."""
    generator = np.random.default_rng(7)
    every = np.arange(2**16, dtype=np.uint16)
    halves = every.view(np.float16).astype(np.float32)
    brains = every.view(ml_dtypes.bfloat16).astype(np.float32)
    patterns = generator.integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    near = (generator.normal(size=50_000) * 2.0 ** generator.integers(-12, 12, 50_000)).astype(np.float32)
    points = np.unique(halves[np.isfinite(halves)])
    middle = ((points[1:].astype(np.float64) + points[:-1]) / 2).astype(np.float32)
    around = np.concatenate([np.nextafter(middle, np.float32(s * np.inf)) for s in (-1, 1)])
    values = np.concatenate([halves, brains, patterns, near, middle, around])
    # Signalling NaN have no place in a comparison of values.
    return torch.from_numpy(np.where(np.isnan(values), np.float32(np.nan), values))


INPUTS = float32_inputs()


def test_casts_equal_ml_dtypes(assert_same_bits: Any) -> None:
    for name, (format, dtype) in ML_DTYPES.items():
        with np.errstate(over="ignore"):
            expected = torch.from_numpy(INPUTS.numpy().astype(dtype).astype(np.float32))
        try:
            assert_same_bits(reference.float_cast(INPUTS, format, saturate=False), expected)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@pytest.mark.parametrize("name", FINITE_ML_DTYPES)
def test_finite_formats_equal_ml_dtypes(name: str, assert_same_bits: Any) -> None:
    x = INPUTS[INPUTS.isfinite()]
    expected = torch.from_numpy(x.numpy().astype(FINITE_ML_DTYPES[name]).astype(np.float32))
    assert_same_bits(reference.float_cast(x, float_format(name)), expected)


GFLOAT = {
    "fp16": gfloat.formats.format_info_binary16,
    "bf16": gfloat.formats.format_info_bfloat16,
    "e5m2": gfloat.formats.format_info_ocp_e5m2,
    "e4m3fn": gfloat.formats.format_info_ocp_e4m3,
    "e3m2": gfloat.formats.format_info_ocp_e3m2,
    "e2m3": gfloat.formats.format_info_ocp_e2m3,
    "e2m1": gfloat.formats.format_info_ocp_e2m1,
}


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("name", GFLOAT)
def test_casts_equal_gfloat(name: str, saturate: bool, assert_same_bits: Any) -> None:
    if not saturate and name in FINITE_ML_DTYPES:
        pytest.skip("the format has no code for what is too large")
    x = INPUTS[:: len(INPUTS) // 3001]
    if name in FINITE_ML_DTYPES:
        x = x[~x.isnan()]
    expected = [gfloat.round_float(GFLOAT[name], value, sat=saturate) for value in x.double().tolist()]
    actual = reference.float_cast(x, float_format(name), saturate=saturate, saturate_infinity=saturate)
    assert_same_bits(actual, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("mantissa_bits", [0, 1])
def test_ties_go_to_the_even_code_without_fraction_bits(mantissa_bits: int) -> None:
    format = FloatFormat(3, mantissa_bits, has_infinity=False, nan=NanEncoding.NONE)
    codes = torch.arange(2 ** (3 + mantissa_bits) - 1)
    top = codes.div(2**mantissa_bits, rounding_mode="floor")
    fraction = codes % 2**mantissa_bits

    def value(exponent: Tensor, bits: Tensor) -> Tensor:
        normal = (1 + bits / 2**mantissa_bits) * torch.exp2((exponent - format.exponent_bias).double())
        subnormal = bits / 2**mantissa_bits * 2.0 ** (1 - format.exponent_bias)
        return torch.where(exponent == 0, subnormal.double(), normal)

    here = value(top, fraction)
    following = codes + 1
    there = value(following.div(2**mantissa_bits, rounding_mode="floor"), following % 2**mantissa_bits)
    expected = torch.where(codes % 2 == 0, here, there)
    middle = ((here + there) / 2).float()
    assert torch.equal(reference.float_cast(middle, format), expected.float())
    assert torch.equal(reference.float_cast(-middle, format), -expected.float())


def test_scale_format_without_sign_and_zero() -> None:
    x = torch.tensor([0.0, -1.0, 2.0**-140, 2.0**-127, 1.4, 1.6, float("inf"), float("nan")])
    format = float_format("e8m0")
    saturated = reference.float_cast(x, format)
    smallest = 2.0**-127
    assert saturated[:7].tolist() == [smallest, smallest, smallest, smallest, 1.0, 2.0, 2.0**127]
    assert saturated[7].isnan()
    strict = reference.float_cast(x, format, saturate=False)
    assert strict.isnan().tolist() == [True, True, True, False, False, False, True, True]


def test_flushed_subnormals_keep_what_rounds_up_to_the_smallest_normal() -> None:
    format = FloatFormat(4, 3, has_subnormals=False)
    smallest = format.min_normal
    x = torch.tensor([smallest, smallest * 0.99, smallest * 0.9, -smallest * 0.5, smallest * 1.01])
    result = reference.float_cast(x, format)
    assert result.tolist() == [smallest, smallest, 0.0, -0.0, smallest]
    assert math.copysign(1, result[3].item()) == -1


def test_infinities_saturate_only_when_asked() -> None:
    x = torch.tensor([float("inf"), -float("inf"), 1e9])
    format = float_format("e5m2")
    assert reference.float_cast(x, format).tolist() == [math.inf, -math.inf, 57344.0]
    assert reference.float_cast(x, format, saturate_infinity=True).tolist() == [57344.0, -57344.0, 57344.0]
    assert reference.float_cast(x, format, saturate=False).tolist() == [math.inf, -math.inf, math.inf]
    assert reference.float_cast(x, format, saturate=False, saturate_infinity=True).tolist() == [
        57344.0,
        -57344.0,
        math.inf,
    ]
    assert reference.float_cast(x, float_format("e2m1")).tolist() == [6.0, -6.0, 6.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_cast_as_their_values(dtype: torch.dtype) -> None:
    x = INPUTS[::97].to(dtype)
    format = float_format("e4m3fn")
    assert torch.equal(
        reference.float_cast(x, format).float().nan_to_num(),
        reference.float_cast(x.float() if dtype is not torch.float64 else x, format).to(dtype).float().nan_to_num(),
    )


def test_identity_format() -> None:
    finite = INPUTS[INPUTS.isfinite()]
    assert torch.equal(reference.float_cast(finite, float_format("fp32")), finite)


@pytest.mark.parametrize(
    ("format", "dtype", "saturate", "error", "message"),
    [
        ("e4m3fn", torch.float32, True, TypeError, "got str, expected a FloatFormat"),
        (float_format("e5m2"), torch.int32, True, TypeError, "got torch.int32"),
        (FloatFormat(11, 52), torch.float64, True, ValueError, "at most 8 and 23"),
        (FloatFormat(8, 23, bias=200), torch.float32, True, ValueError, "float32 cannot hold"),
        (float_format("e2m1"), torch.float32, False, ValueError, "use saturate=True"),
    ],
    ids=["type", "dtype", "wide", "bias", "no-code"],
)
def test_formats_that_cannot_be_simulated(
    format: Any, dtype: torch.dtype, saturate: bool, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        reference.float_cast(torch.ones(2).to(dtype), format, saturate=saturate)


def test_dynamic_scale_of_empty_and_scalar_tensors() -> None:
    format = float_format("e4m3fn")
    assert reference.dynamic_quantize_dequantize(torch.ones(0, 3), format).shape == (0, 3)
    assert reference.dynamic_quantize_dequantize(torch.tensor(3.0), format).item() == 3.0
