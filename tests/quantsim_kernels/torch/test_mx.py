"""The CPU's block formats: pieces, every dtype's law, the compiled form, and its objections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from quantsim_encodings.formats import (
    NAMED_BLOCK_FORMATS,
    FloatFormat,
    MXFormat,
    MXScaleRule,
    NanEncoding,
    RoundingMode,
    block_format,
    float_format,
)
from quantsim_kernels.reference import mx as reference
from quantsim_kernels.torch import _block_laws, compilation
from quantsim_kernels.torch import mx as fast

EVEN, STOCHASTIC = RoundingMode.NEAREST_EVEN, RoundingMode.STOCHASTIC


def numbers(*shape: int) -> torch.Tensor:
    """Every bit pattern may come, after some rows of moderate numbers."""
    generator = torch.Generator().manual_seed(2)
    patterns = torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32).view(torch.float32)
    moderate = torch.randn(shape, generator=generator)
    return torch.where(torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)) % 2 == 0, moderate, patterns)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "mxint8"])
@pytest.mark.parametrize("rounding", [EVEN, STOCHASTIC, RoundingMode.ODD])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_equal_the_whole(
    axis: int,
    name: str,
    rounding: RoundingMode,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    assert_same_bits: Any,
) -> None:
    x, format = numbers(6, 70, 9).to(dtype), block_format(name)
    seed = torch.tensor(7) if rounding.is_stochastic else None
    expected = reference.quantize_dequantize(x, format, axis, rounding, seed)
    for elements in (50, 700, 2000):
        monkeypatch.setattr(fast, "PIECE_ELEMENTS", elements)
        assert_same_bits(fast.quantize_dequantize(x, format, axis, rounding, seed), expected)
        assert_same_bits(fast.quantize_dequantize(x.clone(), format, axis, rounding, seed, inplace=True), expected)


@pytest.mark.parametrize("name", NAMED_BLOCK_FORMATS)
@pytest.mark.parametrize("rounding", list(RoundingMode))
def test_traced_form_equals_the_reference(name: str, rounding: RoundingMode, assert_same_bits: Any) -> None:
    format = block_format(name)
    seed = torch.tensor(-3) if rounding.is_stochastic else None
    for axis, dtype in ((-1, torch.float32), (0, torch.bfloat16), (1, torch.float16)):
        x = numbers(40, 7, 33).to(dtype)
        assert_same_bits(
            fast.traced_quantize_dequantize(x, format, axis, rounding, seed),
            reference.quantize_dequantize(x, format, axis, rounding, seed),
        )


@pytest.mark.parametrize("rule", list(MXScaleRule))
@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp4", "mxint8"])
def test_scales_of_all_exponents(name: str, rule: MXScaleRule) -> None:
    format = replace(block_format(name), scale_rule=rule)  # type: ignore[type-var]
    assert isinstance(format, MXFormat)
    top = torch.arange(0, 0x7F80, dtype=torch.int32) << 16
    bits = torch.cat([top, top + 1, top + 0xFFFF, torch.tensor([0x7F800000], dtype=torch.int32)])
    inverse, scale = _block_laws.mx_scales(bits, rule, reference.element_grid(format.element))
    exponent = reference.shared_exponent(bits.view(torch.float32), format)
    assert torch.equal(scale.double(), torch.pow(2.0, exponent.double()))
    assert torch.equal(inverse.double(), torch.pow(2.0, -exponent.double()))
    nan = torch.tensor([0x7F800001, 0x7FFFFFFF], dtype=torch.int32)
    assert _block_laws.mx_scales(nan, rule, reference.element_grid(format.element))[1].isnan().all()


def test_a_vanishing_ratio_still_counts_as_inexact(assert_same_bits: Any) -> None:
    # The scale is 2**127 here, so that the ratio of float32's smallest number is no float32.
    x = torch.tensor([3e38, 2.0**-149, -(2.0**-149), 0.0])
    for rounding in RoundingMode:
        seed = torch.tensor(1) if rounding.is_stochastic else None
        expected = reference.quantize_dequantize(x, block_format("mxint8"), 0, rounding, seed)
        assert_same_bits(fast.quantize_dequantize(x, block_format("mxint8"), 0, rounding, seed), expected)
        assert_same_bits(fast.traced_quantize_dequantize(x, block_format("mxint8"), 0, rounding, seed), expected)
    assert reference.quantize_dequantize(x, block_format("mxint8"), 0, RoundingMode.UP)[1].item() == 2.0**121


def test_compiled_kernels_give_the_same(monkeypatch: pytest.MonkeyPatch, assert_same_bits: Any) -> None:
    monkeypatch.setattr(compilation, "COMPILED_ELEMENTS", 1)
    x = numbers(64, 70)
    cases = ((block_format("mxfp4"), EVEN, None), (block_format("nvfp4"), STOCHASTIC, torch.tensor(5)))
    with compilation.compiled_kernels():
        results = [fast.quantize_dequantize(x, format, 1, rounding, seed) for format, rounding, seed in cases]
        written = x.clone()
        assert fast.quantize_dequantize(written, block_format("mxfp4"), 1, inplace=True) is written
    for (format, rounding, seed), result in zip(cases, results, strict=True):
        assert_same_bits(result, reference.quantize_dequantize(x, format, 1, rounding, seed))
    assert_same_bits(written, results[0])


def test_objections() -> None:
    x, format = torch.randn(4, 32), block_format("mxfp4")
    assert fast.objection(x, format) is None
    assert "CPU" in str(fast.objection(x.to("meta"), format))
    assert "float64" in str(fast.objection(x.double(), format))
    assert "plain tensors" in str(fast.objection(x.as_subclass(type("Own", (torch.Tensor,), {})), format))
    unsigned = FloatFormat(4, 3, signed=False, has_infinity=False, nan=NanEncoding.NONE, has_negative_zero=False)
    assert "no fast law" in str(fast.objection(x, MXFormat(unsigned)))
    assert fast.objection(x, MXFormat(float_format("fp16"))) is None
