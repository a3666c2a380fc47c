"""Block formats: casts there and back, codes, and numbers from codes, on the best kernel for the operands.

These are the entry points; the numbers, and what becomes of NaN, infinities, zeros and very small blocks, are defined
in :mod:`quantsim_kernels.reference.mx`. Inside ``torch.compile`` and ``torch.export`` a formulation in float32
operations is traced, which fuses into one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quantsim_encodings.formats import BlockFormat, RoundingMode, block_format
from quantsim_kernels._float_autograd import FloatCastFunction
from quantsim_kernels._traced_formats import constant_format
from quantsim_kernels.float_cast import resolve_seed
from quantsim_kernels.reference import mx as reference
from quantsim_kernels.reference import mx_codes
from quantsim_kernels.registry import Backend, Scheme, registry
from quantsim_kernels.torch import mx as fast
from quantsim_kernels.triton import availability

__all__ = ["MXCodes", "mx_dequantize", "mx_quantize", "mx_quantize_dequantize"]

QUANTIZE_DEQUANTIZE = "mx_quantize_dequantize"


@dataclass(frozen=True, eq=False)
class MXCodes:
    """A tensor in a block format as hardware stores it, one code an entry (not packed).

    Attributes:
        codes: element codes in the shape of the tensor: uint8, or int8 for integers (int32 for wider formats).
        scale_codes: uint8 code of each block's scale, e8m0 (255 is NaN) or e4m3; the shape of the tensor, with the
            number of blocks along ``axis``.
        tensor_scale: float32 scale of the tensor, shape ``()`` (two-level NVFP4), else ``None``.
        axis: along which blocks lie, not negative.
        length: elements along that axis.
        format: the block format.
    """

    codes: Tensor
    scale_codes: Tensor
    tensor_scale: Tensor | None
    axis: int
    length: int
    format: BlockFormat

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.codes.shape)


def _resolve(
    x: Tensor, format: BlockFormat | str, axis: int, rounding: RoundingMode | int | str
) -> tuple[BlockFormat, int, RoundingMode]:
    """Names looked up, the axis counted from the front, and whether all of it can be done on ``x``."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a floating-point tensor; use torch.tensor(x)")
    if isinstance(format, str):
        format = block_format(format)
    format = constant_format(format)
    reference.check_block_format(format, x.dtype)
    dimensions = max(x.dim(), 1)
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(f"axis: got {axis!r}, expected an integer")
    if not -dimensions <= axis < dimensions:
        raise IndexError(
            f"axis: got {axis} for a tensor of shape {tuple(x.shape)}, expected {-dimensions} to {dimensions - 1}"
        )
    return format, axis % dimensions, RoundingMode.parse(rounding)


def mx_quantize_dequantize(
    x: Tensor,
    format: BlockFormat | str,
    axis: int = -1,
    rounding: RoundingMode | int | str = RoundingMode.NEAREST_EVEN,
    *,
    seed: int | Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """``x`` cast to a block format and back; the gradient passes straight through.

    Blocks are runs of ``format.block_size`` neighbours along ``axis``; a last, shorter one is fine. Their scales come
    from the values, elements saturate. A block of zeros stays zero, a NaN makes its block NaN. Every bit is that of
    :func:`quantsim_kernels.reference.mx.quantize_dequantize`, on every backend.

    Args:
        x: floating-point tensor, any shape.
        format: the block format, or its name: ``mxfp8_e4m3``, ``mxfp8_e5m2``, ``mxfp6_e3m2``, ``mxfp6_e2m3``,
            ``mxfp4``, ``mxint8``, ``nvfp4``, ``nvfp4_one_level``. Other block sizes, elements and scale rules are an
            :class:`~quantsim_encodings.formats.MXFormat` of your own.
        axis: along which blocks lie.
        rounding: how elements are rounded: mode, name or number. The scales follow the format's own rule.
        seed: of the noise of the stochastic modes; ``None`` takes the next one of quantsim's own stream. An element's
            noise is that of its row-major number in ``x``, whatever the blocks.
        inplace: allow the result to be written over ``x``, which must not be used afterwards. Only where no gradient
            is required.

    Returns:
        Numbers of the format, in the shape and dtype of ``x``. What that dtype cannot hold is infinite.

    Raises:
        TypeError: ``x`` is no floating-point tensor, or ``format`` no block format.
        ValueError: no such format or rounding mode, an impossible element, or ``inplace=True`` while a gradient is
            needed.
        IndexError: ``x`` has no such axis.

    Example:
        >>> mx_quantize_dequantize(torch.tensor([1.1, -7.0, 0.2]), "mxfp4").tolist()
        [1.0, -6.0, 0.0]
    """
    format, axis, mode = _resolve(x, format, axis, rounding)
    needs_grad = torch.is_grad_enabled() and x.requires_grad
    if inplace and needs_grad:
        raise ValueError(
            "inplace=True: got an x that requires a gradient while gradients are on, expected none; pass "
            "inplace=False or run under torch.no_grad()"
        )
    start = resolve_seed(x, mode, seed)
    options: dict[str, Any] = {"format": format, "axis": axis, "rounding": mode}
    function: Callable[..., Tensor]
    if torch.compiler.is_compiling():
        is_fast = fast.has_fast_block_law(format, x.dtype, mode)
        function = fast.traced_quantize_dequantize if is_fast else reference.quantize_dequantize
    else:
        function = registry.require(QUANTIZE_DEQUANTIZE, Scheme.MX, x, **options).function
        if inplace and function is fast.quantize_dequantize:
            options["inplace"] = True
    if not needs_grad:
        return function(x, seed=start, **options)
    cast = partial(function, **options)
    return FloatCastFunction.apply(x, start, cast, 0.0, 0.0, False)  # type: ignore[no-any-return]


def mx_quantize(
    x: Tensor,
    format: BlockFormat | str,
    axis: int = -1,
    rounding: RoundingMode | int | str = RoundingMode.NEAREST_EVEN,
    *,
    seed: int | Tensor | None = None,
) -> MXCodes:
    """``x`` as the codes of a block format; no gradient. In a NaN block all element codes are zero.

    Args:
        x: floating-point tensor of at least one dimension.
        format: see :func:`mx_quantize_dequantize`, like all that follow.
        axis: along which blocks lie.
        rounding: how elements are rounded.
        seed: of the noise of the stochastic modes.

    Returns:
        Codes that :func:`mx_dequantize` turns into what :func:`mx_quantize_dequantize` gives, bit for bit.

    Raises:
        TypeError, ValueError, IndexError: as :func:`mx_quantize_dequantize`, or ``x`` has no dimension.

    Example:
        >>> stored = mx_quantize(torch.tensor([1.1, -7.0, 0.2]), "mxfp4")
        >>> stored.codes.tolist(), stored.scale_codes.tolist()
        ([2, 15, 0], [127])
    """
    format, axis, mode = _resolve(x, format, axis, rounding)
    if x.dim() == 0:
        raise ValueError("x: got a tensor of no dimension, expected at least one for blocks to lie along; reshape(1)")
    start = resolve_seed(x, mode, seed)
    cast = reference.quantize(x, format, axis, mode, start)
    codes, scale_codes = mx_codes.encode(cast, format, axis)
    return MXCodes(codes, scale_codes, cast.tensor_scale, axis, x.shape[axis], format)


def mx_dequantize(codes: MXCodes, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers that codes stand for.

    Args:
        codes: what :func:`mx_quantize` gave, or codes from elsewhere.
        dtype: dtype of the result; what it cannot hold becomes infinite.

    Returns:
        Tensor in the shape of ``codes``.

    Raises:
        TypeError: ``codes`` are no :class:`MXCodes`, or ``dtype`` is not floating-point.
        ValueError: there are not as many scales as blocks.

    Example:
        >>> mx_dequantize(mx_quantize(torch.tensor([1.1, -7.0, 0.2]), "mxfp4")).tolist()
        [1.0, -6.0, 0.0]
    """
    if not isinstance(codes, MXCodes):
        raise TypeError(f"codes: got {type(codes).__name__}, expected the MXCodes that mx_quantize gives")
    reference.check_block_format(codes.format, dtype)
    blocks = -(-codes.length // codes.format.block_size)
    expected = (*codes.shape[: codes.axis], blocks, *codes.shape[codes.axis + 1 :])
    if tuple(codes.scale_codes.shape) != expected or codes.shape[codes.axis] != codes.length:
        raise ValueError(
            f"codes: got elements of shape {codes.shape} and scales of shape {tuple(codes.scale_codes.shape)}, "
            f"expected {codes.length} elements along axis {codes.axis} and scales of shape {expected}"
        )
    cast = mx_codes.decode(codes.codes, codes.scale_codes, codes.tensor_scale, codes.format, dtype)
    return reference.dequantize(cast, codes.format, codes.axis, dtype)


def _triton_quantize_dequantize(x: Tensor, *operands: Any, **arguments: Any) -> Tensor:
    """One Triton kernel, one pass over memory (two with a scale for the whole tensor)."""
    from quantsim_kernels.triton import mx as triton_mx

    return triton_mx.quantize_dequantize(x, *operands, **arguments)


def _triton_objection(x: Tensor, *operands: Any, **arguments: Any) -> str | None:
    """Why the Triton kernel cannot run on ``x``: it wants a GPU and computes in float32."""
    if x.dtype is torch.float64:
        return "it computes in float32, and x is float64"
    return availability.launch_objection(x)


def _register(backend: Backend, function: Any, predicate: Any, priority: int) -> None:
    registry.register(
        op=QUANTIZE_DEQUANTIZE, scheme=Scheme.MX, backend=backend, predicate=predicate, priority=priority
    )(function)


_register(Backend.REFERENCE, reference.quantize_dequantize, None, 0)
_register(Backend.TORCH, fast.quantize_dequantize, fast.objection, 10)
_register(Backend.TRITON, _triton_quantize_dequantize, _triton_objection, 20)
