"""Float casts in Triton: bit-equal to the reference under the interpreter, and compiled without a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from quantsim_encodings.formats import FloatFormat, NanEncoding, RoundingMode, float_format
from quantsim_kernels.reference import float_cast as reference
from quantsim_kernels.reference.noise import noise

FORMATS = {
    "e4m3fn": float_format("e4m3fn"),
    "e5m2": float_format("e5m2"),
    "e2m1": float_format("e2m1"),
    "fp16": float_format("fp16"),
    "bf16": float_format("bf16"),
    "fp32": float_format("fp32"),
    "e8m0": float_format("e8m0"),
    "e5m0": FloatFormat(5, 0),
    "no-subnormals": dataclasses.replace(float_format("e4m3"), has_subnormals=False),
    "fnuz": FloatFormat(4, 3, 8, has_infinity=False, nan=NanEncoding.NEGATIVE_ZERO, has_negative_zero=False),
    "below-float32-normals": FloatFormat(4, 3, bias=140),
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def seed_for(mode: RoundingMode) -> torch.Tensor | None:
    return torch.tensor(-(2**61) + 5) if mode.is_stochastic else None


def bit_patterns(count: int) -> torch.Tensor:
    special = [
        0.0,
        -0.0,
        torch.inf,
        -torch.inf,
        torch.nan,
        1e-45,
        -1e-45,
        2.0**-126,
        3.4028235e38,
        464.0,
        -465.0,
        65520.0,
    ]
    bits = torch.randint(-(2**31), 2**31, (count,), generator=torch.Generator().manual_seed(3), dtype=torch.int64)
    ties = torch.arange(-4096, 4096, dtype=torch.int32) << 19
    return torch.cat([torch.tensor(special), bits.to(torch.int32).view(torch.float32), ties.view(torch.float32)])


@pytest.mark.parametrize("mode", list(RoundingMode))
@pytest.mark.parametrize("name", FORMATS)
def test_cast_interpreted(name: str, mode: RoundingMode, assert_same_bits: Any) -> None:
    from quantsim_kernels.triton import float_cast as ours

    x, format, seed = bit_patterns(8000), FORMATS[name], seed_for(mode)
    for saturate, saturate_infinity in ((True, False), (False, False), (True, True)):
        if not saturate and not format.has_infinity and format.nan is NanEncoding.NONE:
            continue
        if saturate_infinity and mode is not RoundingMode.UP:
            continue
        arguments = (format, mode, saturate, saturate_infinity, seed)
        assert_same_bits(ours.float_cast(x, *arguments), reference.float_cast(x, *arguments))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_strides_and_inplace_interpreted(dtype: torch.dtype, assert_same_bits: Any) -> None:
    from quantsim_kernels.triton import float_cast as ours

    format, mode = float_format("e4m3fn"), RoundingMode.STOCHASTIC
    x = bit_patterns(3000)[: 3 * 37 * 90].reshape(90, -1).to(dtype)
    seed = torch.tensor(11)
    expected = reference.float_cast(x, format, mode, True, False, seed)
    # Noise is numbered by place in the logical tensor, whatever the strides are.
    assert_same_bits(ours.float_cast(x.t().contiguous().t(), format, mode, True, False, seed), expected)
    again = ours.float_cast(x, format, mode, True, False, seed, inplace=True)
    assert again.data_ptr() == x.data_ptr()
    assert_same_bits(again, expected)
    assert ours.float_cast(torch.empty(0, 3, dtype=dtype), format).shape == (0, 3)
    with pytest.raises(ValueError, match="seed=None"):
        ours.float_cast(x, format, mode)


@pytest.mark.parametrize("mode", [RoundingMode.NEAREST_EVEN, RoundingMode.STOCHASTIC, RoundingMode.UP])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scales_interpreted(dtype: torch.dtype, mode: RoundingMode, assert_same_bits: Any) -> None:
    from quantsim_kernels.triton import float_cast as ours

    format, seed = float_format("e5m2"), seed_for(mode)
    x = (torch.randn(5, 37, 6) * 100).to(dtype)
    x[0, 0], x[1, 1, 2], x[2, 2, 1] = 0.0, torch.nan, torch.inf
    layouts: list[tuple[tuple[int, ...], tuple[int, ...] | None]] = [
        ((), None),
        ((37, 1), None),
        ((5, 1, 6), None),
        ((5, 37, 2), (1, 1, 3)),
    ]
    for shape, block_size in layouts:
        scale = torch.rand(shape) + 0.1
        actual = ours.quantize_dequantize(x, scale, format, block_size, mode, seed)
        assert_same_bits(actual, reference.quantize_dequantize(x, scale, format, block_size, mode, seed))
    for block in (None, 4, 3, 100):
        actual = ours.dynamic_quantize_dequantize(x, format, block, mode, seed)
        assert_same_bits(actual, reference.dynamic_quantize_dequantize(x, format, block, mode, seed))
    wide = (torch.randn(2, 2500) * 3).to(dtype)
    actual = ours.dynamic_quantize_dequantize(wide, format, None, mode, seed)
    assert_same_bits(actual, reference.dynamic_quantize_dequantize(wide, format, None, mode, seed))


def test_the_registry_chooses_triton_interpreted() -> None:
    from quantsim_kernels import Backend, Scheme, explain

    chosen = [d for d in explain("float_cast", Scheme.FLOAT, torch.ones(2), float_format("e4m3fn")) if d.chosen]
    assert [decision.kernel.backend for decision in chosen] == [Backend.TRITON]


def test_noise_beyond_32_bits_interpreted() -> None:
    # Kernels read their module's globals.
    global noise_bits, tl
    import triton
    import triton.language as tl

    from quantsim_kernels.triton._float_kernels import noise_bits

    @triton.jit
    def draw(seed_pointer, index_pointer, y_pointer, COUNT: tl.constexpr):
        place = tl.arange(0, COUNT)
        tl.store(y_pointer + place, noise_bits(seed_pointer, tl.load(index_pointer + place), 5))

    index = torch.cat([torch.arange(512), torch.randint(0, 2**50, (512,))])
    for number in (0, 7, -1, 2**62 + 12345, -(2**63)):
        seed, y = torch.tensor(number), torch.empty(1024, dtype=torch.int32)
        draw[(1,)](seed, index, y, COUNT=1024)  # type: ignore[index]
        assert torch.equal(y, noise(seed, index))


def test_cases_pass_under_the_interpreter(run_interpreted: Callable[[str], str]) -> None:
    output = run_interpreted(__file__)
    cases = len(FORMATS) * len(RoundingMode) + len(DTYPES) + 3 * len(DTYPES) + 2
    assert f"{cases} passed" in output, output[-2000:]


FORMAT = {
    "LOWEST": -6,
    "HIGHEST": 8,
    "MANTISSA": 3,
    "LARGEST": 14,
    "SIGNED": 1,
    "ZERO": 1,
    "SUBNORMALS": 1,
    "NEGATIVE_ZERO": 1,
    "BEYOND": 2,
    "INFINITE": 2,
    "ROUNDING": 5,
}


def test_kernels_compile_ahead_of_time(compile_ahead: Callable[[list[tuple[Any, ...]]], dict[str, Any]]) -> None:
    cast = {**FORMAT, "HAS_SCALE": True, "PRECISION": 0, "WIDE_INDEX": True, "ELEMENTS": 1024}
    dynamic = {**FORMAT, "PRECISION": 2, "WIDE_INDEX": False, "ROWS": 4, "COLUMNS": 256}
    halves = {"x_pointer": "*i16", "y_pointer": "*i16"}
    jobs = [
        (f"{kernel} {architecture}", "_float_kernels", kernel, signature, constants, architecture, types)
        for architecture in (80, 90)
        for kernel, signature, constants, types in (
            ("cast_kernel", "CAST_SIGNATURE", cast, {}),
            ("dynamic_kernel", "DYNAMIC_SIGNATURE", dynamic, halves),
        )
    ]
    for name, result in compile_ahead(jobs).items():
        assert f".target sm_{name[-2:]}" in result["ptx"]
        assert result["cubin"] > 0
        # Exactness: divisions correctly rounded, no fused products, subnormals kept.
        assert "div.rn.f32" in result["ptx"]
        assert "fma.rn.f32" not in result["ptx"]
        assert ".ftz" not in result["ptx"]
