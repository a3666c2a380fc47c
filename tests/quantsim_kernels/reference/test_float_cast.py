"""The definition of the float cast against two independent oracles, ml_dtypes and gfloat."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, NanEncoding, RoundingMode, float_format
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
        (FloatFormat(9, 10), torch.float32, True, ValueError, "at most 8 and 23 for torch.float32; .* x.double"),
        (FloatFormat(8, 24), torch.bfloat16, True, ValueError, "at most 8 and 23 for torch.bfloat16"),
        (FloatFormat(11, 40, bias=1060, has_subnormals=False), torch.float64, True, ValueError, "float64 cannot hold"),
        (FloatFormat(8, 23, bias=200), torch.float32, True, ValueError, "float32 cannot hold"),
        (float_format("e2m1"), torch.float32, False, ValueError, "use saturate=True"),
    ],
    ids=["type", "dtype", "exponent", "fraction", "wide-bias", "bias", "no-code"],
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


def test_dynamic_scale_of_blocks(assert_same_bits: Any) -> None:
    x, format = torch.randn(3, 10), float_format("e4m3fn")
    x[1, 4:8] = 0
    expected = torch.cat([reference.dynamic_quantize_dequantize(part, format) for part in x.split(4, -1)], -1)
    assert_same_bits(reference.dynamic_quantize_dequantize(x, format, 4), expected)
    whole = reference.dynamic_quantize_dequantize(x, format)
    assert_same_bits(reference.dynamic_quantize_dequantize(x, format, 10), whole)
    assert_same_bits(reference.dynamic_quantize_dequantize(x, format, 99), whole)


def test_dynamic_scale_of_float64_is_float64() -> None:
    x = torch.tensor([[1e300, -2.5e299]], dtype=torch.float64)
    result = reference.dynamic_quantize_dequantize(x, float_format("e5m10"))
    assert torch.allclose(result, x, rtol=1e-3)


DETERMINISTIC = [mode for mode in RoundingMode if not mode.is_stochastic]


def rounded_exactly(x: float, format: FloatFormat, mode: RoundingMode, saturate: bool, subnormal: bool) -> float:
    """The cast of a finite number in rational arithmetic, from the definition of the format's numbers."""
    value, negative = abs(Fraction(x)), math.copysign(1, x) < 0
    lowest, mantissa = format.min_exponent, format.mantissa_bits
    exponent = max(lowest, math.frexp(x)[1] - 1)
    step = Fraction(2) ** (exponent - mantissa)
    count = value // step
    rest = value / step - count
    # The code of `count` steps, whose last bit says which neighbour is the even one.
    code = count + (exponent - lowest) * 2**mantissa
    up = (
        rest > 0
        and {
            RoundingMode.NEAREST_ODD: rest > Fraction(1, 2) or (rest == Fraction(1, 2) and code % 2 == 0),
            RoundingMode.NEAREST_EVEN: rest > Fraction(1, 2) or (rest == Fraction(1, 2) and code % 2 == 1),
            RoundingMode.NEAREST_ZERO: rest > Fraction(1, 2),
            RoundingMode.NEAREST_AWAY: rest >= Fraction(1, 2),
            RoundingMode.UP: not negative,
            RoundingMode.DOWN: negative,
            RoundingMode.TOWARD_ZERO: False,
            RoundingMode.ODD: code % 2 == 0,
        }[mode]
    )
    result = (count + up) * step
    sign = -1.0 if negative else 1.0
    if result > Fraction(format.max):
        inwards = {RoundingMode.UP: negative, RoundingMode.DOWN: not negative}.get(
            mode, mode in (RoundingMode.TOWARD_ZERO, RoundingMode.ODD)
        )
        if saturate or inwards:
            return sign * format.max
        return sign * math.inf if format.has_infinity else math.nan
    if not subnormal and result < Fraction(2) ** lowest:
        result = Fraction(0)
    return sign * float(result)


@st.composite
def formats(draw: st.DrawFn, exponent_bits: int, mantissa_bits: int) -> FloatFormat:
    exponents = draw(st.integers(1, exponent_bits))
    mantissa = draw(st.integers(0, mantissa_bits))
    family = draw(st.sampled_from(["ieee", "all_ones", "none"]))
    if exponents == 1:
        family = "none"
    elif exponents == 11:
        # Without a reserved exponent the largest number would be beyond float64.
        family = "ieee"
    bias = draw(st.one_of(st.none(), st.integers(-20, 40))) if exponents <= 5 else None
    return FloatFormat(exponents, mantissa, bias=bias, has_infinity=family == "ieee", nan=NanEncoding(family))


def special_points(format: FloatFormat) -> list[float]:
    """Numbers where casts go wrong: around the largest, the smallest normal and the smallest number."""
    step = math.ldexp(1.0, format.max_exponent - format.mantissa_bits)
    points = [format.max, format.max + step / 2, format.max + step, format.min_normal, format.tiny, format.tiny / 2]
    around = [math.nextafter(point, to) for point in points for to in (0.0, math.inf)]
    return [point for point in (*points, *around, 0.0, 1.0, 5e-324) if math.isfinite(point)]


@pytest.mark.parametrize("mode", DETERMINISTIC)
@given(data=st.data())
def test_float64_casts_equal_rational_arithmetic(mode: RoundingMode, data: st.DataObject) -> None:
    format = data.draw(formats(11, 52))
    if format.min_exponent - format.mantissa_bits < -1074:
        return
    drawn = data.draw(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4))
    points = special_points(format)
    values = [*drawn, *points, *(-point for point in points)]
    for saturate in (False, True):
        if not saturate and format.nan is NanEncoding.NONE:
            continue
        for subnormal in (True, False):
            grid = FloatFormat(
                format.exponent_bits,
                format.mantissa_bits,
                format.bias,
                format.has_infinity,
                format.nan,
                subnormal,
            )
            actual = reference.float_cast(torch.tensor(values, dtype=torch.float64), grid, mode, saturate)
            for value, result in zip(values, actual.tolist(), strict=True):
                expected = rounded_exactly(value, grid, mode, saturate, subnormal)
                same = math.isnan(expected) and math.isnan(result)
                assert same or (result == expected and math.copysign(1, result) == math.copysign(1, expected)), (
                    f"{grid} {value!r}: {result!r} != {expected!r}"
                )


def test_wide_identity() -> None:
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 2**64, 20_000, dtype=np.uint64).view(np.float64))
    finite = x[x.isfinite()]
    for mode in DETERMINISTIC:
        assert torch.equal(reference.float_cast(finite, FloatFormat(11, 52), mode, False), finite)


def test_identity_of_float32_in_every_mode() -> None:
    finite = INPUTS[INPUTS.isfinite()]
    for mode in DETERMINISTIC:
        assert torch.equal(reference.float_cast(finite, float_format("e8m23"), mode, False), finite)


@pytest.mark.parametrize("name", ["fp16", "e4m3fn", "e2m1", "bf16", "e8m23"])
def test_stochastic_casts_choose_a_neighbour_by_the_noise(name: str, assert_same_bits: Any) -> None:
    format = float_format(name)
    x = INPUTS[::23].contiguous()
    zero, ones = torch.zeros(len(x), dtype=torch.int32), torch.full((len(x),), 2**24 - 1, dtype=torch.int32)
    saturate = name == "e2m1"

    def cast(mode: RoundingMode, noise: Tensor | None) -> Tensor:
        return reference.cast_with_noise(x, format, mode, saturate, False, noise)

    toward_zero = cast(RoundingMode.TOWARD_ZERO, None)
    away = torch.where(x < 0, cast(RoundingMode.DOWN, None), cast(RoundingMode.UP, None))
    assert_same_bits(cast(RoundingMode.STOCHASTIC_EQUAL, ones), away)
    # No noise rounds away from zero unless the fraction is below 2**-25; full noise never does below 1 - 2**-25.
    low, high = cast(RoundingMode.STOCHASTIC, zero), cast(RoundingMode.STOCHASTIC, ones)
    overflow = x.abs() > format.max
    inside = ~overflow & x.isfinite()
    assert_same_bits(cast(RoundingMode.STOCHASTIC_EQUAL, zero)[inside], toward_zero[inside])
    assert ((low == away) | (low == toward_zero) | x.isnan() | overflow).all()
    assert ((high == away) | (high == toward_zero) | x.isnan() | overflow).all()
    assert (high[inside].abs() <= low[inside].abs()).all()
    exact = (toward_zero == away) & inside
    assert exact.any()
    assert_same_bits(low[exact], x[exact])


def test_stochastic_threshold_is_exact() -> None:
    """2.25 in steps of 1: up for noise below a quarter of 2**24, and for no other."""
    format = float_format("e3m2")
    noise = torch.tensor([0, 2**22 - 1, 2**22, 2**24 - 1], dtype=torch.int32)
    x = torch.full((4,), 8 + 2 * 0.25)
    result = reference.cast_with_noise(x, format, RoundingMode.STOCHASTIC, True, False, noise)
    assert result.tolist() == [10.0, 10.0, 8.0, 8.0]


def test_stochastic_casts_want_a_seed() -> None:
    with pytest.raises(ValueError, match=r"seed: got None.*'stochastic'"):
        reference.float_cast(torch.ones(2), float_format("e2m1"), RoundingMode.STOCHASTIC)


@pytest.mark.parametrize("saturate", [True, False])
def test_directed_overflow(saturate: bool) -> None:
    """IEEE 754 § 7.4: infinity on the far side, the largest number on the near one."""
    x = torch.tensor([1e9, -1e9, math.inf, -math.inf])
    top, far = 65504.0, (65504.0 if saturate else math.inf)
    expected = {
        RoundingMode.UP: [far, -top],
        RoundingMode.DOWN: [top, -far],
        RoundingMode.TOWARD_ZERO: [top, -top],
        RoundingMode.ODD: [top, -top],
        RoundingMode.NEAREST_ZERO: [far, -far],
    }
    for mode, finite in expected.items():
        assert reference.float_cast(x, float_format("fp16"), mode, saturate).tolist() == [*finite, math.inf, -math.inf]
