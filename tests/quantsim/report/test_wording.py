from __future__ import annotations

import pytest

from quantsim.report.wording import describe_encoding, describe_format, describe_granularity
from quantsim_encodings import (
    FloatEncoding,
    IntFormat,
    MXEncoding,
    MXFormat,
    MXScaleRule,
    NVFP4Format,
    PerBlock,
    PerBlocks,
    PerChannel,
    PerToken,
    RoundingMode,
    float_format,
    mx_format,
)


@pytest.mark.parametrize(
    ("format_", "words"),
    [
        (IntFormat(-128, 127), "int8"),
        (IntFormat(0, 15), "uint4"),
        (IntFormat(-127, 127), "int8 in -127..127"),
        (float_format("e4m3fn"), "e4m3fn"),
        (mx_format("mxfp4"), "mxfp4"),
        (MXFormat(float_format("e3m4"), 16, MXScaleRule.CEIL), "MX of e3m4, scale by ceil"),
        (NVFP4Format(), "nvfp4"),
        (NVFP4Format(two_level=False), "nvfp4 without tensor scale"),
    ],
)
def test_formats(format_, words: str) -> None:
    assert describe_format(format_) == words


def test_granularities() -> None:
    assert describe_granularity(PerChannel(0)) == "per channel"
    assert describe_granularity(PerToken()) == "per token, at run time"
    assert describe_granularity(PerBlocks((1, -1, 4))) == "per block of 1×all×4"


def test_floats_say_nothing_of_symmetry() -> None:
    assert describe_encoding(FloatEncoding(float_format("e5m2"), 0.5)) == "e5m2, per tensor"


def test_another_rounding_is_named() -> None:
    up = FloatEncoding(float_format("e5m2"), rounding=RoundingMode.TOWARD_ZERO)
    assert describe_encoding(up) == "e5m2 rounded toward zero, per tensor"
    blocks = MXEncoding(mx_format("mxint8"), PerBlock(-1, 32), rounding=RoundingMode.STOCHASTIC)
    assert describe_encoding(blocks) == "mxint8 rounded stochastic, per block of 32"
