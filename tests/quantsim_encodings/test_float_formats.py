from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from gfloat import formats as gfloat_formats

from quantsim_encodings import NAMED_FLOAT_FORMATS, FloatFormat, NanEncoding, float_format

IEEE_TYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp32": np.float32,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e4m3": ml_dtypes.float8_e4m3,
    "e5m2": ml_dtypes.float8_e5m2,
    "e3m4": ml_dtypes.float8_e3m4,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
}


@pytest.mark.parametrize("name", IEEE_TYPES)
def test_extremes_equal_those_of_ml_dtypes(name: str) -> None:
    info = ml_dtypes.finfo(IEEE_TYPES[name])
    format = float_format(name)
    assert format.max == float(info.max)
    assert format.min_normal == float(info.smallest_normal)
    assert format.tiny == float(info.smallest_subnormal)
    assert format.mantissa_bits == info.nmant
    assert format.bits == info.bits


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("e4m3fn", gfloat_formats.format_info_ocp_e4m3),
        ("e5m2", gfloat_formats.format_info_ocp_e5m2),
        ("e3m2", gfloat_formats.format_info_ocp_e3m2),
        ("e2m3", gfloat_formats.format_info_ocp_e2m3),
        ("e2m1", gfloat_formats.format_info_ocp_e2m1),
        ("e8m0", gfloat_formats.format_info_ocp_e8m0),
    ],
)
def test_extremes_equal_those_of_gfloat(name: str, oracle) -> None:
    format = float_format(name)
    assert format.max == oracle.max
    assert format.tiny == oracle.smallest
    assert format.min_normal == oracle.smallest_normal if name != "e8m0" else format.min_normal == oracle.smallest
    assert format.bits == oracle.k
    assert format.has_infinity == (oracle.num_posinfs > 0)


@pytest.mark.parametrize(
    ("arguments", "largest"),
    [
        ({"bias": 8, "has_infinity": False, "nan": NanEncoding.NEGATIVE_ZERO, "has_negative_zero": False}, 240.0),
        ({"has_infinity": False, "nan": NanEncoding.NONE}, 480.0),
        ({"has_infinity": False}, 240.0),
    ],
)
def test_nan_encoding_decides_the_largest_number(arguments: dict, largest: float) -> None:
    assert FloatFormat(4, 3, **arguments).max == largest


def test_every_finite_positive_code_lies_within_the_extremes() -> None:
    for format in NAMED_FLOAT_FORMATS.values():
        top = format.max_exponent
        assert math.ldexp(1.0, top) <= format.max < math.ldexp(1.0, top + 1)
        assert format.tiny <= format.min_normal <= format.max


def test_without_subnormals_the_smallest_number_is_normal() -> None:
    format = FloatFormat(4, 3, has_subnormals=False)
    assert format.tiny == format.min_normal == 2.0**-6


def test_names_are_not_part_of_equality() -> None:
    assert FloatFormat(5, 10, name="half") == float_format("fp16")
    assert hash(FloatFormat(5, 10, name="half")) == hash(float_format("fp16"))
    assert FloatFormat(5, 10) != FloatFormat(5, 10, bias=14)
    assert FloatFormat(5, 10) != "fp16"
    assert (FloatFormat(5, 10).label, float_format("fp16").label) == ("e5m10", "fp16")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exponent_bits": 0, "mantissa_bits": 3}, "exponent_bits: got 0, expected an integer from 1 to 11"),
        ({"exponent_bits": 12, "mantissa_bits": 3}, "exponent_bits"),
        ({"exponent_bits": 4, "mantissa_bits": -1}, "mantissa_bits"),
        ({"exponent_bits": 4, "mantissa_bits": 53}, "mantissa_bits"),
        ({"exponent_bits": 4, "mantissa_bits": 3, "bias": 1.5}, "bias"),
        ({"exponent_bits": 4, "mantissa_bits": 3, "nan": "nowhere"}, "nowhere"),
        ({"exponent_bits": 4, "mantissa_bits": 3, "nan": "none"}, "has_infinity=False for a finite format"),
        ({"exponent_bits": 4, "mantissa_bits": 0, "has_infinity": False}, "mantissa_bits >= 1"),
        ({"exponent_bits": 1, "mantissa_bits": 0}, "no finite number"),
        ({"exponent_bits": 4, "mantissa_bits": 3, "has_zero": False}, "has_zero"),
        (
            {"exponent_bits": 4, "mantissa_bits": 3, "has_infinity": False, "nan": "negative_zero"},
            "has_negative_zero=False",
        ),
        ({"exponent_bits": 8, "mantissa_bits": 7, "bias": 4000}, "range from 0"),
        ({"exponent_bits": 8, "mantissa_bits": 7, "bias": -4000}, "range from 0"),
    ],
)
def test_impossible_formats_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FloatFormat(**arguments)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="fp16, bf16, tf32"):
        float_format("fp17")
    with pytest.raises(ValueError, match="expected one of"):
        float_format([])  # type: ignore[arg-type]


def test_spelled_names() -> None:
    assert float_format("e5m10") == float_format("fp16")
    assert float_format("e8m23") == float_format("fp32")
    assert float_format("e11m52").max == float(np.finfo(np.float64).max)
    assert float_format("e6m9") == FloatFormat(6, 9)
    assert float_format("e6m9").label == "e6m9"
    assert not float_format("e3m2").has_infinity, "names of the table come first"


@pytest.mark.parametrize("name", ["e0m3", "e12m3", "e4m53", "e1m0"])
def test_spelled_formats_that_are_impossible(name: str) -> None:
    with pytest.raises(ValueError, match=r"exponent_bits|mantissa_bits|no finite number"):
        float_format(name)


@pytest.mark.parametrize("name", ["e4", "m3", "e4m", "e4m-1", "E4M3", "e4m3 ", "e100m3", 43, None])
def test_names_that_spell_nothing(name: object) -> None:
    with pytest.raises(ValueError, match="for instance 'e6m9'"):
        float_format(name)  # type: ignore[arg-type]
