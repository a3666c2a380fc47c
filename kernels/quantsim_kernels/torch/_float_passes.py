"""Rounding float32 op by op: few passes, each over a piece that stays in the cache, and no masks of booleans.

Torch compares and selects between tensors ten times slower than it adds, so decisions are taken from sign bits.

*By sums.* Adding and subtracting ``c = 1.5 * 2**(23 - m)`` times the power of two at or below ``|x|`` rounds to ``m``
fraction bits, to nearest with ties to even: the sum's own last bit then weighs one quantum. Clamping that power of two
from below gives subnormals, from above it keeps the sum finite. The error of the result is exact, and the other laws
move the result by one quantum or not as its sign says.

*By quotients.* Stochastic rounding takes the fraction of the quotient by the quantum instead: one comparison, not two.

*By bits.* Formats with float32's exponents leave no room above for such a sum; there the addends of
:mod:`quantsim_kernels.torch._float_laws` suffice. Two formats are torch's own and convert.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, RoundingMode, float_format
from quantsim_kernels.reference.noise import NOISE_BITS
from quantsim_kernels.reference.rounding import STAYS_FINITE
from quantsim_kernels.torch._float_laws import bit_addend
from quantsim_kernels.torch._float_noise import NoiseStream

__all__ = ["cast_by_passes", "passes_for"]

_EXPONENT_MASK = 0x7F800000
_SIGN_SHIFT = 31
_SIGN_BIT = -(2**31)
_NATIVE = {float_format("fp16"): torch.float16, float_format("bf16"): torch.bfloat16}
# Laws that look at the sign of x; the others round magnitudes.
_SIGNED_LAWS = (RoundingMode.NEAREST_EVEN, RoundingMode.UP, RoundingMode.DOWN)

Law = Callable[[Tensor, FloatFormat, RoundingMode, NoiseStream | None, Tensor | None], Tensor]


@lru_cache(maxsize=1024)
def passes_for(format: FloatFormat, rounding: RoundingMode) -> Law | None:
    """The rounding without overflow that is exact for ``format``, or ``None``."""
    if rounding is RoundingMode.NEAREST_EVEN and format in _NATIVE:
        return _round_by_conversion
    if not (format.signed and format.has_zero and 1 <= format.mantissa_bits <= 22):
        return None
    lowest, highest = format.min_exponent, format.max_exponent
    if lowest == -126 and highest <= 127:
        return _round_by_bits
    # The smallest number that a law compares with is 2**-25 quanta.
    in_range = lowest - format.mantissa_bits - 25 >= -149 and highest + 24 - format.mantissa_bits <= 127
    if not (in_range and lowest > -126 and format.mantissa_bits <= 21):
        return None
    return _round_by_quotient if rounding is RoundingMode.STOCHASTIC else _round_by_sum


def _round_by_conversion(
    x: Tensor, format: FloatFormat, rounding: RoundingMode, stream: NoiseStream | None, out: Tensor | None
) -> Tensor:
    """Rounded by torch's own conversion, which is exact; what is too large becomes infinity."""
    y = x.to(_NATIVE[format])
    return y.to(torch.float32) if out is None else out.copy_(y)


def _round_by_bits(
    x: Tensor, format: FloatFormat, rounding: RoundingMode, stream: NoiseStream | None, out: Tensor | None
) -> Tensor:
    """Rounded on the bits; what carries too far becomes infinity, and a NaN perhaps something else."""
    bits = x.view(torch.int32)
    noise = None if stream is None else stream.take(x.shape)
    addend = bit_addend(bits, bits, format, rounding, noise)
    y = None if out is None else out.view(torch.int32)
    y = bits.add(addend) if y is None else torch.add(bits, addend, out=y)
    return y.bitwise_and_(-(1 << (23 - format.mantissa_bits))).view(torch.float32)


def _round_by_sum(
    x: Tensor, format: FloatFormat, rounding: RoundingMode, stream: NoiseStream | None, out: Tensor | None
) -> Tensor:
    """Rounded without overflow, signed or the magnitude; zeros lose their sign. Leaves NaN alone."""
    size = x if rounding in _SIGNED_LAWS else x.abs()
    power = torch.bitwise_and(x.view(torch.int32), _EXPONENT_MASK).view(torch.float32)
    power.clamp_(2.0**format.min_exponent, 2.0**format.max_exponent)
    factor = 1.5 * 2.0 ** (23 - format.mantissa_bits)
    # Both products are exact: `power` is a power of two and the factor has two significant bits.
    shifted = torch.add(size, power, alpha=factor)
    if rounding is RoundingMode.NEAREST_EVEN:
        return torch.sub(shifted, power, alpha=factor, out=shifted if out is None else out)
    nearest = torch.sub(shifted, power, alpha=factor, out=torch.empty_like(shifted) if out is None else out)
    quantum = 2.0**-format.mantissa_bits
    if rounding is RoundingMode.UP:
        return nearest.add_(_where_negative(torch.sub(nearest, x, out=shifted), power), alpha=quantum)
    if rounding is RoundingMode.DOWN:
        # -0 less its result is -0, which has a sign and is not below.
        excess = torch.sub(x, nearest, out=shifted).add_(0.0)
        return nearest.sub_(_where_negative(excess, power), alpha=quantum)
    if rounding is RoundingMode.TOWARD_ZERO:
        return nearest.sub_(_where_negative(size.sub_(nearest), power), alpha=quantum)
    if rounding is RoundingMode.NEAREST_AWAY:
        # Negative except where the error is half a quantum: a tie that went down.
        short = size.sub_(nearest).sub_(power, alpha=0.5 * quantum)
        return nearest.add_(_where_negative(short, power, but=True), alpha=quantum)
    if rounding is RoundingMode.NEAREST_ZERO:
        short = torch.sub(nearest, size, out=size).sub_(power, alpha=0.5 * quantum)
        return nearest.sub_(_where_negative(short, power, but=True), alpha=quantum)
    if rounding is RoundingMode.NEAREST_ODD:
        error = size.sub_(nearest)
        short = torch.abs(error, out=shifted).sub_(power, alpha=0.5 * quantum)
        # Every tie went to the even number; the odd one lies as far on the other side.
        return nearest.add_(_where_negative(short, error, but=True), alpha=2.0)
    if rounding is RoundingMode.ODD:
        even = shifted.view(torch.int32).bitwise_and_(1).sub_(1)
        side = size.sub_(nearest).sign_()
        side.view(torch.int32).bitwise_and_(even)
        return nearest.addcmul_(side, power, value=quantum)
    assert stream is not None
    assert rounding is RoundingMode.STOCHASTIC_EQUAL
    words = stream.take_words(x.shape)
    below = torch.sub(nearest, size, out=shifted).view(torch.int32).bitwise_right_shift_(_SIGN_SHIFT)
    above = size.sub_(nearest).view(torch.int32).bitwise_right_shift_(_SIGN_SHIFT)
    words.bitwise_right_shift_(_SIGN_SHIFT)
    below.bitwise_and_(words)
    steps = above.bitwise_and_(words.bitwise_not_()).sub_(below)
    return nearest.addcmul_(steps.to(torch.float32), power, value=quantum)


def _round_by_quotient(
    x: Tensor, format: FloatFormat, rounding: RoundingMode, stream: NoiseStream | None, out: Tensor | None
) -> Tensor:
    """Rounded stochastically, without overflow; infinities become NaN.

    The quotient ``z`` of ``x`` and its quantum is exact, and so is its fraction ``f``. With ``n`` the noise less 2**23,
    ``f - n / 2**24`` has the precision of the noise at 1/2, which it exceeds where ``(noise + 1/2) / 2**24 < f``.
    """
    assert stream is not None
    quantum = torch.mul(x, 2.0**-format.mantissa_bits, out=stream.scratch(0, x.shape))
    quantum.view(torch.int32).bitwise_and_(_EXPONENT_MASK)
    # Above the format's exponents the quantum may grow: what is too large stays so, and its quotient finite.
    quantum.clamp_(min=2.0 ** (format.min_exponent - format.mantissa_bits))
    # With the sign of x the quotient is a magnitude, and the product has the sign again, of zero too.
    fraction = stream.scratch(1, x.shape)
    _take_sign(quantum, x, fraction)
    torch.div(x, quantum, out=fraction)
    whole = torch.floor(fraction) if out is None else torch.floor(fraction, out=out)
    fraction.sub_(whole)
    noise = stream.scratch(2, x.shape).copy_(stream.take_centred(x.shape))
    fraction.sub_(noise, alpha=2.0**-NOISE_BITS)
    return whole.add_(fraction.sub_(0.5).ceil_()).mul_(quantum)


def _take_sign(magnitude: Tensor, x: Tensor, scratch: Tensor) -> None:
    """Gives ``magnitude``, which has no sign yet, the sign of ``x``; twice as fast as torch.copysign."""
    signs = torch.bitwise_and(x.view(torch.int32), _SIGN_BIT, out=scratch.view(torch.int32))
    magnitude.view(torch.int32).bitwise_or_(signs)


def _where_negative(sign: Tensor, value: Tensor, but: bool = False) -> Tensor:
    """``value`` where ``sign`` is negative (``but``: where it is not), else 0; both are overwritten."""
    mask = sign.view(torch.int32).bitwise_right_shift_(_SIGN_SHIFT)
    if but:
        mask.bitwise_not_()
    value.view(torch.int32).bitwise_and_(mask)
    return value


def _is_within(y: Tensor, largest: float) -> bool:
    """Whether all of ``y`` are numbers of that magnitude at most."""
    if not y.numel():
        return True
    low, high = torch.aminmax(y)
    return -largest <= low.item() and high.item() <= largest


def _mark_overflow(y: Tensor, format: FloatFormat, law: Law) -> None:
    """Infinity, or NaN in a format without, in place of numbers beyond the largest one."""
    spare = 127 - format.max_exponent
    if not format.has_infinity or spare > 126:
        beyond = y.masked_fill(y.abs() > format.max, math.inf if format.has_infinity else math.nan)
        torch.copysign(beyond, y, out=y)
    elif spare and law is not _round_by_conversion:
        # The first number beyond the largest is a power of two; scaled up it overflows by itself, and only it.
        y.mul_(2.0**spare).mul_(2.0**-spare)


def cast_by_passes(
    x: Tensor,
    law: Law,
    format: FloatFormat,
    rounding: RoundingMode,
    saturate: bool,
    saturate_infinity: bool,
    stream: NoiseStream | None,
    out: Tensor | None,
) -> Tensor:
    """All of a cast on one float32 piece.

    Args:
        x: float32 piece.
        law: what :func:`passes_for` gave for ``format`` and ``rounding``.
        format: the format.
        rounding: how it rounds.
        saturate: what is too large becomes the largest number.
        saturate_infinity: infinities do so too.
        stream: the noise of the stochastic modes.
        out: where the result goes; must not share memory with ``x``, whose signs are needed to the end.

    Returns:
        ``out``, or a new tensor.
    """
    y = law(x, format, rounding, stream, out)
    largest = format.max
    bounded = saturate or rounding in STAYS_FINITE
    if bounded:
        y.clamp_(-largest, largest)
    elif law is _round_by_quotient and format.has_subnormals and format.has_negative_zero and _is_within(y, largest):
        # Neither an overflow nor an infinity nor a NaN: one look is cheaper than what these would cost.
        return y if out is None or y is out else out.copy_(y)
    else:
        if rounding is RoundingMode.UP:
            y.clamp_(min=-largest)
        elif rounding is RoundingMode.DOWN:
            y.clamp_(max=largest)
        _mark_overflow(y, format, law)
    if not format.has_subnormals:
        # The next number below the normal ones and all that are smaller.
        y = torch.hardshrink(y, format.min_normal - math.ldexp(1.0, format.min_exponent - format.mantissa_bits))
    if law is _round_by_sum or not format.has_subnormals:
        torch.copysign(y, x, out=y)
    if not format.has_negative_zero:
        y.add_(0.0)
    keeps_infinity = format.has_infinity and not saturate_infinity
    if (
        rounding is not RoundingMode.NEAREST_EVEN
        or law is _round_by_bits
        or (keeps_infinity if bounded else saturate_infinity)
    ):
        _restore_special(y, x, format, saturate, saturate_infinity)
    return y if out is None or y is out else out.copy_(y)


def _restore_special(y: Tensor, x: Tensor, format: FloatFormat, saturate: bool, saturate_infinity: bool) -> None:
    """Puts into ``y`` what infinities and NaN become; they are rare enough to look for first."""
    if not x.numel():
        return
    # Half as dear as looking for the extremes. Finite numbers whose sum overflows are only looked at once more.
    if math.isfinite(x.sum().item()):
        return
    if saturate_infinity or (saturate and not format.has_infinity):
        value = x.clamp(-format.max, format.max)
    else:
        value = x if format.has_infinity else torch.full_like(x, math.nan)
    torch.where(x.isinf(), value, y, out=y)
    torch.where(x != x, x, y, out=y)
