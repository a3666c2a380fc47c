"""Affine quantization: the one definition of its numbers. Every backend is tested against this file.

With scale ``s``, offset ``o``, integer grid ``qmin .. qmax`` and ``n = qmax - qmin``::

    q  = clamp(rint(x / s) - o, qmin, qmax)          x / s is rounded, ties to even, before the offset is taken off
    x^ = (q + o) * s

Rounding is always of a true division: multiplying by ``1 / s`` gives another integer for some ``x``, and the targets
(ONNX's QuantizeLinear among them) divide. ``o`` is minus the zero point. Everything is written with out-of-place torch
ops so that it can be read, differentiated, compiled and exported; speed is the business of the other backends.

Shapes: ``scale`` and ``offset`` broadcast against ``x`` from the right, like any torch operands, but never enlarge it.
With ``block_size`` (one entry for each dimension of ``scale``, -1 for "the dimension divided evenly"), ``scale`` holds
the number of blocks of each of the last dimensions of ``x``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quantsim_kernels.reference.affine_parameters import (
    calibration_range,
    dynamic_scale_and_offset,
    minimum_scale,
    range_from_scale_and_offset,
    round_straight_through,
    scale_and_offset,
    symmetric_offset,
    symmetric_range,
)
from quantsim_kernels.reference.operand_layout import blocked_shapes, computation_dtype

__all__ = [
    "blocked_shapes",
    "calibration_range",
    "computation_dtype",
    "dequantize",
    "dynamic_quantize_dequantize",
    "dynamic_scale_and_offset",
    "grouped_block_scale",
    "minimum_scale",
    "quantize",
    "quantize_dequantize",
    "quantize_dequantize_backward",
    "range_from_scale_and_offset",
    "round_straight_through",
    "scale_and_offset",
    "symmetric_offset",
    "symmetric_range",
]


def _operands(
    x: Tensor, scale: Tensor, offset: Tensor | None, block_size: Sequence[int] | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The three tensors in the shapes in which they broadcast, and in the dtype of the computation."""
    view, scale_view = blocked_shapes(x.shape, scale.shape, block_size)
    scale = scale.reshape(scale_view).to(dtype=dtype, device=x.device)
    if offset is not None:
        _, offset_view = blocked_shapes(x.shape, offset.shape, block_size if offset.dim() == scale.dim() // 2 else None)
        offset = offset.reshape(offset_view).to(dtype=dtype, device=x.device)
    return x.reshape(view).to(dtype), scale, offset


def quantize(
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None = None,
) -> Tensor:
    """Integer codes ``q = clamp(rint(x / s) - o, qmin, qmax)``, held in the dtype of ``x``; never -0.

    Gradients (rounding straight through): ``dx = g / s``, ``ds = -g * x / s**2``, ``do = -g``, each where
    ``qmin <= rint(x / s) - o <= qmax``, else 0.

    Args:
        x: floating-point tensor.
        scale: positive scales that broadcast to ``x``, or one for each block.
        offset: integers in the shape of ``scale``; ``None`` means 0.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        block_size: see the module's text.

    Raises:
        ValueError: shapes do not fit, or the dtype of ``x`` cannot hold the integers.

    Example:
        >>> quantize(torch.tensor([-1.0, 0.24, 9.0]), torch.tensor(0.1), None, -8, 7).tolist()
        [-8.0, 2.0, 7.0]
    """
    if max(abs(qmin), abs(qmax)) * torch.finfo(x.dtype).eps > 2.0:
        raise ValueError(
            f"quantize(x): got {x.dtype}, which cannot hold all integers of {qmin}..{qmax}; "
            "convert x to a wider dtype first, for instance x.float()"
        )
    values, scale, offset = _operands(x, scale, offset, block_size, computation_dtype(x.dtype, qmin, qmax))
    rounded = round_straight_through(values / scale)
    if offset is not None:
        rounded = rounded - offset
    # The sum with 0 turns the -0 that rounding leaves into 0: integers have no -0.
    return (rounded.clamp(qmin, qmax) + 0.0).to(x.dtype).reshape(x.shape)


def dequantize(q: Tensor, scale: Tensor, offset: Tensor | None, block_size: Sequence[int] | None = None) -> Tensor:
    """Real values ``x^ = (q + o) * s``.

    Args:
        q: integer codes, in a floating-point dtype (the result keeps it) or an integer dtype (the result is in the
            dtype of ``scale``).
        scale: positive scales that broadcast to ``q``, or one for each block.
        offset: integers in the shape of ``scale``; ``None`` means 0.
        block_size: see the module's text.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> dequantize(
        ...     torch.tensor([0, 200], dtype=torch.uint8), torch.tensor(0.5), torch.tensor(-128.0)
        ... ).tolist()
        [-64.0, 36.0]
    """
    dtype = q.dtype if q.is_floating_point() else scale.dtype
    # Half precision holds neither large codes nor most scales: one rounding at the end instead of three.
    internal = torch.promote_types(dtype, torch.float32)
    values, scale, offset = _operands(q, scale, offset, block_size, internal)
    # Without an offset the sum with 0 still turns -0 into 0.
    return ((values + (0.0 if offset is None else offset)) * scale).to(dtype).reshape(q.shape)


def _computed_once(parameter: Tensor) -> Tensor:
    """The same tensor; a compiler that inlines what it is computed from into the loop over ``x`` will not.

    Inductor would derive scale and offset from the range anew for every element, which makes an asymmetric
    quantize-dequantize half as slow again. It computes what is seen through ``as_strided`` once, into memory.
    """
    if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
        return parameter.as_strided(parameter.size(), parameter.stride())
    return parameter


def _quantize_dequantize(
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None,
    zero_point_shift: float,
) -> Tensor:
    values, scale, offset = _operands(x, scale, offset, block_size, computation_dtype(x.dtype, qmin, qmax))
    scale = _computed_once(scale)
    offset = None if offset is None else _computed_once(offset)
    ratio = values / scale
    if zero_point_shift:
        ratio = ratio - zero_point_shift
    shift: Tensor | float = 0.0 if offset is None else offset
    codes = (ratio.round() - shift).clamp(qmin, qmax)
    return ((codes + (shift + zero_point_shift)) * scale).to(x.dtype).reshape(x.shape)


def quantize_dequantize_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None = None,
    zero_point_shift: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of :func:`quantize_dequantize`, recomputed from its inputs.

    With ``r = rint(x / s) - o``, inside meaning ``qmin <= r <= qmax`` and ``q = clamp(r, qmin, qmax)``::

        dx = g                        inside, 0 outside
        ds = g * (rint(x/s) - x/s)    inside, g * (q + o) outside
        do = 0                        inside, g * s outside

    ``ds`` and ``do`` are summed, in float32 or wider, to the shapes of ``scale`` and ``offset``. With a
    ``zero_point_shift`` ``z``, ``x/s`` is ``x/s - z`` here, and ``z`` does not enter the slope of clipped values.

    Args:
        grad: gradient of the result, in the shape of ``x``.
        x: as given to :func:`quantize_dequantize`, like all that follow.
        scale: scales.
        offset: offsets or ``None``.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        block_size: block sizes or ``None``.
        zero_point_shift: shift of the grid in steps.

    Returns:
        ``(dx, dscale, doffset)``; ``doffset`` is ``None`` where ``offset`` is.

    Example:
        >>> x, scale = torch.tensor([0.26, 9.0]), torch.tensor(0.1)
        >>> dx, dscale, _ = quantize_dequantize_backward(torch.ones(2), x, scale, None, -8, 7)
        >>> dx.tolist(), round(float(dscale), 4)
        ([1.0, 0.0], 7.4)
    """
    dtype = computation_dtype(x.dtype, qmin, qmax)
    values, s, o = _operands(x, scale, offset, block_size, dtype)
    # Half precision holds the grid, but not sums over many elements.
    wide = torch.promote_types(dtype, torch.float32)
    g = grad.reshape(values.shape).to(wide)
    ratio = values / s
    if zero_point_shift:
        ratio = ratio - zero_point_shift
    rounded = ratio.round()
    shift: Tensor | float = 0.0 if o is None else o
    codes = rounded - shift
    clamped = codes.clamp(qmin, qmax) + shift
    inside = (codes >= qmin) & (codes <= qmax)
    zero = torch.zeros((), dtype=wide, device=x.device)
    dx = torch.where(inside, g, zero)
    dscale = (g * torch.where(inside, rounded - ratio, clamped).to(wide)).sum_to_size(s.shape)
    doffset = None
    if offset is not None and o is not None:
        doffset = (torch.where(inside, zero, g) * s).sum_to_size(o.shape).reshape(offset.shape).to(offset.dtype)
    return dx.to(x.dtype).reshape(x.shape), dscale.reshape(scale.shape).to(scale.dtype), doffset


class _QuantizeDequantize(torch.autograd.Function):
    """Saves only its inputs; the backward recomputes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        offset: Tensor | None,
        qmin: int,
        qmax: int,
        block_size: Sequence[int] | None,
        zero_point_shift: float,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, offset)
        ctx.arguments = (qmin, qmax, block_size, zero_point_shift)
        return _quantize_dequantize(x, scale, offset, qmin, qmax, block_size, zero_point_shift)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, scale, offset = ctx.saved_tensors
        results = quantize_dequantize_backward(gradients[0], x, scale, offset, *ctx.arguments)
        wanted = zip(results, ctx.needs_input_grad[:3], strict=True)
        return (*(result if needed else None for result, needed in wanted), None, None, None, None)


def quantize_dequantize(
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None = None,
    zero_point_shift: float = 0.0,
) -> Tensor:
    """``x`` moved to its nearest point of the grid: :func:`quantize`, then :func:`dequantize`, in one.

    Computed in :func:`computation_dtype`, result in the dtype of ``x``. Gradients are those of
    :func:`quantize_dequantize_backward`. With a ``zero_point_shift`` ``z`` (0 or 0.5; a grid without a zero) it is
    ``(clamp(rint(x / s - z) - o, qmin, qmax) + o + z) * s``. The result holds no -0.

    Args:
        x: floating-point tensor.
        scale: positive scales that broadcast to ``x``, or one for each block.
        offset: integers in the shape of ``scale``; ``None`` means 0.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        block_size: see the module's text.
        zero_point_shift: shift of the grid in steps.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> quantize_dequantize(torch.tensor([-1.0, 0.24, 9.0]), torch.tensor(0.5), None, -8, 7).tolist()
        [-1.0, 0.0, 3.5]
    """
    arguments = (x, scale, offset, qmin, qmax, block_size, zero_point_shift)
    if torch.is_grad_enabled() and (
        x.requires_grad or scale.requires_grad or (offset is not None and offset.requires_grad)
    ):
        return _QuantizeDequantize.apply(*arguments)  # type: ignore[no-any-return]
    return _quantize_dequantize(*arguments)


def grouped_block_scale(
    raw_scale: Tensor, block_grouping: Sequence[int], bits: int, decompressed_bits: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scales of low-power block quantization: each block's scale is a small integer times one scale per group.

    With ``m = 2**(decompressed_bits - bits)``: ``s_group = max over the group of s_raw / m`` and
    ``s_block = s_group * clamp(rint(s_raw / s_group), 1, m)``. Differentiable in ``raw_scale``.

    Args:
        raw_scale: one scale for each block, shape ``(n0, n1, ...)``.
        block_grouping: how many neighbouring blocks share one group scale, for each dimension; -1 means all.
        bits: width of the quantized values.
        decompressed_bits: width after the integer block scale is multiplied in; at least ``bits``.

    Returns:
        ``(scale, per_group_scale, per_block_integer_scale)``; the first and last in the shape of ``raw_scale``, the
        second with one entry for each group.

    Raises:
        ValueError: ``decompressed_bits < bits``, or the grouping does not divide ``raw_scale``.

    Example:
        >>> scale, group, integers = grouped_block_scale(torch.tensor([[0.16, 0.09]]), (1, -1), 4, 8)
        >>> integers.tolist(), round(float(group), 4)
        ([[16.0, 9.0]], 0.01)
    """
    if decompressed_bits < bits:
        raise ValueError(
            f"grouped_block_scale(decompressed_bits): got {decompressed_bits}, expected at least bits = {bits}"
        )
    if len(block_grouping) != raw_scale.dim():
        raise ValueError(
            f"grouped_block_scale(block_grouping): got {tuple(block_grouping)} for scales of shape "
            f"{tuple(raw_scale.shape)}, expected one entry for each dimension"
        )
    groups: list[int] = []
    for size, group in zip(raw_scale.shape, block_grouping, strict=True):
        width = size if group == -1 else group
        if width < 1 or size % width:
            raise ValueError(
                f"grouped_block_scale(block_grouping): got {tuple(block_grouping)} for scales of shape "
                f"{tuple(raw_scale.shape)}, expected entries that divide each dimension, or -1"
            )
        groups.append(size // width)
    multiplier = 2 ** (decompressed_bits - bits)
    view, _ = blocked_shapes(raw_scale.shape, groups, tuple(block_grouping))
    group_scale = raw_scale.reshape(view).amax(dim=tuple(range(1, len(view), 2))) / multiplier
    scale = quantize_dequantize(raw_scale, group_scale, None, 1, multiplier, block_size=tuple(block_grouping))
    integers = quantize(raw_scale.detach(), group_scale.detach(), None, 1, multiplier, tuple(block_grouping))
    return scale, group_scale, integers


def _dynamic_quantize_dequantize(x: Tensor, qmin: int, qmax: int, symmetric: bool) -> Tensor:
    scale, offset = dynamic_scale_and_offset(x, qmin, qmax, symmetric)
    # A compiler drops sums with a tensor of zeros, and with them the step from -0 to 0; it keeps the one with a number.
    known_zero = symmetric and symmetric_offset(qmin, qmax) == 0
    return _quantize_dequantize(x, scale, None if known_zero else offset, qmin, qmax, None, 0.0)


class _DynamicQuantizeDequantize(torch.autograd.Function):
    """The range covers the row, so nothing is clipped: the straight-through gradient is the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, qmin: int, qmax: int, symmetric: bool) -> Tensor:
        return _dynamic_quantize_dequantize(x, qmin, qmax, symmetric)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return gradients[0], None, None, None


def dynamic_quantize_dequantize(x: Tensor, qmin: int, qmax: int, symmetric: bool) -> Tensor:
    """:func:`quantize_dequantize` with :func:`dynamic_scale_and_offset`; the gradient is the identity.

    The scale counts as a constant in the gradient, and a range taken from the row itself clips nothing.

    Args:
        x: floating-point tensor, shape ``(..., n)``.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        symmetric: whether the grid is symmetric.

    Example:
        >>> dynamic_quantize_dequantize(torch.tensor([[0.0, 1.0, 3.0]]), 0, 3, symmetric=False).tolist()
        [[0.0, 1.0, 3.0]]
    """
    if x.numel() == 0:
        return x.clone()
    if x.dim() == 0:
        return dynamic_quantize_dequantize(x.reshape(1), qmin, qmax, symmetric).reshape(())
    if torch.is_grad_enabled() and x.requires_grad:
        return _DynamicQuantizeDequantize.apply(x, qmin, qmax, symmetric)  # type: ignore[no-any-return]
    return _dynamic_quantize_dequantize(x, qmin, qmax, symmetric)
