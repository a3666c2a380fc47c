"""Codes of block formats against ml_dtypes' tables, and their round trip."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from quantsim_encodings.formats import NAMED_MX_FORMATS, IntFormat, MXFormat, mx_format
from quantsim_kernels.reference import mx, mx_codes

TABLES = {
    "mxfp8_e4m3": ml_dtypes.float8_e4m3fn,
    "mxfp8_e5m2": ml_dtypes.float8_e5m2,
    "mxfp6_e3m2": ml_dtypes.float6_e3m2fn,
    "mxfp6_e2m3": ml_dtypes.float6_e2m3fn,
    "mxfp4": ml_dtypes.float4_e2m1fn,
}


@pytest.mark.parametrize("name", TABLES)
def test_element_codes_are_those_of_ml_dtypes(name: str) -> None:
    format = mx_format(name)
    cast = mx.quantize(torch.randn(50, 32) * 3, format)
    codes, _ = mx_codes.encode(cast, format, 1)
    expected = cast.elements.numpy().astype(np.float32).astype(TABLES[name]).view(np.uint8)
    assert np.array_equal(codes.numpy(), expected & (2**format.element.bits - 1))


@pytest.mark.parametrize("name", NAMED_MX_FORMATS)
def test_scale_codes_are_e8m0(name: str) -> None:
    format = mx_format(name)
    x = (torch.ones(278, 1, dtype=torch.float64) * torch.pow(2.0, torch.arange(-149, 129).double())[:, None]).float()
    x[-1] = float("nan")
    cast = mx.quantize(x, format)
    _, scales = mx_codes.encode(cast, format, 1)
    assert np.array_equal(
        scales.numpy().view(ml_dtypes.float8_e8m0fnu).astype(np.float64), cast.scale.numpy(), equal_nan=True
    )


@pytest.mark.parametrize("element", [IntFormat(-128, 127), IntFormat(0, 255), IntFormat(-(2**11), 2**11 - 1)], ids=str)
def test_integer_codes(element: IntFormat) -> None:
    format = MXFormat(element, 16)
    cast = mx.quantize(torch.randn(20, 16), format)
    codes, scales = mx_codes.encode(cast, format, 1)
    assert codes.dtype is mx_codes.element_code_dtype(element)
    assert torch.equal(codes.double() * 2.0 ** -(element.bits - 2), cast.elements)
    back = mx_codes.decode(codes, scales, None, format, torch.float32)
    assert torch.equal(back.elements, cast.elements)
    assert torch.equal(back.scale, cast.scale)
