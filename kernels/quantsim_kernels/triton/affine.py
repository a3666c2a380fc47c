"""Affine quantization in Triton: layouts, launches and the autograd function. Equal to the reference bit for bit.

Layout: a contiguous tensor is seen as ``rows x width``; every row has one scale. The scale's number follows from the
row by two levels of division and remainder, which covers per-tensor, per-channel and blocks along up to two dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from quantsim_kernels.reference import affine as reference
from quantsim_kernels.triton._affine_kernels import backward_kernel, forward_kernel

__all__ = ["dequantize", "quantize", "quantize_dequantize"]

# What is computed by the forward kernel.
QUANTIZE, DEQUANTIZE, QUANTIZE_DEQUANTIZE = 0, 1, 2
# How a float32 is rounded to the precision of the tensor.
FULL, HALF, BRAIN = 0, 1, 2

_PRECISION = {torch.float32: FULL, torch.float16: HALF, torch.bfloat16: BRAIN}
_ELEMENTS = 1024
# From here on (with room for the last program's overhang) element numbers need 64 bits.
_WIDE = 2**31 - 2**16


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


def _launch_forward(
    problem: _Problem, operation: int, x: Tensor, qmin: int, qmax: int, inplace: bool = False
) -> Tensor:
    source = x.detach().contiguous()
    y = source if inplace else torch.empty_like(source)
    count = source.numel()
    if count:
        launch: Any = forward_kernel[(triton.cdiv(count, _ELEMENTS),)]
        # Triton launches on the current device, which need not be the tensor's.
        with torch.cuda.device_of(source):
            launch(
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
        launch: Any = backward_kernel[(triton.cdiv(layout.rows, rows), parts)]
        # Triton launches on the current device, which need not be the tensor's.
        with torch.cuda.device_of(source):
            launch(
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
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale, offset = ctx.saved_tensors
        qmin, qmax, block_size = ctx.arguments
        problem = _problem(x, scale, offset, reference.computation_dtype(x.dtype, qmin, qmax), block_size)
        assert problem is not None
        dx, dscale, doffset = _launch_backward(problem, gradients[0], x, qmin, qmax)
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


def dequantize(q: Tensor, scale: Tensor, offset: Tensor | None, block_size: Sequence[int] | None = None) -> Tensor:
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
