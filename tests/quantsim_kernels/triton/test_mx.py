"""Block formats in Triton: bit-equal to the reference under the interpreter, and compiled without a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from quantsim_encodings.formats import (
    NAMED_MX_FORMATS,
    FloatFormat,
    IntFormat,
    MXFormat,
    MXScaleRule,
    NVFP4Format,
    RoundingMode,
    float_format,
)
from quantsim_kernels.reference import mx as reference

ODD_FORMATS = {
    "symmetric-int4": MXFormat(IntFormat(-7, 7)),
    "unsigned-int4": MXFormat(IntFormat(0, 15)),
    "lopsided-int8": MXFormat(IntFormat(-128, 5)),
    "two-bits": MXFormat(IntFormat(-2, 1)),
    "no-fraction": MXFormat(FloatFormat(4, 0), block_size=24),
    "no-subnormals": MXFormat(dataclasses.replace(float_format("e3m2"), has_subnormals=False), block_size=7),
    "nvfp4": NVFP4Format(),
    "nvfp4-one-level": NVFP4Format(two_level=False),
    "one-block": MXFormat(float_format("e2m1"), block_size=100),
}


def tensors() -> list[torch.Tensor]:
    """Any bits; several binades with zero, NaN and infinite blocks; nothing but subnormals; the top of float32."""
    bits = torch.randint(-(2**31), 2**31, (4, 70, 5), dtype=torch.int64).to(torch.int32).view(torch.float32)
    mixed = torch.randn(4, 70, 5) * torch.exp2(torch.randint(-20, 20, (4, 70, 5)).float())
    mixed[0], mixed[1, :, 0] = 0.0, -0.0
    mixed[2, 3, 1], mixed[3, 3, 1], mixed[3, 44, 2] = torch.nan, torch.inf, -torch.inf
    tiny, large = torch.randn(4, 70, 5) * 2.0**-140, torch.randn(4, 70, 5) * 2.0**127
    return [bits, mixed, tiny, large, mixed.half(), mixed.bfloat16()]


@pytest.mark.parametrize("rule", list(MXScaleRule))
@pytest.mark.parametrize("name", NAMED_MX_FORMATS)
def test_scale_rules_interpreted(name: str, rule: MXScaleRule, assert_same_bits: Any) -> None:
    from quantsim_kernels.triton import mx as ours

    format = dataclasses.replace(NAMED_MX_FORMATS[name], scale_rule=rule)
    for x in tensors():
        assert_same_bits(ours.quantize_dequantize(x, format, 1), reference.quantize_dequantize(x, format, 1))


@pytest.mark.parametrize("name", ["mxfp4", "mxint8", *ODD_FORMATS])
def test_axes_and_modes_interpreted(name: str, assert_same_bits: Any) -> None:
    from quantsim_kernels.triton import mx as ours

    format = ODD_FORMATS.get(name) or NAMED_MX_FORMATS[name]
    _, mixed, tiny, *_, halves = tensors()
    some = (RoundingMode.NEAREST_EVEN, RoundingMode.NEAREST_ODD, RoundingMode.DOWN, RoundingMode.STOCHASTIC)
    for mode in some if name in ODD_FORMATS else RoundingMode:
        seed = torch.tensor(9) if mode.is_stochastic else None
        for x, axis in ((mixed, -1), (mixed, 0), (halves, 1), (tiny.transpose(0, 1), 0)):
            actual = ours.quantize_dequantize(x, format, axis, mode, seed)
            assert_same_bits(actual, reference.quantize_dequantize(x, format, axis, mode, seed))


def test_edges_interpreted(assert_same_bits: Any) -> None:
    from quantsim_kernels.triton import mx as ours

    format = NAMED_MX_FORMATS["mxfp4"]
    x = torch.randn(9, 33)
    expected = reference.quantize_dequantize(x, format)
    assert ours.quantize_dequantize(x, format, inplace=True).data_ptr() == x.data_ptr()
    assert_same_bits(x, expected)
    assert_same_bits(ours.quantize_dequantize(x[0, 0], format), reference.quantize_dequantize(x[0, 0], format))
    assert ours.quantize_dequantize(torch.empty(3, 0), format).shape == (3, 0)
    # A block too large for one program, and elements too fine for float32 under the smallest scale.
    long, fine = torch.randn(2, 5000), MXFormat(FloatFormat(6, 2))
    large = dataclasses.replace(format, block_size=5000)
    for y, other in ((long, large), (x * 2.0**-120, fine)):
        assert_same_bits(ours.quantize_dequantize(y, other), reference.quantize_dequantize(y, other))


def test_cases_pass_under_the_interpreter(run_interpreted: Callable[[str], str]) -> None:
    output = run_interpreted(__file__)
    cases = len(NAMED_MX_FORMATS) * len(MXScaleRule) + 2 + len(ODD_FORMATS) + 1
    assert f"{cases} passed" in output, output[-2000:]


ELEMENT = {
    "LOWEST": 0,
    "HIGHEST": 2,
    "MANTISSA": 1,
    "LARGEST": 3,
    "LARGEST_NEGATIVE": 3,
    "TOP_EXPONENT": 2,
    "TOP_SIGNIFICAND": 3 << 22,
    "FRACTION_BITS": 1,
    "INTEGER": 0,
    "SIGNED": 1,
    "SUBNORMALS": 1,
    "NEGATIVE_ZERO": 1,
}


def test_kernel_compiles_ahead_of_time(compile_ahead: Callable[[list[tuple[Any, ...]]], dict[str, Any]]) -> None:
    jobs = []
    for architecture in (80, 90):
        for name, own in (
            ("mxfp4", {"SCALE_RULE": 3, "ROUNDING": 1, "LAST": False, "PRECISION": 2, "LINES": 32, "COLUMNS": 32}),
            ("nvfp4", {"SCALE_RULE": 4, "ROUNDING": 5, "LAST": True, "PRECISION": 0, "LINES": 64, "COLUMNS": 16}),
        ):
            constants = {**ELEMENT, **own, "WIDE_INDEX": False}
            types = {"x_pointer": "*i16", "y_pointer": "*i16"} if own["PRECISION"] == 2 else {}
            label = f"{name} {architecture}"
            jobs.append((label, "_mx_kernels", "mx_kernel", "MX_SIGNATURE", constants, architecture, types))
    for name, result in compile_ahead(jobs).items():
        assert f".target sm_{name[-2:]}" in result["ptx"]
        assert result["cubin"] > 0
        # MX scales are never divided by; NVFP4's are, correctly rounded.
        assert ("div.rn.f32" in result["ptx"]) == name.startswith("nvfp4")
        assert "fma.rn.f32" not in result["ptx"]
        assert ".ftz" not in result["ptx"]
