from __future__ import annotations

import pytest
import torch

from quantsim_encodings.formats import FloatFormat, IntFormat, MXFormat, NVFP4Format, float_format, mx_format
from quantsim_kernels.operands import DeferredOperand, QuantizedOperand
from quantsim_kernels.triton.availability import (
    block_format_objection,
    float_cast_objection,
    float_matmul_objection,
    launch_objection,
    mx_objection,
    optical_objection,
)


def test_objections_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    objection = launch_objection(torch.ones(2))
    assert objection is not None
    assert "CUDA tensors only" in objection
    monkeypatch.setattr("quantsim_kernels.triton.availability.is_interpreted", lambda: True)
    assert launch_objection(torch.ones(2)) is None
    assert launch_objection(torch.ones(2), zero_point_shift=0.5) == "it has no zero_point_shift"
    monkeypatch.setattr("quantsim_kernels.triton.availability.is_installed", lambda: False)
    assert launch_objection(torch.ones(2)) == "the package triton is not installed"


def test_objections_to_dtypes_and_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    x, mxfp4 = torch.ones(2, 64), mx_format("mxfp4")
    for objection in (
        float_cast_objection(x),
        mx_objection(x, mxfp4),
        float_matmul_objection(x, x, None),
        optical_objection(x, x, None),
    ):
        assert objection is not None
        assert "CUDA tensors only" in objection
    monkeypatch.setattr("quantsim_kernels.triton.availability.is_interpreted", lambda: True)
    monkeypatch.setattr("quantsim_kernels.triton.availability.is_installed", lambda: True)
    operand = DeferredOperand(x.double(), torch.round, float_format("e4m3fn"))
    assert float_cast_objection(x.double()) == "it computes in float32, and x is float64"
    assert mx_objection(x, mxfp4) is None
    assert optical_objection(x, x.half(), None, levels=256) is None
    assert optical_objection(x, x.double()) == float_cast_objection(x.double())
    assert optical_objection(x, x.to("meta")) is not None
    assert float_matmul_objection(x, QuantizedOperand(values=x, format=IntFormat(0, 3)), None) is None
    assert float_matmul_objection(x, operand) == float_cast_objection(x.double())
    assert block_format_objection(NVFP4Format(), 10**6) is None
    assert "5000" in (block_format_objection(MXFormat(float_format("e2m1"), block_size=5000), 10**6) or "")
    assert block_format_objection(MXFormat(float_format("e2m1"), block_size=5000), 70) is None
    assert "finer" in (block_format_objection(MXFormat(FloatFormat(6, 2)), 32) or "")
    assert "include 0" in (block_format_objection(MXFormat(IntFormat(1, 3)), 32) or "")
