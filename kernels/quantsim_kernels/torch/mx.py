"""Block formats on the CPU: the reference's numbers, bit for bit, in few passes.

Eagerly, blocks are scaled and cast in pieces that stay in the cache; a compiler gets one expression without mutation
(:mod:`quantsim_kernels.torch._block_laws`), which it fuses into a single pass. With
:class:`~quantsim_kernels.torch.compilation.compiled_kernels` large tensors run that form compiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from quantsim_encodings.formats import BlockFormat, MXFormat, NVFP4Format, RoundingMode
from quantsim_kernels.reference import mx as reference
from quantsim_kernels.torch._block_laws import (
    has_fast_block_law,
    keep_inexact,
    magnitude_bits,
    mx_scales,
    nvfp4_scales,
    nvfp4_tensor_scale,
    round_blocks,
)
from quantsim_kernels.torch._float_noise import NoiseStream, traced_noise
from quantsim_kernels.torch.compilation import lazily_compiled, serves_compiled
from quantsim_kernels.torch.float_cast import _cast_piece

__all__ = ["has_fast_block_law", "objection", "quantize_dequantize", "traced_quantize_dequantize"]

_PLAIN_TENSORS = (Tensor, Parameter)
_INFINITY = 0x7F800000

PIECE_ELEMENTS = 2**19
"""Elements of one piece, whose five buffers of 2 MiB stay in the cache: measured on 4096 x 4096, pieces of 2**21 take
1.2 times as long, of 2**17 1.5 times."""

COMPILED_ELEMENTS_LIMIT = 2**31
"""Tensors of so many elements run eagerly: the compiled form numbers elements in int32."""

_grid = lru_cache(maxsize=256)(reference.element_grid)
_is_fast = lru_cache(maxsize=512)(has_fast_block_law)


def objection(
    x: Tensor,
    format: BlockFormat,
    axis: int = -1,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
    **arguments: Any,
) -> str | None:
    """Why these kernels cannot run: they want an ordinary CPU tensor and elements with a fast law."""
    if not x.is_cpu:
        return "it serves CPU tensors only"
    if type(x) not in _PLAIN_TENSORS:
        return f"it serves plain tensors only, not {type(x).__name__}"
    if x.dtype is torch.float64:
        return "it computes in float32, and x is float64"
    if not _is_fast(format, x.dtype, rounding):
        return "the element format has no fast law; only the reference covers it"
    return None


def traced_quantize_dequantize(
    x: Tensor,
    format: BlockFormat,
    axis: int = -1,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
) -> Tensor:
    """There and back without mutation, in float32 and int32 ops that ``torch.compile`` fuses.

    Arguments and result as :func:`quantsim_kernels.reference.mx.quantize_dequantize`, for formats and dtypes of which
    :func:`has_fast_block_law` is true; any device and strides, also fake and functionalised tensors.

    Example:
        >>> from quantsim_encodings.formats import mx_format
        >>> traced_quantize_dequantize(torch.tensor([1.1, -7.0, 0.2]), mx_format("mxfp4")).tolist()
        [1.0, -6.0, 0.0]
    """
    if x.numel() == 0:
        return x.clone()
    if x.dim() == 0:
        return traced_quantize_dequantize(x.reshape(1), format, axis, rounding, seed).reshape(())
    axis = axis % x.dim()
    length, size = x.shape[axis], format.block_size
    values = x.to(torch.float32)
    noise = None if seed is None else traced_noise(x.shape, seed)
    tensor_scale = None
    if isinstance(format, NVFP4Format) and format.two_level:
        magnitude = values.abs()
        tensor_scale = nvfp4_tensor_scale(torch.where(magnitude < math.inf, magnitude, 0.0).amax(), format)
    missing = -length % size
    if missing:
        padding = (0, 0) * (x.dim() - 1 - axis) + (0, missing)
        values = torch.nn.functional.pad(values, padding)
        noise = None if noise is None else torch.nn.functional.pad(noise, padding)
    values = values.unflatten(axis, (-1, size))
    noise = None if noise is None else noise.unflatten(axis, (-1, size))
    y = round_blocks(values, format, axis + 1, rounding, tensor_scale, noise).flatten(axis, axis + 1)
    return (y.narrow(axis, 0, length) if missing else y).to(x.dtype)


@lazily_compiled
def _quantize_dequantize_whole(
    x: Tensor, seed: Tensor | None, format: BlockFormat, axis: int, rounding: RoundingMode
) -> Tensor:
    return traced_quantize_dequantize(x, format, axis, rounding, seed)


def _pieces_of(x: Tensor, out: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Matching runs of memory of two contiguous tensors ``(outer, length, inner)``, each of whole blocks."""
    outer, length, inner = x.shape
    limit = PIECE_ELEMENTS
    if x.numel() <= limit:
        yield x, out
    elif length * inner <= limit:
        yield from zip(x.split(limit // (length * inner)), out.split(limit // (length * inner)), strict=True)
    else:
        step = max(1, limit // (size * inner)) * size
        for index in range(outer):
            yield from zip(x[index : index + 1].split(step, 1), out[index : index + 1].split(step, 1), strict=True)


def _segments(length: int, size: int) -> list[tuple[int, int, int]]:
    """``(start, stop, block size)`` of the whole blocks and of the shorter last one."""
    whole = length - length % size
    return [part for part in ((0, whole, size), (whole, length, length - whole)) if part[0] < part[1]]


def _as_blocks(x: Tensor, segment: tuple[int, int, int]) -> Tensor:
    """A view ``(outer, blocks, size, inner)`` of part of ``(outer, length, inner)``, without ``inner`` if that is 1."""
    start, stop, size = segment
    # A last dimension of one element would hide from reductions that blocks are runs of memory.
    x = x.squeeze(2) if x.shape[2] == 1 else x
    return x[:, start:stop].unflatten(1, (-1, size))


def _round_piece(
    x: Tensor,
    target: Tensor,
    format: BlockFormat,
    rounding: RoundingMode,
    tensor_scale: Tensor | None,
    stream: NoiseStream | None,
) -> None:
    """There and back on ``(outer, length, inner)``; ``target`` may be ``x``."""
    grid = _grid(format.element)
    values = x.to(torch.float32)
    bits = magnitude_bits(values)
    ratio = bits.view(torch.float32)
    segments = _segments(values.shape[1], format.block_size)
    scales: list[Tensor] = []
    for segment in segments:
        largest = _as_blocks(bits, segment).amax(2, keepdim=True)
        block, out = _as_blocks(values, segment), _as_blocks(ratio, segment)
        if isinstance(format, MXFormat):
            inverse, scale = mx_scales(largest, format.scale_rule, grid)
            torch.mul(block, inverse, out=out)
        else:
            scale = nvfp4_scales(largest, format, tensor_scale)
            torch.div(block, scale, out=out)
        scales.append(scale)
    if isinstance(format, MXFormat):
        ratio = keep_inexact(ratio, values, rounding)
    # The ratios are a copy, so that the result may go where the values are.
    direct = target.dtype is torch.float32
    elements = _cast_piece(ratio, grid.format, rounding, True, True, stream, target if direct else None)
    if grid.is_integer:
        elements.clamp_(grid.low, grid.high)
    for segment, scale in zip(segments, scales, strict=True):
        _as_blocks(elements, segment).mul_(scale)
    if elements is not target:
        target.copy_(elements)


def _largest_finite(x: Tensor) -> Tensor:
    """The largest magnitude that is neither infinite nor NaN, float32."""
    largest = torch.zeros((), dtype=torch.int32)
    for piece in x.reshape(-1).split(PIECE_ELEMENTS):
        bits = magnitude_bits(piece.to(torch.float32))
        most = bits.amax()
        if most.item() >= _INFINITY:
            most = bits.masked_fill_(bits >= _INFINITY, 0).amax()
        largest = torch.maximum(largest, most)
    return largest.view(torch.float32)


def quantize_dequantize(
    x: Tensor,
    format: BlockFormat,
    axis: int = -1,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """About eight passes on the CPU, in pieces that stay in the cache.

    Arguments, result and errors as :func:`quantsim_kernels.reference.mx.quantize_dequantize`; gradients are the
    caller's.
    """
    if x.numel() == 0:
        return x if inplace else x.detach().clone()
    given = x.detach()
    # Elements and their noise are numbered row by row, so memory is cut in that order.
    source = given.contiguous()
    if serves_compiled(source) and source.numel() < COMPILED_ELEMENTS_LIMIT:
        done = _quantize_dequantize_whole(source, seed, format, axis, rounding)
    else:
        done = source if inplace and source is given else torch.empty_like(source)
        shape = x.shape if x.dim() else (1,)
        axis = axis % len(shape)
        view = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
        _cast_into(source.view(view), done.view(view), format, rounding, seed)
    if not inplace:
        return done
    if done is not given:
        given.copy_(done)
    return x


def _cast_into(x: Tensor, out: Tensor, format: BlockFormat, rounding: RoundingMode, seed: Tensor | None) -> None:
    """Blocks of a contiguous ``(outer, length, inner)`` tensor along its middle dimension; ``out`` may be ``x``."""
    size = format.block_size
    tensor_scale = None
    if isinstance(format, NVFP4Format) and format.two_level:
        tensor_scale = nvfp4_tensor_scale(_largest_finite(x), format)
    stream = None if seed is None else NoiseStream(seed)
    for source, target in _pieces_of(x, out, size):
        _round_piece(source, target, format, rounding, tensor_scale, stream)
