"""Casts to any floating-point format on the CPU: the reference's numbers, bit for bit, in few passes.

There are two forms. What torch runs op by op takes few and cheap ops, on pieces that stay in the cache
(:mod:`quantsim_kernels.torch._float_passes`). What a compiler fuses into one pass covers more formats and is functional
(:mod:`quantsim_kernels.torch._float_laws`); with :class:`~quantsim_kernels.torch.compilation.compiled_kernels` large
tensors run it compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from quantsim_encodings.formats import FloatFormat, RoundingMode
from quantsim_kernels.reference import affine as affine_reference
from quantsim_kernels.reference import float_cast as reference
from quantsim_kernels.torch import _pieces
from quantsim_kernels.torch._float_laws import has_fast_law, round_float32
from quantsim_kernels.torch._float_noise import NoiseStream, traced_noise
from quantsim_kernels.torch._float_passes import cast_by_passes, passes_for
from quantsim_kernels.torch._pieces import aligned_views, apply_in_pieces
from quantsim_kernels.torch.compilation import lazily_compiled, serves_compiled

__all__ = [
    "dynamic_quantize_dequantize",
    "float_cast",
    "has_fast_law",
    "objection",
    "quantize_dequantize",
    "traced_float_cast",
]

_PLAIN_TENSORS = (Tensor, Parameter)

COMPILED_PIECE_ELEMENTS = 2**30
"""Elements that one compiled call takes: element numbers within it fit in int32."""


def objection(x: Tensor, *operands: Any, **arguments: Any) -> str | None:
    """Why these kernels cannot run: they want an ordinary CPU tensor and a format with a fast law."""
    if not x.is_cpu:
        return "it serves CPU tensors only"
    if type(x) not in _PLAIN_TENSORS:
        return f"it serves plain tensors only, not {type(x).__name__}"
    if x.dtype is torch.float64:
        return "it computes in float32, and x is float64"
    format = arguments.get("format")
    for operand in operands:
        if isinstance(operand, FloatFormat):
            format = operand
            break
    if format is None:
        return "no format was given"
    return None if has_fast_law(format, x.dtype) else "the format has no fast law; only the reference covers it"


def traced_float_cast(
    x: Tensor,
    format: FloatFormat,
    rounding: RoundingMode,
    saturate: bool,
    saturate_infinity: bool = False,
    seed: Tensor | None = None,
) -> Tensor:
    """A cast without mutation in float32 and int32 ops, which ``torch.compile`` fuses into one vectorised pass.

    Arguments and result as :func:`float_cast`, whose numbers it gives; any device and strides, also fake and
    functionalised tensors. For formats and dtypes of which :func:`has_fast_law` is true.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> x = torch.tensor([1.97, 500.0, -0.0005])
        >>> traced_float_cast(x, float_format("e4m3fn"), RoundingMode.NEAREST_EVEN, True).tolist()
        [2.0, 448.0, -0.0]
    """
    noise = None if seed is None else traced_noise(x.shape, seed)
    values = round_float32(x.to(torch.float32), format, rounding, saturate, saturate_infinity, noise)
    return values.to(x.dtype)


@lazily_compiled
def _cast_flat(
    x: Tensor,
    seed: Tensor | None,
    start: Tensor | None,
    format: FloatFormat,
    rounding: RoundingMode,
    saturate: bool,
    saturate_infinity: bool,
) -> Tensor:
    noise = None if seed is None else traced_noise(x.shape, seed, start)
    values = round_float32(x.to(torch.float32), format, rounding, saturate, saturate_infinity, noise)
    return values.to(x.dtype)


@lazily_compiled
def _scaled_views(x: Tensor, scale: Tensor, seed: Tensor | None, format: FloatFormat, rounding: RoundingMode) -> Tensor:
    noise = None if seed is None else traced_noise(x.shape, seed)
    values = round_float32(x.to(torch.float32) / scale, format, rounding, True, False, noise)
    return (values * scale).to(x.dtype)


@lazily_compiled
def _dynamic_rows(x: Tensor, seed: Tensor | None, format: FloatFormat, rounding: RoundingMode) -> Tensor:
    scale = reference.dynamic_float_scale(x, format)
    noise = None if seed is None else traced_noise(x.shape, seed)
    values = round_float32(x.to(torch.float32) / scale, format, rounding, True, False, noise)
    return (values * scale).to(x.dtype)


def _cast_compiled(
    x: Tensor,
    format: FloatFormat,
    rounding: RoundingMode,
    saturate: bool,
    saturate_infinity: bool,
    seed: Tensor | None,
) -> Tensor:
    """The compiled form on contiguous memory."""
    flat = x.reshape(-1)
    if flat.numel() <= COMPILED_PIECE_ELEMENTS:
        return _cast_flat(flat, seed, None, format, rounding, saturate, saturate_infinity).view(x.shape)
    out = torch.empty_like(flat)
    for start in range(0, flat.numel(), COMPILED_PIECE_ELEMENTS):
        piece = flat[start : start + COMPILED_PIECE_ELEMENTS]
        first = None if seed is None else torch.tensor(start, dtype=torch.int64)
        out[start : start + COMPILED_PIECE_ELEMENTS] = _cast_flat(
            piece, seed, first, format, rounding, saturate, saturate_infinity
        )
    return out.view(x.shape)


def _cast_piece(
    x: Tensor,
    format: FloatFormat,
    rounding: RoundingMode,
    saturate: bool,
    saturate_infinity: bool,
    stream: NoiseStream | None,
    out: Tensor | None,
) -> Tensor:
    """All of a cast on one float32 piece; ``out`` must not share memory with ``x``."""
    law = passes_for(format, rounding)
    if law is not None:
        return cast_by_passes(x, law, format, rounding, saturate, saturate_infinity, stream, out)
    noise = None if stream is None else stream.take(x.shape)
    y = round_float32(x, format, rounding, saturate, saturate_infinity, noise)
    return y if out is None else out.copy_(y)


def _given_back(x: Tensor, source: Tensor, y: Tensor, inplace: bool) -> Tensor:
    """``y``, or ``x`` with the numbers of ``y`` written over the memory that it shares with ``source``."""
    if not inplace:
        return y
    source.copy_(y)
    return x


def float_cast(
    x: Tensor,
    format: FloatFormat,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    saturate: bool = True,
    saturate_infinity: bool = False,
    seed: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """A few passes on the CPU, in pieces that stay in the cache.

    Arguments, result and errors as :func:`quantsim_kernels.float_cast`; gradients are the caller's.
    """
    source = x.detach()
    if serves_compiled(source) and source.is_contiguous():
        y = _cast_compiled(source, format, rounding, saturate, saturate_infinity, seed)
        return _given_back(x, source, y, inplace)
    stream = None if seed is None else NoiseStream(seed)
    if source.dtype is torch.float32 and source.numel() <= _pieces.WHOLE_ELEMENTS:
        y = _cast_piece(source, format, rounding, saturate, saturate_infinity, stream, None)
        return _given_back(x, source, y, inplace)
    if stream is not None and not source.is_contiguous():
        # Elements are numbered row by row, pieces are taken in the order of memory.
        y = float_cast(source.contiguous(), format, rounding, saturate, saturate_infinity, seed, inplace=True)
        return _given_back(x, source, y if inplace else torch.empty_like(source).copy_(y), inplace)

    def step(source: Tensor, parameters: Sequence[Tensor | None], out: Tensor | None) -> Tensor:
        # Signs are restored from the source, so it may not be overwritten before the end.
        if out is None or inplace or out is source:
            y = _cast_piece(source, format, rounding, saturate, saturate_infinity, stream, None)
            return y if out is None else out.copy_(y)
        return _cast_piece(source, format, rounding, saturate, saturate_infinity, stream, out)

    done = apply_in_pieces(step, source, (), source.shape, dtype=torch.float32, out_dtype=x.dtype, inplace=inplace)
    return x if inplace else done


def quantize_dequantize(
    x: Tensor,
    scale: Tensor | None,
    format: FloatFormat,
    block_size: Sequence[int] | None = None,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """Division, cast and product on each piece while it is in the cache.

    Arguments, result and errors as :func:`quantsim_kernels.float_quantize_dequantize`; gradients are the caller's.
    """
    if scale is None:
        return float_cast(x, format, rounding, True, False, seed, inplace)
    source = x.detach()
    if seed is not None and not source.is_contiguous():
        # Elements are numbered row by row, pieces are taken in the order of memory.
        y = quantize_dequantize(source.contiguous(), scale, format, block_size, rounding, seed, inplace=True)
        return _given_back(x, source, y if inplace else torch.empty_like(source).copy_(y), inplace)
    view, scale_view = affine_reference.blocked_shapes(x.shape, scale.shape, block_size)
    s = scale.detach().reshape(scale_view).to(torch.float32)
    if serves_compiled(source) and source.is_contiguous() and source.numel() <= COMPILED_PIECE_ELEMENTS:
        aligned = aligned_views((source,), (s,), view)
        assert aligned is not None, "contiguous memory has no gaps"
        (rows,), (row_scale,) = aligned
        assert row_scale is not None
        y = _scaled_views(rows, row_scale, seed, format, rounding)
        return _given_back(x, source, y.view(x.shape), inplace)
    stream = None if seed is None else NoiseStream(seed)

    def step(source: Tensor, parameters: Sequence[Tensor | None], out: Tensor | None) -> Tensor:
        (scale_piece,) = parameters
        assert scale_piece is not None
        values = _cast_piece(torch.div(source, scale_piece), format, rounding, True, False, stream, None)
        return torch.mul(values, scale_piece, out=values if out is None else out)

    done = apply_in_pieces(step, source, (s,), view, dtype=torch.float32, out_dtype=x.dtype, inplace=inplace)
    return x if inplace else done


def dynamic_quantize_dequantize(
    x: Tensor,
    format: FloatFormat,
    block_size: int | None = None,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """Range and cast of each piece while it is in the cache.

    Arguments, result and errors as :func:`quantsim_kernels.float_dynamic_quantize_dequantize`; gradients are the
    caller's.
    """
    source = x.detach()
    if x.numel() == 0 or x.dim() == 0 or (block_size is not None and block_size < x.shape[-1]):
        y = reference.dynamic_quantize_dequantize(source, format, block_size, rounding, seed, float_cast)
        return _given_back(x, source, y, inplace)
    if seed is not None and not source.is_contiguous():
        y = dynamic_quantize_dequantize(source.contiguous(), format, None, rounding, seed, inplace=True)
        return _given_back(x, source, y if inplace else torch.empty_like(source).copy_(y), inplace)
    if serves_compiled(source) and source.is_contiguous() and source.numel() <= COMPILED_PIECE_ELEMENTS:
        y = _dynamic_rows(source.view(-1, x.shape[-1]), seed, format, rounding)
        return _given_back(x, source, y.view(x.shape), inplace)
    done = source if inplace else torch.empty_like(source)
    stream = None if seed is None else NoiseStream(seed)

    def rows(piece: Tensor, target: Tensor) -> None:
        # The largest magnitude of a row without a pass for magnitudes.
        largest = torch.maximum(piece.amax(dim=-1, keepdim=True), piece.amin(dim=-1, keepdim=True).neg_())
        scale = reference.dynamic_float_scale(largest, format)
        values = _cast_piece(torch.div(piece.to(torch.float32), scale), format, rounding, True, False, stream, None)
        if target.dtype is torch.float32:
            torch.mul(values, scale, out=target)
        else:
            target.copy_(values.mul_(scale))

    if source.numel() <= _pieces.WHOLE_ELEMENTS or not source.is_contiguous():
        rows(source, done)
    else:
        width = x.shape[-1]
        step = max(1, _pieces.PIECE_ELEMENTS // width)
        for piece, target in zip(source.view(-1, width).split(step), done.view(-1, width).split(step), strict=True):
            rows(piece, target)
    return x if inplace else done
