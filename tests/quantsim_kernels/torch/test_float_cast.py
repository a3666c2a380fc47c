"""The fast casts: which formats they take, and every bit of both their forms against the reference."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, NanEncoding, RoundingMode, float_format
from quantsim_kernels.reference import float_cast as reference
from quantsim_kernels.torch import _float_noise, _float_passes, _pieces
from quantsim_kernels.torch import float_cast as fast

FINITE = {"has_infinity": False, "nan": NanEncoding.NONE}
FORMATS = [
    *(float_format(name) for name in ("fp16", "bf16", "tf32", "fp32", "e4m3fn", "e4m3", "e5m2", "e3m4", "e2m1")),
    FloatFormat(8, 3, name="e8m3"),
    FloatFormat(8, 22, name="e8m22"),
    FloatFormat(6, 21, name="e6m21"),
    FloatFormat(7, 23, name="e7m23"),
    FloatFormat(3, 0, name="e3m0"),
    FloatFormat(2, 0, bias=2, **FINITE, name="e2m0"),
    FloatFormat(8, 0, name="e8m0_signed"),
    FloatFormat(1, 2, **FINITE, name="e1m2"),
    FloatFormat(4, 3, bias=-80, name="e4m3_huge"),
    FloatFormat(4, 3, bias=90, name="e4m3_tiny"),
    FloatFormat(
        4, 3, bias=8, has_infinity=False, nan=NanEncoding.NEGATIVE_ZERO, has_negative_zero=False, name="e4m3fnuz"
    ),
]
SEED = torch.tensor(-987654321987654321)
E4M3 = float_format("e4m3fn")


def seed_for(rounding: RoundingMode) -> Tensor | None:
    return SEED if rounding.is_stochastic else None


def inputs(format: FloatFormat, count: int = 600) -> Tensor:
    """Random bit patterns; numbers of the format, halfway between them and next to both; what is special."""
    generator = torch.Generator().manual_seed(5)
    patterns = torch.randint(-(2**31), 2**31, (count,), generator=generator).to(torch.int32).view(torch.float32)
    fraction = torch.randint(0, 2 ** (format.mantissa_bits + 2), (2 * count,), generator=generator).double()
    lowest, highest = format.min_exponent - 3, min(format.max_exponent + 2, 127)
    exponent = torch.randint(lowest, highest + 1, (2 * count,), generator=generator)
    grid = torch.ldexp(1.0 + fraction * 2.0 ** -(format.mantissa_bits + 2), exponent)
    steps = torch.arange(-40, 41).double() * 0.25 * 2.0 ** (format.min_exponent - format.mantissa_bits)
    points = torch.cat([grid, -grid, steps]).float()
    around = [points, torch.nextafter(points, torch.tensor(math.inf)), torch.nextafter(points, torch.tensor(0.0))]
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, format.max, -format.max, format.min_normal, -format.tiny]
    return torch.cat([patterns, *around, torch.tensor(special, dtype=torch.float32)])


@pytest.mark.parametrize("rounding", RoundingMode)
@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.label)
def test_every_bit_is_the_references(format: FloatFormat, rounding: RoundingMode, assert_same_bits) -> None:
    x = inputs(format)
    finite = x[x.isfinite()]
    seed = seed_for(rounding)
    for subnormal, saturate, saturate_infinity in itertools.product((True, False), repeat=3):
        if not (saturate or format.has_infinity or format.nan is not NanEncoding.NONE):
            continue
        arguments = (replace(format, has_subnormals=subnormal), rounding, saturate, saturate_infinity, seed)
        expected = reference.float_cast(x, *arguments)
        assert_same_bits(fast.traced_float_cast(x, *arguments), expected)
        assert_same_bits(fast.float_cast(x, *arguments), expected)
        # Without infinities the passes take another way.
        assert_same_bits(fast.float_cast(finite, *arguments), reference.float_cast(finite, *arguments))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["fp16", "bf16", "e4m3fn", "e3m4", "tf32"])
def test_all_patterns_of_the_narrow_carriers(name: str, dtype: torch.dtype, assert_same_bits) -> None:
    x = torch.arange(2**16).to(torch.int16).view(dtype)
    format = float_format(name)
    for rounding in RoundingMode:
        arguments = (format, rounding, not format.has_infinity, False, seed_for(rounding))
        expected = reference.float_cast(x, *arguments)
        assert_same_bits(fast.float_cast(x, *arguments), expected)
        assert_same_bits(fast.traced_float_cast(x, *arguments), expected)


@pytest.mark.parametrize("rounding", RoundingMode)
@pytest.mark.parametrize("inplace", [False, True])
def test_pieces_and_strides_change_nothing(
    rounding: RoundingMode, inplace: bool, assert_same_bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pieces, "WHOLE_ELEMENTS", 100)
    monkeypatch.setattr(_pieces, "PIECE_ELEMENTS", 130)
    seed = seed_for(rounding)
    base = torch.randn(6, 8, 35)
    for x in (base, base.transpose(0, 2), base[::2, :, 3:], base.to(torch.bfloat16), base.half().transpose(0, 1)):
        expected = reference.float_cast(x, E4M3, rounding, True, False, seed)
        mine = x.clone(memory_format=torch.preserve_format)
        result = fast.float_cast(mine, E4M3, rounding, True, False, seed, inplace)
        assert_same_bits(result, expected)
        assert (result is mine) == inplace
        if not inplace:
            assert_same_bits(mine, x)


@pytest.mark.parametrize("rounding", [RoundingMode.NEAREST_EVEN, RoundingMode.UP, RoundingMode.STOCHASTIC])
@pytest.mark.parametrize("whole", [True, False])
def test_scaled_casts_number_elements_by_the_whole_tensor(
    rounding: RoundingMode, whole: bool, assert_same_bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr(_pieces, "WHOLE_ELEMENTS", 100)
        monkeypatch.setattr(_pieces, "PIECE_ELEMENTS", 96)
    seed = seed_for(rounding)
    base = torch.randn(12, 4, 16) * 3
    for x in (base, base.transpose(0, 1), base.to(torch.bfloat16)):
        scales = (torch.tensor(0.37), torch.rand(x.shape[0], 1, 1) + 0.1, torch.rand(x.shape[1], 1) + 0.1)
        blocks = torch.rand(x.shape[0], x.shape[1], 2) + 0.1
        for scale, block_size in (*((scale, None) for scale in scales), (blocks, (1, 1, 8)), (None, None)):
            arguments = (scale, E4M3, block_size, rounding, seed)
            expected = reference.quantize_dequantize(x, *arguments)
            assert_same_bits(fast.quantize_dequantize(x, *arguments), expected)
            mine = x.clone()
            assert fast.quantize_dequantize(mine, *arguments, True) is mine
            assert_same_bits(mine, expected)
        for block_size in (None, 5, 8, 99):
            expected = reference.dynamic_quantize_dequantize(x, E4M3, block_size, rounding, seed)
            assert_same_bits(fast.dynamic_quantize_dequantize(x, E4M3, block_size, rounding, seed), expected)
            mine = x.clone()
            assert fast.dynamic_quantize_dequantize(mine, E4M3, block_size, rounding, seed, True) is mine
            assert_same_bits(mine, expected)


@pytest.mark.parametrize("rounding", RoundingMode)
def test_empty_and_single(rounding: RoundingMode, assert_same_bits) -> None:
    for x in (torch.empty(0), torch.empty(3, 0), torch.tensor(-1.3)):
        arguments = (E4M3, rounding, False, False, seed_for(rounding))
        assert_same_bits(fast.float_cast(x, *arguments), reference.float_cast(x, *arguments))
        assert_same_bits(fast.traced_float_cast(x, *arguments), reference.float_cast(x, *arguments))
        dynamic = fast.dynamic_quantize_dequantize(x, E4M3, None, rounding, seed_for(rounding))
        assert_same_bits(dynamic, reference.dynamic_quantize_dequantize(x, E4M3, None, rounding, seed_for(rounding)))


def test_the_traced_form_ignores_the_default_dtype() -> None:
    x = torch.randn(50, dtype=torch.float32)
    expected = fast.traced_float_cast(x, E4M3, RoundingMode.STOCHASTIC, True, False, SEED)
    torch.set_default_dtype(torch.float64)
    try:
        actual = fast.traced_float_cast(x, E4M3, RoundingMode.STOCHASTIC, True, False, SEED)
        by_passes = fast.float_cast(x, E4M3, RoundingMode.STOCHASTIC, True, False, SEED)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(actual, expected) and torch.equal(by_passes, expected)


@pytest.mark.parametrize("start", [0, 1, 65535, 2**16 * 3 + 7, 2**31 - 60000, 2**32 - 70000, 5 * 2**32 + 123])
def test_noise_is_the_references_wherever_a_piece_starts(start: int) -> None:
    from quantsim_kernels.reference.noise import noise

    counts = (1, 150000, 3)
    stream = _float_noise.NoiseStream(SEED)
    stream._position = start
    actual = torch.cat([stream.take((count,)) for count in counts])
    assert torch.equal(actual, noise(SEED, torch.arange(start, start + sum(counts))))
    if start % 2**32 + sum(counts) <= 2**32:
        traced = _float_noise.traced_noise((sum(counts),), SEED, torch.tensor(start))
        assert torch.equal(traced, actual)


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.label)
def test_common_formats_have_a_fast_law(format: FloatFormat) -> None:
    assert fast.objection(torch.ones(2), format) is None
    assert fast.objection(torch.ones(2), format=format) is None
    if format.name in ("fp16", "tf32", "e4m3fn", "e5m2", "e3m4", "e2m1"):
        assert all(_float_passes.passes_for(format, rounding) is not None for rounding in RoundingMode)


def test_objections_name_the_cause() -> None:
    assert (
        fast.objection(torch.ones(2), float_format("e8m0"))
        == "the format has no fast law; only the reference covers it"
    )
    assert fast.objection(torch.ones(2, dtype=torch.float64), E4M3) == "it computes in float32, and x is float64"
    assert fast.objection(torch.ones(2, device="meta"), E4M3) == "it serves CPU tensors only"
    assert fast.objection(torch.ones(2)) == "no format was given"
    assert not fast.has_fast_law(E4M3, torch.float64)
    assert not fast.has_fast_law(FloatFormat(9, 3), torch.float32)
    # Its subnormals would have to be scaled beyond float32's range.
    assert not fast.has_fast_law(FloatFormat(8, 5, bias=126), torch.float32)

    class Mine(torch.Tensor):
        pass

    assert fast.objection(torch.ones(2).as_subclass(Mine), E4M3) == "it serves plain tensors only, not Mine"
