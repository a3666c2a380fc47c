from __future__ import annotations

import dataclasses

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization.float.formats import (
    DTYPE_FORMATS,
    choose_format,
    describe_format,
    dtype_of,
    format_from_settings,
    format_of_bits,
    format_of_dtype,
    format_settings,
)
from quantsim_encodings.formats import float_format


@pytest.mark.parametrize("dtype", DTYPE_FORMATS, ids=str)
def test_formats_have_the_numbers_of_torchs_dtypes(dtype):
    made, limits = format_of_dtype(dtype), torch.finfo(dtype)
    assert made.max == limits.max
    assert made.min_normal == limits.tiny
    assert made.bits == limits.bits
    assert dtype_of(made) is dtype


def test_bits():
    assert format_of_bits(5, 10, False, False) == float_format("fp16")
    assert format_of_bits(4, 3, True, False) == float_format("e4m3fn")
    assert format_of_bits(2, 1, True, False) == float_format("e2m1")
    assert format_of_bits(3, 2, True, False) == float_format("e3m2")
    assert format_of_bits(4, 3, True, True) == format_of_dtype(torch.float8_e4m3fnuz)
    assert format_of_bits(4, 3, False, False).max == 240


@pytest.mark.parametrize(
    "bits", [(4, 3, False, True), (0, 3, False, False), (4, -1, False, False), (1, 0, False, False)]
)
def test_bits_that_make_no_format(bits):
    with pytest.raises(ConfigurationError, match="exponent_bits="):
        format_of_bits(*bits)
    with pytest.raises(ConfigurationError, match="float8_e4m3fn"):
        format_of_dtype(torch.int8)


@pytest.mark.parametrize(
    "arguments",
    [
        (None, None, None, None, None, None),
        (4, None, None, None, None, None),
        (4, 3, None, None, torch.float16, None),
        (None, None, True, None, torch.float16, None),
        (None, None, None, None, torch.float16, float_format("fp16")),
    ],
)
def test_exactly_one_way_of_saying_the_format(arguments):
    with pytest.raises(ConfigurationError, match="exactly one format"):
        choose_format("Quantizer", *arguments)


def test_settings_round_trip():
    for made in (*DTYPE_FORMATS.values(), float_format("e2m1"), format_of_bits(3, 5, True, True)):
        assert format_from_settings({"format": format_settings(made)}, float_format("fp32")) == made
    aimet = {"exponent_bits": 4, "mantissa_bits": 3, "finite": True, "unsigned_zero": False}
    assert format_from_settings(aimet, float_format("fp32")) == float_format("e4m3fn")
    assert format_from_settings({}, float_format("fp32")) == float_format("fp32")


def test_description():
    assert describe_format(float_format("fp16")) == "dtype=torch.float16"
    assert describe_format(float_format("e2m1")) == "format=e2m1"


def test_a_format_without_subnormals_says_so():
    assert describe_format(dataclasses.replace(float_format("fp16"), has_subnormals=False)) == (
        "format=fp16, subnormal=False"
    )
    assert describe_format(float_format("e8m0")) == "format=e8m0"
