"""Block formats in Triton on a real GPU: equal to the reference on the CPU bit for bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from quantsim_encodings.formats import NAMED_MX_FORMATS, MXScaleRule, NVFP4Format, RoundingMode
from quantsim_kernels import Backend, Scheme, explain, force_backend
from quantsim_kernels.mx import mx_quantize_dequantize

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

FORMATS = {**NAMED_MX_FORMATS, "nvfp4": NVFP4Format(), "nvfp4-one-level": NVFP4Format(two_level=False)}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def same(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal bit for bit, all NaN counting as one."""
    actual, bits = actual.cpu(), {2: torch.int16, 4: torch.int32}[actual.element_size()]
    return bool(((actual.view(bits) == expected.view(bits)) | (actual.isnan() & expected.isnan())).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", list(RoundingMode))
@pytest.mark.parametrize("name", FORMATS)
def test_equals_the_reference(name: str, mode: RoundingMode, dtype: torch.dtype) -> None:
    x = torch.randn(33, 70, 65) * torch.exp2(torch.randint(-14, 10, (33, 70, 65)).float())
    x[0], x[1, 2, 3], x[2, 3, 4] = 0.0, torch.nan, -torch.inf
    x = x.to(dtype)
    for axis in (-1, 1, 0):
        with force_backend(Backend.REFERENCE):
            expected = mx_quantize_dequantize(x, FORMATS[name], axis, mode, seed=5)
        assert same(mx_quantize_dequantize(x.cuda(), FORMATS[name], axis, mode, seed=5), expected)


@pytest.mark.parametrize("rule", list(MXScaleRule))
@pytest.mark.parametrize("name", NAMED_MX_FORMATS)
def test_scale_rules_on_any_bits(name: str, rule: MXScaleRule) -> None:
    format = dataclasses.replace(NAMED_MX_FORMATS[name], scale_rule=rule)
    x = torch.randint(-(2**31), 2**31, (512, 256), dtype=torch.int64).to(torch.int32).view(torch.float32)
    with force_backend(Backend.REFERENCE):
        expected = mx_quantize_dequantize(x, format)
    assert same(mx_quantize_dequantize(x.cuda(), format), expected)


def test_cuda_tensors_get_the_triton_kernel() -> None:
    x, format = torch.ones(4, device="cuda"), NAMED_MX_FORMATS["mxfp4"]
    decisions = explain("mx_quantize_dequantize", Scheme.MX, x, format, -1, RoundingMode.NEAREST_EVEN)
    assert next(d for d in decisions if d.chosen).kernel.backend is Backend.TRITON
