"""Casts to any floating-point format, with and without a scale, with gradients, on the best kernel for the operands.

These are the entry points; the numbers are defined in :mod:`quantsim_kernels.reference.float_cast`. Inside
``torch.compile`` and ``torch.export`` a formulation in plain float32 operations is traced, which fuses into one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, RoundingMode, float_format
from quantsim_kernels._float_autograd import (
    FloatCastFunction,
    FloatQuantizeDequantizeFunction,
    GradientCastFunction,
)
from quantsim_kernels._traced_formats import constant_format
from quantsim_kernels.random_seeds import next_seed, seed_tensor
from quantsim_kernels.reference import float_cast as reference
from quantsim_kernels.registry import Backend, Scheme, registry
from quantsim_kernels.torch import float_cast as fast
from quantsim_kernels.triton.availability import float_cast_objection

__all__ = [
    "float_cast",
    "float_cast_gradient",
    "float_dynamic_quantize_dequantize",
    "float_quantize_dequantize",
]

CAST = "float_cast"
QUANTIZE_DEQUANTIZE = "float_quantize_dequantize"
DYNAMIC_QUANTIZE_DEQUANTIZE = "float_dynamic_quantize_dequantize"

Rounding = RoundingMode | int | str


def _resolve(
    format: FloatFormat | str, rounding: Rounding, dtype: torch.dtype, saturate: bool | None, subnormal: bool
) -> tuple[FloatFormat, RoundingMode, bool]:
    """Names looked up, defaults filled in, and whether all of it can be done on tensors of ``dtype``."""
    mode = RoundingMode.parse(rounding)
    if isinstance(format, str):
        format = float_format(format)
    if isinstance(format, FloatFormat):
        saturate = reference.saturates(format, saturate)
        if not subnormal and format.has_subnormals:
            format = replace(format, has_subnormals=False)
    reference.check_format(format, dtype, bool(saturate))
    return format, mode, bool(saturate)


# A cast of a small tensor takes about as long as finding all this out.
_resolve_once = lru_cache(maxsize=512, typed=True)(_resolve)


def resolve_cast(
    x: Tensor, format: FloatFormat | str, rounding: Rounding, saturate: bool | None = True, subnormal: bool = True
) -> tuple[FloatFormat, RoundingMode, bool]:
    """Format, law and whether it saturates, as kernels take them; raises where the cast is impossible."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a floating-point tensor; use torch.tensor(x)")
    arguments = (format, rounding, x.dtype, saturate, subnormal)
    if torch.compiler.is_compiling():
        return _resolve(format if isinstance(format, str) else constant_format(format), *arguments[1:])
    try:
        return _resolve_once(*arguments)
    except TypeError:
        # What cannot be hashed is no format and no rounding mode; the plain function says so.
        return _resolve(*arguments)


def resolve_seed(x: Tensor, rounding: RoundingMode, seed: int | Tensor | None) -> Tensor | None:
    """The seed as kernels take it: a 0-d int64 tensor on the device of ``x``, or ``None`` where nothing is random."""
    if not rounding.is_stochastic:
        return None
    return next_seed(x.device) if seed is None else seed_tensor(seed, x.device)


def _needs_grad(x: Tensor, scale: Tensor | None = None) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or (scale is not None and scale.requires_grad))


def _check_inplace(inplace: bool, needs_grad: bool) -> None:
    if inplace and needs_grad:
        raise ValueError(
            "inplace=True: got operands that require a gradient while gradients are on, expected none; "
            "the backward needs x. Pass inplace=False or run under torch.no_grad()"
        )


def _traced(x: Tensor, format: FloatFormat, rounding: RoundingMode) -> Callable[..., Tensor]:
    """The formulation of the cast for a compiler: in float32 where that is exact, else the definition."""
    return fast.traced_float_cast if fast.has_fast_law(format, x.dtype, rounding) else reference.float_cast


def _cast_function(
    x: Tensor, format: FloatFormat, rounding: RoundingMode, saturate: bool, saturate_infinity: bool, inplace: bool
) -> Callable[..., Tensor]:
    """What computes the cast: called with ``seed=`` only, besides the tensor."""
    options: dict[str, Any] = {
        "format": format,
        "rounding": rounding,
        "saturate": saturate,
        "saturate_infinity": saturate_infinity,
    }
    if torch.compiler.is_compiling():
        return partial(_traced(x, format, rounding), **options)
    function = registry.require(CAST, Scheme.FLOAT, x, **options).function
    if inplace and function in _WRITES_IN_PLACE:
        options["inplace"] = True
    return partial(function, **options)


def float_cast(
    x: Tensor,
    format: FloatFormat | str,
    rounding: Rounding = RoundingMode.NEAREST_EVEN,
    *,
    saturate: bool | None = None,
    saturate_infinity: bool = False,
    subnormal: bool = True,
    seed: int | Tensor | None = None,
    clip_gradient: bool = False,
    inplace: bool = False,
) -> Tensor:
    """``x`` rounded to a number of ``format``; the gradient passes straight through.

    NaN, infinities and the sign of zero are kept where the format has them; subnormals are exact. Every bit is that of
    :func:`quantsim_kernels.reference.float_cast.float_cast`, on every backend. The result is in the dtype of ``x``,
    which should hold the format.

    Args:
        x: floating-point tensor, any shape.
        format: the format or its name: at most 8 exponent and 23 fraction bits, for float64 tensors 11 and 52.
        rounding: one of the ten laws, by number, name or :class:`RoundingMode`.
        saturate: finite numbers that are too large become the largest one; False: infinity, or NaN in a format without,
            as far as the law goes beyond the largest number; ``None``: False in formats with infinity, else True.
        saturate_infinity: infinities become the largest number, also in a format that has them.
        subnormal: False: what would be subnormal after rounding becomes zero.
        seed: of the stochastic laws: an integer, or a 0-d int64 tensor, which is never read back from its device;
            ``None`` draws from quantsim's own stream, see :mod:`quantsim_kernels.random_seeds`.
        clip_gradient: no gradient where ``x`` lies outside the format's range.
        inplace: allow the result to be written over ``x``, which must not be used afterwards. Only where no gradient
            is required.

    Returns:
        Numbers of the format, in the shape and dtype of ``x``.

    Raises:
        TypeError: ``format`` is neither a :class:`FloatFormat` nor a name, or ``x`` is not floating-point.
        ValueError: no format or law has this name, the format is too wide, or ``saturate=False`` and it has no code
            for what is too large, or ``inplace=True`` while a gradient is needed.

    Example:
        >>> float_cast(torch.tensor([1.97, 500.0, -0.0005]), "e4m3fn").tolist()
        [2.0, 448.0, -0.0]
        >>> float_cast(torch.tensor([1.97, 500.0]), "e4m3fn", "toward_zero", saturate=False).tolist()
        [1.875, 448.0]
        >>> float_cast(torch.full((4,), 2.6), "e2m1", "stochastic", seed=3).tolist()
        [2.0, 2.0, 2.0, 3.0]
    """
    format, mode, saturated = resolve_cast(x, format, rounding, saturate, subnormal)
    needs_grad = _needs_grad(x)
    _check_inplace(inplace, needs_grad)
    start = resolve_seed(x, mode, seed)
    cast = _cast_function(x, format, mode, saturated, saturate_infinity, inplace)
    if not needs_grad:
        return cast(x, seed=start)
    low = -format.max if format.signed else 0.0
    return FloatCastFunction.apply(x, start, cast, low, format.max, clip_gradient)  # type: ignore[no-any-return]


def float_cast_gradient(
    x: Tensor,
    format: FloatFormat | str,
    rounding: Rounding = RoundingMode.NEAREST_EVEN,
    *,
    saturate: bool | None = None,
    subnormal: bool = True,
    seed: int | Tensor | None = None,
) -> Tensor:
    """``x`` itself, whose gradient is cast to ``format`` on its way back, for training in low precision.

    Args:
        x: floating-point tensor, any shape.
        format: the gradient's format or its name, see :func:`float_cast`, as all that follow.
        rounding: the law of rounding.
        saturate: what happens to gradients that are too large.
        subnormal: whether gradients may be subnormal.
        seed: of the stochastic laws; drawn in the forward.

    Returns:
        ``x``, as a view where a gradient is required.

    Raises:
        TypeError, ValueError: as :func:`float_cast`.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> (float_cast_gradient(x, "e2m1") * torch.tensor([1.2, 9.0])).sum().backward()
        >>> x.grad
        tensor([1., 6.])
    """
    format, mode, saturated = resolve_cast(x, format, rounding, saturate, subnormal)
    if not _needs_grad(x):
        return x

    def cast(gradient: Tensor, seed: Tensor | None) -> Tensor:
        return _cast_function(gradient, format, mode, saturated, False, False)(gradient, seed=seed)

    return GradientCastFunction.apply(x, resolve_seed(x, mode, seed), cast)  # type: ignore[no-any-return]


def float_quantize_dequantize(
    x: Tensor,
    scale: Tensor | None,
    format: FloatFormat | str,
    block_size: Sequence[int] | None = None,
    *,
    rounding: Rounding = RoundingMode.NEAREST_EVEN,
    seed: int | Tensor | None = None,
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
        rounding: the law of rounding, see :func:`float_cast`.
        seed: of the stochastic laws, see :func:`float_cast`.
        inplace: allow the result to be written over ``x``; only where no gradient is required.

    Returns:
        Grid values in the shape and dtype of ``x``.

    Raises:
        TypeError, ValueError: as :func:`float_cast`, or the shapes do not fit.

    Example:
        >>> float_quantize_dequantize(torch.tensor([0.3, 9.0]), torch.tensor(0.5), "e2m1").tolist()
        [0.25, 3.0]
    """
    format, mode, _ = resolve_cast(x, format, rounding)
    needs_grad = _needs_grad(x, scale)
    _check_inplace(inplace, needs_grad)
    start = resolve_seed(x, mode, seed)
    operands = (x, scale, format, block_size, mode, start)
    cast: Callable[..., Tensor] = reference.float_cast
    if torch.compiler.is_compiling():
        cast = _traced(x, format, mode)
        function: Callable[..., Tensor] = partial(reference.quantize_dequantize, cast=cast)
    else:
        function = registry.require(QUANTIZE_DEQUANTIZE, Scheme.FLOAT, *operands).function
        if inplace and function in _WRITES_IN_PLACE:
            return function(*operands, inplace=True)
    if not needs_grad:
        return function(*operands)
    return FloatQuantizeDequantizeFunction.apply(  # type: ignore[no-any-return]
        x, scale, start, format, block_size, mode, cast, function
    )


def float_dynamic_quantize_dequantize(
    x: Tensor,
    format: FloatFormat | str,
    *,
    block_size: int | None = None,
    rounding: Rounding = RoundingMode.NEAREST_EVEN,
    seed: int | Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """:func:`float_quantize_dequantize` with a scale of its own for each row of the last dimension (each token).

    The scale is the row's largest magnitude over the format's largest number; it counts as a constant, nothing is
    clipped, so the gradient is the identity. A row of zeros stays zero.

    Args:
        x: floating-point tensor, shape ``(..., n)``.
        format: the format, see :func:`float_cast`.
        block_size: elements of the last dimension that share a scale, the last block of a row perhaps shorter;
            ``None``: the whole row.
        rounding: the law of rounding, see :func:`float_cast`.
        seed: of the stochastic laws, see :func:`float_cast`.
        inplace: allow the result to be written over ``x``; only where no gradient is required.

    Returns:
        Grid values in the shape and dtype of ``x``.

    Raises:
        TypeError, ValueError: as :func:`float_cast`, or ``block_size`` is not positive.

    Example:
        >>> x = torch.tensor([[1.1, -12.0, 0.25], [0.0, 0.0, 0.0]])
        >>> float_dynamic_quantize_dequantize(x, "e2m1").tolist()
        [[1.0, -12.0, 0.0], [0.0, 0.0, 0.0]]
        >>> float_dynamic_quantize_dequantize(x, "e2m1", block_size=2).tolist()
        [[1.0, -12.0, 0.25], [0.0, 0.0, 0.0]]
    """
    format, mode, _ = resolve_cast(x, format, rounding)
    if block_size is not None and (isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1):
        raise ValueError(f"block_size: got {block_size!r}, expected None or a positive integer")
    needs_grad = _needs_grad(x)
    _check_inplace(inplace, needs_grad)
    start = resolve_seed(x, mode, seed)
    if block_size is not None and x.dim() and x.shape[-1] % block_size == 0:
        # Whole blocks are rows of their own, and the elements keep their numbers.
        blocks = x.unflatten(-1, (-1, block_size))
        return float_dynamic_quantize_dequantize(blocks, format, rounding=mode, seed=start, inplace=inplace).flatten(-2)
    options: dict[str, Any] = {"rounding": mode}
    if block_size is not None:
        options["block_size"] = block_size
    if torch.compiler.is_compiling():
        function: Callable[..., Tensor] = partial(reference.dynamic_quantize_dequantize, cast=_traced(x, format, mode))
    else:
        function = registry.require(DYNAMIC_QUANTIZE_DEQUANTIZE, Scheme.FLOAT, x, format, **options).function
        if inplace and function in _WRITES_IN_PLACE:
            options["inplace"] = True
    cast = partial(function, format=format, **options)
    if not needs_grad:
        return cast(x, seed=start)
    return FloatCastFunction.apply(x, start, cast, 0.0, 0.0, False)  # type: ignore[no-any-return]


def _triton_float_cast(*operands: Any, **arguments: Any) -> Tensor:
    """One Triton kernel on integer bits, one pass over memory."""
    from quantsim_kernels.triton import float_cast as triton_float_cast  # loaded by its first use, not at import

    return triton_float_cast.float_cast(*operands, **arguments)


def _triton_quantize_dequantize(*operands: Any, **arguments: Any) -> Tensor:
    """Division, cast and product in one Triton kernel."""
    from quantsim_kernels.triton import float_cast as triton_float_cast

    return triton_float_cast.quantize_dequantize(*operands, **arguments)


def _triton_dynamic_quantize_dequantize(*operands: Any, **arguments: Any) -> Tensor:
    """Range and cast in one Triton kernel."""
    from quantsim_kernels.triton import float_cast as triton_float_cast

    return triton_float_cast.dynamic_quantize_dequantize(*operands, **arguments)


def _objection_to_blocks(x: Tensor, *operands: Any, block_size: int | None = None, **arguments: Any) -> str | None:
    """That of the fast kernels, and that they have one scale for each row."""
    if block_size is not None:
        return "it has one scale for each row, and the row is not made of whole blocks"
    return fast.objection(x, *operands, **arguments)


def _register(op: str, backend: Backend, function: Any, predicate: Any, priority: int) -> None:
    registry.register(op=op, scheme=Scheme.FLOAT, backend=backend, predicate=predicate, priority=priority)(function)


_register(CAST, Backend.REFERENCE, reference.float_cast, None, 0)
_register(QUANTIZE_DEQUANTIZE, Backend.REFERENCE, reference.quantize_dequantize, None, 0)
_register(DYNAMIC_QUANTIZE_DEQUANTIZE, Backend.REFERENCE, reference.dynamic_quantize_dequantize, None, 0)
_register(CAST, Backend.TORCH, fast.float_cast, fast.objection, 10)
_register(QUANTIZE_DEQUANTIZE, Backend.TORCH, fast.quantize_dequantize, fast.objection, 10)
_register(DYNAMIC_QUANTIZE_DEQUANTIZE, Backend.TORCH, fast.dynamic_quantize_dequantize, _objection_to_blocks, 10)
_register(CAST, Backend.TRITON, _triton_float_cast, float_cast_objection, 20)
_register(QUANTIZE_DEQUANTIZE, Backend.TRITON, _triton_quantize_dequantize, float_cast_objection, 20)
_register(DYNAMIC_QUANTIZE_DEQUANTIZE, Backend.TRITON, _triton_dynamic_quantize_dequantize, float_cast_objection, 20)

_WRITES_IN_PLACE = (
    fast.float_cast,
    fast.quantize_dequantize,
    fast.dynamic_quantize_dequantize,
    _triton_float_cast,
    _triton_quantize_dequantize,
    _triton_dynamic_quantize_dequantize,
)
