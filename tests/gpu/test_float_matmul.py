"""Matrix products that cast their operands, on a real GPU: against float64 products of the cast operands."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, NVFP4Format, float_format, mx_format
from quantsim_kernels import float_cast, float_quantize_dequantize
from quantsim_kernels.mx import mx_quantize_dequantize
from quantsim_kernels.operands import DeferredOperand, OperandCast

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

FORMATS = {
    "e4m3fn": float_format("e4m3fn"),
    "fp16": float_format("fp16"),
    "mxfp4": mx_format("mxfp4"),
    "mxint8": mx_format("mxint8"),
    "nvfp4": NVFP4Format(),
}


def deferred(source: Tensor, format: Any, **settings: Any) -> DeferredOperand:
    cast = OperandCast(format=format, **settings)

    def quantize(x: Tensor) -> Tensor:
        if not isinstance(format, FloatFormat):
            return mx_quantize_dequantize(x, format, cast.axis, cast.rounding)
        if cast.scale is None:
            return float_cast(x, format, cast.rounding, saturate=cast.saturate)
        return float_quantize_dequantize(x, cast.scale, format, cast.block_size, rounding=cast.rounding)

    return DeferredOperand(source, quantize, format, cast)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [7, 1000])  # cast by the product, and cast once before
@pytest.mark.parametrize("name", FORMATS)
def test_linear(name: str, rows: int, dtype: torch.dtype) -> None:
    format = FORMATS[name]
    x, weight, bias = (torch.randn(shape, device="cuda").to(dtype) for shape in ((rows, 650), (333, 650), (333,)))
    scales: dict[str, Any] = {}
    if name == "e4m3fn":
        scales = {"scale": torch.rand(333, 1, device="cuda") * 0.01 + 0.005}
    a, b = deferred(x, format), deferred(weight, format, **scales)
    from quantsim_kernels.triton.float_matmul import linear

    expected = a.values.double() @ b.values.double().T + bias.double()
    # Rounded scales of half-precision carriers, and the order of float32 sums, may differ.
    torch.testing.assert_close(linear(a, b, bias).double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=2e-4)


@pytest.mark.parametrize("name", ["e4m3fn", "mxfp4"])
def test_matmul(name: str) -> None:
    from quantsim_kernels.triton.float_matmul import matmul

    format = FORMATS[name]
    along_k = {} if isinstance(format, FloatFormat) else {"axis": -2}
    for a_shape, b_shape in (((4, 5, 60, 96), (5, 96, 130)), ((3, 60, 96), (96, 130))):
        a = deferred(torch.randn(a_shape, device="cuda"), format)
        b = deferred(torch.randn(b_shape, device="cuda"), format, **along_k)
        expected = a.values.double() @ b.values.double()
        torch.testing.assert_close(matmul(a, b).double(), expected, rtol=1e-6, atol=1e-4)
