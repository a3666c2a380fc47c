"""Tensors as integer codes of a floating-point format, and back.

The codes are defined in :mod:`quantsim_kernels.reference.float_codes`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, RoundingMode, float_format
from quantsim_kernels.float_cast import float_cast
from quantsim_kernels.reference import float_cast as cast_reference
from quantsim_kernels.reference import float_codes as reference

__all__ = ["float_decode", "float_encode"]


def _format(format: FloatFormat | str) -> FloatFormat:
    if isinstance(format, str):
        return float_format(format)
    if not isinstance(format, FloatFormat):
        raise TypeError(f"format: got {type(format).__name__}, expected a FloatFormat or the name of one")
    return format


def _fits_float32(format: FloatFormat) -> bool:
    try:
        cast_reference.check_format(format, torch.float32, True)
    except ValueError:
        return False
    return True


def float_encode(
    x: Tensor,
    format: FloatFormat | str,
    rounding: RoundingMode | int | str = RoundingMode.NEAREST_EVEN,
    *,
    saturate: bool | None = None,
    subnormal: bool = True,
    seed: int | Tensor | None = None,
) -> Tensor:
    """``x`` rounded to ``format``, as integer codes: sign, exponent field, fraction field from the top bit down.

    NaN gets one code, that of a quiet NaN with the sign of the NaN where the format has several.

    Args:
        x: floating-point tensor, any shape.
        format: the format or its name, of any width.
        rounding: as in :func:`quantsim_kernels.float_cast`, like all that follow.
        saturate: what happens to what is too large.
        subnormal: whether results may be subnormal.
        seed: of the stochastic laws.

    Returns:
        Codes in the shape of ``x``: uint8 up to 8 bits, int32 up to 31, else int64.

    Raises:
        TypeError: as :func:`quantsim_kernels.float_cast`.
        ValueError: as there; or ``x`` has a NaN and the format none (looked for on the CPU only, so that no device is
            waited for; elsewhere, and in compiled code, it becomes 0).

    Example:
        >>> float_encode(torch.tensor([0.5, -6.0, 100.0]), "e2m1")
        tensor([ 1, 15,  7], dtype=torch.uint8)
    """
    grid = _format(format)
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x: got {got}, expected a floating-point tensor; convert it with x.float()")
    carrier = torch.float32 if x.dtype is not torch.float64 and _fits_float32(grid) else torch.float64
    values = float_cast(x.detach().to(carrier), grid, rounding, saturate=saturate, subnormal=subnormal, seed=seed)
    if reference.nan_code(grid) is None and values.is_cpu and not torch.compiler.is_compiling():
        missing = int(values.isnan().sum())
        if missing:
            raise ValueError(
                f"x: got {missing} NaN, expected none, because {grid.label} has no code for it; "
                "replace them with x.nan_to_num()"
            )
    return reference.encode(values, grid)


def float_decode(codes: Tensor, format: FloatFormat | str, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers that integer codes stand for.

    Args:
        codes: integer tensor; negative ones count as the bit patterns that they are.
        format: the format or its name.
        dtype: floating-point dtype of the result, exact where it holds the format.

    Returns:
        Tensor in the shape of ``codes``.

    Raises:
        TypeError: ``codes`` are no integers, or ``dtype`` is not floating-point.
        ValueError: the format is too wide for ``dtype``, or a code needs more bits than the format has (looked for on
            the CPU only; elsewhere, and in compiled code, the bits above are ignored).

    Example:
        >>> float_decode(torch.tensor([1, 15, 7], dtype=torch.uint8), "e2m1").tolist()
        [0.5, -6.0, 6.0]
    """
    grid = _format(format)
    if not isinstance(codes, Tensor) or codes.is_floating_point() or codes.is_complex() or codes.dtype is torch.bool:
        got = codes.dtype if isinstance(codes, Tensor) else type(codes).__name__
        raise TypeError(f"codes: got {got}, expected an integer tensor")
    if not dtype.is_floating_point:
        raise TypeError(f"dtype: got {dtype}, expected a floating-point dtype, for instance torch.float32")
    cast_reference.check_format(grid, dtype, True)
    if codes.is_cpu and codes.numel() and grid.bits < 64 and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in codes.to(torch.int64).aminmax())
        if low < -(2 ** (grid.bits - 1)) or high >= 2**grid.bits:
            raise ValueError(
                f"codes: got values from {low} to {high}, expected codes of {grid.label}, which has {grid.bits} bits"
            )
    return reference.decode(codes, grid).to(dtype)
