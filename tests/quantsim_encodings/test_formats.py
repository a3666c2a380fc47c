from __future__ import annotations

import dataclasses

import pytest

from quantsim_encodings import (
    FixedPointFormat,
    IntFormat,
    MXFormat,
    MXScaleRule,
    NVFP4Format,
    OpticalFormat,
    OpticalNoise,
    RoundingMode,
    float_format,
    mx_format,
)
from quantsim_encodings.formats import NAMED_MX_FORMATS


@pytest.mark.parametrize(
    ("qmin", "qmax", "bits", "signed", "full"),
    [
        (-128, 127, 8, True, True),
        (0, 255, 8, False, True),
        (-7, 7, 4, True, False),
        (0, 15, 4, False, True),
        (-1, 0, 1, True, False),
        (0, 1, 1, False, True),
        (-2, 1, 2, True, True),
        (3, 9, 4, False, False),
        (-9, -3, 5, True, False),
        (-(2**31), 2**31 - 1, 32, True, True),
        (0, 2**64 - 1, 64, False, True),
        (-(2**63), 2**63 - 1, 64, True, True),
    ],
)
def test_int_format_derives_bits_and_sign(qmin: int, qmax: int, bits: int, signed: bool, full: bool) -> None:
    if bits == 1 and signed:
        with pytest.raises(ValueError, match="from 2 to 64"):
            IntFormat.from_bits(1, signed=True)
        return
    format = IntFormat(qmin, qmax)
    assert (format.bits, format.signed, format.steps) == (bits, signed, qmax - qmin)
    assert format.is_full_range is full


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16, 32, 64])
def test_int_format_from_bits_round_trips(bits: int, signed: bool) -> None:
    format = IntFormat.from_bits(bits, signed=signed)
    assert (format.bits, format.signed, format.is_full_range) == (bits, signed, True)
    assert format.steps == 2**bits - 1


@pytest.mark.parametrize(
    ("qmin", "qmax", "message"),
    [
        (1, 1, "expected qmin < qmax"),
        (5, -5, "expected qmin < qmax"),
        (0.0, 3, r"IntFormat\.qmin: got 0\.0, expected an integer"),
        (False, 3, "expected an integer"),
        (0, 10**40, r"beyond 10\*\*30"),
        (-(2**63), 2**63, "needs 65 bits"),
    ],
)
def test_int_format_refuses(qmin: object, qmax: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IntFormat(qmin, qmax)  # type: ignore[arg-type]


def test_formats_are_frozen_and_hashable() -> None:
    formats = {IntFormat(0, 3), mx_format("mxfp4"), NVFP4Format(), OpticalFormat(), FixedPointFormat(IntFormat(0, 3))}
    assert len(formats) == 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        IntFormat(0, 3).qmin = 1  # type: ignore[misc]


def test_mx_formats() -> None:
    assert {name: format.element.bits for name, format in NAMED_MX_FORMATS.items()} == {
        "mxfp8_e4m3": 8,
        "mxfp8_e5m2": 8,
        "mxfp6_e3m2": 6,
        "mxfp6_e2m3": 6,
        "mxfp4": 4,
        "mxint8": 8,
    }
    assert mx_format("mxfp4").scale_format.name == "e8m0"
    assert mx_format("mxfp4") == MXFormat(float_format("e2m1"))
    assert mx_format("mxfp4") != MXFormat(float_format("e2m1"), scale_rule=MXScaleRule.CEIL)
    assert mx_format("mxfp4") != "mxfp4"
    assert hash(mx_format("mxfp4")) == hash(MXFormat(float_format("e2m1")))
    assert MXFormat(IntFormat(-8, 7), scale_rule="even").scale_rule is MXScaleRule.EVEN  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mxfp4"):
        mx_format("mxfp5")
    with pytest.raises(ValueError, match="expected an IntFormat or a FloatFormat"):
        MXFormat("int8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"MXFormat\.block_size: got 0"):
        MXFormat(IntFormat(-8, 7), block_size=0)


def test_nvfp4_format() -> None:
    format = NVFP4Format()
    assert (format.element.name, format.scale_format.name, format.bits_per_element) == ("e2m1", "e4m3fn", 4.5)
    with pytest.raises(ValueError, match="block_size"):
        NVFP4Format(block_size=-1)


def test_optical_format() -> None:
    assert [OpticalFormat(levels=levels).bits for levels in (2, 3, 255, 256, 257)] == [1, 2, 8, 8, 9]
    for levels in (1, 2.0, 2**25):
        with pytest.raises(ValueError, match="levels"):
            OpticalFormat(levels=levels)  # type: ignore[arg-type]
    for lut in (-0.1, 1.0, 1.5, float("nan"), "0.02", True):
        with pytest.raises(ValueError, match="lut"):
            OpticalFormat(lut=lut)  # type: ignore[arg-type]
    assert OpticalFormat(noise=True) == OpticalFormat(noise="dither")  # type: ignore[arg-type]
    assert OpticalFormat(noise=False).noise is OpticalNoise.NONE  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise: got 'gauss', expected one of 'dither', 'none', 'shot'"):
        OpticalFormat(noise="gauss")  # type: ignore[arg-type]


def test_fixed_point_format() -> None:
    assert FixedPointFormat(IntFormat(-8, 7)).normalised
    small = FixedPointFormat(IntFormat(-8, 7), multiplier_bits=28, fraction_bits=12, rounding="up")  # type: ignore[arg-type]
    assert not small.normalised
    assert small.rounding is RoundingMode.UP
    for arguments in ({"multiplier_bits": 0}, {"multiplier_bits": 64}, {"fraction_bits": -1}, {"fraction_bits": 64}):
        with pytest.raises(ValueError, match="_bits"):
            FixedPointFormat(IntFormat(-8, 7), **arguments)
    with pytest.raises(ValueError, match="output"):
        FixedPointFormat("int8")  # type: ignore[arg-type]


def test_rounding_modes_have_the_numbers_of_the_specification() -> None:
    expected = (
        "nearest_odd nearest_even up down toward_zero stochastic stochastic_equal nearest_zero nearest_away odd".split()
    )
    assert [mode.value for mode in RoundingMode] == expected
    for number, name in enumerate(expected):
        mode = RoundingMode(name)
        assert mode.number == number
        assert RoundingMode.parse(number) is RoundingMode.parse(name) is RoundingMode.parse(mode) is mode
        assert mode.is_stochastic == name.startswith("stochastic")
    assert RoundingMode.parse("nearest") is RoundingMode.NEAREST_EVEN
    assert RoundingMode.parse("towards_zero") is RoundingMode.TOWARD_ZERO


@pytest.mark.parametrize("value", [10, -1, 1.0, True, None, "sideways", "Nearest", [1]])
def test_unknown_rounding_modes_list_the_known_ones(value: object) -> None:
    with pytest.raises(ValueError, match=r"0 nearest_odd, 1 nearest_even, .* 9 odd \(also 'nearest'"):
        RoundingMode.parse(value)  # type: ignore[arg-type]
