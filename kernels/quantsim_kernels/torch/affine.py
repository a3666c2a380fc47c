"""Affine quantization on the CPU: the reference's numbers, bit for bit, with few passes over memory.

What makes it fast, and what was measured to be slow: one temporary and in-place ops (the reference allocates five);
scalar clamp bounds with a per-tensor offset folded in (clamping between tensors is three times as slow); pieces that
stay in the cache; a backward that recomputes from ``x`` (a saved mask costs memory and time). Division is never
replaced by multiplication with the inverse: that gives other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter

from quantsim_kernels.reference import affine as reference
from quantsim_kernels.torch import _pieces
from quantsim_kernels.torch._affine_backward import broadcast, quantize_dequantize_backward
from quantsim_kernels.torch._pieces import apply_in_pieces

__all__ = ["PLAIN_TENSORS", "dequantize", "dynamic_quantize_dequantize", "objection", "quantize", "quantize_dequantize"]

# Adding 0 turns the -0 that rounding leaves into 0; a tensor operand is twice as cheap to pass as a Python number.
_ZERO = torch.zeros((), device="cpu")
PLAIN_TENSORS = (Tensor, Parameter)
"""The types these kernels serve; subclasses may change what an op means."""
# Up to here float32 is the dtype of the computation for float32 inputs (reference.computation_dtype).
_FLOAT32_GRID = 2**20


def objection(x: Tensor, *operands: Any, zero_point_shift: float = 0.0, **arguments: Any) -> str | None:
    """Why these kernels cannot run: they want an ordinary CPU tensor and a grid without a shift."""
    if not x.is_cpu:
        return "it serves CPU tensors only"
    if type(x) not in PLAIN_TENSORS:
        return f"it serves plain tensors only, not {type(x).__name__}"
    if zero_point_shift:
        return "it has no zero_point_shift"
    return None


def _forbid_inplace_under_grad(inplace: bool) -> None:
    if inplace:
        raise ValueError(
            "inplace=True: got operands that require a gradient while gradients are on, expected none; "
            "the backward needs x. Pass inplace=False or run under torch.no_grad()"
        )


def _grid_values(
    x: Tensor, s: Tensor, o: Tensor | None, lo: float, hi: float, scalar: float | None, out: Tensor | None
) -> Tensor:
    """Quantize-dequantize of one piece in the dtype of the computation.

    ``scalar`` is the scale as a Python number when it is one number; then the offset is folded into ``lo`` and ``hi``.
    """
    y = torch.div(x, s) if out is None else torch.div(x, s, out=out)
    if scalar is not None:
        y.round_().clamp_(lo, hi)
        # One pass for the product and the sum with 0.
        return torch.add(_ZERO, y, alpha=scalar, out=y)
    return _finish(y, s, o, lo, hi)


def _finish(y: Tensor, s: Tensor, o: Tensor | None, lo: float, hi: float) -> Tensor:
    """From the ratio ``y`` to the grid value, in place."""
    if o is None:
        return y.round_().clamp_(lo, hi).add_(_ZERO).mul_(s)
    return y.round_().sub_(o).clamp_(lo, hi).add_(o).mul_(s)


def _forward(
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None,
    inplace: bool,
) -> Tensor:
    if qmin >= -_FLOAT32_GRID and qmax <= _FLOAT32_GRID and x.dtype is torch.float32:
        dtype = torch.float32
    else:
        dtype = reference.computation_dtype(x.dtype, qmin, qmax)
    lo: float = qmin
    hi: float = qmax
    scalar: float | None = None
    small = block_size is None and x.dtype is dtype and scale.dim() <= x.dim() and x.numel() <= _pieces.WHOLE_ELEMENTS
    # The scalar product must round as the reference's does: from the scale in the dtype of the computation.
    if scale.numel() == 1 and dtype is scale.dtype and (offset is None or offset.numel() == 1):
        scalar = scale.item()
        if offset is not None:
            shift = offset.item()
            lo, hi = lo + shift, hi + shift
        if small:
            return _grid_values(x, scale, None, lo, hi, scalar, x if inplace else None)
    elif small and not inplace and dtype is scale.dtype and (offset is None or offset.shape == scale.shape):
        try:
            y = torch.div(x, scale)
        except RuntimeError:
            y = scale
        if y.shape == x.shape:
            return _finish(y, scale, offset, lo, hi)
        # Else the shapes do not fit, and the check below says how.
    view, s, o = broadcast(x, scale, offset, block_size, dtype)
    if scalar is not None:
        o = None

    def step(source: Tensor, parameters: Sequence[Tensor | None], out: Tensor | None) -> Tensor:
        scale_piece, offset_piece = parameters
        assert scale_piece is not None
        return _grid_values(source, scale_piece, offset_piece, lo, hi, scalar, out)

    return apply_in_pieces(step, x, (s, o), view, dtype=dtype, out_dtype=x.dtype, inplace=inplace)


class _QuantizeDequantize(torch.autograd.Function):
    """Saves its inputs only; the backward recomputes the rest."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        offset: Tensor | None,
        qmin: int,
        qmax: int,
        block_size: Sequence[int] | None,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, offset)
        ctx.arguments = (qmin, qmax, block_size)
        return _forward(x, scale, offset, qmin, qmax, block_size, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale, offset = ctx.saved_tensors
        qmin, qmax, block_size = ctx.arguments
        wants = ctx.needs_input_grad[:3]
        results = quantize_dequantize_backward(gradients[0], x, scale, offset, qmin, qmax, block_size, wants)
        return (*results, None, None, None)


def quantize_dequantize(
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None = None,
    *,
    inplace: bool = False,
    zero_point_shift: float = 0.0,
) -> Tensor:
    """Fused passes on the CPU, pieces that stay in the cache; the backward recomputes.

    Arguments, result and errors as :func:`quantsim_kernels.affine_quantize_dequantize`; no ``zero_point_shift``.
    """
    if torch.is_grad_enabled() and (
        x.requires_grad or scale.requires_grad or (offset is not None and offset.requires_grad)
    ):
        _forbid_inplace_under_grad(inplace)
        return _QuantizeDequantize.apply(x, scale, offset, qmin, qmax, block_size)  # type: ignore[no-any-return]
    return _forward(x, scale, offset, qmin, qmax, block_size, inplace)


def quantize(
    x: Tensor, scale: Tensor, offset: Tensor | None, qmin: int, qmax: int, block_size: Sequence[int] | None = None
) -> Tensor:
    """Fused passes on the CPU; with gradients it is the reference.

    Arguments, result and errors as :func:`quantsim_kernels.affine_quantize`.
    """
    if (
        torch.is_grad_enabled()
        and (x.requires_grad or scale.requires_grad or (offset is not None and offset.requires_grad))
    ) or max(abs(qmin), abs(qmax)) * torch.finfo(x.dtype).eps > 2.0:
        return reference.quantize(x, scale, offset, qmin, qmax, block_size)
    dtype = reference.computation_dtype(x.dtype, qmin, qmax)
    view, s, o = broadcast(x, scale, offset, block_size, dtype)

    def step(source: Tensor, parameters: Sequence[Tensor | None], out: Tensor | None) -> Tensor:
        scale_piece, offset_piece = parameters
        assert scale_piece is not None
        y = torch.div(source, scale_piece) if out is None else torch.div(source, scale_piece, out=out)
        y.round_()
        if offset_piece is not None:
            y.sub_(offset_piece)
        return y.clamp_(qmin, qmax).add_(_ZERO)

    return apply_in_pieces(step, x, (s, o), view, dtype=dtype, out_dtype=x.dtype)


def dequantize(q: Tensor, scale: Tensor, offset: Tensor | None, block_size: Sequence[int] | None = None) -> Tensor:
    """Fused passes on the CPU; with gradients it is the reference.

    Arguments, result and errors as :func:`quantsim_kernels.affine_dequantize`.
    """
    if torch.is_grad_enabled() and (
        q.requires_grad or scale.requires_grad or (offset is not None and offset.requires_grad)
    ):
        return reference.dequantize(q, scale, offset, block_size)
    out_dtype = q.dtype if q.is_floating_point() else scale.dtype
    internal = torch.promote_types(out_dtype, torch.float32)
    view, s, o = broadcast(q, scale, offset, block_size, internal)

    def step(source: Tensor, parameters: Sequence[Tensor | None], out: Tensor | None) -> Tensor:
        scale_piece, offset_piece = parameters
        assert scale_piece is not None
        if out is None:
            y = source.clone()
        else:
            y = out if out is source else out.copy_(source)
        if offset_piece is not None:
            y.add_(offset_piece)
        return y.mul_(scale_piece)

    return apply_in_pieces(step, q, (s, o), view, dtype=internal, out_dtype=out_dtype)


class _DynamicQuantizeDequantize(torch.autograd.Function):
    """Nothing is clipped by a range taken from the row itself: the straight-through gradient is the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, qmin: int, qmax: int, symmetric: bool) -> Tensor:
        return _dynamic_forward(x, qmin, qmax, symmetric, False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return gradients[0], None, None, None


def _dynamic_parameters(x: Tensor, qmin: int, qmax: int, symmetric: bool) -> tuple[Tensor, Tensor | None]:
    """``reference.dynamic_scale_and_offset`` in few ops; ``None`` is the offset 0."""
    steps, smallest = qmax - qmin, reference.minimum_scale(qmin, qmax)
    low = x.amin(dim=-1, keepdim=True).to(torch.float32).clamp_(max=0.0)
    high = x.amax(dim=-1, keepdim=True).to(torch.float32).clamp_(min=0.0)
    if not symmetric:
        scale = torch.sub(high, low).div_(steps).clamp_(min=smallest)
        return scale, low.div_(scale).round_().sub_(qmin).clamp_(-qmax, -qmin)
    above, below = steps // 2, steps - steps // 2
    if steps > 3 and (high - low).div_(steps).amin().item() >= smallest:
        # The reference's range without what it does to narrow rows and two-bit grids.
        delta = torch.maximum(high.div_(above), low.div_(-below))
        low, high = delta * -below, delta.mul_(above)
    else:
        low, high = reference.symmetric_range(low, high, qmin, qmax)
    scale = high.sub_(low).div_(steps).clamp_(min=smallest)
    offset = reference.symmetric_offset(qmin, qmax)
    return scale, torch.full_like(scale, float(offset)) if offset else None


def _dynamic_forward(x: Tensor, qmin: int, qmax: int, symmetric: bool, inplace: bool) -> Tensor:
    if x.numel() == 0 or x.dim() == 0:
        return reference.dynamic_quantize_dequantize(x, qmin, qmax, symmetric)
    dtype = reference.computation_dtype(x.dtype, qmin, qmax)

    def rows(source: Tensor, target: Tensor | None) -> Tensor:
        scale, offset = _dynamic_parameters(source, qmin, qmax, symmetric)
        if source.dtype is dtype is torch.float32:
            return _grid_values(source, scale, offset, qmin, qmax, None, target)
        values = _grid_values(
            source.to(dtype), scale.to(dtype), None if offset is None else offset.to(dtype), qmin, qmax, None, None
        )
        return values.to(source.dtype) if target is None else target.copy_(values)

    if x.numel() <= _pieces.WHOLE_ELEMENTS or not x.is_contiguous():
        return rows(x, x if inplace else None)
    out = x if inplace else torch.empty_like(x)
    width = x.shape[-1]
    step = max(1, _pieces.PIECE_ELEMENTS // width)
    for source, target in zip(x.view(-1, width).split(step), out.view(-1, width).split(step), strict=True):
        rows(source, target)
    return out


def dynamic_quantize_dequantize(x: Tensor, qmin: int, qmax: int, symmetric: bool, *, inplace: bool = False) -> Tensor:
    """Range and grid of each piece while it is in the cache.

    Arguments, result and errors as :func:`quantsim_kernels.affine_dynamic_quantize_dequantize`.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        _forbid_inplace_under_grad(inplace)
        return _DynamicQuantizeDequantize.apply(x, qmin, qmax, symmetric)  # type: ignore[no-any-return]
    return _dynamic_forward(x, qmin, qmax, symmetric, inplace)
