"""Affine quantize, dequantize and both in one, with gradients, on the best kernel for the operands.

These are the entry points. Formulas, gradients and shapes are defined in :mod:`quantsim_kernels.reference.affine`.
Inside ``torch.compile`` and ``torch.export`` the reference formulation itself is traced (the compiler fuses it).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantsim_kernels.reference import affine as reference
from quantsim_kernels.registry import registry

__all__ = [
    "affine_dequantize",
    "affine_dynamic_quantize_dequantize",
    "affine_quantize",
    "affine_quantize_dequantize",
]


def affine_quantize(
    x: Tensor, scale: Tensor, offset: Tensor | None, qmin: int, qmax: int, block_size: Sequence[int] | None = None
) -> Tensor:
    return reference.quantize(x, scale, offset, qmin, qmax, block_size)


def affine_dequantize(
    q: Tensor, scale: Tensor, offset: Tensor | None, block_size: Sequence[int] | None = None
) -> Tensor:
    return reference.dequantize(q, scale, offset, block_size)


def affine_quantize_dequantize(
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
    y = reference.quantize_dequantize(x, scale, offset, qmin, qmax, block_size, zero_point_shift)
    return x.copy_(y) if inplace else y


def affine_dynamic_quantize_dequantize(
    x: Tensor, qmin: int, qmax: int, symmetric: bool, *, inplace: bool = False
) -> Tensor:
    y = reference.dynamic_quantize_dequantize(x, qmin, qmax, symmetric)
    return x.copy_(y) if inplace else y
