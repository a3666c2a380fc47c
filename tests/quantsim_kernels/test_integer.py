"""Quantized modules computed with integers: against the exact real product, rounded as hardware rounds it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quantsim.nn
from quantsim.quantization import affine
from quantsim_encodings.formats import IntFormat, float_format
from quantsim_kernels import Backend, QuantizedOperand, Scheme, explain, force_backend, integer


def quantized(module: nn.Module, *inputs: Tensor, output: bool = True, symmetric: bool = False) -> Any:
    """Calibrated 8-bit quantizers on inputs, weight (per output) and output."""
    made: Any = module if isinstance(module, quantsim.nn.QuantizationMixin) else None
    made = quantsim.nn.QuantizationMixin.from_module(module) if made is None else made
    for index in range(len(inputs)):
        made.input_quantizers[index] = affine.QuantizeDequantize((), 8, symmetric)
    if "weight" in made.param_quantizers:
        weight = made.weight
        made.param_quantizers["weight"] = affine.QuantizeDequantize((len(weight), *(1,) * (weight.dim() - 1)), 8, True)
    if output:
        made.output_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    with torch.no_grad(), made.compute_encodings():
        made(*inputs)
    return made.eval()


MODULES = {
    "linear": (nn.Linear(37, 11), (torch.randn(4, 5, 37),)),
    "linear-no-bias": (nn.Linear(37, 11, bias=False), (torch.rand(37),)),
    "conv1d": (nn.Conv1d(4, 6, 5, padding="same"), (torch.rand(2, 4, 9) + 0.5,)),
    "conv2d": (nn.Conv2d(6, 9, 3, stride=2, padding=1, groups=3), (torch.randn(2, 6, 8, 9) + 0.5,)),
    "conv2d-one": (nn.Conv2d(6, 9, (3, 2), dilation=(1, 2)), (torch.randn(6, 8, 9),)),
    "conv3d": (nn.Conv3d(2, 3, 2, padding=(1, 0, 1)), (torch.randn(1, 2, 4, 4, 4),)),
    "matmul": (quantsim.nn.QuantizedMatMul(), (torch.randn(3, 5, 7), torch.rand(7, 4))),
    "bmm": (quantsim.nn.QuantizedBmm(), (torch.randn(3, 5, 7), torch.rand(3, 7, 4))),
}


@pytest.mark.parametrize("output", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_module_within_half_a_step_of_the_exact_product(name: str, output: bool) -> None:
    module, inputs = MODULES[name]
    made = quantized(module, *inputs, output=output)
    with torch.no_grad():
        fake = made(*inputs)
        with force_backend("integer"):
            report = made.explain_dispatch(*inputs)
            result = made(*inputs)
    assert "integer" in str(report.source) or "integer backend" in report.reason
    assert result.shape == fake.shape
    assert result.dtype is fake.dtype
    if not output:
        # The bias is rounded to steps of the sum.
        torch.testing.assert_close(result, fake, rtol=1e-5, atol=5e-5)
        return
    step = made.output_quantizers[0].get_scale()
    # Codes on the grid, at most one step from fake-quantization's and most of them equal.
    steps = (result - fake) / step
    assert (steps.abs() < 1.01).all()
    assert (steps.abs() < 0.01).float().mean() > 0.95
    codes = result / step
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)


def test_declines_unless_asked_for() -> None:
    module, inputs = MODULES["linear"]
    made = quantized(module, *inputs)
    report = made.explain_dispatch(*inputs)
    assert report.kernel is None
    assert "force_backend('integer')" in str(report)
    assert made(*inputs).requires_grad
    with force_backend("integer"):
        # Gradients go through fake quantization.
        made(*inputs).sum().backward()
        assert "it has no backward" in str(made.explain_dispatch(*inputs))
    assert made.weight.grad is not None
    made.set_kernel(integer.linear)
    with torch.no_grad(), force_backend("integer"):
        expected = made(*inputs)
    with torch.no_grad():
        assert torch.equal(made(*inputs), expected)


def operand(shape: tuple[int, ...], scale: Any = 0.5, offset: Any = None, bits: int = 8, **settings: Any) -> Any:
    format = settings.pop("format", IntFormat.from_bits(bits, signed=True))
    offset = None if offset is None else torch.as_tensor(offset, dtype=torch.float32)
    scale = None if scale is None else torch.as_tensor(scale)
    return QuantizedOperand(values=torch.ones(shape), scale=scale, offset=offset, format=format, **settings)


@pytest.mark.parametrize(
    ("x", "weight", "reason"),
    [
        (operand((2, 3), [[0.5], [0.25]]), operand((4, 3)), "more scales than one"),
        (operand((2, 3)), operand((4, 3), offset=3.0), "not symmetric"),
        (operand((2, 3)), operand((4, 3), bits=9), "more than 8 bits"),
        (operand((2, 3)), operand((4, 3), [[0.5, 0.25, 0.125]]), "do not run along its outputs"),
        (operand((2, 3), bits=17), operand((4, 3)), "more than 16 bits"),
        (operand((2, 3), None), operand((4, 3)), "one scale"),
        (operand((2, 3), format=float_format("e4m3fn")), operand((4, 3)), "integer grid only"),
        (operand((2, 3), [0.5, 0.5], [1.0, 2.0]), operand((4, 3)), "zero points differ"),
    ],
)
def test_grids_that_it_cannot_compute_on(x: Any, weight: Any, reason: str) -> None:
    with force_backend("integer"):
        decisions = explain("linear", Scheme.AFFINE, x, weight)
    assert [reason in decision.reason for decision in decisions if decision.kernel.backend is Backend.INTEGER] == [True]
    with pytest.raises(ValueError, match="linear"):
        integer.linear(x, weight)


def test_sums_that_may_leave_int32_are_refused() -> None:
    x, weight = operand((1, 2**18), bits=8), operand((1, 2**18), bits=8)
    weight = QuantizedOperand(values=weight.values * 127, scale=weight.scale, format=weight.format)
    with pytest.raises(OverflowError, match="linear: sums may reach"):
        integer.linear(x, weight)
    with pytest.raises(OverflowError, match="matmul: sums may reach"):
        integer.matmul(x, operand((2**18, 1)))
    assert integer.linear(operand((1, 64)), operand((1, 64))).tolist() == [[16.0]]  # pyright: ignore[reportAttributeAccessIssue]


def test_vectors_multiply() -> None:
    assert integer.matmul(operand((5,)), operand((5,), 0.25)).item() == 0.625  # pyright: ignore[reportAttributeAccessIssue]
    assert integer.matmul(operand((5,)), operand((5, 2), 0.25)).tolist() == [0.625] * 2  # pyright: ignore[reportAttributeAccessIssue]
