"""Casts to any floating-point format: the one definition of their numbers.

A cast takes three steps, each written once here: the *quantum* (the spacing of the format's numbers at ``x``), rounding
to a multiple of it by one of the laws of :mod:`quantsim_kernels.reference.rounding`, and what happens beyond the
largest number. They run in float64, where every step is exact for formats of up to 11 exponent and 52 fraction bits.

Sources: IEEE 754-2019 (rounding, subnormals, overflow), OCP 8-bit Floating Point 1.0 and OCP Microscaling 1.0 (formats
without infinities, saturation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, NanEncoding, RoundingMode
from quantsim_kernels.reference.noise import element_noise
from quantsim_kernels.reference.operand_layout import blocked_shapes
from quantsim_kernels.reference.rounding import STAYS_FINITE, round_steps

__all__ = [
    "MAX_EXPONENT_BITS",
    "MAX_MANTISSA_BITS",
    "cast_with_noise",
    "check_format",
    "dynamic_float_scale",
    "dynamic_quantize_dequantize",
    "exponent_range",
    "float_cast",
    "quantize_dequantize",
    "quantize_dequantize_backward",
    "saturates",
]

MAX_EXPONENT_BITS = 8
"""Widest exponent on tensors up to float32; float64 takes any :class:`FloatFormat`."""
MAX_MANTISSA_BITS = 23
"""Widest fraction on tensors up to float32; float64 takes any :class:`FloatFormat`."""

# Rows of zeros take this scale: the smallest normal float32, so that no ratio overflows and zero stays zero.
_SMALLEST_SCALE = 2.0**-126

# Less than any threshold that a law compares a fraction of a step with: 2**-25 is the smallest.
_INEXACT_STEP = 2.0**-60


def exponent_range(format: FloatFormat) -> tuple[int, int]:
    """Exponents of the smallest normal and of the largest number.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> exponent_range(float_format("e4m3fn")), exponent_range(float_format("fp16"))
        ((-6, 8), (-14, 15))
    """
    return format.min_exponent, format.max_exponent


def saturates(format: FloatFormat, saturate: bool | None) -> bool:
    """Whether what is too large becomes the largest number: as asked, else only where there is no infinity.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> saturates(float_format("e4m3fn"), None), saturates(float_format("e5m2"), None)
        (True, False)
    """
    return not format.has_infinity if saturate is None else saturate


def check_format(format: FloatFormat, dtype: torch.dtype, saturate: bool) -> None:
    """Raise where ``format`` cannot be simulated on tensors of ``dtype``.

    Raises:
        TypeError: ``format`` is no :class:`FloatFormat`, or ``dtype`` is not floating-point.
        ValueError: the format is wider than the definition covers, or reaches beyond ``dtype``'s exponents, or neither
            saturates nor has a code for what is too large.
    """
    if not isinstance(format, FloatFormat):
        raise TypeError(
            f"format: got {type(format).__name__}, expected a FloatFormat, for instance float_format('e4m3fn')"
        )
    if not dtype.is_floating_point:
        raise TypeError(f"x: got {dtype}, expected a floating-point tensor; convert it with x.float()")
    wide = dtype is torch.float64
    if not wide and (format.exponent_bits > MAX_EXPONENT_BITS or format.mantissa_bits > MAX_MANTISSA_BITS):
        raise ValueError(
            f"format: got {format.exponent_bits} exponent and {format.mantissa_bits} fraction bits, expected at most "
            f"{MAX_EXPONENT_BITS} and {MAX_MANTISSA_BITS} for {dtype}; convert x with x.double() for wider formats"
        )
    lowest, highest = exponent_range(format)
    if lowest - format.mantissa_bits < (-1074 if wide else -149) or highest > (1023 if wide else 127):
        raise ValueError(
            f"format: got numbers from {format.tiny:g} to {format.max:g}, expected none that "
            f"{'float64' if wide else 'float32'} cannot hold; use a bias nearer to the default"
        )
    if not saturate and not format.has_infinity and format.nan is NanEncoding.NONE:
        raise ValueError(
            "saturate=False: the format has neither infinities nor NaN for numbers that are too large; "
            "use saturate=True"
        )


def _power_of_two(exponent: Tensor) -> Tensor:
    """``2**exponent`` as float64, exact for -1022..1023 (exp2 and ldexp are not, on every backend)."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def _times_power_of_two(value: Tensor, exponent: Tensor, wide: bool) -> Tensor:
    """``value * 2**exponent``; ``wide``: also where the power itself is no float64."""
    if not wide:
        return value * _power_of_two(exponent)
    half = exponent >> 1
    return value * _power_of_two(half) * _power_of_two(exponent - half)


def _round_magnitude(
    magnitude: Tensor, format: FloatFormat, rounding: RoundingMode, negative: Tensor, noise: Tensor | None, wide: bool
) -> tuple[Tensor, Tensor]:
    """``magnitude`` (float64) rounded to a multiple of its quantum, and where it is beyond the format's exponents.

    Below the normal numbers the quantum stays; above the largest it does too, which is enough to see the overflow.
    """
    lowest, highest = exponent_range(format)
    exponent = ((magnitude.view(torch.int64) >> 52) & 0x7FF) - 1023
    beyond = exponent > highest
    quantum = exponent.clamp(lowest, highest) - format.mantissa_bits
    magnitude = torch.where(beyond, torch.zeros_like(magnitude), magnitude)
    steps = _times_power_of_two(magnitude, -quantum, wide)
    if wide:
        # What is lost here must still count as inexact.
        lost = (magnitude > 0) & (steps < _INEXACT_STEP)
        steps = torch.where(lost, torch.full_like(steps, _INEXACT_STEP), steps)
    odd = None
    if format.mantissa_bits == 0:
        # Without fraction bits a code's last bit is that of the exponent; zero, where there is one, is even.
        odd = (steps >= 1) & ((quantum + _code_bias(format)) % 2 == 1)
    rounded = round_steps(steps, rounding, negative=negative, odd=odd, noise=noise)
    return _times_power_of_two(rounded, quantum, wide), beyond


def _code_bias(format: FloatFormat) -> int:
    """What is added to a number's exponent to get its exponent code."""
    lowest, _ = exponent_range(format)
    return (1 if format.has_zero else 0) - lowest


def _overflow(like: Tensor, format: FloatFormat, rounding: RoundingMode, saturate: bool, negative: Tensor) -> Tensor:
    """The magnitude that stands for what is too large: the largest number, infinity or NaN."""
    largest = torch.full_like(like, format.max)
    if saturate or rounding in STAYS_FINITE:
        return largest
    limit = torch.full_like(like, math.inf if format.has_infinity else math.nan)
    if rounding is RoundingMode.UP:
        return torch.where(negative, largest, limit)
    if rounding is RoundingMode.DOWN:
        return torch.where(negative, limit, largest)
    return limit


def cast_with_noise(
    x: Tensor,
    format: FloatFormat,
    rounding: RoundingMode,
    saturate: bool,
    saturate_infinity: bool,
    noise: Tensor | None,
) -> Tensor:
    """:func:`float_cast` with the random bits themselves, for casts whose elements are numbered in another way.

    Args:
        x: floating-point tensor, any shape.
        format: the format.
        rounding: the law of rounding.
        saturate: what is too large becomes the largest number.
        saturate_infinity: infinities do so too.
        noise: 24 random bits for each element, int32, in the shape of ``x``; only the stochastic laws want them.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> x, noise = torch.tensor([2.6, 2.6]), torch.tensor([0, 2**24 - 1], dtype=torch.int32)
        >>> cast_with_noise(x, float_format("e2m1"), RoundingMode.STOCHASTIC, True, False, noise).tolist()
        [3.0, 2.0]
    """
    check_format(format, x.dtype, saturate)
    wide = x.detach().to(torch.float64)
    magnitude = wide.abs()
    negative = wide < 0
    infinite = magnitude == math.inf
    result, beyond = _round_magnitude(magnitude, format, rounding, negative, noise, x.dtype is torch.float64)
    if not format.has_subnormals and format.has_zero:
        result = torch.where(result < format.min_normal, torch.zeros_like(result), result)
    if not format.has_zero:
        result = torch.where(
            result < format.tiny, torch.full_like(result, format.tiny if saturate else math.nan), result
        )
    too_large = beyond | (result > format.max)
    result = torch.where(too_large, _overflow(result, format, rounding, saturate, negative), result)
    if saturate_infinity or (saturate and not format.has_infinity):
        at_infinity = format.max
    else:
        at_infinity = math.inf if format.has_infinity else math.nan
    result = torch.where(infinite, torch.full_like(result, at_infinity), result)
    if format.signed:
        result = torch.copysign(result, wide)
        if not format.has_negative_zero:
            result = result + 0.0
    else:
        smallest = 0.0 if format.has_zero else format.tiny
        result = torch.where(negative, torch.full_like(result, smallest if saturate else math.nan), result)
    return torch.where(wide.isnan(), wide, result).to(x.dtype)


def _noise_for(x: Tensor, rounding: RoundingMode, seed: Tensor | None) -> Tensor | None:
    """The random bits of a cast of ``x``, if the law wants any."""
    if not rounding.is_stochastic:
        return None
    if seed is None:
        raise ValueError(f"seed: got None, expected a 0-d int64 tensor, which rounding {rounding.value!r} wants")
    return element_noise(x.shape, seed, x.device)


def float_cast(
    x: Tensor,
    format: FloatFormat,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    saturate: bool = True,
    saturate_infinity: bool = False,
    seed: Tensor | None = None,
) -> Tensor:
    """``x`` rounded to a number of ``format``, without a gradient of its own.

    * NaN stays NaN. -0 stays -0, and what rounds to zero keeps its sign, where the format has a -0.
    * A finite number that rounds beyond the largest one becomes that one if ``saturate``, or if the law rounds toward
      it (``toward_zero`` and ``odd``; ``up`` below zero, ``down`` above); else infinity, else NaN.
    * Infinity stays where the format has it, unless ``saturate_infinity``; else it becomes the largest number if
      ``saturate``, NaN if not.
    * Without subnormals, what would be subnormal after rounding becomes zero.
    * In an unsigned format negative numbers are out of range: zero (or the smallest number) if ``saturate``, else NaN.

    Args:
        x: floating-point tensor, any shape.
        format: the format, at most 8 exponent and 23 fraction bits (float64: 11 and 52).
        rounding: the law of rounding, see :func:`quantsim_kernels.reference.rounding.round_steps`.
        saturate: what is too large becomes the largest number.
        saturate_infinity: infinities do so too.
        seed: 0-d int64 tensor that the stochastic laws take their noise from, see
            :func:`quantsim_kernels.reference.noise.element_noise`.

    Returns:
        Numbers of the format, in the shape and dtype of ``x``.

    Raises:
        TypeError, ValueError: see :func:`check_format`; or a stochastic law has no seed.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> float_cast(torch.tensor([1.97, 464.0, 465.0, -0.0005]), float_format("e4m3fn")).tolist()
        [2.0, 448.0, 448.0, -0.0]
        >>> float_cast(torch.tensor([1.97, 1e9]), float_format("fp16"), RoundingMode.DOWN, False).tolist()
        [1.9697265625, 65504.0]
    """
    return cast_with_noise(x, format, rounding, saturate, saturate_infinity, _noise_for(x, rounding, seed))


def _operands(x: Tensor, scale: Tensor | None, block_size: Sequence[int] | None) -> tuple[Tensor, Tensor | None]:
    """Tensor and scale in the shapes in which they broadcast, in float32 (float64 for float64)."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if scale is None:
        return x.to(dtype), None
    view, scale_view = blocked_shapes(x.shape, scale.shape, block_size)
    return x.reshape(view).to(dtype), scale.reshape(scale_view).to(dtype=dtype, device=x.device)


def quantize_dequantize(
    x: Tensor,
    scale: Tensor | None,
    format: FloatFormat,
    block_size: Sequence[int] | None = None,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
    cast: Callable[..., Tensor] = float_cast,
) -> Tensor:
    """``cast(x / s) * s`` with saturation; ``cast(x)`` without a scale. No gradient of its own.

    Args:
        x: floating-point tensor.
        scale: positive scales that broadcast to ``x``, or one for each block; ``None`` means 1.
        format: the format.
        block_size: see :mod:`quantsim_kernels.reference.affine`.
        rounding: the law of rounding.
        seed: 0-d int64 tensor for the stochastic laws.
        cast: another formulation of :func:`float_cast`, with the same arguments and numbers.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> quantize_dequantize(torch.tensor([0.3, 9.0]), torch.tensor(0.5), float_format("e2m1")).tolist()
        [0.25, 3.0]
    """
    values, s = _operands(x, scale, block_size)
    ratio = values if s is None else values / s
    rounded = cast(ratio, format, rounding, True, False, seed)
    return (rounded if s is None else rounded * s).to(x.dtype).reshape(x.shape)


def quantize_dequantize_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor | None,
    format: FloatFormat,
    block_size: Sequence[int] | None = None,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
    cast: Callable[..., Tensor] = float_cast,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of :func:`quantize_dequantize`, the rounding passed straight through.

    With ``t = x / s`` and inside meaning ``|t| <= max``::

        dx = g                     inside, 0 outside
        ds = g * (cast(t) - t)     inside, g * cast(t) outside

    Args:
        grad: gradient of the result, in the shape of ``x``.
        x: as given to :func:`quantize_dequantize`, like all that follow.
        scale: scales or ``None``.
        format: the format.
        block_size: block sizes or ``None``.
        rounding: the law of rounding.
        seed: the seed of the forward.
        cast: another formulation of :func:`float_cast`.

    Returns:
        ``(dx, dscale)``, the second in the shape of ``scale``.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> x, scale = torch.tensor([0.3, 9.0]), torch.tensor(0.5)
        >>> dx, dscale = quantize_dequantize_backward(torch.ones(2), x, scale, float_format("e2m1"))
        >>> dx.tolist(), round(float(dscale), 4)
        ([1.0, 0.0], 5.9)
    """
    values, s = _operands(x, scale, block_size)
    g = grad.reshape(values.shape).to(values.dtype)
    ratio = values if s is None else values / s
    inside = (ratio >= (-format.max if format.signed else 0.0)) & (ratio <= format.max)
    dx = torch.where(inside, g, torch.zeros_like(g)).to(x.dtype).reshape(x.shape)
    if scale is None or s is None:
        return dx, None
    rounded = cast(ratio, format, rounding, True, False, seed)
    dscale = (g * torch.where(inside, rounded - ratio, rounded)).sum_to_size(s.shape)
    return dx, dscale.reshape(scale.shape).to(scale.dtype)


def dynamic_float_scale(x: Tensor, format: FloatFormat) -> Tensor:
    """Scale of each row of the last dimension: its largest magnitude over the format's largest number.

    Args:
        x: floating-point tensor, shape ``(..., n)``.
        format: the format.

    Returns:
        float32 (float64 for float64), shape ``(..., 1)``.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> dynamic_float_scale(torch.tensor([[1.0, -12.0], [0.0, 0.0]]), float_format("e2m1")).tolist()[0]
        [2.0]
    """
    largest = x.abs().amax(dim=-1, keepdim=True).to(torch.promote_types(x.dtype, torch.float32))
    return (largest / format.max).clamp(min=_SMALLEST_SCALE)


def _block_scale(x: Tensor, format: FloatFormat, block_size: int) -> Tensor:
    """:func:`dynamic_float_scale` of each block of the last dimension, for each element."""
    width = x.shape[-1]
    padded = torch.nn.functional.pad(x, (0, -width % block_size))
    scale = dynamic_float_scale(padded.unflatten(-1, (-1, block_size)), format)
    return scale.expand(*scale.shape[:-1], block_size).flatten(-2)[..., :width]


def dynamic_quantize_dequantize(
    x: Tensor,
    format: FloatFormat,
    block_size: int | None = None,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    seed: Tensor | None = None,
    cast: Callable[..., Tensor] = float_cast,
) -> Tensor:
    """:func:`quantize_dequantize` with :func:`dynamic_float_scale`. No gradient of its own.

    Args:
        x: floating-point tensor, shape ``(..., n)``.
        format: the format.
        block_size: elements of the last dimension that share a scale, the last block perhaps shorter; ``None``: all.
        rounding: the law of rounding.
        seed: 0-d int64 tensor for the stochastic laws.
        cast: another formulation of :func:`float_cast`.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> dynamic_quantize_dequantize(torch.tensor([[1.1, -12.0]]), float_format("e2m1")).tolist()
        [[1.0, -12.0]]
    """
    if x.numel() == 0:
        return x.clone()
    if x.dim() == 0:
        return dynamic_quantize_dequantize(x.reshape(1), format, None, rounding, seed, cast).reshape(())
    if block_size is None or block_size >= x.shape[-1]:
        scale = dynamic_float_scale(x.detach(), format)
    else:
        scale = _block_scale(x.detach(), format, block_size)
    return quantize_dequantize(x, scale, format, None, rounding, seed, cast)
