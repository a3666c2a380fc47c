"""The backward of the fast affine quantize-dequantize: recomputed from ``x``, in pieces that stay in the cache.

The formulas are those of ``reference.quantize_dequantize_backward``. With ``t = x / s``, ``r = rint(t)`` and codes
``q = r - o``, masking is one pass of ``hardtanh_backward`` (its first argument where the second lies strictly between
two bounds, else 0) with bounds half a step outside of the grid. A piece in which nothing is clipped, as with ranges
that were calibrated by min-max, needs no masks at all; if no piece clips, the incoming gradient itself is ``dx``.

Equal to the reference but for the gradient of a NaN: there it is 0, here it may also be the incoming gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantsim_kernels.reference import affine as reference
from quantsim_kernels.torch import _pieces
from quantsim_kernels.torch._pieces import aligned_views, pieces

__all__ = ["Gradients", "broadcast", "quantize_dequantize_backward"]

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Of ``x``, scale and offset; ``None`` where not wanted."""

_mask = torch.ops.aten.hardtanh_backward.default
_mask_into = torch.ops.aten.hardtanh_backward.grad_input


def broadcast(
    x: Tensor, scale: Tensor, offset: Tensor | None, block_size: Sequence[int] | None, dtype: torch.dtype
) -> tuple[tuple[int, ...], Tensor, Tensor | None]:
    """The shape in which all broadcast, and scale and offset in it and in ``dtype``."""
    view, scale_view = reference.blocked_shapes(x.shape, scale.shape, block_size)
    s = scale.reshape(scale_view).to(dtype)
    if offset is None:
        return view, s, None
    offset_blocks = block_size if block_size is not None and offset.dim() == len(block_size) else None
    return view, s, offset.reshape(reference.blocked_shapes(x.shape, offset.shape, offset_blocks)[1]).to(dtype)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Bounds of the codes, and which gradients of scale and offset are wanted."""

    lo: float
    hi: float
    wants_scale: bool
    wants_offset: bool


def _sum_to(values: Tensor, parameter: Tensor) -> Tensor:
    """``values`` summed to the shape of ``parameter``, which broadcasts to it."""
    if parameter.numel() == 1:
        return values.sum().reshape(parameter.shape)
    return values.sum_to_size(parameter.shape)


def _reference_backward(arguments: Sequence[Any], wants: tuple[bool, bool, bool]) -> Gradients:
    """The reference's gradients, for grids computed in half precision and for memory with gaps."""
    dx, dscale, doffset = reference.quantize_dequantize_backward(*arguments)
    return (dx if wants[0] else None, dscale if wants[1] else None, doffset if wants[2] else None)


def quantize_dequantize_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None,
    wants: tuple[bool, bool, bool],
) -> Gradients:
    """Gradients of ``x``, scale and offset, as far as wanted; otherwise as the reference's function of this name.

    ``dx`` may be ``grad`` itself.
    """
    dtype = reference.computation_dtype(x.dtype, qmin, qmax)
    arguments = (grad, x, scale, offset, qmin, qmax, block_size)
    if dtype is not torch.float32 and dtype is not torch.float64:
        return _reference_backward(arguments, wants)
    lo: float = qmin
    hi: float = qmax
    folded = offset is None
    if offset is not None and offset.numel() == 1:
        # One offset for all moves the bounds instead of the codes.
        shift = offset.item()
        lo, hi, folded = lo + shift, hi + shift, True
    grid = _Grid(lo, hi, wants[1], wants[2])
    small = x.numel() <= _pieces.WHOLE_ELEMENTS
    if small and not wants[1] and not wants[2] and folded and block_size is None and x.dtype is scale.dtype is dtype:
        # The usual layer: a constant scale that has been seen to broadcast.
        return _mask(grad, torch.div(x, scale).round_(), lo - 0.5, hi + 0.5).view(x.shape), None, None
    view, s, o = broadcast(x, scale, offset, block_size, dtype)
    if small:
        dx, ds, do = _whole(x.view(view).to(dtype), grad.reshape(view).to(dtype), s, o, folded, grid)
        return (
            dx.view(x.shape).to(x.dtype) if wants[0] else None,
            None if ds is None else ds.reshape(scale.shape).to(scale.dtype),
            None if do is None or offset is None else do.reshape(offset.shape).to(offset.dtype),
        )
    # Sums of many pieces are gathered in float64: they cost nothing and lose nothing.
    ds_total = torch.zeros(s.shape, dtype=torch.float64)
    do_total = torch.zeros(() if o is None else o.shape, dtype=torch.float64)
    dx = torch.empty_like(x)
    aligned = aligned_views((x, grad, dx), (s, o, ds_total, do_total), view)
    if aligned is None or any(
        part is not None and part.data_ptr() != total.data_ptr()
        for part, total in zip(aligned[1][2:], (ds_total, do_total), strict=True)
    ):
        return _reference_backward(arguments, wants)
    size = _pieces.BACKWARD_PIECE_ELEMENTS
    scratch = torch.empty((2 if folded else 3, min(x.numel(), 2 * size)), dtype=dtype)
    untouched: list[tuple[Tensor, Tensor]] = []
    clips = False
    for (source, g, target), (s_piece, o_piece, *totals) in pieces(*aligned, size):
        assert s_piece is not None
        buffers = [buffer[: source.numel()].view(source.shape) for buffer in scratch]
        # Looking costs two passes: no more of it once a piece has clipped.
        if _piece(source, g, target, s_piece, o_piece, totals, folded, grid, buffers, not clips):
            clips = True
            while untouched:
                earlier_target, earlier = untouched.pop()
                earlier_target.copy_(earlier)
        else:
            untouched.append((target, g))
    return (
        (dx if clips else grad) if wants[0] else None,
        ds_total.reshape(scale.shape).to(scale.dtype) if wants[1] else None,
        do_total.reshape(offset.shape).to(offset.dtype) if offset is not None and wants[2] else None,
    )


def _whole(
    x: Tensor, g: Tensor, s: Tensor, o: Tensor | None, folded: bool, grid: _Grid
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of a small tensor; sums in the reference's order, to the last bit."""
    t = torch.div(x, s)
    codes = torch.round(t)
    if o is not None and not folded:
        codes.sub_(o)
    lo, hi = grid.lo - 0.5, grid.hi + 0.5
    dx = _mask(g, codes, lo, hi)
    ds = do = None
    if grid.wants_scale:
        inside = _mask(t, codes, lo, hi)
        values = codes.clamp_(grid.lo, grid.hi)
        if o is not None and not folded:
            values.add_(o)
        ds = _sum_to(values.sub_(inside).mul_(g), s)
    if grid.wants_offset:
        assert o is not None
        do = _sum_to(torch.sub(g, dx).mul_(s), o)
    return dx, ds, do


def _piece(
    source: Tensor,
    g: Tensor,
    target: Tensor,
    s: Tensor,
    o: Tensor | None,
    totals: Sequence[Tensor | None],
    folded: bool,
    grid: _Grid,
    buffers: Sequence[Tensor],
    looks: bool,
) -> bool:
    """Add one piece's sums to ``totals`` and write ``target``; returns whether it did.

    It does not where it ``looks`` first and finds that nothing is clipped: there ``target`` would equal ``g``.
    """
    t, r = buffers[0], buffers[1]
    ds_total, do_total = totals
    if source.dtype is t.dtype:
        torch.div(source, s, out=t)
    else:
        t.copy_(source).div_(s)
        g = g.to(t.dtype)
    torch.round(t, out=r)
    codes = r
    if o is not None and not folded:
        codes = torch.sub(r, o, out=buffers[2])
    # NaN fails the comparison, so it takes the path with masks.
    if looks and grid.lo <= codes.amin().item() and codes.amax().item() <= grid.hi:
        if ds_total is not None and grid.wants_scale:
            ds_total.add_(_sum_to(r.sub_(t).mul_(g), s))
        return False
    lo, hi = grid.lo - 0.5, grid.hi + 0.5
    if target.dtype is t.dtype:
        _mask_into(g, codes, lo, hi, grad_input=target)
        passed = target
    else:
        passed = _mask(g, codes, lo, hi)
        target.copy_(passed)
    if ds_total is not None and grid.wants_scale:
        _mask_into(t, codes, lo, hi, grad_input=t)
        values = codes.clamp_(grid.lo, grid.hi)
        if o is not None and not folded:
            values.add_(o)
        ds_total.add_(_sum_to(values.sub_(t).mul_(g), s))
    if do_total is not None and grid.wants_offset:
        assert o is not None
        outside = torch.sub(g, passed, out=r)
        if o.shape == s.shape:
            # One pass less than product before sum; float64 keeps the last bit.
            do_total.add_(_sum_to(outside, s).to(torch.float64) * s)
        else:
            do_total.add_(_sum_to(outside.mul_(s), o))
    return True
