"""Every backend of the float casts against the reference, gradients, and the entry points where they run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from quantsim_encodings.formats import NAMED_FLOAT_FORMATS, FloatFormat, NanEncoding, float_format
from quantsim_kernels import (
    Backend,
    Scheme,
    backends,
    float_cast,
    float_dynamic_quantize_dequantize,
    float_quantize_dequantize,
    force_backend,
)

FAST = [backend for backend in backends("float_cast") if backend is not Backend.REFERENCE]
FORMATS = {
    **NAMED_FLOAT_FORMATS,
    "e4m3fnuz": FloatFormat(4, 3, bias=8, has_infinity=False, nan=NanEncoding.NEGATIVE_ZERO, has_negative_zero=False),
    "e8m7-finite": FloatFormat(8, 7, has_infinity=False, nan=NanEncoding.NONE, has_negative_zero=False),
    "e6m9": FloatFormat(6, 9),
    "e2m21": FloatFormat(2, 21),
    "e8m22": FloatFormat(8, 22),
    "e7m20": FloatFormat(7, 20),
    "flushing": FloatFormat(5, 2, has_subnormals=False),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}


def inputs(dtype: torch.dtype) -> Tensor:
    """Every bfloat16, every float16 and random bit patterns; one row of moderate numbers."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    patterns = torch.from_numpy(np.random.default_rng(3).integers(0, 2**32, 2**17, dtype=np.uint32).view(np.float32))
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
        for options in ({}, {"saturate": False}, {"saturate_infinity": True}):
            if options == {"saturate": False} and not format.has_infinity and format.nan is NanEncoding.NONE:
                continue
            actual = float_cast(x, format, **options)
            overwritten = float_cast(x.clone(), format, inplace=True, **options)
            with force_backend(Backend.REFERENCE):
                expected = float_cast(x, format, **options)
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
