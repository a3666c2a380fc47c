"""What autograd needs to know of the float casts; the numbers are those of the functions they are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, RoundingMode
from quantsim_kernels.reference import float_cast as reference

__all__ = ["FloatCastFunction", "FloatQuantizeDequantizeFunction", "GradientCastFunction"]


class FloatCastFunction(torch.autograd.Function):
    """Straight through: the gradient of the cast is the identity, or is clipped to the format's range."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, seed: Tensor | None, cast: Any, low: float, high: float, clip_gradient: bool
    ) -> Tensor:
        ctx.range = (low, high)
        ctx.clip_gradient = clip_gradient
        if clip_gradient:
            ctx.save_for_backward(x)
        return cast(x, seed=seed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        grad = gradients[0]
        if ctx.clip_gradient:
            (x,) = ctx.saved_tensors
            low, high = ctx.range
            grad = torch.where((x >= low) & (x <= high), grad, torch.zeros_like(grad))
        return grad, None, None, None, None, None


class FloatQuantizeDequantizeFunction(torch.autograd.Function):
    """Saves only its inputs; the backward recomputes. ``forward_function`` is a backend's forward."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor | None,
        seed: Tensor | None,
        format: FloatFormat,
        block_size: Any,
        rounding: RoundingMode,
        cast: Any,
        forward_function: Any,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, seed)
        ctx.arguments = (format, block_size, rounding)
        ctx.cast = cast
        return forward_function(x, scale, format, block_size, rounding, seed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, scale, seed = ctx.saved_tensors
        format, block_size, rounding = ctx.arguments
        dx, dscale = reference.quantize_dequantize_backward(
            gradients[0], x, scale, format, block_size, rounding, seed, ctx.cast
        )
        return dx, dscale if ctx.needs_input_grad[1] else None, *(None,) * 6


class GradientCastFunction(torch.autograd.Function):
    """The identity, whose gradient is cast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: Tensor | None, cast: Any) -> Tensor:
        ctx.save_for_backward(seed)
        ctx.cast = cast
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (seed,) = ctx.saved_tensors
        return ctx.cast(gradients[0], seed=seed), None, None
