from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from quantsim.errors import ConfigurationError
from quantsim.layers.settings import FloatPrecisionSettings
from quantsim_encodings.formats import FloatFormat, MXFormat, NVFP4Format, RoundingMode, float_format


def test_widths_are_those_of_an_ieee_like_format_without_the_hidden_bit() -> None:
    target = FloatPrecisionSettings(5, 10).target
    assert isinstance(target, FloatFormat) and target == float_format("fp16")
    # OCP's e3m2 has no infinity; the widths alone mean the format that has.
    widths, named = FloatPrecisionSettings(3, 2).target, FloatPrecisionSettings(format="e3m2").target
    assert isinstance(widths, FloatFormat) and isinstance(named, FloatFormat)
    assert (widths.max, named.max) == (14.0, 28.0)


@pytest.mark.parametrize(
    ("format", "kind"),
    [("bf16", FloatFormat), ("e6m9", FloatFormat), ("mxfp6_e2m3", MXFormat), ("nvfp4", NVFP4Format)],
)
def test_formats_by_name(format: str, kind: type) -> None:
    assert isinstance(FloatPrecisionSettings(format=format).target, kind)


def test_formats_as_data() -> None:
    format = FloatFormat(4, 3, bias=11)
    assert FloatPrecisionSettings(format=format).target is format
    assert FloatPrecisionSettings(4, 3, gradient_format=format).gradient_target is format
    assert FloatPrecisionSettings(4, 3).gradient_target is None


@pytest.mark.parametrize("mode", RoundingMode)
def test_rounding_by_number_and_name(mode: RoundingMode) -> None:
    for spelling in (mode, mode.value, mode.number):
        assert FloatPrecisionSettings(5, 2, rounding=spelling).rounding is mode


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, ["exactly one format", "exp_bits and sig_bits"]),
        ({"exp_bits": 5}, ["exactly one format", "sig_bits=None"]),
        ({"exp_bits": 5, "sig_bits": 2, "format": "e5m2"}, ["exactly one format"]),
        ({"exp_bits": 0, "sig_bits": 2}, ["exp_bits"]),
        ({"exp_bits": 5, "sig_bits": -1}, ["sig_bits", "-1"]),
        ({"exp_bits": "5", "sig_bits": 2}, ["exp_bits"]),
        ({"format": "e4m3fnn"}, ["format", "e4m3fnn", "e4m3fn", "mxfp4"]),
        ({"format": 5}, ["format", "5"]),
        ({"exp_bits": 5, "sig_bits": 2, "rounding": 10}, ["rmode", "10", "stochastic"]),
        ({"exp_bits": 5, "sig_bits": 2, "rounding": "near"}, ["rmode", "near", "nearest"]),
        ({"exp_bits": 5, "sig_bits": 2, "saturate": "yes"}, ["saturate", "'yes'", "None"]),
        ({"exp_bits": 5, "sig_bits": 2, "subnormal": None}, ["subnormal", "None"]),
        ({"exp_bits": 5, "sig_bits": 2, "seed": 1.5}, ["seed", "1.5"]),
        ({"exp_bits": 5, "sig_bits": 2, "quantize_output": "all"}, ["quantize_output", "'all'"]),
        ({"format": "e2m1", "saturate": False}, ["e2m1", "neither infinity nor NaN"]),
        ({"exp_bits": 5, "sig_bits": 2, "saturate": False, "gradient_format": "e2m1"}, ["gradient_format"]),
        ({"exp_bits": 5, "sig_bits": 2, "gradient_format": "mxfp4"}, ["gradient_format", "mxfp4"]),
        ({"format": "mxfp4", "saturate": False}, ["block format", "saturate"]),
        ({"format": "mxfp4", "subnormal": False}, ["block format", "subnormal"]),
    ],
)
def test_what_cannot_be_is_refused_in_words_that_help(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        FloatPrecisionSettings(**arguments)
    for word in words:
        assert word in str(error.value)


def test_settings_are_frozen_values() -> None:
    settings = FloatPrecisionSettings(5, 2, rounding=5)
    assert settings == FloatPrecisionSettings(5, 2, rounding="stochastic")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.seed = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_seeds_of_tensors_differ_and_repeat() -> None:
    settings = FloatPrecisionSettings(5, 2, rounding=5, seed=11)
    seeds = [settings.with_seed_number(number).seed for number in range(500)]
    assert seeds[0] == 11 and len(set(seeds)) == 500
    assert all(seed is not None and 0 <= seed < 2**64 for seed in seeds)
    assert seeds == [settings.with_seed_number(number).seed for number in range(500)]
    without = FloatPrecisionSettings(5, 2)
    assert without.with_seed_number(3) is without
