"""Casts to any floating-point format, with and without a scale, with gradients, on the best kernel for the operands.

These are the entry points; the numbers are defined in :mod:`quantsim_kernels.reference.float_cast`. Inside
``torch.compile`` and ``torch.export`` the reference formulation itself is traced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat
from quantsim_kernels.reference import float_cast as reference
from quantsim_kernels.registry import Backend, Scheme, registry
from quantsim_kernels.torch import float_cast as fast

__all__ = ["float_cast", "float_dynamic_quantize_dequantize", "float_quantize_dequantize"]

CAST = "float_cast"
QUANTIZE_DEQUANTIZE = "float_quantize_dequantize"
DYNAMIC_QUANTIZE_DEQUANTIZE = "float_dynamic_quantize_dequantize"


def _needs_grad(x: Tensor, scale: Tensor | None = None) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or (scale is not None and scale.requires_grad))


def _check_inplace(inplace: bool, needs_grad: bool) -> None:
    if inplace and needs_grad:
        raise ValueError(
            "inplace=True: got operands that require a gradient while gradients are on, expected none; "
            "the backward needs x. Pass inplace=False or run under torch.no_grad()"
        )


def float_cast(
    x: Tensor,
    format: FloatFormat,
    *,
    saturate: bool = True,
    saturate_infinity: bool = False,
    clip_gradient: bool = False,
    inplace: bool = False,
) -> Tensor:
    """``x`` rounded to the nearest number of ``format``, ties to even; the gradient passes straight through.

    NaN, infinities and the sign of zero are kept where the format has them; subnormals are exact. Computed in float32
    (float64 for float64) and exact there; the result is in the dtype of ``x``, which should hold the format.

    Args:
        x: floating-point tensor, any shape.
        format: the format, at most 8 exponent and 23 fraction bits, within float32's range.
        saturate: finite numbers that are too large become the largest one; else infinity, or NaN in a format without.
        saturate_infinity: infinities become the largest number, also in a format that has them.
        clip_gradient: no gradient where ``x`` lies outside the format's range.
        inplace: allow the result to be written over ``x``, which must not be used afterwards. Only where no gradient
            is required.

    Returns:
        Numbers of the format, in the shape and dtype of ``x``.

    Raises:
        TypeError: ``format`` is no :class:`FloatFormat`, or ``x`` is not floating-point.
        ValueError: the format is too wide, or ``saturate=False`` and it has no code for what is too large, or
            ``inplace=True`` while a gradient is needed.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> float_cast(torch.tensor([1.97, 500.0, -0.0005]), float_format("e4m3fn")).tolist()
        [2.0, 448.0, -0.0]
        >>> float_cast(torch.tensor([1.97, 500.0]), float_format("e4m3fn"), saturate=False).tolist()
        [2.0, nan]
    """
    reference.check_format(format, x.dtype, saturate)
    needs_grad = _needs_grad(x)
    _check_inplace(inplace, needs_grad)
    function: Callable[..., Tensor] = reference.float_cast
    options: dict[str, Any] = {"saturate": saturate, "saturate_infinity": saturate_infinity}
    if not torch.compiler.is_compiling():
        function = registry.require(CAST, Scheme.FLOAT, x, format, **options).function
        if inplace and function is fast.float_cast:
            options["inplace"] = True
    if not needs_grad:
        return function(x, format, **options)
    low = -format.max if format.signed else 0.0
    cast = partial(function, format=format, **options)
    return reference.FloatCastFunction.apply(x, cast, low, format.max, clip_gradient)  # type: ignore[no-any-return]


def float_quantize_dequantize(
    x: Tensor,
    scale: Tensor | None,
    format: FloatFormat,
    block_size: Sequence[int] | None = None,
    *,
    inplace: bool = False,
) -> Tensor:
    """``cast(x / s) * s`` with saturation, differentiable in ``x`` and ``scale``.

    Gradients, with ``t = x / s``: ``dx = g`` where ``|t| <= max``, else 0; ``ds = g (cast(t) - t)`` there, else
    ``g cast(t)``.

    Args:
        x: floating-point tensor, any shape.
        scale: positive scales: one, a shape that broadcasts to ``x``, or one for each block; ``None`` means 1.
        format: the format, see :func:`float_cast`.
        block_size: one entry for each dimension of ``scale``, -1 for "the dimension divided evenly".
        inplace: allow the result to be written over ``x``; only where no gradient is required.

    Returns:
        Grid values in the shape and dtype of ``x``.

    Raises:
        TypeError, ValueError: as :func:`float_cast`, or the shapes do not fit.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> float_quantize_dequantize(
        ...     torch.tensor([0.3, 9.0]), torch.tensor(0.5), float_format("e2m1")
        ... ).tolist()
        [0.25, 3.0]
    """
    reference.check_format(format, x.dtype, True)
    needs_grad = _needs_grad(x, scale)
    _check_inplace(inplace, needs_grad)
    function: Callable[..., Tensor] = reference.quantize_dequantize
    if not torch.compiler.is_compiling():
        function = registry.require(QUANTIZE_DEQUANTIZE, Scheme.FLOAT, x, scale, format, block_size).function
        if inplace and function is fast.quantize_dequantize:
            return function(x, scale, format, block_size, inplace=True)
    if not needs_grad:
        return function(x, scale, format, block_size)
    return reference.FloatQuantizeDequantizeFunction.apply(  # type: ignore[no-any-return]
        x, scale, format, block_size, function
    )


def float_dynamic_quantize_dequantize(x: Tensor, format: FloatFormat, *, inplace: bool = False) -> Tensor:
    """:func:`float_quantize_dequantize` with a scale of its own for each row of the last dimension (each token).

    The scale is the row's largest magnitude over the format's largest number; it counts as a constant, nothing is
    clipped, so the gradient is the identity. A row of zeros stays zero.

    Args:
        x: floating-point tensor, shape ``(..., n)``.
        format: the format, see :func:`float_cast`.
        inplace: allow the result to be written over ``x``; only where no gradient is required.

    Returns:
        Grid values in the shape and dtype of ``x``.

    Raises:
        TypeError, ValueError: as :func:`float_cast`.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> float_dynamic_quantize_dequantize(
        ...     torch.tensor([[1.1, -12.0], [0.0, 0.0]]), float_format("e2m1")
        ... ).tolist()
        [[1.0, -12.0], [0.0, 0.0]]
    """
    reference.check_format(format, x.dtype, True)
    needs_grad = _needs_grad(x)
    _check_inplace(inplace, needs_grad)
    function: Callable[..., Tensor] = reference.dynamic_quantize_dequantize
    if not torch.compiler.is_compiling():
        function = registry.require(DYNAMIC_QUANTIZE_DEQUANTIZE, Scheme.FLOAT, x, format).function
        if inplace and function is fast.dynamic_quantize_dequantize:
            return function(x, format, inplace=True)
    if not needs_grad:
        return function(x, format)
    cast = partial(function, format=format)
    return reference.FloatCastFunction.apply(x, cast, 0.0, 0.0, False)  # type: ignore[no-any-return]


def _register(op: str, backend: Backend, function: Any, predicate: Any, priority: int) -> None:
    registry.register(op=op, scheme=Scheme.FLOAT, backend=backend, predicate=predicate, priority=priority)(function)


_register(CAST, Backend.REFERENCE, reference.float_cast, None, 0)
_register(QUANTIZE_DEQUANTIZE, Backend.REFERENCE, reference.quantize_dequantize, None, 0)
_register(DYNAMIC_QUANTIZE_DEQUANTIZE, Backend.REFERENCE, reference.dynamic_quantize_dequantize, None, 0)
_register(CAST, Backend.TORCH, fast.float_cast, fast.objection, 10)
_register(QUANTIZE_DEQUANTIZE, Backend.TORCH, fast.quantize_dequantize, fast.objection, 10)
_register(DYNAMIC_QUANTIZE_DEQUANTIZE, Backend.TORCH, fast.dynamic_quantize_dequantize, fast.objection, 10)
