"""Affine quantize, dequantize and both in one, with gradients, on the best kernel for the operands.

These are the entry points. Formulas, gradients and shapes are defined in :mod:`quantsim_kernels.reference.affine`;
which backend computes them is the registry's choice (see :func:`quantsim_kernels.explain`). Inside ``torch.compile``
and ``torch.export`` the reference formulation itself is traced, because the compiler fuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quantsim_kernels.reference import affine as reference
from quantsim_kernels.registry import Backend, Scheme, forced_backend, registry
from quantsim_kernels.torch import affine as fast
from quantsim_kernels.triton import is_interpreted, launch_objection

__all__ = [
    "affine_dequantize",
    "affine_dynamic_quantize_dequantize",
    "affine_quantize",
    "affine_quantize_dequantize",
]

QUANTIZE = "affine_quantize"
DEQUANTIZE = "affine_dequantize"
QUANTIZE_DEQUANTIZE = "affine_quantize_dequantize"
DYNAMIC_QUANTIZE_DEQUANTIZE = "affine_dynamic_quantize_dequantize"

# Triton first where it can run, then the fast torch kernels, then the reference, which runs everywhere.
TRITON_PRIORITY, TORCH_PRIORITY, REFERENCE_PRIORITY, INTEGER_PRIORITY = 20, 10, 0, -1


def affine_quantize(
    x: Tensor, scale: Tensor, offset: Tensor | None, qmin: int, qmax: int, block_size: Sequence[int] | None = None
) -> Tensor:
    """Integer codes ``q = clamp(rint(x / s) - o, qmin, qmax)`` in the dtype of ``x``, differentiable.

    Args:
        x: floating-point tensor, any shape.
        scale: positive scales: one, a shape that broadcasts to ``x``, or one for each block.
        offset: integers (in a floating dtype) in the shape of ``scale``; ``None`` means 0.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        block_size: one entry for each dimension of ``scale``, -1 for "the dimension divided evenly"; ``scale`` then
            holds the number of blocks of each of the last dimensions of ``x``.

    Returns:
        Codes in the shape and dtype of ``x``.

    Raises:
        ValueError: shapes do not fit, or the dtype of ``x`` cannot hold the integers.
        KernelUnavailableError: the forced backend cannot run here.

    Example:
        >>> affine_quantize(
        ...     torch.tensor([-1.0, 0.24, 9.0]), torch.tensor(0.1), torch.tensor(-8.0), 0, 15
        ... ).tolist()
        [0.0, 10.0, 15.0]
    """
    if torch.compiler.is_compiling():
        return reference.quantize(x, scale, offset, qmin, qmax, block_size)
    kernel = registry.require(QUANTIZE, Scheme.AFFINE, x, scale, offset, qmin, qmax, block_size)
    return kernel.function(x, scale, offset, qmin, qmax, block_size)


def affine_dequantize(
    q: Tensor, scale: Tensor, offset: Tensor | None, block_size: Sequence[int] | None = None
) -> Tensor:
    """Real values ``x^ = (q + o) * s``, differentiable.

    Args:
        q: integer codes in a floating-point dtype, which the result keeps, or in an integer dtype, where the result
            has the dtype of ``scale``.
        scale: positive scales, see :func:`affine_quantize`.
        offset: integers in the shape of ``scale``; ``None`` means 0.
        block_size: see :func:`affine_quantize`.

    Raises:
        ValueError: shapes do not fit.
        KernelUnavailableError: the forced backend cannot run here.

    Example:
        >>> affine_dequantize(torch.tensor([0.0, 10.0]), torch.tensor(0.5), torch.tensor(-8.0)).tolist()
        [-4.0, 1.0]
    """
    if torch.compiler.is_compiling():
        return reference.dequantize(q, scale, offset, block_size)
    kernel = registry.require(DEQUANTIZE, Scheme.AFFINE, q, scale, offset, block_size)
    return kernel.function(q, scale, offset, block_size)


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
    """``x`` moved to the nearest point of the grid, ``(clamp(rint(x / s) - o, qmin, qmax) + o) * s``.

    Differentiable in ``x``, ``scale`` and ``offset`` (Esser et al. 2020, "Learned step size quantization", extended to
    offsets; the formulas are in :func:`quantsim_kernels.reference.affine.quantize_dequantize_backward`). Without
    gradients it allocates one tensor, with gradients it saves its inputs only. Computed in float32 where the grid is
    not exact in the dtype of ``x`` (bfloat16 beyond 4 bits, float16 beyond 8), in float64 beyond 21 bits.

    Args:
        x: floating-point tensor, any shape.
        scale: positive scales, see :func:`affine_quantize`.
        offset: integers in the shape of ``scale``; ``None`` means 0.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        block_size: see :func:`affine_quantize`.
        inplace: allow the result to be written over ``x``, which must not be used afterwards. Only where nothing
            requires a gradient.
        zero_point_shift: 0, or 0.5 for the grid without a zero, ``(clamp(rint(x/s - z) - o, ...) + o + z) * s``.

    Returns:
        Grid values in the shape and dtype of ``x``, never -0.

    Raises:
        ValueError: shapes do not fit, or ``inplace=True`` while a gradient is needed.
        KernelUnavailableError: the forced backend cannot run here.

    Example:
        >>> x = torch.tensor([-1.0, 0.24, 9.0], requires_grad=True)
        >>> scale = torch.tensor(0.5, requires_grad=True)
        >>> y = affine_quantize_dequantize(x, scale, None, -8, 7)
        >>> y.tolist()
        [-1.0, 0.0, 3.5]
        >>> y.sum().backward()
        >>> x.grad.tolist(), round(float(scale.grad), 2)
        ([1.0, 1.0, 0.0], 6.52)
    """
    if torch.compiler.is_compiling():
        return reference.quantize_dequantize(x, scale, offset, qmin, qmax, block_size, zero_point_shift)
    if (
        x.is_cpu
        and not zero_point_shift
        and type(x) in fast.PLAIN_TENSORS
        and forced_backend() is None
        and registry.candidates(QUANTIZE_DEQUANTIZE, Scheme.AFFINE) is _OWN_CANDIDATES
    ):
        # What the registry would answer, without asking: on a tiny tensor the question costs as much as the op.
        return fast.quantize_dequantize(x, scale, offset, qmin, qmax, block_size, inplace=inplace)
    operands = (x, scale, offset, qmin, qmax, block_size)
    kernel = registry.require(QUANTIZE_DEQUANTIZE, Scheme.AFFINE, *operands, zero_point_shift=zero_point_shift)
    return kernel.function(*operands, inplace=inplace, zero_point_shift=zero_point_shift)


def affine_dynamic_quantize_dequantize(
    x: Tensor, qmin: int, qmax: int, symmetric: bool, *, inplace: bool = False
) -> Tensor:
    """:func:`affine_quantize_dequantize` with a range of its own for each row of the last dimension (each token).

    The range is the row's smallest and largest value; the scale counts as a constant, nothing is clipped, so the
    gradient is the identity.

    Args:
        x: floating-point tensor, shape ``(..., n)``.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        symmetric: whether the grid is symmetric around 0.
        inplace: allow the result to be written over ``x``; only where no gradient is required.

    Returns:
        Grid values in the shape and dtype of ``x``.

    Raises:
        ValueError: ``inplace=True`` while a gradient is needed.
        KernelUnavailableError: the forced backend cannot run here.

    Example:
        >>> x = torch.tensor([[0.0, 1.0, 2.9], [0.0, 10.0, 29.0]])
        >>> affine_dynamic_quantize_dequantize(x, 0, 1, symmetric=False).tolist()
        [[0.0, 0.0, 2.9000000953674316], [0.0, 0.0, 29.0]]
    """
    if torch.compiler.is_compiling():
        return reference.dynamic_quantize_dequantize(x, qmin, qmax, symmetric)
    kernel = registry.require(DYNAMIC_QUANTIZE_DEQUANTIZE, Scheme.AFFINE, x, qmin, qmax, symmetric)
    return kernel.function(x, qmin, qmax, symmetric, inplace=inplace)


# ---------------------------------------------------------------------------------------------------------------------
# Registration
# ---------------------------------------------------------------------------------------------------------------------


def _reference_quantize_dequantize(
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
    """The definition in plain torch; allocates freely."""
    return reference.quantize_dequantize(x, scale, offset, qmin, qmax, block_size, zero_point_shift)


def _reference_dynamic(x: Tensor, qmin: int, qmax: int, symmetric: bool, *, inplace: bool = False) -> Tensor:
    """The definition in plain torch; allocates freely."""
    return reference.dynamic_quantize_dequantize(x, qmin, qmax, symmetric)


def _triton_quantize_dequantize(*operands: Any, **arguments: Any) -> Tensor:
    """One Triton kernel forward, one backward that recomputes."""
    from quantsim_kernels.triton import affine as triton_affine  # Triton is loaded by its first use, not at import.

    return triton_affine.quantize_dequantize(*operands, **arguments)


def _triton_quantize(*operands: Any, **arguments: Any) -> Tensor:
    """One Triton kernel; with gradients it is the reference."""
    from quantsim_kernels.triton import affine as triton_affine

    return triton_affine.quantize(*operands, **arguments)


def _triton_dequantize(*operands: Any, **arguments: Any) -> Tensor:
    """One Triton kernel; with gradients it is the reference."""
    from quantsim_kernels.triton import affine as triton_affine

    return triton_affine.dequantize(*operands, **arguments)


def _register(op: str, backend: Backend, function: Any, predicate: Any, priority: int) -> None:
    registry.register(op=op, scheme=Scheme.AFFINE, backend=backend, predicate=predicate, priority=priority)(function)


_register(QUANTIZE, Backend.REFERENCE, reference.quantize, None, REFERENCE_PRIORITY)
_register(DEQUANTIZE, Backend.REFERENCE, reference.dequantize, None, REFERENCE_PRIORITY)
_register(QUANTIZE_DEQUANTIZE, Backend.REFERENCE, _reference_quantize_dequantize, None, REFERENCE_PRIORITY)
_register(DYNAMIC_QUANTIZE_DEQUANTIZE, Backend.REFERENCE, _reference_dynamic, None, REFERENCE_PRIORITY)
_register(QUANTIZE, Backend.TORCH, fast.quantize, fast.objection, TORCH_PRIORITY)
_register(DEQUANTIZE, Backend.TORCH, fast.dequantize, fast.objection, TORCH_PRIORITY)
_register(QUANTIZE_DEQUANTIZE, Backend.TORCH, fast.quantize_dequantize, fast.objection, TORCH_PRIORITY)
_register(DYNAMIC_QUANTIZE_DEQUANTIZE, Backend.TORCH, fast.dynamic_quantize_dequantize, fast.objection, TORCH_PRIORITY)
_register(QUANTIZE, Backend.TRITON, _triton_quantize, launch_objection, TRITON_PRIORITY)
_register(DEQUANTIZE, Backend.TRITON, _triton_dequantize, launch_objection, TRITON_PRIORITY)
_register(QUANTIZE_DEQUANTIZE, Backend.TRITON, _triton_quantize_dequantize, launch_objection, TRITON_PRIORITY)

# Where codes are made and read at the borders of integer kernels; never before the others.
_register(QUANTIZE, Backend.INTEGER, reference.quantize, None, INTEGER_PRIORITY)
_register(DEQUANTIZE, Backend.INTEGER, reference.dequantize, None, INTEGER_PRIORITY)
_register(QUANTIZE_DEQUANTIZE, Backend.INTEGER, _reference_quantize_dequantize, None, INTEGER_PRIORITY)
_register(DYNAMIC_QUANTIZE_DEQUANTIZE, Backend.INTEGER, _reference_dynamic, None, INTEGER_PRIORITY)

# The candidates as registered here: while nobody adds or removes one, plain CPU tensors go to the fast torch kernel.
# (Triton's interpreter serves CPU tensors too, so under it the registry is always asked.)
_OWN_CANDIDATES = None if is_interpreted() else registry.candidates(QUANTIZE_DEQUANTIZE, Scheme.AFFINE)
