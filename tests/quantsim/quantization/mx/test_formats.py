from __future__ import annotations

import json

import pytest

from quantsim.errors import ConfigurationError
from quantsim.quantization.mx.formats import (
    block_format_from_settings,
    block_format_settings,
    choose_block_format,
    describe_block_format,
)
from quantsim_encodings.formats import (
    NAMED_BLOCK_FORMATS,
    IntFormat,
    MXFormat,
    MXScaleRule,
    NVFP4Format,
    float_format,
)

FORMATS = [
    *NAMED_BLOCK_FORMATS.values(),
    NVFP4Format(8, two_level=False),
    MXFormat(float_format("e3m4"), 7, MXScaleRule.RCEIL, "mine"),
    MXFormat(IntFormat(-7, 7)),
]


@pytest.mark.parametrize("format", FORMATS, ids=describe_block_format)
def test_settings_round_trip_as_json(format):
    settings = json.loads(json.dumps(block_format_settings(format)))
    made = block_format_from_settings(settings)
    assert made == format
    assert getattr(made, "name", None) == getattr(format, "name", None)


def test_descriptions():
    assert [describe_block_format(format) for format in FORMATS[-3:]] == [
        "NVFP4Format(block_size=8, two_level=False)",
        "e3m4 x 7 rceil",
        "int [-7, 7] x 32 floor",
    ]
    assert describe_block_format(FORMATS[0]) == "mxfp8_e4m3"


def test_choice():
    assert choose_block_format("q", "nvfp4") == NVFP4Format()
    assert choose_block_format("q", FORMATS[-1]) is FORMATS[-1]
    for wrong in ("mxfp3", None, float_format("e2m1")):
        with pytest.raises(ConfigurationError, match="expected one of mxfp8_e4m3"):
            choose_block_format("q", wrong)  # type: ignore[arg-type]
