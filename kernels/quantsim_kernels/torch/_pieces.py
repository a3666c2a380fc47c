"""Cuts a tensor, and the scales that broadcast to it, into matching pieces that fit the processor's cache.

A chain of element-wise ops over a large tensor reads and writes memory once for each op; run piece by piece, only the
first read and the last write leave the cache. That makes five ops cost about as much as two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["BACKWARD_PIECE_ELEMENTS", "PIECE_ELEMENTS", "WHOLE_ELEMENTS", "aligned_views", "apply_in_pieces", "pieces"]


class Step(Protocol):
    """An element-wise chain: from ``source`` and the parameters that broadcast to it into ``out`` (or a new tensor)."""

    def __call__(self, source: Tensor, parameters: Sequence[Tensor | None], out: Tensor | None, /) -> Tensor: ...


PIECE_ELEMENTS = 2**21
"""Elements of one piece: 8 MiB of float32. Each op on a piece wakes the threads once, which with passive waiting costs
tens of microseconds: measured on 4096 x 4096, pieces of 2**20 take 1.2 times as long, of 2**18 2.5 times."""

BACKWARD_PIECE_ELEMENTS = 2**21
"""The same for a backward; there 2**20 takes 1.05 times as long, 2**19 1.3 times."""

WHOLE_ELEMENTS = 2**21
"""Tensors up to this size are not cut."""


def aligned_views(
    tensors: Sequence[Tensor], parameters: Sequence[Tensor | None], view: Sequence[int]
) -> tuple[list[Tensor], list[Tensor | None]] | None:
    """Views of everything in the fewest dimensions in which all of it still broadcasts.

    Neighbouring dimensions merge where every parameter either spans both or is constant over both: a per-tensor scale
    leaves one dimension, a per-channel scale two or three, blocks along the last dimension two.

    Args:
        tensors: tensors of one shape; all are viewed in the memory order of the first.
        parameters: tensors that broadcast to ``view`` (or ``None``).
        view: the shape in which they broadcast, a split of the tensors' own (see ``blocked_shapes``).

    Returns:
        ``(views, parameter_views)``, or ``None`` where the first tensor's memory has gaps or overlaps.
    """
    lead = tensors[0].view(view)
    order = sorted(range(lead.dim()), key=lambda axis: -lead.stride(axis))
    if not lead.permute(order).is_contiguous():
        return None
    spread = [p if p is None else p.reshape((1,) * (len(view) - p.dim()) + tuple(p.shape)) for p in parameters]
    merged: list[int] = []
    merged_spans: list[tuple[bool, ...]] = []
    for axis in order:
        if view[axis] == 1:
            continue
        spans = tuple(p is not None and p.shape[axis] != 1 for p in spread)
        if merged and merged_spans[-1] == spans:
            merged[-1] *= view[axis]
        else:
            merged.append(view[axis])
            merged_spans.append(spans)
    views = [tensor.reshape(view).permute(order).reshape(merged) for tensor in tensors]
    parameter_views: list[Tensor | None] = []
    for index, parameter in enumerate(spread):
        if parameter is None:
            parameter_views.append(None)
        else:
            shape = [size if spans[index] else 1 for size, spans in zip(merged, merged_spans, strict=True)]
            parameter_views.append(parameter.permute(order).reshape(shape))
    return views, parameter_views


def pieces(
    tensors: Sequence[Tensor], parameters: Sequence[Tensor | None], elements: int | None = None
) -> Iterator[tuple[list[Tensor], list[Tensor | None]]]:
    """Matching slices of what :func:`aligned_views` returned, of about ``elements`` elements each."""
    elements = PIECE_ELEMENTS if elements is None else elements
    shape = tensors[0].shape
    if tensors[0].numel() <= elements or not shape:
        yield list(tensors), list(parameters)
        return
    row = math.prod(shape[1:])
    if row > 2 * elements:
        for index in range(shape[0]):
            yield from pieces(
                [tensor[index] for tensor in tensors],
                [p if p is None else p[index if p.shape[0] != 1 else 0] for p in parameters],
                elements,
            )
        return
    rows = max(1, elements // row)
    for start in range(0, shape[0], rows):
        length = min(rows, shape[0] - start)
        yield (
            [tensor.narrow(0, start, length) for tensor in tensors],
            [p if p is None or p.shape[0] == 1 else p.narrow(0, start, length) for p in parameters],
        )


def apply_in_pieces(
    step: Step,
    x: Tensor,
    parameters: Sequence[Tensor | None],
    view: Sequence[int],
    *,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    inplace: bool = False,
) -> Tensor:
    """Run ``step`` over ``x``, whole or in pieces.

    Args:
        step: what is computed; gets pieces in ``dtype``.
        x: the tensor.
        parameters: tensors in ``dtype`` that broadcast to ``view`` (or ``None``).
        view: the shape in which they broadcast.
        dtype: dtype of the computation.
        out_dtype: dtype of the result.
        inplace: write over ``x`` (then ``out_dtype`` is its dtype).

    Returns:
        A tensor in the shape and memory format of ``x``, or ``x``.
    """
    out = x if inplace else torch.empty_like(x, dtype=out_dtype)
    converts = x.dtype is not dtype or out_dtype is not dtype
    aligned = aligned_views((x, out), parameters, view) if x.numel() > WHOLE_ELEMENTS else None
    if aligned is None:
        if converts and out_dtype is dtype:
            target = out.view(view).copy_(x.view(view))
            step(target, parameters, target)
        elif converts:
            out.view(view).copy_(step(x.view(view).to(dtype), parameters, None))
        else:
            step(x.view(view), parameters, out.view(view))
        return out
    scratch = torch.empty(2 * PIECE_ELEMENTS, dtype=dtype) if converts and out_dtype is not dtype else None
    for (source, target), piece_parameters in pieces(*aligned):
        if scratch is None:
            step(target.copy_(source) if converts else source, piece_parameters, target)
        else:
            buffer = scratch[: source.numel()].view(source.shape)
            buffer.copy_(source)
            target.copy_(step(buffer, piece_parameters, buffer))
    return out
