"""Affine quantization in Triton: one kernel forward, one backward that recomputes. Equal to the reference bit for bit.

What exactness asks for: ``tl.div_rn`` (Triton's ``/`` is approximate), rounding by the sum with ``1.5 * 2**23`` (there is
no portable ``rint``; exact up to 2**22, and the ratio is clamped to that first, far outside every grid), no fusion of
products into sums (``enable_fp_fusion=False`` at launch), and half precision rounded on the bits (hardware rounds as
the bits do; the interpreter's own casts to bfloat16 truncate).

Layout: a contiguous tensor is seen as ``rows x width``; every row has one scale. The scale's number follows from the row
by two levels of division and remainder, which covers per-tensor, per-channel and blocks along up to two dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from quantsim_kernels.reference import affine as reference

__all__ = [
    "BACKWARD_SIGNATURE",
    "FORWARD_SIGNATURE",
    "backward_kernel",
    "dequantize",
    "forward_kernel",
    "quantize",
    "quantize_dequantize",
]

# What is computed by the forward kernel.
QUANTIZE, DEQUANTIZE, QUANTIZE_DEQUANTIZE = 0, 1, 2
# How a float32 is rounded to the precision of the tensor.
FULL, HALF, BRAIN = 0, 1, 2

_PRECISION = {torch.float32: FULL, torch.float16: HALF, torch.bfloat16: BRAIN}
_ELEMENTS = 1024
# From here on (with room for the last program's overhang) element numbers need 64 bits.
_WIDE = 2**31 - 2**16
# Ratios are exact integers from here on, and outside of every grid that is computed in float32.
_LARGEST_RATIO = tl.constexpr(4194304.0)
_ROUNDING = tl.constexpr(12582912.0)

FORWARD_SIGNATURE = {
    "x_pointer": "*fp32",
    "scale_pointer": "*fp32",
    "offset_pointer": "*fp32",
    "y_pointer": "*fp32",
    "count": "i32",
    "width": "i32",
    "inner_first": "i32",
    "first": "i32",
    "inner_second": "i32",
    "second": "i32",
    "qmin": "fp32",
    "qmax": "fp32",
    "OPERATION": "constexpr",
    "HAS_OFFSET": "constexpr",
    "PRECISION": "constexpr",
    "RATIO_PRECISION": "constexpr",
    "WIDE_INDEX": "constexpr",
    "ELEMENTS": "constexpr",
}
"""Argument types of :data:`forward_kernel` for float32 tensors, for ahead-of-time compilation."""

BACKWARD_SIGNATURE = {
    "grad_pointer": "*fp32",
    "x_pointer": "*fp32",
    "scale_pointer": "*fp32",
    "offset_pointer": "*fp32",
    "dx_pointer": "*fp32",
    "dscale_pointer": "*fp32",
    "doffset_pointer": "*fp32",
    "rows": "i32",
    "width": "i32",
    "parts": "i32",
    "inner_first": "i32",
    "first": "i32",
    "inner_second": "i32",
    "second": "i32",
    "qmin": "fp32",
    "qmax": "fp32",
    "HAS_OFFSET": "constexpr",
    "PRECISION": "constexpr",
    "RATIO_PRECISION": "constexpr",
    "WIDE_INDEX": "constexpr",
    "ROWS": "constexpr",
    "COLUMNS": "constexpr",
}
"""Argument types of :data:`backward_kernel` for float32 tensors, for ahead-of-time compilation."""


@triton.jit
def _bfloat16_bits(value):
    """The upper half of a float32's bits, rounded to nearest, ties to even; NaN stays NaN."""
    bits = value.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(value != value, (bits >> 16) | 0x40, rounded)


@triton.jit
def _load(pointer, index, mask, PRECISION: tl.constexpr):
    """Values in float32; bfloat16 arrives as int16."""
    value = tl.load(pointer + index, mask=mask, other=0)
    if PRECISION == 2:
        return ((value.to(tl.uint32, bitcast=False) & 0xFFFF) << 16).to(tl.float32, bitcast=True)
    return value.to(tl.float32)


@triton.jit
def _store(pointer, index, value, mask, PRECISION: tl.constexpr):
    """Float32 rounded to the tensor's precision; bfloat16 leaves as int16."""
    if PRECISION == 2:
        tl.store(pointer + index, _bfloat16_bits(value).to(tl.int16), mask=mask)
    else:
        tl.store(pointer + index, value, mask=mask)


@triton.jit
def _round_precision(value, PRECISION: tl.constexpr):
    """``value`` rounded to the tensor's precision, still float32."""
    if PRECISION == 1:
        return value.to(tl.float16).to(tl.float32)
    if PRECISION == 2:
        return (_bfloat16_bits(value) << 16).to(tl.float32, bitcast=True)
    return value


@triton.jit
def _ratio(x, scale, PRECISION: tl.constexpr):
    """``x / scale``, bounded so that rounding it by a sum is exact. Bounds pass NaN on."""
    ratio = _round_precision(tl.div_rn(x, scale), PRECISION)
    ratio = tl.where(ratio > _LARGEST_RATIO, _LARGEST_RATIO, ratio)
    return tl.where(ratio < -_LARGEST_RATIO, -_LARGEST_RATIO, ratio)


@triton.jit
def _clamp(value, low, high):
    """Clamp that passes NaN on."""
    value = tl.where(value < low, low, value)
    return tl.where(value > high, high, value)


@triton.jit
def forward_kernel(
    x_pointer,
    scale_pointer,
    offset_pointer,
    y_pointer,
    count,
    width,
    inner_first,
    first,
    inner_second,
    second,
    qmin,
    qmax,
    OPERATION: tl.constexpr,
    HAS_OFFSET: tl.constexpr,
    PRECISION: tl.constexpr,
    RATIO_PRECISION: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    ELEMENTS: tl.constexpr,
):
    """Quantize (0), dequantize (1) or both (2), element by element."""
    program = tl.program_id(0)
    if WIDE_INDEX:
        program = program.to(tl.int64)
    index = program * ELEMENTS + tl.arange(0, ELEMENTS)
    mask = index < count
    row = index // width
    parameter = ((row // inner_first) % first) * second + (row // inner_second) % second
    scale = tl.load(scale_pointer + parameter, mask=mask, other=1.0)
    offset = 0.0
    if HAS_OFFSET:
        offset = tl.load(offset_pointer + parameter, mask=mask, other=0.0)
    value = _load(x_pointer, index, mask, PRECISION)
    if OPERATION != 1:
        value = (_ratio(value, scale, RATIO_PRECISION) + _ROUNDING) - _ROUNDING
        value = _clamp(value - offset, qmin, qmax)
    if OPERATION != 0:
        value = (value + offset) * scale
    _store(y_pointer, index, value, mask, PRECISION)


@triton.jit
def backward_kernel(
    grad_pointer,
    x_pointer,
    scale_pointer,
    offset_pointer,
    dx_pointer,
    dscale_pointer,
    doffset_pointer,
    rows,
    width,
    parts,
    inner_first,
    first,
    inner_second,
    second,
    qmin,
    qmax,
    HAS_OFFSET: tl.constexpr,
    PRECISION: tl.constexpr,
    RATIO_PRECISION: tl.constexpr,
    WIDE_INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradient of x, and each row's share of the gradients of its scale and offset, one number for each part."""
    program = tl.program_id(0)
    part = tl.program_id(1)
    if WIDE_INDEX:
        program = program.to(tl.int64)
        part = part.to(tl.int64)
    row = program * ROWS + tl.arange(0, ROWS)
    column = part * COLUMNS + tl.arange(0, COLUMNS)
    row_mask = row < rows
    mask = row_mask[:, None] & (column < width)[None, :]
    index = row[:, None] * width + column[None, :]
    parameter = ((row // inner_first) % first) * second + (row // inner_second) % second
    scale = tl.load(scale_pointer + parameter, mask=row_mask, other=1.0)[:, None]
    offset = tl.zeros((ROWS, 1), tl.float32)
    if HAS_OFFSET:
        offset = tl.load(offset_pointer + parameter, mask=row_mask, other=0.0)[:, None]
    x = _load(x_pointer, index, mask, PRECISION)
    grad = _load(grad_pointer, index, mask, PRECISION)
    ratio = _ratio(x, scale, RATIO_PRECISION)
    rounded = (ratio + _ROUNDING) - _ROUNDING
    clamped = _clamp(rounded - offset, qmin, qmax) + offset
    inside = clamped == rounded
    _store(dx_pointer, index, tl.where(inside, grad, 0.0), mask, PRECISION)
    factor = tl.where(inside, _round_precision(rounded - ratio, RATIO_PRECISION), clamped)
    target = row * parts + part
    tl.store(dscale_pointer + target, tl.sum(grad * factor, axis=1), mask=row_mask)
    if HAS_OFFSET:
        outside = tl.where(inside, 0.0, grad) * scale
        tl.store(doffset_pointer + target, tl.sum(outside, axis=1), mask=row_mask)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How a contiguous tensor's rows find their scale.

    Attributes:
        rows: number of rows.
        width: elements of a row, which share one scale.
        row_shape: sizes that multiply to ``rows``.
        reduced: for each of them, whether the scale is constant along it.
        inner_first: rows after which the slower scale index changes.
        first: values of the slower scale index.
        inner_second: rows after which the faster scale index changes.
        second: values of the faster scale index.
    """

    rows: int
    width: int
    row_shape: tuple[int, ...]
    reduced: tuple[bool, ...]
    inner_first: int
    first: int
    inner_second: int
    second: int

    @property
    def index_arguments(self) -> tuple[int, int, int, int]:
        """The four numbers that both kernels take."""
        return self.inner_first, self.first, self.inner_second, self.second


def _layout(view: Sequence[int], scale_shape: Sequence[int]) -> _Layout | None:
    """The layout of a tensor of shape ``view``, or ``None`` where the scale varies along too many dimensions."""
    padded = (1,) * (len(view) - len(scale_shape)) + tuple(scale_shape)
    shape: list[int] = []
    reduced: list[bool] = []
    for size, scale in zip(view, padded, strict=True):
        if size == 1:
            continue
        if reduced and reduced[-1] == (scale == 1):
            shape[-1] *= size
        else:
            shape.append(size)
            reduced.append(scale == 1)
    width = shape.pop() if reduced and reduced[-1] else 1
    if len(reduced) > len(shape):
        reduced.pop()
    spans = [(size, math.prod(shape[axis + 1 :])) for axis, size in enumerate(shape) if not reduced[axis]]
    if len(spans) > 2:
        return None
    spans = [(1, 1)] * (2 - len(spans)) + spans
    (first, inner_first), (second, inner_second) = spans
    return _Layout(
        rows=math.prod(shape),
        width=width,
        row_shape=tuple(shape),
        reduced=tuple(reduced),
        inner_first=inner_first,
        first=first,
        inner_second=inner_second,
        second=second,
    )


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """All that a launch needs: layout, parameters in float32, precisions."""

    layout: _Layout
    scale: Tensor
    offset: Tensor | None
    scale_shape: tuple[int, ...]
    precision: int
    ratio_precision: int


def _problem(
    x: Tensor, scale: Tensor, offset: Tensor | None, dtype: torch.dtype, block_size: Sequence[int] | None
) -> _Problem | None:
    """What is launched, or ``None`` where only the reference can compute it (float64, too many spans)."""
    if x.dtype not in _PRECISION or dtype not in _PRECISION:
        return None
    view, scale_shape = reference.blocked_shapes(x.shape, scale.shape, block_size)
    # Half precision computes with the scale as half precision holds it.
    s = scale.detach().to(device=x.device, dtype=dtype).to(torch.float32).reshape(scale_shape)
    o = None
    if offset is not None:
        blocks = block_size if block_size is not None and offset.dim() == len(block_size) else None
        offset_shape = reference.blocked_shapes(x.shape, offset.shape, blocks)[1]
        o = offset.detach().to(device=x.device, dtype=torch.float32).reshape(offset_shape)
        s, o = torch.broadcast_tensors(s, o)
        o = o.contiguous()
    layout = _layout(view, s.shape)
    if layout is None:
        return None
    return _Problem(
        layout=layout,
        scale=s.contiguous(),
        offset=o,
        scale_shape=tuple(s.shape),
        precision=_PRECISION[x.dtype],
        ratio_precision=_PRECISION[dtype],
    )


def _pointer(tensor: Tensor) -> Tensor:
    """The tensor as a kernel takes it: bfloat16 as its bits."""
    return tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor


def _launch_forward(problem: _Problem, operation: int, x: Tensor, qmin: int, qmax: int, inplace: bool = False) -> Tensor:
    source = x.detach().contiguous()
    y = source if inplace else torch.empty_like(source)
    count = source.numel()
    if count:
        forward_kernel[(triton.cdiv(count, _ELEMENTS),)](
            _pointer(source),
            problem.scale,
            problem.scale if problem.offset is None else problem.offset,
            _pointer(y),
            count,
            problem.layout.width,
            *problem.layout.index_arguments,
            float(qmin),
            float(qmax),
            OPERATION=operation,
            HAS_OFFSET=problem.offset is not None,
            PRECISION=problem.precision,
            RATIO_PRECISION=problem.ratio_precision,
            WIDE_INDEX=source.numel() >= _WIDE,
            ELEMENTS=_ELEMENTS,
            enable_fp_fusion=False,
        )
    return y


def _launch_backward(
    problem: _Problem, grad: Tensor, x: Tensor, qmin: int, qmax: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``dx``, and the gradients of scale and offset in the shape in which both broadcast, in float64."""
    source, g = x.detach().contiguous(), grad.detach().to(x.dtype).contiguous()
    layout = problem.layout
    dx = torch.empty_like(source)
    columns = min(_ELEMENTS, triton.next_power_of_2(layout.width))
    rows = max(1, _ELEMENTS // columns)
    parts = triton.cdiv(layout.width, columns)
    sums = torch.zeros((2, max(layout.rows, 1), parts), dtype=torch.float32, device=x.device)
    if source.numel():
        backward_kernel[(triton.cdiv(layout.rows, rows), parts)](
            _pointer(g),
            _pointer(source),
            problem.scale,
            problem.scale if problem.offset is None else problem.offset,
            _pointer(dx),
            sums[0],
            sums[1],
            layout.rows,
            layout.width,
            parts,
            *layout.index_arguments,
            float(qmin),
            float(qmax),
            HAS_OFFSET=problem.offset is not None,
            PRECISION=problem.precision,
            RATIO_PRECISION=problem.ratio_precision,
            WIDE_INDEX=source.numel() >= _WIDE,
            ROWS=rows,
            COLUMNS=columns,
            enable_fp_fusion=False,
        )
    if not source.numel():
        empty = torch.zeros(problem.scale_shape, dtype=torch.float64, device=x.device)
        return dx, empty, None if problem.offset is None else empty
    gathered = sums.to(torch.float64).sum(-1).reshape(2, *layout.row_shape)
    axes = [axis + 1 for axis, reduced in enumerate(layout.reduced) if reduced]
    if axes:
        gathered = gathered.sum(dim=axes)
    dscale, doffset = gathered.reshape(2, *problem.scale_shape)
    return dx, dscale, None if problem.offset is None else doffset


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
        problem = _problem(x, scale, offset, reference.computation_dtype(x.dtype, qmin, qmax), block_size)
        assert problem is not None
        return _launch_forward(problem, QUANTIZE_DEQUANTIZE, x, qmin, qmax)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, scale, offset = ctx.saved_tensors
        qmin, qmax, block_size = ctx.arguments
        problem = _problem(x, scale, offset, reference.computation_dtype(x.dtype, qmin, qmax), block_size)
        assert problem is not None
        dx, dscale, doffset = _launch_backward(problem, grad, x, qmin, qmax)
        _, scale_shape = reference.blocked_shapes(x.shape, scale.shape, block_size)
        ds = dscale.sum_to_size(scale_shape).reshape(scale.shape).to(scale) if ctx.needs_input_grad[1] else None
        do = None
        if offset is not None and doffset is not None and ctx.needs_input_grad[2]:
            blocks = block_size if block_size is not None and offset.dim() == len(block_size) else None
            offset_shape = reference.blocked_shapes(x.shape, offset.shape, blocks)[1]
            do = doffset.sum_to_size(offset_shape).reshape(offset.shape).to(offset)
        return dx if ctx.needs_input_grad[0] else None, ds, do, None, None, None


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
    """One Triton kernel forward, one backward that recomputes; the reference where neither fits.

    Arguments, result and errors as :func:`quantsim_kernels.affine_quantize_dequantize`.
    """
    problem = _problem(x, scale, offset, reference.computation_dtype(x.dtype, qmin, qmax), block_size)
    if problem is None or zero_point_shift:
        return reference.quantize_dequantize(x, scale, offset, qmin, qmax, block_size, zero_point_shift)
    if torch.is_grad_enabled() and (
        x.requires_grad or scale.requires_grad or (offset is not None and offset.requires_grad)
    ):
        if inplace:
            raise ValueError(
                "inplace=True: got operands that require a gradient while gradients are on, expected none; "
                "the backward needs x. Pass inplace=False or run under torch.no_grad()"
            )
        return _QuantizeDequantize.apply(x, scale, offset, qmin, qmax, block_size)  # type: ignore[no-any-return]
    return _launch_forward(problem, QUANTIZE_DEQUANTIZE, x, qmin, qmax, inplace and x.is_contiguous())


def quantize(
    x: Tensor, scale: Tensor, offset: Tensor | None, qmin: int, qmax: int, block_size: Sequence[int] | None = None
) -> Tensor:
    """One Triton kernel; the reference with gradients or where it does not fit.

    Arguments, result and errors as :func:`quantsim_kernels.affine_quantize`.
    """
    needs_grad = torch.is_grad_enabled() and (
        x.requires_grad or scale.requires_grad or (offset is not None and offset.requires_grad)
    )
    holds = max(abs(qmin), abs(qmax)) * torch.finfo(x.dtype).eps <= 2.0
    problem = None
    if holds and not needs_grad:
        problem = _problem(x, scale, offset, reference.computation_dtype(x.dtype, qmin, qmax), block_size)
    if problem is None:
        return reference.quantize(x, scale, offset, qmin, qmax, block_size)
    return _launch_forward(problem, QUANTIZE, x, qmin, qmax)


def dequantize(
    q: Tensor, scale: Tensor, offset: Tensor | None, block_size: Sequence[int] | None = None
) -> Tensor:
    """One Triton kernel; the reference with gradients, for integer tensors, or where it does not fit.

    Arguments, result and errors as :func:`quantsim_kernels.affine_dequantize`.
    """
    needs_grad = torch.is_grad_enabled() and (
        q.requires_grad or scale.requires_grad or (offset is not None and offset.requires_grad)
    )
    problem = None
    if q.is_floating_point() and not needs_grad:
        problem = _problem(q, scale, offset, torch.float32, block_size)
    if problem is None:
        return reference.dequantize(q, scale, offset, block_size)
    return _launch_forward(problem, DEQUANTIZE, q, 0, 0)
