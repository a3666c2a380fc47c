"""Operands of optical products in Triton as codes: which codes hold them, and the launch of the kernel that makes them.

Codes are made once and read by every tile of a product. A weight's may be kept for as long as neither the weight nor
its range changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final

import torch
import triton
from torch import Tensor

from quantsim_kernels.triton._optical_kernels import codes_kernel
from quantsim_kernels.triton.availability import is_interpreted
from quantsim_kernels.triton.float_cast import PRECISION, kernel_tensor

__all__ = ["CodeKind", "OpticalCodes", "code_kind", "encode", "line_ranges", "new_extremes"]


class CodeKind(IntEnum):
    """What holds the operands of a product."""

    INT8 = 0
    """Level numbers: up to 256 levels, multiplied exactly."""
    FLOAT16 = 1
    """Level numbers, and between them what the smallest transmission raises, rounded to 11 bits."""
    FLOAT32 = 2
    """Level values, multiplied in three products of TF32, which is about float32's precision."""


DTYPES: Final = {CodeKind.INT8: torch.int8, CodeKind.FLOAT16: torch.float16, CodeKind.FLOAT32: torch.float32}
DEPTHS: Final = {CodeKind.INT8: 128, CodeKind.FLOAT16: 64, CodeKind.FLOAT32: 32}
_INT8_LEVELS = 256
_FLOAT16_LEVELS = 2049
# Sums of products of codes below 256 fit an int32.
_LONGEST_INT8 = 2**15
# What is raised is rounded by at most this times 2**-12 of the range: below float32's own errors of a sum.
_LARGEST_FLOAT16_LUT = 0.03
_MOST_ELEMENTS = 4096


@dataclass(frozen=True, kw_only=True)
class OpticalCodes:
    """An operand of an optical product as its kernel reads it.

    Attributes:
        codes: shape ``(batch rows, pitch)``, int8, float16 or float32; zeros fill up each row.
        sums: the sum of each row's level numbers, counted from the level next to zero; float32.
        low: lower ends of the ranges, one for all (0-d) or one for each row.
        high: upper ends.
        kind: what ``codes`` holds.
        batch: leading dimensions of the operand.
        rows: rows of each matrix.
        terms: elements of a row before it is filled up.
        levels: number of levels.
    """

    codes: Tensor
    sums: Tensor
    low: Tensor
    high: Tensor
    kind: CodeKind
    batch: tuple[int, ...]
    rows: int
    terms: int
    levels: int

    @property
    def depth(self) -> int:
        """Elements of a row that are multiplied at a time; divides the pitch."""
        return tile_depth(self.kind, self.terms)

    @property
    def range_step(self) -> int:
        """1 where each row has a range of its own."""
        return 1 if self.low.dim() else 0

    def placed(self, batch: tuple[int, ...]) -> tuple[OpticalCodes, int, int]:
        """How a larger batch shares these matrices.

        Args:
            batch: what the batch of this operand broadcasts to.

        Returns:
            Codes, ``repeat`` and ``count``: the matrix number ``i`` of the batch is ``i // repeat % count`` of the
            codes. They are copied only where no two such numbers describe it.
        """
        own = (1,) * (len(batch) - len(self.batch)) + self.batch
        shared = [size == 1 for size in own]
        first = shared.index(False) if False in shared else len(own)
        last = len(own) - (shared[::-1].index(False) if False in shared else 0)
        count = math.prod(own[first:last])
        if own[first:last] == tuple(batch[first:last]):
            return self, math.prod(batch[last:]) if count > 1 else 1, max(1, count)
        ends = {name: self._copied(getattr(self, name), batch) for name in ("low", "high") if self.range_step}
        codes = replace(
            self, codes=self._copied(self.codes, batch), sums=self._copied(self.sums, batch), batch=batch, **ends
        )
        return codes, 1, math.prod(batch)

    def _copied(self, tensor: Tensor, batch: tuple[int, ...]) -> Tensor:
        inner = (self.rows, *tensor.shape[1:])
        return tensor.view(*self.batch, *inner).expand(*batch, *inner).reshape(-1, *tensor.shape[1:])


def code_kind(levels: int, lut: float | None, error_map: Tensor | None, terms: int) -> CodeKind:
    """The narrowest codes that hold both operands of a product.

    Args:
        levels: number of levels of both.
        lut: smallest transmission of one of them.
        error_map: a factor of each of its elements.
        terms: elements that are summed.

    Example:
        >>> (
        ...     code_kind(256, None, None, 768).name,
        ...     code_kind(256, 0.02, None, 768).name,
        ...     code_kind(4096, None, None, 1).name,
        ... )
        ('INT8', 'FLOAT16', 'FLOAT32')
    """
    if error_map is not None or levels > _FLOAT16_LEVELS or (lut or 0.0) > _LARGEST_FLOAT16_LUT:
        return CodeKind.FLOAT32
    if lut or levels > _INT8_LEVELS or terms > _LONGEST_INT8:
        return CodeKind.FLOAT16
    return CodeKind.INT8


def tile_depth(kind: CodeKind, terms: int) -> int:
    """Elements of a row that are multiplied at a time: no more than there are, as what is filled up costs too."""
    return min(DEPTHS[kind], max(32, triton.next_power_of_2(terms)))


def line_ranges(range: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor] | None:
    """Lower and upper ends in float32, 0-d or one for each row of ``shape``; ``None`` where they vary along a row.

    Example:
        >>> [tuple(end.shape) for end in line_ranges(torch.rand(2, 5, 1), torch.Size((3, 5, 8))) or ()]
        [(15,), (15,)]
    """
    ends = range.detach().to(torch.float32)
    if ends[0].numel() == 1:
        low, high = ends.reshape(2).contiguous().unbind()
        return low, high
    if ends.shape[-1] != 1 or ends.dim() - 1 > len(shape):
        return None
    missing = len(shape) - (ends.dim() - 1)
    ends = ends.reshape(2, *(1,) * missing, *ends.shape[1:])
    low, high = ends.expand(2, *shape[:-1], 1).reshape(2, -1).contiguous().unbind()
    return low, high


def _in_four(tensor: Tensor) -> Tensor:
    """The tensor with two batch dimensions; a view unless it has more whose strides do not fit together."""
    while tensor.dim() < 4:
        tensor = tensor.unsqueeze(0)
    return tensor if tensor.dim() == 4 else tensor.reshape(-1, *tensor.shape[-3:])


def new_extremes(device: torch.device) -> Tensor:
    """Memory for the range of a product, which :func:`encode` prepares."""
    return torch.empty(2, dtype=torch.float32, device=device)


def encode(
    x: Tensor,
    ends: tuple[Tensor, Tensor],
    levels: int,
    kind: CodeKind,
    *,
    lut: float | None = None,
    error_map: Tensor | None = None,
    extremes: Tensor | None = None,
) -> OpticalCodes:
    """Codes of ``x``, summed along its last dimension, in one kernel.

    Args:
        x: shape ``(..., rows, K)``, any strides, float32, float16 or bfloat16.
        ends: of its range, see :func:`line_ranges`.
        levels: number of levels.
        kind: what holds them.
        lut: smallest transmission.
        error_map: factors that broadcast to ``x``; with float32 codes only.
        extremes: set to the range of nothing, for a product that follows.
    """
    shape = x.shape
    source = _in_four(x.detach())
    outer, inner, rows, terms = source.shape
    lines = outer * inner * rows
    depth = tile_depth(kind, terms)
    pitch = max(1, triton.cdiv(terms, depth)) * depth
    codes = torch.empty(lines, pitch, dtype=DTYPES[kind], device=x.device)
    sums = torch.empty(lines, dtype=torch.float32, device=x.device)
    factors = source
    if error_map is not None:
        factors = _in_four(error_map.detach().expand(shape))
        if factors.dtype not in PRECISION:
            factors = factors.to(torch.float32)
    tile, most = min(pitch, 1024), _MOST_ELEMENTS
    if source.stride(-1) != 1:  # rows lie side by side: read a square
        tile = min(pitch, 64)
    if is_interpreted():  # where each program has its price
        tile, most = pitch, 1 << 18
    tile = triton.next_power_of_2(tile)
    height = max(1, min(most // tile, triton.next_power_of_2(max(1, lines))))
    low, high = ends
    launch: Any = codes_kernel[(max(1, triton.cdiv(lines, height)),)]
    # Triton launches on the current device, which need not be the tensor's.
    with torch.cuda.device_of(x):
        launch(
            kernel_tensor(source),
            low,
            high,
            kernel_tensor(factors),
            codes,
            sums,
            new_extremes(x.device) if extremes is None else extremes,
            lines,
            terms,
            pitch,
            max(1, inner),
            max(1, rows),
            *source.stride(),
            *factors.stride(),
            1 if low.dim() else 0,
            float(levels - 1),
            0.0 if lut is None else lut,
            levels // 2,
            HAS_LUT=bool(lut),
            HAS_ERROR=error_map is not None,
            ERROR_PRECISION=PRECISION[factors.dtype],
            KIND=int(kind),
            PRECISION=PRECISION[source.dtype],
            ROWS=height,
            DEPTH=tile,
            enable_fp_fusion=False,
        )
    return OpticalCodes(
        codes=codes,
        sums=sums,
        low=low,
        high=high,
        kind=kind,
        batch=tuple(shape[:-2]),
        rows=rows,
        terms=terms,
        levels=levels,
    )
