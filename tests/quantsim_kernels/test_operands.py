"""QuantizedOperand gives the values that the fake-quant path computes with."""

from __future__ import annotations

import pytest
import torch

from quantsim_encodings.formats import IntFormat, OpticalFormat, float_format, mx_format
from quantsim_kernels import (
    QuantizedOperand,
    affine_quantize,
    affine_quantize_dequantize,
    float_cast,
    float_quantize_dequantize,
)
from quantsim_kernels.operands import DeferredOperand, OperandCast


@pytest.mark.parametrize(
    ("scale_shape", "block_size"), [((), None), ((6, 1), None), ((6, 4), (1, 8))], ids=["tensor", "channel", "block"]
)
@pytest.mark.parametrize("with_offset", [False, True])
def test_integer_codes(scale_shape: tuple[int, ...], block_size: tuple[int, ...] | None, with_offset: bool) -> None:
    x = torch.randn(6, 32)
    scale = torch.rand(scale_shape) + 0.01
    offset = torch.randint(-9, 9, scale_shape).float() if with_offset else None
    codes = affine_quantize(x, scale, offset, -8, 7, block_size)
    operand = QuantizedOperand(values=codes, scale=scale, offset=offset, format=IntFormat(-8, 7), block_size=block_size)
    assert torch.equal(operand.dequantize(), affine_quantize_dequantize(x, scale, offset, -8, 7, block_size))
    assert operand.shape == (6, 32)


def test_integer_codes_with_a_shifted_grid() -> None:
    x, scale = torch.randn(64), torch.tensor(0.3)
    codes = affine_quantize(x - 0.5 * scale, scale, None, -2, 1)
    operand = QuantizedOperand(values=codes, scale=scale, format=IntFormat(-2, 1), zero_point_shift=0.5)
    expected = affine_quantize_dequantize(x, scale, None, -2, 1, zero_point_shift=0.5)
    assert torch.allclose(operand.dequantize(), expected, atol=1e-6)


def test_float_values_with_and_without_a_scale() -> None:
    x, scale, format = torch.randn(6, 32), torch.rand(6, 1) + 0.01, float_format("e4m3fn")
    operand = QuantizedOperand(values=float_cast(x / scale, format), scale=scale, format=format)
    assert torch.equal(operand.dequantize(), float_quantize_dequantize(x, scale, format))
    assert QuantizedOperand(values=x, format=format).dequantize() is x


def test_gradients_flow() -> None:
    scale = torch.tensor(0.5, requires_grad=True)
    QuantizedOperand(
        values=torch.tensor([3.0, -2.0]), scale=scale, format=IntFormat(-8, 7)
    ).dequantize().sum().backward()
    assert scale.grad is not None
    assert scale.grad.item() == 1.0


def test_other_formats_are_refused() -> None:
    with pytest.raises(TypeError, match="OpticalFormat"):
        QuantizedOperand(values=torch.ones(2), format=OpticalFormat()).dequantize()


def test_numbers_of_block_formats_are_read_as_they_are() -> None:
    x = torch.randn(2, 32)
    assert QuantizedOperand(values=x, format=mx_format("mxfp4")).dequantize() is x
    with pytest.raises(TypeError, match="MXFormat"):
        QuantizedOperand(values=x, format=mx_format("mxfp4"), scale=torch.ones(2, 1)).dequantize()


def test_deferred_operands_are_quantized_once_and_only_if_read() -> None:
    calls: list[int] = []

    def quantize(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return float_cast(x, "e4m3fn")

    x, cast = torch.randn(3, 4), OperandCast(format=float_format("e4m3fn"))
    operand = DeferredOperand(x, quantize, float_format("e4m3fn"), cast)
    assert isinstance(operand, QuantizedOperand)
    assert operand.shape == (3, 4)
    assert operand.source is x
    assert operand.cast is cast
    assert operand.scale is None
    assert calls == []
    assert torch.equal(operand.dequantize(), float_cast(x, "e4m3fn"))
    assert operand.values is operand.dequantize()
    assert calls == [1]
