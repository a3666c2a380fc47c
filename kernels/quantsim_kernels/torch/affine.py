"""Affine quantization on the CPU: the reference's numbers, bit for bit, with few passes over memory.

What makes it fast, and what was measured to be slow: one temporary and in-place ops (the reference allocates five);
scalar clamp bounds with a per-tensor offset folded in (clamping between tensors is three times as slow); pieces that
stay in the cache; a backward that recomputes from ``x`` with masks held as floats (a saved bool mask costs memory and
time). Division is never replaced by multiplication with the inverse: that gives other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter

from quantsim_kernels.reference import affine as reference
from quantsim_kernels.torch._pieces import BACKWARD_PIECE_ELEMENTS, PIECE_ELEMENTS, WHOLE_ELEMENTS, aligned_views, pieces

__all__ = ["dequantize", "dynamic_quantize_dequantize", "objection", "quantize", "quantize_dequantize"]

# Adding 0 turns the -0 that rounding leaves into 0; a tensor operand is twice as cheap to pass as a Python number.
_ZERO = torch.zeros((), device="cpu")
_PLAIN_TENSORS = (Tensor, Parameter)
# Up to here float32 is the dtype of the computation for float32 inputs (reference.computation_dtype).
_FLOAT32_GRID = 2**20


def objection(x: Tensor, *operands: Any, zero_point_shift: float = 0.0, **arguments: Any) -> str | None:
    """Why these kernels cannot run: they want an ordinary CPU tensor and a grid without a shift."""
    if not x.is_cpu:
        return "it serves CPU tensors only"
    if type(x) not in _PLAIN_TENSORS:
        return f"it serves plain tensors only, not {type(x).__name__}"
    if zero_point_shift:
        return "it has no zero_point_shift"
    return None


def _is_one_number(scale: Tensor, offset: Tensor | None) -> bool:
    return scale.numel() == 1 and (offset is None or offset.numel() == 1)


def _forbid_inplace_under_grad(inplace: bool) -> None:
    if inplace:
        raise ValueError(
            "inplace=True: got operands that require a gradient while gradients are on, expected none; "
            "the backward needs x. Pass inplace=False or run under torch.no_grad()"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Forward
# ---------------------------------------------------------------------------------------------------------------------


def _grid_values(
    x: Tensor, s: Tensor, o: Tensor | None, lo: float, hi: float, scalar: float | None, out: Tensor | None
) -> Tensor:
    """Quantize-dequantize of one piece in the dtype of the computation.

    ``scalar`` is the scale as a Python number when it is one number; then the offset is folded into ``lo`` and ``hi``.
    """
    y = torch.div(x, s) if out is None else torch.div(x, s, out=out)
    y.round_()
    if scalar is not None:
        y.clamp_(lo, hi)
        # One pass for the product and the sum with 0.
        return torch.add(_ZERO, y, alpha=scalar, out=y)
    if o is None:
        return y.clamp_(lo, hi).add_(_ZERO).mul_(s)
    return y.sub_(o).clamp_(lo, hi).add_(o).mul_(s)


def _codes(x: Tensor, s: Tensor, o: Tensor | None, lo: float, hi: float, scalar: None, out: Tensor | None) -> Tensor:
    """Quantize of one piece."""
    y = torch.div(x, s) if out is None else torch.div(x, s, out=out)
    y.round_()
    if o is not None:
        y.sub_(o)
    return y.clamp_(lo, hi)


def _reals(q: Tensor, s: Tensor, o: Tensor | None, lo: float, hi: float, scalar: None, out: Tensor | None) -> Tensor:
    """Dequantize of one piece."""
    shift = _ZERO if o is None else o
    y = torch.add(q, shift) if out is None else torch.add(q, shift, out=out)
    return y.mul_(s)


def _apply(
    step: Any,
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    lo: float,
    hi: float,
    scalar: float | None,
    block_size: Sequence[int] | None,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    inplace: bool,
) -> Tensor:
    """Run ``step`` on ``x``, whole or in pieces, into a new tensor (or into ``x``)."""
    view, scale_view = reference.blocked_shapes(x.shape, scale.shape, block_size)
    s = scale.reshape(scale_view).to(dtype)
    o = None
    if offset is not None and scalar is None:
        offset_blocks = block_size if block_size is not None and offset.dim() == len(block_size) else None
        o = offset.reshape(reference.blocked_shapes(x.shape, offset.shape, offset_blocks)[1]).to(dtype)
    out = x if inplace else torch.empty_like(x, dtype=out_dtype)
    converts = x.dtype is not dtype or out_dtype is not dtype
    aligned = aligned_views((x, out), (s, o), view) if x.numel() > WHOLE_ELEMENTS else None
    if aligned is None:
        whole = x.view(view)
        target = out.view(view)
        if converts:
            target.copy_(step(whole.to(dtype), s, o, lo, hi, scalar, None))
        else:
            step(whole, s, o, lo, hi, scalar, target)
        return out
    scratch = torch.empty(2 * PIECE_ELEMENTS, dtype=dtype) if converts else None
    for (source, target), (s_piece, o_piece) in pieces(*aligned):
        assert s_piece is not None
        if scratch is None:
            step(source, s_piece, o_piece, lo, hi, scalar, target)
        else:
            buffer = scratch[: source.numel()].view(source.shape)
            buffer.copy_(source)
            target.copy_(step(buffer, s_piece, o_piece, lo, hi, scalar, buffer))
    return out


def _forward(
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None,
    inplace: bool,
) -> Tensor:
    if -_FLOAT32_GRID <= qmin and qmax <= _FLOAT32_GRID and x.dtype is torch.float32:
        dtype = torch.float32
    else:
        dtype = reference.computation_dtype(x.dtype, qmin, qmax)
    lo: float = qmin
    hi: float = qmax
    scalar: float | None = None
    if scale.numel() == 1 and (offset is None or offset.numel() == 1):
        if offset is not None:
            shift = offset.item()
            lo, hi = lo + shift, hi + shift
        # The product must round as the reference's does: from the scale in the dtype of the computation.
        if dtype is scale.dtype:
            scalar = scale.item()
            if (
                block_size is None
                and x.dtype is dtype
                and scale.dim() <= x.dim()
                and x.numel() <= WHOLE_ELEMENTS
            ):
                return _grid_values(x, scale, None, lo, hi, scalar, x if inplace else None)
        else:
            lo, hi = float(qmin), float(qmax)
    return _apply(_grid_values, x, scale, offset, lo, hi, scalar, block_size, dtype, x.dtype, inplace)


# ---------------------------------------------------------------------------------------------------------------------
# Backward
# ---------------------------------------------------------------------------------------------------------------------


def _sum_to(values: Tensor, shape: torch.Size) -> Tensor:
    """``values`` summed to ``shape``, which has the same number of dimensions."""
    if values.shape == shape:
        return values
    axes = [axis for axis, size in enumerate(shape) if size == 1]
    return values.sum(dim=axes, keepdim=True) if axes else values


def _reference_backward(*arguments: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The reference's gradients, for grids computed in half precision and for memory with gaps."""
    *operands, wants = arguments
    dx, dscale, doffset = reference.quantize_dequantize_backward(*operands)
    return (dx if wants[0] else None, dscale if wants[1] else None, doffset if wants[2] else None)


def _backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None,
    wants: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The formulas of ``reference.quantize_dequantize_backward``, piece by piece.

    With the mask ``m`` as a float (1 inside, 0 outside): ``dx = g m``, ``e = c - m t`` is the factor of ``ds`` for both
    cases at once (``c = t`` rounded inside, the clamped value outside), and ``g - dx`` is what is left for ``do``.
    """
    wants_x, wants_scale, wants_offset = wants
    dtype = reference.computation_dtype(x.dtype, qmin, qmax)
    if dtype is not torch.float32 and dtype is not torch.float64:
        return _reference_backward(grad, x, scale, offset, qmin, qmax, block_size, wants)
    view, scale_view = reference.blocked_shapes(x.shape, scale.shape, block_size)
    s = scale.reshape(scale_view).to(dtype)
    o = None
    if offset is not None:
        offset_blocks = block_size if block_size is not None and offset.dim() == len(block_size) else None
        o = offset.reshape(reference.blocked_shapes(x.shape, offset.shape, offset_blocks)[1]).to(dtype)
    lo: float = qmin
    hi: float = qmax
    folded = o is not None and o.numel() == 1
    if o is not None and folded:
        lo, hi = lo + o.item(), hi + o.item()
    dx = torch.empty_like(x)
    # Sums of many pieces are gathered in float64: they cost nothing and lose nothing.
    ds = torch.zeros(s.shape, dtype=torch.float64)
    do = torch.zeros(o.shape if o is not None else (), dtype=torch.float64)
    aligned = aligned_views((x, grad, dx), (s, o, ds, do), view)
    if aligned is None or any(a is not None and a.data_ptr() != b.data_ptr() for a, b in zip(aligned[1][2:], (ds, do))):
        return _reference_backward(grad, x, scale, offset, qmin, qmax, block_size, wants)
    scratch = torch.empty((3, min(x.numel(), 2 * BACKWARD_PIECE_ELEMENTS)), dtype=dtype)
    for (source, g, target), (s_piece, o_piece, ds_piece, do_piece) in pieces(*aligned, BACKWARD_PIECE_ELEMENTS):
        assert s_piece is not None and ds_piece is not None and do_piece is not None
        t, r, c = (buffer[: source.numel()].view(source.shape) for buffer in scratch)
        if source.dtype is dtype:
            torch.div(source, s_piece, out=t)
        else:
            t.copy_(source).div_(s_piece)
        torch.round(t, out=r)
        if o_piece is None or folded:
            torch.clamp(r, lo, hi, out=c)
        else:
            torch.sub(r, o_piece, out=c).clamp_(lo, hi).add_(o_piece)
        mask = r.eq_(c)
        torch.mul(g, mask, out=target)
        if wants_scale:
            c.addcmul_(mask, t, value=-1).mul_(g)
            ds_piece.add_(_sum_to(c, s_piece.shape))
        if wants_offset:
            assert o_piece is not None
            outside = torch.sub(g, target, out=c)
            if o_piece.shape == s_piece.shape:
                do_piece.add_(_sum_to(outside, o_piece.shape) * s_piece)
            else:
                do_piece.add_(_sum_to(outside.mul_(s_piece), o_piece.shape))
    return (
        dx if wants_x else None,
        ds.reshape(scale.shape).to(scale.dtype) if wants_scale else None,
        do.reshape(offset.shape).to(offset.dtype) if offset is not None and wants_offset else None,
    )


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
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, scale, offset = ctx.saved_tensors
        gradients = _backward(grad, x, scale, offset, *ctx.arguments, ctx.needs_input_grad[:3])
        return (*gradients, None, None, None)


# ---------------------------------------------------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------------------------------------------------


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
    return _apply(_codes, x, scale, offset, qmin, qmax, None, block_size, dtype, x.dtype, False)


def dequantize(
    q: Tensor, scale: Tensor, offset: Tensor | None, block_size: Sequence[int] | None = None
) -> Tensor:
    """Fused passes on the CPU; with gradients it is the reference.

    Arguments, result and errors as :func:`quantsim_kernels.affine_dequantize`.
    """
    if torch.is_grad_enabled() and (
        q.requires_grad or scale.requires_grad or (offset is not None and offset.requires_grad)
    ):
        return reference.dequantize(q, scale, offset, block_size)
    out_dtype = q.dtype if q.is_floating_point() else scale.dtype
    internal = torch.promote_types(out_dtype, torch.float32)
    return _apply(_reals, q, scale, offset, 0, 0, None, block_size, internal, out_dtype, False)


class _DynamicQuantizeDequantize(torch.autograd.Function):
    """Nothing is clipped by a range taken from the row itself: the straight-through gradient is the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, qmin: int, qmax: int, symmetric: bool) -> Tensor:
        return _dynamic_forward(x, qmin, qmax, symmetric, False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return grad, None, None, None


def _dynamic_forward(x: Tensor, qmin: int, qmax: int, symmetric: bool, inplace: bool) -> Tensor:
    if x.numel() == 0 or x.dim() == 0:
        return reference.dynamic_quantize_dequantize(x, qmin, qmax, symmetric)
    fixed = reference.symmetric_offset(qmin, qmax)

    def rows(source: Tensor, inplace: bool) -> Tensor:
        scale, offset = reference.dynamic_scale_and_offset(source, qmin, qmax, symmetric)
        return _forward(source, scale, None if symmetric and fixed == 0 else offset, qmin, qmax, None, inplace)

    if x.numel() <= WHOLE_ELEMENTS or not x.is_contiguous():
        return rows(x, inplace)
    width = x.shape[-1]
    if inplace:
        for source in x.view(-1, width).split(max(1, PIECE_ELEMENTS // width)):
            rows(source, True)
        return x
    out = torch.empty_like(x)
    step = max(1, PIECE_ELEMENTS // width)
    for source, target in zip(x.view(-1, width).split(step), out.view(-1, width).split(step), strict=True):
        # Found in the cache again by the next pass, so the copy costs less than separate sweeps for the range.
        rows(target.copy_(source), True)
    return out


def dynamic_quantize_dequantize(
    x: Tensor, qmin: int, qmax: int, symmetric: bool, *, inplace: bool = False
) -> Tensor:
    """Range and grid of each piece while it is in the cache.

    Arguments, result and errors as :func:`quantsim_kernels.affine_dynamic_quantize_dequantize`.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        _forbid_inplace_under_grad(inplace)
        return _DynamicQuantizeDequantize.apply(x, qmin, qmax, symmetric)  # type: ignore[no-any-return]
    return _dynamic_forward(x, qmin, qmax, symmetric, inplace)
