"""Gradients of optical products: those of the operands as they were before they were quantized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

__all__ = ["LinearFunction", "MatmulFunction", "QuantizeFunction"]


def _inside(x: Tensor, range: Tensor) -> Tensor:
    """Where ``x`` lies in its range."""
    lo, hi = range.unbind(0)
    return (x >= lo) & (x <= hi)


def _stopped(gradient: Tensor, x: Tensor, range: Tensor, clipped: bool) -> Tensor:
    """The gradient of ``x``, zero where the range clips it."""
    return gradient * _inside(x, range) if clipped else gradient


class QuantizeFunction(Function):
    """``function(x, range)`` whose gradient passes straight through, perhaps only inside the range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, range: Tensor, function: Callable[..., Tensor], clipped: bool) -> Tensor:
        ctx.clipped = clipped
        if clipped:
            ctx.save_for_backward(x, range)
        y = function(x, range)
        if y is x:
            ctx.mark_dirty(x)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        if not ctx.clipped:
            return gradients[0], None, None, None
        x, range = ctx.saved_tensors
        return _stopped(gradients[0], x, range, True), None, None, None


class LinearFunction(Function):
    """``function(x, weight, bias, ...)`` with the gradients of ``x weight^T + bias``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        x_range: Tensor,
        weight_range: Tensor,
        output_range: Tensor | None,
        error_map: Tensor | None,
        function: Callable[..., tuple[Tensor, Tensor]],
        clipped: bool,
    ) -> tuple[Tensor, Tensor]:
        y, extremes = function(x, weight, bias, x_range, weight_range, output_range)
        ctx.mark_non_differentiable(extremes)
        ctx.save_for_backward(x, weight, x_range, weight_range, error_map)
        ctx.clipped = clipped
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y, extremes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, weight, x_range, weight_range, error_map = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        dtype = torch.promote_types(x.dtype, weight.dtype)
        gradient = gradients[0].to(dtype)
        rows = gradient.reshape(-1, gradient.shape[-1])
        d_x = d_weight = d_bias = None
        if wants_x:
            operand = weight if error_map is None else weight * error_map
            d_x = _stopped(torch.matmul(gradient, operand.to(dtype)), x, x_range, ctx.clipped).to(x.dtype)
        if wants_weight:
            d_weight = torch.matmul(rows.t(), x.reshape(-1, x.shape[-1]).to(dtype))
            if error_map is not None:
                d_weight = d_weight * error_map
            d_weight = _stopped(d_weight, weight, weight_range, ctx.clipped).to(weight.dtype)
        if wants_bias:
            d_bias = rows.sum(0).to(ctx.bias_dtype)
        return d_x, d_weight, d_bias, None, None, None, None, None, None


class MatmulFunction(Function):
    """``function(a, b, ...)`` with the gradients of ``a b``."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        a_range: Tensor,
        b_range: Tensor,
        output_range: Tensor | None,
        error_map: Tensor | None,
        function: Callable[..., tuple[Tensor, Tensor]],
        clipped: bool,
    ) -> tuple[Tensor, Tensor]:
        y, extremes = function(a, b, a_range, b_range, output_range)
        ctx.mark_non_differentiable(extremes)
        ctx.save_for_backward(a, b, a_range, b_range, error_map)
        ctx.clipped = clipped
        return y, extremes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        a, b, a_range, b_range, error_map = ctx.saved_tensors
        dtype = torch.promote_types(a.dtype, b.dtype)
        gradient = gradients[0].to(dtype)
        d_a = d_b = None
        if ctx.needs_input_grad[0]:
            operand = b if error_map is None else b * error_map
            d_a = torch.matmul(gradient, operand.to(dtype).transpose(-2, -1)).sum_to_size(a.shape)
            d_a = _stopped(d_a, a, a_range, ctx.clipped).to(a.dtype)
        if ctx.needs_input_grad[1]:
            d_b = torch.matmul(a.to(dtype).transpose(-2, -1), gradient).sum_to_size(b.shape)
            if error_map is not None:
                d_b = d_b * error_map
            d_b = _stopped(d_b, b, b_range, ctx.clipped).to(b.dtype)
        return d_a, d_b, None, None, None, None, None, None
