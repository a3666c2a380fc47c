from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from quantsim.sim.quantizer_settings import (
    FloatSetting,
    IntegerSetting,
    MXSetting,
    QuantizerSetting,
    check_parameter_setting,
)
from quantsim_encodings.formats import NAMED_MX_FORMATS, FloatFormat, MXScaleRule, NVFP4Format, RoundingMode

ANY: TypeAdapter[Any] = TypeAdapter(QuantizerSetting)


@pytest.mark.parametrize(
    ("setting", "label"),
    [
        (FloatSetting(format="fp16", scaled=False), "fp16, no scale"),
        (FloatSetting(format="e5m7", scaled=False, rounding=5), "e5m7, no scale, stochastic"),
        (FloatSetting(granularity="block", block_size=16, dynamic=True), "e4m3fn, block of 16 (run time)"),
        (FloatSetting(format="e5m2", rounding="up"), "e5m2, tensor, up"),
        (MXSetting(), "mxfp8_e4m3, block of 32"),
        (MXSetting(format="nvfp4", rounding="stochastic"), "nvfp4, block of 16, stochastic"),
        (MXSetting(format="mxfp4", block_size=8, scale_rule="rceil"), "mxfp4, block of 8, scale by rceil"),
    ],
)
def test_labels_and_plain_data(setting: Any, label: str) -> None:
    assert setting.label == label
    assert ANY.validate_python(setting.model_dump()) == setting
    assert ANY.validate_json(ANY.dump_json(setting)) == setting


@pytest.mark.parametrize("mode", RoundingMode)
def test_rounding_by_number_or_name(mode: RoundingMode) -> None:
    for kind in (FloatSetting, MXSetting):
        assert kind(rounding=mode.number).rounding is kind(rounding=mode.value).rounding is mode  # type: ignore[arg-type]
    assert FloatSetting(rounding="nearest").rounding is RoundingMode.NEAREST_EVEN  # type: ignore[arg-type]


def test_the_grid_of_a_float() -> None:
    assert FloatSetting(format="e5m10").grid == FloatFormat(5, 10)
    assert FloatSetting(format="e6m3").grid == FloatFormat(6, 3)
    assert not FloatSetting(format="e4m3fn", subnormal=False).grid.has_subnormals


@pytest.mark.parametrize("name", NAMED_MX_FORMATS)
def test_the_grid_of_an_mx_format(name: str) -> None:
    assert MXSetting(format=name).grid == NAMED_MX_FORMATS[name]
    changed: Any = MXSetting(format=name, block_size=64, scale_rule=MXScaleRule.EVEN).grid
    assert (changed.block_size, changed.scale_rule, changed.element) == (
        64,
        MXScaleRule.EVEN,
        NAMED_MX_FORMATS[name].element,
    )


def test_the_grid_of_nvfp4() -> None:
    assert MXSetting(format="nvfp4").grid == NVFP4Format()
    assert MXSetting(format="nvfp4_one_level", block_size=32).grid == NVFP4Format(32, two_level=False)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "float", "format": "e9m9"}, "e4m3fn"),
        ({"kind": "float", "format": "e0m3"}, "exponent_bits"),
        ({"kind": "float", "format": "fp8"}, "known: bf16"),
        ({"kind": "float", "rounding": "sideways"}, "0 nearest_odd"),
        ({"kind": "float", "rounding": 11}, "9 odd"),
        ({"kind": "float", "dynamic": True}, "per token or per block"),
        ({"kind": "int", "granularity": "block", "block_size": 8, "dynamic": True}, "per token"),
        ({"kind": "float", "granularity": "token"}, "run-time scales"),
        ({"kind": "float", "scaled": False, "granularity": "channel"}, "no scales"),
        ({"kind": "float", "scaled": False, "analyzer": "mse"}, "no scales"),
        ({"kind": "float", "scaled": False, "granularity": "token", "dynamic": True}, "no scales"),
        ({"kind": "float", "saturate": False}, "a scaled grid saturates"),
        ({"kind": "float", "format": "e2m1", "scaled": False, "saturate": False}, "neither infinities nor NaN"),
        ({"kind": "float", "granularity": "block", "block_size": 8, "dynamic": True, "analyzer": "mse"}, "observes"),
        ({"kind": "mx", "format": "mxfp5"}, "known: mxfp8_e4m3"),
        ({"kind": "mx", "format": "nvfp4", "scale_rule": "ceil"}, "no such choice"),
        ({"kind": "mx", "scale_rule": "biggest"}, "'floor'"),
        ({"kind": "mx", "block_size": 0}, "greater than or equal to 1"),
        ({"kind": "mx", "granularity": "token"}, "granularity"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ANY.validate_python(values)
    assert words in str(caught.value)


def test_settings_that_fit_parameters() -> None:
    for setting in (
        None,
        MXSetting(),
        IntegerSetting(),
        FloatSetting(scaled=False),
        FloatSetting(granularity="block", block_size=4, dynamic=True),  # type: ignore[arg-type]
    ):
        check_parameter_setting("weights", setting)
    with pytest.raises(ValueError, match=r"weights: .*run-time scales of tokens"):
        check_parameter_setting("weights", FloatSetting(granularity="token", dynamic=True))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no tokens"):
        check_parameter_setting("weights", IntegerSetting(analyzer="token_mse"))  # type: ignore[arg-type]


def test_a_range_that_is_known() -> None:
    setting = IntegerSetting(bits=8, symmetric=False, fixed_range=(0, 1))
    assert setting.label == "int8 asymmetric, tensor, from 0 to 1"
    assert not setting.needs_data
    for wrong in ({"fixed_range": (1, 0)}, {"fixed_range": (0, float("inf"))}, {"fixed_range": (0, float("nan"))}):
        with pytest.raises(ValidationError, match="two finite numbers"):
            IntegerSetting(**wrong)
    with pytest.raises(ValidationError, match="for a whole tensor"):
        IntegerSetting(fixed_range=(0, 1), granularity="channel")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="nothing is observed"):
        IntegerSetting(fixed_range=(0, 1), analyzer="mse")  # type: ignore[arg-type]
