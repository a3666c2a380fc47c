"""Block formats against a NumPy oracle and torchao's recorded numbers on every backend; gradients, codes, errors."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from quantsim_encodings.formats import (
    NAMED_BLOCK_FORMATS,
    BlockFormat,
    FloatFormat,
    IntFormat,
    MXFormat,
    MXScaleRule,
    NanEncoding,
    NVFP4Format,
    RoundingMode,
    block_format,
    float_format,
)
from quantsim_kernels import Backend, Scheme, backends, force_backend
from quantsim_kernels.mx import MXCodes, mx_dequantize, mx_quantize, mx_quantize_dequantize

OP = "mx_quantize_dequantize"
BACKENDS = backends(OP)
RECORDED = Path(__file__).with_name("vectors") / "torchao_blocks.npz"
MX_NAMES = [name for name, format in NAMED_BLOCK_FORMATS.items() if isinstance(format, MXFormat)]
CUSTOM = {
    "e4m3 of 7": MXFormat(float_format("e4m3"), 7),
    "int4 of 8": MXFormat(IntFormat(-8, 7), 8, MXScaleRule.CEIL),
    "symmetric int8": MXFormat(IntFormat(-127, 127), 16),
    "unsigned int6": MXFormat(IntFormat(0, 63), 16, MXScaleRule.EVEN),
    "e1m2": MXFormat(FloatFormat(1, 2, has_infinity=False, nan=NanEncoding.NONE), 4, MXScaleRule.RCEIL),
    "e3m0": MXFormat(FloatFormat(3, 0, has_infinity=False, nan=NanEncoding.NONE), 8),
    "fp16": MXFormat(float_format("fp16"), 8),
    "nvfp4 of 5": NVFP4Format(5),
}
Array = NDArray[Any]


# ---------------------------------------------------------------------- the oracle: float64 NumPy on tables of numbers


def table(element: FloatFormat | IntFormat) -> tuple[Array, Array]:
    """All magnitudes of positive and of negative numbers, in the order of their codes, from their definition."""
    if isinstance(element, IntFormat):
        point = 2.0 ** -(element.bits - 2)
        return np.arange(element.qmax + 1) * point, np.arange(-element.qmin + 1) * point
    numbers = []
    for code in range(2 ** (element.exponent_bits + element.mantissa_bits)):
        exponent, fraction = divmod(code, 2**element.mantissa_bits)
        significand = fraction / 2**element.mantissa_bits + (1 if exponent else 0)
        numbers.append(math.ldexp(significand, max(exponent, 1) - element.exponent_bias))
    finite = np.array([number for number in numbers if number <= element.max])
    return finite, finite


def nearest_even(values: Array, numbers: Array) -> Array:
    """The nearest of rising numbers, from halfway that of even rank, saturating."""
    middles = (numbers[1:] + numbers[:-1]) / 2
    down, up = np.searchsorted(middles, values, "left"), np.searchsorted(middles, values, "right")
    return np.where(np.isnan(values), np.nan, numbers[np.where(down % 2 == 0, down, up)])


def cast(ratio: Array, element: FloatFormat | IntFormat) -> Array:
    """Elements of signed ratios."""
    positive, negative = table(element)
    magnitude = np.where(
        np.signbit(ratio), nearest_even(np.abs(ratio), negative), nearest_even(np.abs(ratio), positive)
    )
    signed = np.copysign(magnitude, ratio)
    keeps_zero = isinstance(element, FloatFormat) and element.has_negative_zero
    return signed if keeps_zero else signed + 0.0


def oracle_scale(amax: Array, format: MXFormat) -> Array:
    """The power of two of each block; the logarithm by frexp, whose results are exact."""
    positive, _ = table(format.element)
    largest = positive[-1]
    emax = math.frexp(largest)[1] - 1
    significand, power = np.frexp(np.where(np.isinf(amax), 2.0**128, np.where(np.isnan(amax), 1.0, amax)))
    floor = power - 1
    if isinstance(format.element, IntFormat):
        fraction_bits = format.element.bits - 2
    else:
        fraction_bits = format.element.mantissa_bits
    match format.scale_rule:
        case MXScaleRule.FLOOR:
            exponent = floor - emax
        case MXScaleRule.CEIL:
            exponent = floor + (significand > 0.5) - emax
        case MXScaleRule.EVEN:
            rounded = np.floor(significand * 2.0 ** (fraction_bits + 1) + 0.5)
            exponent = floor + (rounded == 2.0 ** (fraction_bits + 1)) - emax
        case MXScaleRule.RCEIL:
            exponent = floor - emax + (significand > math.frexp(largest)[0])
    exponent = np.where(amax == 0, -127, np.clip(exponent, -127, 127))
    return np.where(np.isnan(amax), np.nan, np.ldexp(1.0, exponent))


def oracle_blocks(x: Array, format: BlockFormat, everything: Array) -> Array:
    """There and back on blocks ``(n, size)`` of float64 numbers that came from float32."""
    amax = np.abs(x).max(-1, keepdims=True)
    with np.errstate(all="ignore"):
        if isinstance(format, MXFormat):
            scale = oracle_scale(amax, format)
            finite = np.where(np.isnan(scale), 1.0, scale)
            return cast(x / finite, format.element) * scale
        numbers, _ = table(format.scale_format)
        total: Array = np.float32(1.0)  # type: ignore[assignment]
        if format.two_level:
            largest = np.abs(np.where(np.isfinite(everything), everything, 0)).max().astype(np.float32)
            total = np.float32(max(largest / np.float32(2688), 2.0**-126)) if largest > 0 else np.float32(1)  # type: ignore[assignment]
        relative = (amax.astype(np.float32) / np.float32(6) / total).astype(np.float64)
        scale = np.where(np.isnan(relative), np.nan, np.maximum(nearest_even(relative, numbers), numbers[1]))
        product = scale.astype(np.float32) * total
        ratio = x.astype(np.float32) / product
        return (cast(ratio.astype(np.float64), format.element).astype(np.float32) * product).astype(np.float64)


def oracle(x: Tensor, format: BlockFormat, axis: int) -> Tensor:
    """There and back along any axis, ragged or not, in float32."""
    values = np.moveaxis(x.double().numpy(), axis, -1)
    lines = values.reshape(-1, values.shape[-1])
    result = np.empty_like(lines)
    for start in range(0, lines.shape[1], format.block_size):
        part = slice(start, start + format.block_size)
        result[:, part] = oracle_blocks(lines[:, part], format, lines)
    back = np.moveaxis(result.reshape(values.shape), -1, axis)
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.ascontiguousarray(back).astype(np.float32))


def blocks(shape: tuple[int, ...]) -> Tensor:
    """Numbers of all sizes, neighbours alike, with ties, zero blocks, NaN, infinities, and float32's smallest."""
    generator = torch.Generator().manual_seed(shape[0])
    x = torch.randn(shape, generator=generator)
    sizes = torch.randint(-150, 128, shape[:-1], generator=generator).unsqueeze(-1)
    few = torch.randint(-40, 40, shape, generator=generator) / 8.0
    x = torch.where(torch.rand(shape, generator=generator) < 0.3, few, x)
    x = (x.double() * torch.pow(2.0, sizes.double())).float()
    first = x[: shape[0] // 2]
    first[0] = 0.0
    first[1] = -0.0
    first[2][..., 1] = math.nan
    first[3][..., 2] = math.inf
    first[4][..., 3] = -math.inf
    first[5][..., 1:] = 0.0
    first[6] = first[6].sign() * 2.0**-149
    return x


# ---------------------------------------------------------------------- numbers


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", list(MXScaleRule))
@pytest.mark.parametrize("name", MX_NAMES)
def test_mx_equals_the_oracle(
    name: str, rule: MXScaleRule, backend: Backend, forced: Any, assert_same_bits: Any
) -> None:
    format = replace(block_format(name), scale_rule=rule)
    x = blocks((600, 32))
    with forced(backend, OP, Scheme.MX, x, format):
        assert_same_bits(mx_quantize_dequantize(x, format), oracle(x, format, -1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["nvfp4", "nvfp4_one_level"])
def test_nvfp4_equals_the_oracle(name: str, backend: Backend, forced: Any, assert_same_bits: Any) -> None:
    for x in (
        blocks((300, 48)),
        torch.randn(200, 32) * torch.logspace(-4, 3, 200)[:, None],
        torch.randn(200, 32).bfloat16().float(),
        torch.zeros(2, 16),
        torch.full((1, 16), math.inf),
        torch.full((2, 3), 2.0**-140),
    ):
        with forced(backend, OP, Scheme.MX, x, block_format(name)):
            assert_same_bits(mx_quantize_dequantize(x, name), oracle(x, block_format(name), -1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("label", CUSTOM)
def test_custom_blocks_along_any_axis(label: str, backend: Backend, forced: Any, assert_same_bits: Any) -> None:
    format = CUSTOM[label]
    for shape, axis in (((40, 5, 11), -1), ((24, 11), 0), ((16, 19, 6), 1), ((16, 4), -1)):
        x = blocks(shape)
        expected = oracle(x, format, axis)
        with forced(backend, OP, Scheme.MX, x, format):
            assert_same_bits(mx_quantize_dequantize(x, format, axis), expected)


@pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend is not Backend.REFERENCE])
@pytest.mark.parametrize("rounding", list(RoundingMode))
@pytest.mark.parametrize("name", [*NAMED_BLOCK_FORMATS, "e3m0", "fp16", "unsigned int6", "int4 of 8"])
def test_every_law_equals_the_reference(
    name: str, rounding: RoundingMode, backend: Backend, forced: Any, assert_same_bits: Any
) -> None:
    format = CUSTOM.get(name) or block_format(name)
    for dtype, axis in ((torch.float32, -1), (torch.bfloat16, 0), (torch.float16, 1)):
        x = blocks((20, 3, 43)).to(dtype)
        with forced(backend, OP, Scheme.MX, x, format):
            actual = mx_quantize_dequantize(x, format, axis, rounding, seed=11)
            overwritten = mx_quantize_dequantize(x.clone(), format, axis, rounding, seed=11, inplace=True)
        with force_backend(Backend.REFERENCE):
            expected = mx_quantize_dequantize(x, format, axis, rounding, seed=11)
        assert_same_bits(actual, expected)
        assert_same_bits(overwritten, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_torchao_gives_the_same(backend: Backend, forced: Any, assert_same_bits: Any) -> None:
    with np.load(RECORDED) as recorded:
        outputs = [key for key in recorded.files if key.startswith("output/mx")]
        assert len(outputs) == 5 * 4 * 2
        for key in outputs:
            _, name, rule, dtype = key.split("/")
            x = torch.from_numpy(recorded[f"input/mx/{dtype}"])
            format = replace(block_format(name), scale_rule=MXScaleRule(rule))
            with forced(backend, OP, Scheme.MX, x, format):
                assert_same_bits(mx_quantize_dequantize(x, format), torch.from_numpy(recorded[key]))
        x = torch.from_numpy(recorded["input/nvfp4/float32"])
        for name in ("nvfp4", "nvfp4_one_level"):
            assert_same_bits(mx_quantize_dequantize(x, name), torch.from_numpy(recorded[f"output/{name}"]))


@given(
    element=st.sampled_from(["e4m3fn", "e2m1", "e3m4", "int5"]),
    size=st.integers(1, 9),
    length=st.integers(1, 20),
    rule=st.sampled_from(list(MXScaleRule)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_properties(element: str, size: int, length: int, rule: MXScaleRule, seed: int) -> None:
    numbers = IntFormat.from_bits(5, signed=True) if element == "int5" else float_format(element)
    format = MXFormat(numbers, size, rule)
    x = torch.randn(3, length, generator=torch.Generator().manual_seed(seed)) * 2.0 ** (seed % 50 - 25)
    y = mx_quantize_dequantize(x, format)
    # A shift of all exponents shifts the result, negation negates what has a symmetric grid, and codes say the same.
    assert torch.equal(mx_quantize_dequantize(x * 64, format), y * 64)
    if element != "int5":
        assert torch.equal(mx_quantize_dequantize(-x, format), -y)
    assert torch.equal(mx_dequantize(mx_quantize(x, format)), y)
    if rule is MXScaleRule.RCEIL and element != "int5":
        # Nothing saturates, and a grid value is a fixed point then.
        scale = mx_quantize(x, format).scale_codes.float() - 127
        bound = (numbers.max * 2.0**scale).repeat_interleave(size, 1)[:, :length]  # type: ignore[union-attr]
        assert (x.abs() <= bound).all()
        assert torch.equal(mx_quantize_dequantize(y, format), y)


def test_float64_tensors_keep_their_range() -> None:
    x = torch.tensor([1e300, 1.0, -3e-300], dtype=torch.float64)
    # The largest scale is 2**127, so the first saturates.
    assert mx_quantize_dequantize(x, "mxfp8_e4m3").tolist() == [448 * 2.0**127, 0.0, -0.0]
    assert mx_quantize_dequantize(x, "mxfp8_e4m3", 0, "up").tolist() == [448 * 2.0**127, 2.0**118, -0.0]
    assert mx_quantize_dequantize(torch.tensor([math.inf], dtype=torch.float64), "mxfp4").item() == 6 * 2.0**126
    y = torch.randn(6, 50, dtype=torch.float64)
    for name in NAMED_BLOCK_FORMATS:
        torch.testing.assert_close(
            mx_quantize_dequantize(y, name), mx_quantize_dequantize(y.float(), name).double(), rtol=1e-6, atol=0
        )


def test_what_a_dtype_cannot_hold_is_infinite() -> None:
    format = replace(block_format("mxfp8_e4m3"), scale_rule=MXScaleRule.CEIL)
    assert mx_quantize_dequantize(torch.tensor([65504.0]).half(), format).item() == math.inf
    assert mx_quantize_dequantize(torch.tensor([3.4e38]), format).item() == math.inf


# ---------------------------------------------------------------------- stochastic rounding


@pytest.mark.parametrize("axis", [0, 1])
def test_noise_belongs_to_elements_not_to_blocks(axis: int) -> None:
    # One magnitude everywhere: the scale, and so the chance to round up, does not depend on the blocks.
    x = torch.full((64, 64), 1.1)
    x[0, :] = x[:, 0] = x[::16, ::16] = 1.1
    results = [
        mx_quantize_dequantize(x, MXFormat(float_format("e2m1"), size), axis, "stochastic", seed=5)
        for size in (4, 7, 64)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    other = mx_quantize_dequantize(x, "mxfp4", axis, "stochastic", seed=6)
    assert not torch.equal(results[0], other)


def test_stochastic_mean_and_support() -> None:
    count = 2**17
    x = torch.full((count,), 1.3)
    state = torch.get_rng_state()
    y = mx_quantize_dequantize(x, "mxfp4", rounding="stochastic", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    # floor: scale 2**-2, element 5.2 between 4 and 6.
    assert sorted(set(y.tolist())) == [1.0, 1.5]
    chance = 0.3 / 0.5
    assert abs(float((y == 1.5).double().mean()) - chance) < 5 * math.sqrt(chance * (1 - chance) / count)
    exact = torch.tensor([1.0, 1.5, -0.5, 0.0]).repeat(1000)
    assert torch.equal(mx_quantize_dequantize(exact, "mxfp4", rounding="stochastic", seed=2), exact)


def test_seeds_of_the_librarys_own_stream() -> None:
    from quantsim_kernels.random_seeds import manual_seed

    x = torch.randn(4, 64)
    manual_seed(9)
    first, second = (mx_quantize_dequantize(x, "mxfp4", rounding="stochastic") for _ in range(2))
    manual_seed(9)
    assert torch.equal(mx_quantize_dequantize(x, "mxfp4", rounding=5), first)
    assert not torch.equal(first, second)
    seeded = mx_quantize_dequantize(x, "mxfp4", rounding=5, seed=torch.tensor(4))
    assert torch.equal(seeded, mx_quantize_dequantize(x, "mxfp4", rounding=5, seed=4))


# ---------------------------------------------------------------------- codes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", [*NAMED_BLOCK_FORMATS, *CUSTOM])
def test_codes_round_trip(name: str, dtype: torch.dtype, assert_same_bits: Any) -> None:
    format = CUSTOM.get(name) or block_format(name)
    for axis in (0, 1, -1):
        x = blocks((20, 4, 35)).to(dtype)
        stored = mx_quantize(x, format, axis)
        assert stored.shape == x.shape
        assert stored.scale_codes.dtype is torch.uint8
        assert not stored.codes.is_floating_point()
        assert_same_bits(mx_dequantize(stored, dtype), mx_quantize_dequantize(x, format, axis))


def test_codes_by_hand() -> None:
    stored = mx_quantize(torch.tensor([[0.5, -6.0, 1.0], [0.0, -0.0, 0.0], [1.0, math.nan, 2.0]]), "mxfp4")
    assert stored.codes.tolist() == [[1, 15, 2], [0, 8, 0], [0, 0, 0]]
    assert stored.scale_codes.tolist() == [[127], [0], [255]]
    assert stored.tensor_scale is None
    integers = mx_quantize(torch.tensor([-1.9999, 1.9999, 0.5, -0.015625]), "mxint8")
    assert integers.codes.dtype is torch.int8
    assert integers.codes.tolist() == [-128, 127, 32, -1]
    assert integers.scale_codes.tolist() == [127]
    two = mx_quantize(torch.tensor([2688.0, 6.0, -3.0] + [0.0] * 13), "nvfp4")
    assert two.tensor_scale is not None
    assert two.tensor_scale.item() == 1.0
    assert two.scale_codes.tolist() == [0x7E]  # 448
    assert two.codes.tolist()[:3] == [7, 0, 8]
    assert mx_quantize(torch.zeros(16), "nvfp4").scale_codes.tolist() == [1]
    assert mx_quantize(torch.full((16,), math.nan), "nvfp4").scale_codes.tolist() == [0x7F]


def test_codes_of_all_element_values(assert_same_bits: Any) -> None:
    # All 256 codes of e4m3fn under one scale: those of NaN make the block NaN only when quantized, not when read.
    codes = torch.arange(256).to(torch.uint8).view(8, 32)
    scales = torch.full((8, 1), 130, dtype=torch.uint8)
    format = block_format("mxfp8_e4m3")
    y = mx_dequantize(MXCodes(codes, scales, None, 1, 32, format))
    assert_same_bits(y, codes.view(torch.float8_e4m3fn).float() * 8)


# ---------------------------------------------------------------------- gradients, compile, export


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4"])
def test_gradient_passes_straight_through(name: str) -> None:
    x = torch.randn(4, 40, requires_grad=True)
    grad = torch.randn(4, 40)
    y = mx_quantize_dequantize(x, name)
    y.backward(grad)
    assert torch.equal(x.grad, grad)  # type: ignore[arg-type]
    assert y.requires_grad
    assert not mx_quantize_dequantize(x.detach(), name).requires_grad


class Cast(torch.nn.Module):
    """One cast, everything about it constant."""

    def __init__(self, format: BlockFormat | str, axis: int, rounding: str) -> None:
        super().__init__()
        self.format, self.axis, self.rounding = format, axis, rounding

    def forward(self, x: Tensor) -> Tensor:
        return mx_quantize_dequantize(x, self.format, self.axis, self.rounding, seed=3)


@pytest.mark.parametrize("strict", [False, True])
def test_export_equals_eager(strict: bool, assert_same_bits: Any) -> None:
    for module in (Cast("mxfp4", -1, "nearest"), Cast(CUSTOM["nvfp4 of 5"], 0, "stochastic")):
        x = blocks((20, 37))
        program = torch.export.export(module, (x,), strict=strict)
        assert_same_bits(program.module()(x), module(x))


def test_compiled_equals_eager(assert_same_bits: Any) -> None:
    torch.compiler.reset()
    for arguments in (
        ("mxfp8_e4m3", -1, "nearest"),
        (CUSTOM["symmetric int8"], 0, "up"),
        ("nvfp4", -1, "nearest"),
        ("mxfp4", -1, "stochastic"),
    ):
        module = Cast(*arguments)
        x = blocks((30, 43))
        assert_same_bits(torch.compile(module, fullgraph=True)(x), module(x))
    x = torch.randn(8, 64, requires_grad=True)
    torch.compile(copy.copy(Cast("mxfp4", -1, "nearest")), fullgraph=True)(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(8, 64))  # type: ignore[arg-type]


# ---------------------------------------------------------------------- shapes and errors


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["mxfp4", "nvfp4"])
def test_shapes_and_layouts(name: str, backend: Backend, forced: Any, assert_same_bits: Any) -> None:
    base = torch.randn(12, 36)
    with forced(backend, OP, Scheme.MX, base, block_format(name)):
        for x in (base.t(), base[:, ::3], base[:1].expand(12, 36), torch.tensor(1.3), torch.empty(0, 4), base[:, :0]):
            y = mx_quantize_dequantize(x, name)
            assert y.shape == x.shape
            assert_same_bits(y, mx_quantize_dequantize(x.contiguous(), name))
        before = base.t().clone()
        overwritten = before.t().clone().t()
        assert mx_quantize_dequantize(overwritten, name, inplace=True).shape == before.shape
    assert mx_quantize_dequantize(torch.ones(4, 8, device="meta"), name).is_meta


def test_errors() -> None:
    x = torch.randn(4, 32)
    with pytest.raises(ValueError, match=r"block format: got 'mxfp5', expected one of .*mxfp4.*nvfp4_one_level"):
        mx_quantize_dequantize(x, "mxfp5")
    with pytest.raises(TypeError, match="expected an MXFormat, an NVFP4Format or a name"):
        mx_quantize_dequantize(x, float_format("e2m1"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"x: got torch.int32, expected a floating-point tensor"):
        mx_quantize_dequantize(x.int(), "mxfp4")
    with pytest.raises(TypeError, match="x: got list"):
        mx_quantize_dequantize([1.0], "mxfp4")  # type: ignore[arg-type]
    with pytest.raises(IndexError, match=r"axis: got 2 for a tensor of shape \(4, 32\), expected -2 to 1"):
        mx_quantize_dequantize(x, "mxfp4", 2)
    with pytest.raises(TypeError, match=r"axis: got 1\.0"):
        mx_quantize_dequantize(x, "mxfp4", 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="9 odd"):
        mx_quantize_dequantize(x, "mxfp4", rounding="sideways")
    with pytest.raises(ValueError, match=r"inplace=True.*torch.no_grad"):
        mx_quantize_dequantize(x.requires_grad_(), "mxfp4", inplace=True)
    for element, reason in (
        (float_format("e8m0"), "has no zero"),
        (IntFormat(-(2**25), 2**25), "at most 24 bits"),
        (IntFormat(-3, 0), "positive qmax"),
    ):
        with pytest.raises(ValueError, match=reason):
            mx_quantize(x, MXFormat(element))
    with pytest.raises(ValueError, match="no dimension"):
        mx_quantize(torch.tensor(1.0), "mxfp4")
    stored = mx_quantize(x, "mxfp4")
    with pytest.raises(ValueError, match=r"expected 32 elements along axis 1 and scales of shape \(4, 1\)"):
        mx_dequantize(replace(stored, scale_codes=stored.scale_codes[:2]))
    with pytest.raises(TypeError, match="expected the MXCodes"):
        mx_dequantize(stored.codes)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="floating-point"):
        mx_dequantize(stored, torch.int32)
