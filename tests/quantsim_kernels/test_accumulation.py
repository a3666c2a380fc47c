"""The settings of an accumulator."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from quantsim_encodings.formats import RoundingMode, float_format
from quantsim_kernels.accumulation import Accumulation


def test_names_and_numbers_are_resolved() -> None:
    accumulation = Accumulation("e5m10", 4, chunk=8, inner="bf16")
    assert accumulation.format == float_format("fp16")
    assert accumulation.rounding is RoundingMode.TOWARD_ZERO
    assert accumulation.inner == float_format("bf16")
    assert accumulation == Accumulation(float_format("fp16"), "towards_zero", 8, float_format("bf16"))
    assert hash(accumulation) == hash(copy.deepcopy(accumulation))
    assert Accumulation().format == float_format("fp32")


def test_arguments_of_kernels() -> None:
    arguments = Accumulation("e4m3fn", inner="fp16", subnormal=False).arguments
    assert not arguments["format"].has_subnormals
    assert not arguments["inner"].has_subnormals
    assert arguments["saturate"]
    assert not arguments["inner_saturate"]
    assert Accumulation("fp16", saturate=True).arguments["saturate"]
    assert not Accumulation("e4m3fn", saturate=False).arguments["saturate"]


@pytest.mark.parametrize(
    "accumulation",
    [
        Accumulation(),
        Accumulation("fp16", "stochastic", chunk=None, seed=2**70),
        Accumulation("e4m3fn", 9, 16, "e2m1", True, False),
    ],
)
def test_copies_and_text(accumulation: Accumulation) -> None:
    assert pickle.loads(pickle.dumps(accumulation)) == accumulation
    assert Accumulation.from_text(accumulation.text) == accumulation
    assert repr(Accumulation.from_text(accumulation.text)) == repr(accumulation)


def test_repr_names_what_was_chosen() -> None:
    assert repr(Accumulation("bf16")) == "Accumulation('bf16', 'nearest_even', chunk=1)"
    text = repr(Accumulation("e6m9", "odd", None, "fp16", True, False, 3))
    assert text == "Accumulation('e6m9', 'odd', chunk=None, inner='fp16', saturate=True, subnormal=False, seed=3)"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"format": "e5m99"}, ValueError, r"Accumulation\(format\)"),
        ({"format": "mxfp4"}, ValueError, r"Accumulation\(format\)"),
        ({"format": 16}, TypeError, "expected a FloatFormat or a name"),
        ({"inner": "e11m52"}, ValueError, r"Accumulation\(inner\).*at most 8"),
        ({"rounding": "sideways"}, ValueError, "nearest_even"),
        ({"chunk": 0}, ValueError, "at least 1"),
        ({"chunk": 2.0}, TypeError, "integer or None"),
        ({"chunk": True}, TypeError, "integer or None"),
        ({"saturate": 1}, TypeError, "True, False or None"),
        ({"format": "e2m1", "saturate": False}, ValueError, "use saturate=True"),
        ({"subnormal": None}, TypeError, "True or False"),
        ({"seed": 1.5}, TypeError, "integer or None"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Accumulation(**arguments)
