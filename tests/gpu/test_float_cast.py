"""The float casts in Triton on a real GPU: equal to the reference on the CPU bit for bit, and one pass over memory."""

from __future__ import annotations

import pytest
import torch

from quantsim_encodings.formats import FloatFormat, RoundingMode, float_format
from quantsim_kernels import (
    Backend,
    Scheme,
    explain,
    float_cast,
    float_dynamic_quantize_dequantize,
    float_quantize_dequantize,
    force_backend,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

FORMATS = [*map(float_format, ("e4m3fn", "e5m2", "e2m1", "fp16", "bf16", "tf32")), FloatFormat(5, 0)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def same(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal bit for bit, all NaN counting as one."""
    actual, bits = actual.cpu(), {2: torch.int16, 4: torch.int32}[actual.element_size()]
    return bool(((actual.view(bits) == expected.view(bits)) | (actual.isnan() & expected.isnan())).all())


def bit_patterns(count: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31, (count,), dtype=torch.int64).to(torch.int32).view(torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", list(RoundingMode))
@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.label)
def test_equals_the_reference(format: FloatFormat, mode: RoundingMode, dtype: torch.dtype) -> None:
    x = bit_patterns(300_001).to(dtype)
    for saturate in (True, None):
        with force_backend(Backend.REFERENCE):
            expected = float_cast(x, format, mode, saturate=saturate, seed=5)
        assert same(float_cast(x.cuda(), format, mode, saturate=saturate, seed=5), expected)


@pytest.mark.parametrize("mode", [RoundingMode.NEAREST_EVEN, RoundingMode.STOCHASTIC])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scales_equal_the_reference(dtype: torch.dtype, mode: RoundingMode) -> None:
    format, x = float_format("e4m3fn"), (torch.randn(257, 1024) * 9).to(dtype)
    for shape, block_size in (((), None), ((257, 1), None), ((1024,), None), ((257, 32), (1, 32))):
        scale = torch.rand(shape) + 0.1
        with force_backend(Backend.REFERENCE):
            expected = float_quantize_dequantize(x, scale, format, block_size, rounding=mode, seed=5)
        actual = float_quantize_dequantize(x.cuda(), scale.cuda(), format, block_size, rounding=mode, seed=5)
        assert same(actual, expected)
    for block in (None, 32, 100):
        with force_backend(Backend.REFERENCE):
            expected = float_dynamic_quantize_dequantize(x, format, block_size=block, rounding=mode, seed=5)
        assert same(
            float_dynamic_quantize_dequantize(x.cuda(), format, block_size=block, rounding=mode, seed=5), expected
        )


def test_cuda_tensors_get_the_triton_kernel() -> None:
    x = torch.ones(4, device="cuda")
    chosen = next(d for d in explain("float_cast", Scheme.FLOAT, x, float_format("e4m3fn")) if d.chosen)
    assert chosen.kernel.backend is Backend.TRITON


def milliseconds(function: object, repeats: int = 20) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    best = float("inf")
    for _ in range(repeats):
        start.record()
        function()  # type: ignore[operator]
        end.record()
        torch.cuda.synchronize()
        best = min(best, start.elapsed_time(end))
    return best


@pytest.mark.parametrize("mode", [RoundingMode.NEAREST_EVEN, RoundingMode.STOCHASTIC])
def test_one_pass_over_memory(mode: RoundingMode) -> None:
    x, seed = torch.randn(8192, 8192, device="cuda"), torch.tensor(3, device="cuda")
    clone = milliseconds(x.clone)
    ours = milliseconds(lambda: float_cast(x, "e4m3fn", mode, seed=seed if mode.is_stochastic else None))
    assert ours <= 3 * clone, f"{ours:.3f} ms, clone {clone:.3f} ms"
