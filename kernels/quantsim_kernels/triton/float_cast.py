"""Float casts in Triton: what the kernels need to know of a format, and their launches. Bit-equal to the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, RoundingMode
from quantsim_kernels.reference import float_cast as reference
from quantsim_kernels.reference.operand_layout import blocked_shapes
from quantsim_kernels.triton._float_kernels import cast_kernel, dynamic_kernel
from quantsim_kernels.triton.affine import _Layout, _layout
from quantsim_kernels.triton.availability import is_interpreted

__all__ = [
    "PRECISION",
    "WIDE_ELEMENTS",
    "dynamic_quantize_dequantize",
    "float_cast",
    "format_constants",
    "kernel_tensor",
    "quantize_dequantize",
    "seed_argument",
    "tile_elements",
]

PRECISION = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""How kernels load and store a dtype; other dtypes are left to the reference."""

WIDE_ELEMENTS = 2**31 - 2**16
"""From so many elements on (less the last program's overhang) element numbers need 64 bits."""

_ELEMENTS = 1024
_INTERPRETED_ELEMENTS = 65536
_COLUMNS = 1024
_KEEP, _INFINITY, _NAN = 0, 1, 2
_ONE_SCALE = _Layout(rows=1, width=1, row_shape=(), reduced=(), inner_first=1, first=1, inner_second=1, second=1)


def format_constants(
    format: FloatFormat, rounding: RoundingMode, saturate: bool, saturate_infinity: bool
) -> dict[str, int]:
    """The compile-time constants that a cast kernel takes for a format, see :func:`._float_kernels.cast_value`.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> constants = format_constants(float_format("e4m3fn"), RoundingMode.NEAREST_EVEN, True, False)
        >>> constants["LOWEST"], constants["HIGHEST"], constants["LARGEST"], constants["BEYOND"]
        (-6, 8, 14, 0)
    """
    lowest, highest = reference.exponent_range(format)
    without_code = _INFINITY if format.has_infinity else _NAN
    beyond = _KEEP if saturate else without_code
    infinite = beyond
    if saturate_infinity:
        infinite = _KEEP
    elif format.has_infinity:
        infinite = _INFINITY
    return {
        "LOWEST": lowest,
        "HIGHEST": highest,
        "MANTISSA": format.mantissa_bits,
        "LARGEST": int(format.max * 2.0 ** (format.mantissa_bits - highest)),
        "SIGNED": int(format.signed),
        "ZERO": int(format.has_zero),
        "SUBNORMALS": int(format.has_subnormals),
        "NEGATIVE_ZERO": int(format.has_negative_zero),
        "BEYOND": beyond,
        "INFINITE": infinite,
        "ROUNDING": rounding.number,
    }


def tile_elements(count: int) -> int:
    """Elements that one program takes of ``count``. The interpreter's cost is one per program; a GPU wants many."""
    if is_interpreted():
        return max(_ELEMENTS, min(_INTERPRETED_ELEMENTS, triton.next_power_of_2(count)))
    return _ELEMENTS


def kernel_tensor(tensor: Tensor) -> Tensor:
    """The tensor as a kernel takes it: bfloat16 as its bits."""
    return tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor


def seed_argument(seed: Tensor | None, rounding: RoundingMode, where: str, device: torch.device) -> Tensor:
    """The tensor that the kernel loads its seed from; without noise it is never read."""
    if not rounding.is_stochastic:
        return torch.empty((), dtype=torch.int64, device=device) if seed is None else seed
    if seed is None:
        raise ValueError(f"{where}: got seed=None with rounding {rounding.value!r}, expected a 0-d int64 tensor")
    return seed.to(device=device, dtype=torch.int64)


def _launch(
    x: Tensor,
    scale: Tensor | None,
    layout: _Layout,
    constants: dict[str, int],
    seed: Tensor,
    inplace: bool,
) -> Tensor:
    source = x.detach().contiguous()
    y = source if inplace and x.is_contiguous() else torch.empty_like(source)
    count = source.numel()
    if count:
        elements = tile_elements(count)
        launch: Any = cast_kernel[(triton.cdiv(count, elements),)]
        # Triton launches on the current device, which need not be the tensor's.
        with torch.cuda.device_of(source):
            launch(
                kernel_tensor(source),
                source if scale is None else scale,
                seed,
                kernel_tensor(y),
                count,
                layout.width,
                *layout.index_arguments,
                HAS_SCALE=scale is not None,
                **constants,
                PRECISION=PRECISION[source.dtype],
                WIDE_INDEX=count >= WIDE_ELEMENTS,
                ELEMENTS=elements,
                enable_fp_fusion=False,
            )
    return y


def float_cast(
    x: Tensor,
    format: FloatFormat,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    saturate: bool = True,
    saturate_infinity: bool = False,
    seed: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """One Triton kernel, one pass over memory, for float32, float16 and bfloat16 tensors.

    Arguments, result and errors as :func:`quantsim_kernels.reference.float_cast.float_cast`; gradients are the
    caller's.
    """
    reference.check_format(format, x.dtype, saturate)
    seed = seed_argument(seed, rounding, "float_cast", x.device)
    return _launch(x, None, _ONE_SCALE, format_constants(format, rounding, saturate, saturate_infinity), seed, inplace)


def quantize_dequantize(
    x: Tensor,
    scale: Tensor | None,
    format: FloatFormat,
    block_size: Sequence[int] | None = None,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """Division, cast and product in one kernel; the reference where scales vary along too many dimensions.

    Arguments, result and errors as :func:`quantsim_kernels.reference.float_cast.quantize_dequantize`; gradients are
    the caller's.
    """
    if scale is None:
        return float_cast(x, format, rounding, True, False, seed, inplace)
    reference.check_format(format, x.dtype, True)
    view, scale_shape = blocked_shapes(x.shape, scale.shape, block_size)
    layout = _layout(view, scale_shape)
    if layout is None:
        return reference.quantize_dequantize(x, scale, format, block_size, rounding, seed)
    s = scale.detach().to(device=x.device, dtype=torch.float32).reshape(scale_shape).contiguous()
    seed = seed_argument(seed, rounding, "float_quantize_dequantize", x.device)
    return _launch(x, s, layout, format_constants(format, rounding, True, False), seed, inplace)


def dynamic_quantize_dequantize(
    x: Tensor,
    format: FloatFormat,
    block_size: int | None = None,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """Range and cast of each row of the last dimension, or of each block of it, in one kernel.

    Arguments, result and errors as :func:`quantsim_kernels.reference.float_cast.dynamic_quantize_dequantize`;
    gradients are the caller's.
    """
    reference.check_format(format, x.dtype, True)
    source = x.detach().contiguous()
    y = source if inplace and x.is_contiguous() else torch.empty_like(source)
    if not source.numel():
        return y
    seed = seed_argument(seed, rounding, "float_dynamic_quantize_dequantize", x.device)
    width = x.shape[-1] if x.dim() else 1
    block = width if block_size is None else min(block_size, width)
    per_row = triton.cdiv(width, block)
    segments = source.numel() // width * per_row
    columns = min(_COLUMNS, triton.next_power_of_2(block))
    rows = max(1, tile_elements(source.numel()) // columns)
    launch: Any = dynamic_kernel[(triton.cdiv(segments, rows),)]
    with torch.cuda.device_of(source):
        launch(
            kernel_tensor(source),
            seed,
            kernel_tensor(y),
            segments,
            width,
            per_row,
            block,
            format.max,
            **format_constants(format, rounding, True, False),
            PRECISION=PRECISION[source.dtype],
            WIDE_INDEX=source.numel() >= WIDE_ELEMENTS,
            ROWS=rows,
            COLUMNS=columns,
            enable_fp_fusion=False,
        )
    return y
