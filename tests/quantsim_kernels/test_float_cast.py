"""Every backend of the float casts against the reference, gradients, and the entry points where they run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from quantsim_encodings.formats import NAMED_FLOAT_FORMATS, FloatFormat, NanEncoding, RoundingMode, float_format
from quantsim_kernels import (
    Backend,
    Scheme,
    backends,
    float_cast,
    float_cast_gradient,
    float_dynamic_quantize_dequantize,
    float_quantize_dequantize,
    force_backend,
    rounding_noise,
)

FAST = [backend for backend in backends("float_cast") if backend is not Backend.REFERENCE]
FORMATS = {
    **NAMED_FLOAT_FORMATS,
    "e4m3fnuz": FloatFormat(4, 3, bias=8, has_infinity=False, nan=NanEncoding.NEGATIVE_ZERO, has_negative_zero=False),
    "e8m7-finite": FloatFormat(8, 7, bias=128, has_infinity=False, nan=NanEncoding.NONE, has_negative_zero=False),
    "e6m9": FloatFormat(6, 9),
    "e2m21": FloatFormat(2, 21),
    "e8m22": FloatFormat(8, 22),
    "e7m20": FloatFormat(7, 20),
    "flushing": FloatFormat(5, 2, has_subnormals=False),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}


MODES = tuple(RoundingMode)


def inputs(dtype: torch.dtype) -> Tensor:
    """A fifth of all bfloat16 and float16, and random bit patterns; the oracle tests take all."""
    every = torch.arange(0, 2**16, 5, dtype=torch.int32).to(torch.int16)
    patterns = torch.from_numpy(np.random.default_rng(3).integers(0, 2**32, 2**15, dtype=np.uint32).view(np.float32))
    x = torch.cat([every.view(torch.bfloat16).float(), every.view(torch.float16).float(), patterns])
    return torch.where(x.isnan(), torch.full_like(x, float("nan")), x).to(dtype)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_casts_equal_the_reference(
    format: FloatFormat, dtype: torch.dtype, backend: Backend, forced: Any, assert_same_bits: Any
) -> None:
    x = inputs(dtype)
    with forced(backend, "float_cast", Scheme.FLOAT, x, format):
        for options in ({"saturate": True}, {"saturate": False}, {"saturate_infinity": True}):
            if options == {"saturate": False} and not format.has_infinity and format.nan is NanEncoding.NONE:
                continue
            for mode in MODES if dtype is torch.float32 else (RoundingMode.NEAREST_EVEN, RoundingMode.STOCHASTIC):
                actual = float_cast(x, format, mode, seed=7, **options)
                overwritten = float_cast(x.clone(), format, mode, seed=7, inplace=True, **options)
                with force_backend(Backend.REFERENCE):
                    expected = float_cast(x, format, mode, seed=7, **options)
                assert_same_bits(actual, expected)
                assert_same_bits(overwritten, expected)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(
    ("scale_shape", "block_size"),
    [(None, None), ((), None), ((1,), None), ((12, 1), None), ((64,), None), ((12, 2), (1, 32)), ((3, 4), (4, -1))],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_casts_equal_the_reference(
    scale_shape: Any, block_size: Any, dtype: torch.dtype, backend: Backend, forced: Any, assert_same_bits: Any
) -> None:
    x = torch.randn(12, 64).to(dtype)
    x[0] = 0
    scale = None if scale_shape is None else torch.rand(scale_shape) * 0.1 + 0.001
    grad = torch.randn(12, 64).to(dtype)
    for format in (float_format("e4m3fn"), float_format("e2m1"), float_format("bf16")):
        results = []
        for chosen in (Backend.REFERENCE, backend):
            leaf = x.clone().requires_grad_()
            s = None if scale is None else scale.clone().requires_grad_()
            with forced(chosen, "float_quantize_dequantize", Scheme.FLOAT, x, scale, format, block_size):
                y = float_quantize_dequantize(leaf, s, format, block_size)
                y.backward(grad)
                with torch.no_grad():
                    z = float_quantize_dequantize(x.clone(), scale, format, block_size, inplace=True)
            results.append((y.detach(), z, leaf.grad, None if s is None else s.grad))
        for actual, expected in zip(results[1], results[0], strict=True):
            if expected is not None:
                assert_same_bits(actual, expected)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (6, 40), (2, 3, 8)], ids=str)
def test_dynamic_casts_equal_the_reference(
    shape: tuple[int, ...], dtype: torch.dtype, backend: Backend, forced: Any, assert_same_bits: Any
) -> None:
    x = (torch.randn(shape) * 100).to(dtype)
    if x.dim() > 1 and x.numel():
        x[0] = 0
    format = float_format("e4m3fn")
    with forced(backend, "float_dynamic_quantize_dequantize", Scheme.FLOAT, x, format):
        actual = float_dynamic_quantize_dequantize(x, format)
        overwritten = float_dynamic_quantize_dequantize(x.clone(), format, inplace=True)
    with force_backend(Backend.REFERENCE):
        expected = float_dynamic_quantize_dequantize(x, format)
    assert_same_bits(actual, expected)
    assert_same_bits(overwritten, expected)


def test_pieces_equal_the_whole(monkeypatch: pytest.MonkeyPatch, assert_same_bits: Any) -> None:
    x, scale, format = torch.randn(40, 48), torch.rand(40, 1) + 0.1, float_format("e5m2")
    x[3, 3] = float("inf")
    functions = (
        lambda: float_cast(x, format),
        lambda: float_cast(x.bfloat16(), format),
        lambda: float_quantize_dequantize(x, scale, format),
        lambda: float_dynamic_quantize_dequantize(x[4:], format),
        lambda: float_dynamic_quantize_dequantize(x[4:].clone(), format, inplace=True),
    )
    expected = [function() for function in functions]
    monkeypatch.setattr("quantsim_kernels.torch._pieces.WHOLE_ELEMENTS", 100)
    monkeypatch.setattr("quantsim_kernels.torch._pieces.PIECE_ELEMENTS", 64)
    for function, wanted in zip(functions, expected, strict=True):
        assert_same_bits(function(), wanted)


def test_gradient_of_the_cast() -> None:
    x = torch.tensor([0.3, -500.0, 1e9], requires_grad=True)
    float_cast(x, float_format("e4m3fn")).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 1.0]
    x.grad = None
    float_cast(x, float_format("e4m3fn"), clip_gradient=True).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 0.0, 0.0]
    x.grad = None
    float_dynamic_quantize_dequantize(x, float_format("e4m3fn")).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def test_gradient_of_the_scale_is_the_slope_of_the_chain() -> None:
    """Inside, cast(t) - t; outside, the largest number: what autograd makes of a straight-through chain."""
    format = float_format("e2m1")
    x, scale = torch.randn(64).mul_(3), torch.tensor(0.4, requires_grad=True)
    float_quantize_dequantize(x, scale, format).sum().backward()
    chain = torch.tensor(0.4, requires_grad=True)
    clipped = (x / chain).clamp(-format.max, format.max)
    ((float_cast(clipped.detach(), format) + (clipped - clipped.detach())) * chain).sum().backward()
    torch.testing.assert_close(scale.grad, chain.grad, rtol=1e-5, atol=1e-5)


def test_inplace_is_refused_where_a_gradient_is_needed() -> None:
    x, format = torch.randn(4, requires_grad=True), float_format("e4m3fn")
    for function in (
        lambda: float_cast(x * 1, format, inplace=True),
        lambda: float_quantize_dequantize(x * 1, None, format, inplace=True),
        lambda: float_dynamic_quantize_dequantize(x * 1, format, inplace=True),
    ):
        with pytest.raises(ValueError, match=r"inplace=True.*torch.no_grad"):
            function()


@pytest.mark.parametrize("layout", ["transposed", "gaps", "expanded"])
def test_memory_layouts(layout: str, assert_same_bits: Any) -> None:
    base = torch.randn(16, 24)
    x = {"transposed": base.t(), "gaps": base[:, ::3], "expanded": base[:1].expand(16, 24)}[layout]
    format = float_format("e3m2")
    assert_same_bits(float_cast(x, format), float_cast(x.contiguous(), format))
    assert_same_bits(
        float_dynamic_quantize_dequantize(x, format), float_dynamic_quantize_dequantize(x.contiguous(), format)
    )


def test_meta_tensors() -> None:
    x, format = torch.ones(4, 8, device="meta"), float_format("e4m3fn")
    assert float_cast(x, format).is_meta
    assert float_quantize_dequantize(x, torch.ones(4, 1, device="meta"), format).is_meta
    assert float_dynamic_quantize_dequantize(x, format).is_meta


class Everything(torch.nn.Module):
    """All three ops in one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = Parameter(torch.rand(16, 1) * 0.1 + 0.02)
        self.weight = Parameter(torch.randn(16, 32))

    def forward(self, x: Tensor) -> Tensor:
        w = float_quantize_dequantize(self.weight, self.scale, float_format("e2m1"))
        x = float_dynamic_quantize_dequantize(x, float_format("e4m3fn"))
        return float_cast(torch.nn.functional.linear(x, w), float_format("bf16"))


@pytest.mark.parametrize("strict", [False, True])
def test_exported_program_equals_eager(strict: bool, assert_same_bits: Any) -> None:
    module, x = Everything(), torch.randn(5, 32)
    program = torch.export.export(module, (x,), strict=strict)
    assert_same_bits(program.module()(x).detach(), module(x).detach())


def test_compiled_forward_and_backward_equal_eager() -> None:
    def function(x: Tensor, scale: Tensor) -> Tensor:
        y = float_quantize_dequantize(x, scale, float_format("e4m3fn"))
        return float_cast(float_dynamic_quantize_dequantize(y, float_format("e5m2")), float_format("fp16"))

    results = []
    for run in (function, torch.compile(function, fullgraph=True)):
        x = torch.linspace(-4, 4, 96).reshape(6, 16).requires_grad_()
        scale = torch.tensor(0.01, requires_grad=True)
        y = run(x, scale)
        y.square().sum().backward()
        results.append((y.detach(), x.grad, scale.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[1][1:], results[0][1:])


# ---------------------------------------------------------------- rounding modes, overflow, names


def test_modes_by_number_name_and_alias() -> None:
    x = torch.tensor([1.1, -1.1, 1.25, -1.25])
    for mode in RoundingMode:
        expected = float_cast(x, "e2m1", mode, seed=1)
        assert torch.equal(float_cast(x, "e2m1", mode.number, seed=1), expected)
        assert torch.equal(float_cast(x, "e2m1", mode.value, seed=1), expected)
    assert torch.equal(float_cast(x, "e2m1", "nearest"), float_cast(x, "e2m1", 1))
    assert torch.equal(float_cast(x, "e2m1", "towards_zero"), float_cast(x, "e2m1", 4))


def test_saturation_by_default_is_that_of_the_format() -> None:
    x = torch.tensor([1e9, -1e9])
    assert float_cast(x, "e4m3").tolist() == [math.inf, -math.inf]
    assert float_cast(x, "e4m3fn").tolist() == [448.0, -448.0]
    assert float_cast(x, "e2m1").tolist() == [6.0, -6.0]
    assert float_cast(x, "e4m3", saturate=True).tolist() == [240.0, -240.0]
    assert float_cast(x, "e4m3", "up").tolist() == [math.inf, -240.0]


def test_spelled_formats() -> None:
    x = torch.randn(50)
    assert torch.equal(float_cast(x, "e5m10"), x.half().float())
    assert torch.equal(float_cast(x, "e8m23"), x)
    assert torch.equal(float_cast(x.double() * 1e100, "e11m52"), x.double() * 1e100)


def test_flushing_keeps_what_rounds_up() -> None:
    x = torch.tensor([2.0**-6, 2.0**-6 * 0.99, 2.0**-7, -(2.0**-7)])
    assert float_cast(x, "e4m3", subnormal=False).tolist() == [2.0**-6, 2.0**-6, 0.0, -0.0]
    assert float_cast(x, "e4m3", "up", subnormal=False).tolist() == [2.0**-6, 2.0**-6, 0.0, -0.0]
    assert float_cast(x, "e4m3").tolist() == [2.0**-6, 2.0**-6, 2.0**-7, -(2.0**-7)]


# ---------------------------------------------------------------- stochastic rounding


@pytest.mark.parametrize("backend", backends("float_cast"))
@pytest.mark.parametrize(
    ("value", "low", "high"),
    [(2.3, 2.0, 3.0), (-2.3, -3.0, -2.0), (0.1, 0.0, 0.5), (3.999, 3.0, 4.0), (1e-6, 0.0, 0.5), (5.5, 4.0, 6.0)],
)
def test_stochastic_support_and_mean(value: float, low: float, high: float, backend: Backend, forced: Any) -> None:
    count = 10**6
    x = torch.full((count,), value)
    with forced(backend, "float_cast", Scheme.FLOAT, x, float_format("e2m1")):
        drawn = float_cast(x, "e2m1", "stochastic", seed=17)
        equal = float_cast(x, "e2m1", "stochastic_equal", seed=17)
    up = (float(torch.tensor(value)) - low) / (high - low)
    for result, probability in ((drawn, up), (equal, 0.5)):
        assert set(result.unique().tolist()) <= {low, high}
        share = (result == high).double().mean().item()
        assert abs(share - probability) <= 5 * math.sqrt(max(probability * (1 - probability), 1e-7) / count)


@pytest.mark.parametrize("backend", backends("float_cast"))
@pytest.mark.parametrize("mode", ["stochastic", "stochastic_equal"])
def test_exact_values_never_move(mode: str, backend: Backend, forced: Any, assert_same_bits: Any) -> None:
    for format in (float_format("e4m3fn"), float_format("fp16"), float_format("bf16"), float_format("tf32")):
        x = float_cast(inputs(torch.float32), format, "toward_zero", saturate=format.max < 1e5)
        with forced(backend, "float_cast", Scheme.FLOAT, x, format):
            assert_same_bits(float_cast(x, format, mode, seed=3), x)


@pytest.mark.parametrize("backend", FAST)
def test_noise_does_not_depend_on_layout_or_pieces(
    backend: Backend, forced: Any, assert_same_bits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, format = torch.randn(48, 40), float_format("e4m3fn")
    with forced(backend, "float_cast", Scheme.FLOAT, base, format):
        for x in (base, base.t(), base[:, ::3], base[:1].expand(48, 40), base[3], base.bfloat16(), base.t().bfloat16()):
            with force_backend(Backend.REFERENCE):
                expected = float_cast(x, format, "stochastic", seed=5)
                scaled = float_quantize_dequantize(x, torch.tensor(0.1), format, rounding="stochastic", seed=5)
                dynamic = float_dynamic_quantize_dequantize(x, format, rounding="stochastic", seed=5)
            for elements in (2**16, 64):
                monkeypatch.setattr("quantsim_kernels.torch._pieces.WHOLE_ELEMENTS", elements)
                monkeypatch.setattr("quantsim_kernels.torch._pieces.PIECE_ELEMENTS", elements)
                assert_same_bits(float_cast(x, format, "stochastic", seed=5), expected)
                assert_same_bits(
                    float_quantize_dequantize(x, torch.tensor(0.1), format, rounding="stochastic", seed=5), scaled
                )
                assert_same_bits(float_dynamic_quantize_dequantize(x, format, rounding="stochastic", seed=5), dynamic)


def test_noise_is_what_the_public_function_says() -> None:
    x = torch.full((3, 7), 2.3)
    up = (rounding_noise((3, 7), 5) + 0.5).double() * 2.0**-24 < (x.double() - 2)
    assert torch.equal(float_cast(x, "e2m1", "stochastic", seed=5), torch.where(up, 3.0, 2.0))


def test_global_generator_is_untouched() -> None:
    state = torch.get_rng_state()
    float_cast(torch.randn(0), "e2m1", "stochastic")
    float_cast(torch.ones(100), "e2m1", "stochastic")
    float_dynamic_quantize_dequantize(torch.ones(4, 8), "e2m1", rounding="stochastic")
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize("backend", backends("float_dynamic_quantize_dequantize"))
@pytest.mark.parametrize("mode", ["nearest", "stochastic", "down"])
@pytest.mark.parametrize(("width", "block"), [(32, 8), (30, 8), (8, 8), (5, 8), (7, 1)])
def test_blocks_of_a_row(
    width: int, block: int, mode: str, backend: Backend, forced: Any, assert_same_bits: Any
) -> None:
    x, format = torch.randn(3, width), float_format("e3m2")
    x[0, :block] = 0
    parts = x.split(block, -1)
    scale = torch.cat([(p.abs().amax(-1, True) / format.max).clamp(min=2.0**-126).expand_as(p) for p in parts], -1)
    operands = (x, format)
    with forced(backend, "float_dynamic_quantize_dequantize", Scheme.FLOAT, *operands):
        if backend is Backend.TORCH and width % block:
            pytest.skip("rows that are not made of whole blocks are the reference's")
        actual = float_dynamic_quantize_dequantize(x, format, block_size=block, rounding=mode, seed=2)
        written = float_dynamic_quantize_dequantize(
            x.clone(), format, block_size=block, rounding=mode, seed=2, inplace=True
        )
    with force_backend(Backend.REFERENCE):
        expected = float_quantize_dequantize(x, scale, format, rounding=mode, seed=2)
    assert_same_bits(actual, expected)
    assert_same_bits(written, expected)


def test_gradient_of_blocks_is_the_identity() -> None:
    x = torch.randn(3, 10, requires_grad=True)
    float_dynamic_quantize_dequantize(x, "e3m2", block_size=4).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones(3, 10))
    x.grad = None
    float_dynamic_quantize_dequantize(x, "e3m2", block_size=5).sum().backward()
    assert torch.equal(x.grad, torch.ones(3, 10))  # type: ignore[arg-type]


# ---------------------------------------------------------------- gradients in low precision


def test_gradient_cast(assert_same_bits: Any) -> None:
    x, gradient = torch.randn(200, requires_grad=True), torch.randn(200) * 100
    y = float_cast_gradient(x, "e5m2", "stochastic", seed=4)
    assert_same_bits(y.detach(), x.detach())
    y.backward(gradient)
    assert x.grad is not None
    assert_same_bits(x.grad, float_cast(gradient, "e5m2", "stochastic", seed=4))
    plain = torch.randn(3)
    assert float_cast_gradient(plain, "e5m2") is plain


def test_gradient_cast_draws_its_seed_in_the_forward() -> None:
    x = torch.zeros(500, requires_grad=True)
    y = float_cast_gradient(x, "e2m1", "stochastic")
    gradient = torch.full((500,), 1.3)
    first = torch.autograd.grad(y, x, gradient, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(y, x, gradient)[0], first)
    other = torch.autograd.grad(float_cast_gradient(x, "e2m1", "stochastic"), x, gradient)[0]
    assert not torch.equal(other, first)


def test_gradient_of_a_stochastic_scale_uses_the_noise_of_the_forward() -> None:
    x, scale = torch.randn(64), torch.tensor(0.4, requires_grad=True)
    y = float_quantize_dequantize(x, scale, "e3m2", rounding="stochastic", seed=6)
    y.sum().backward()
    assert scale.grad is not None
    expected = ((y.detach() - x) / 0.4).sum()
    torch.testing.assert_close(scale.grad, expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- compiled code


@pytest.mark.parametrize("name", ["fp16", "e4m3fn", "e2m1", "bf16", "e6m9"])
def test_compiled_modes_equal_eager(name: str, assert_same_bits: Any) -> None:
    """All ten in one graph, with overflow and subnormals."""

    def all_modes(x: Tensor, seed: Tensor) -> list[Tensor]:
        return [float_cast(x, name, mode, seed=seed) for mode in RoundingMode]

    x = inputs(torch.float32)[::9].contiguous()
    seed = torch.tensor(5)
    for actual, expected in zip(
        torch.compile(all_modes, fullgraph=True, backend="aot_eager")(x, seed), all_modes(x, seed), strict=True
    ):
        assert_same_bits(actual, expected)


def test_compiled_stochastic_training_equals_eager() -> None:
    def function(x: Tensor, scale: Tensor, seed: Tensor) -> Tensor:
        y = float_quantize_dequantize(x, scale, "e4m3fn", rounding="stochastic", seed=seed)
        y = float_cast_gradient(y, "e5m2", "stochastic", seed=seed)
        return float_dynamic_quantize_dequantize(y, "e3m2", block_size=4, rounding="stochastic", seed=seed)

    results = []
    for run in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        x = torch.linspace(-4, 4, 96).reshape(6, 16).requires_grad_()
        scale = torch.tensor(0.01, requires_grad=True)
        y = run(x, scale, torch.tensor(9))
        y.square().sum().backward()
        results.append((y.detach(), x.grad, scale.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[1][1:], results[0][1:])


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: float_cast(torch.ones(2), "e0m3"), ValueError, "exponent_bits: got 0"),
        (lambda: float_cast(torch.ones(2), FloatFormat(4, -1)), ValueError, "mantissa_bits: got -1"),
        (lambda: float_cast(torch.ones(2), "nonsense"), ValueError, "fp16, bf16.*e<E>m<M>"),
        (lambda: float_cast(torch.ones(2), "e11m52"), ValueError, "at most 8 and 23.*x.double"),
        (lambda: float_cast(torch.ones(2), ["e2m1"]), TypeError, "got list, expected a FloatFormat"),  # type: ignore[arg-type]
        (lambda: float_cast(torch.ones(2), "e2m1", 10), ValueError, "got 10.*0 nearest_odd.*9 odd"),
        (lambda: float_cast(torch.ones(2), "e2m1", "sideways"), ValueError, "'sideways'.*5 stochastic"),
        (lambda: float_cast(torch.ones(2), "e2m1", True), ValueError, "got True"),
        (lambda: float_cast(torch.ones(2), "e2m1", [1]), ValueError, r"got \[1\]"),  # type: ignore[arg-type]
        (lambda: float_cast(torch.ones(2, dtype=torch.int64), "e2m1"), TypeError, "torch.int64.*x.float"),
        (lambda: float_cast([1.0], "e2m1"), TypeError, "got list"),  # type: ignore[arg-type]
        (lambda: float_cast(torch.ones(2), "e2m1", saturate=False), ValueError, "use saturate=True"),
        (lambda: float_cast_gradient(torch.ones(2), "e2m1", saturate=False), ValueError, "use saturate=True"),
        (lambda: float_dynamic_quantize_dequantize(torch.ones(2), "e2m1", block_size=0), ValueError, "block_size"),
        (lambda: float_dynamic_quantize_dequantize(torch.ones(2), "e2m1", block_size=1.5), ValueError, "block_size"),  # type: ignore[arg-type]
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("mode", ["nearest", "stochastic", "odd"])
def test_empty_and_scalar_tensors(mode: str) -> None:
    assert float_cast(torch.empty(0, 3), "e2m1", mode).shape == (0, 3)
    scalar = float_cast(torch.tensor(2.0), "e2m1", mode)
    assert scalar.shape == ()
    assert scalar.item() == 2.0
    assert float_dynamic_quantize_dequantize(torch.tensor(3.0), "e2m1", block_size=4, rounding=mode).item() == 3.0
    assert float_dynamic_quantize_dequantize(torch.empty(0, 3), "e2m1", rounding=mode).shape == (0, 3)


def test_formats_as_arguments_of_compiled_code() -> None:
    # From the second format on the compiler takes the numbers of its argument for variables.
    compiled = torch.compile(float_cast, fullgraph=True, backend="eager")
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    for name in ("fp16", "e4m3fn", "e5m2", "e3m2"):
        format = float_format(name)
        assert torch.equal(compiled(x, format), float_cast(x, format)), name
    for rounding in (2, 4):
        assert torch.equal(compiled(x, "e5m10", rounding), float_cast(x, "e5m10", rounding)), rounding
