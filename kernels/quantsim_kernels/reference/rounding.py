"""The ten laws of rounding to a whole number of steps: which of its two neighbours a number becomes.

Formats come in only through what a step is and which neighbour's code is odd, so the same laws serve float formats,
block formats and integer elements.

Sources: IEEE 754-2019 (to nearest, ties to even and away; up, down, toward zero); round to odd as in Boldo and
Melquiond, "Emulation of FMA and correctly rounded sums" (2008); stochastic rounding as in Croci et al., "Stochastic
rounding: implementation, error analysis and applications" (2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantsim_encodings.formats import RoundingMode
from quantsim_kernels.reference.noise import NOISE_BITS

__all__ = ["STAYS_FINITE", "round_steps"]

STAYS_FINITE = (RoundingMode.TOWARD_ZERO, RoundingMode.ODD)
"""The laws that never leave the largest number toward infinity, whatever its sign: the far neighbour is no number."""


def round_steps(
    steps: Tensor,
    rounding: RoundingMode,
    *,
    negative: Tensor | None = None,
    odd: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Magnitudes, counted in steps, rounded to whole steps.

    With ``k = floor(steps)`` and ``f = steps - k`` the result is ``k`` where ``f = 0``, else ``k + 1`` where

    ====================  ==================================================
    ``nearest_even``      ``f > 1/2``, or ``f = 1/2`` and ``k`` is odd
    ``nearest_odd``       ``f > 1/2``, or ``f = 1/2`` and ``k`` is even
    ``nearest_zero``      ``f > 1/2``
    ``nearest_away``      ``f >= 1/2``
    ``up``, ``down``      the number is positive, negative
    ``toward_zero``       never
    ``odd``               ``k`` is even
    ``stochastic``        ``(noise + 1/2) / 2**24 < f``
    ``stochastic_equal``  the top bit of the noise is set
    ====================  ==================================================

    Args:
        steps: magnitudes, float32 or float64, not negative.
        rounding: the law.
        negative: where the number is negative, bool; wanted by ``up`` and ``down``.
        odd: where the code of ``k`` is odd, bool; ``None``: where ``k`` is.
        noise: 24 random bits each, int32, see :mod:`quantsim_kernels.reference.noise`; wanted by the stochastic laws.

    Returns:
        Whole numbers in the dtype of ``steps``.

    Raises:
        ValueError: ``negative`` or ``noise`` is missing.

    Example:
        >>> steps = torch.tensor([0.5, 1.5, 2.25, 3.0])
        >>> (
        ...     round_steps(steps, RoundingMode.NEAREST_EVEN).tolist(),
        ...     round_steps(steps, RoundingMode.ODD).tolist(),
        ... )
        ([0.0, 2.0, 2.0, 3.0], [1.0, 1.0, 3.0, 3.0])
    """
    whole = steps.floor()
    fraction = steps - whole
    if rounding is RoundingMode.TOWARD_ZERO:
        return whole
    if rounding is RoundingMode.NEAREST_ZERO:
        return whole + (fraction > 0.5)
    if rounding is RoundingMode.NEAREST_AWAY:
        return whole + (fraction >= 0.5)
    if rounding is RoundingMode.UP or rounding is RoundingMode.DOWN:
        if negative is None:
            raise ValueError(f"round_steps(negative): got None, expected the signs, which {rounding.value!r} wants")
        return whole + ((fraction > 0) & (negative if rounding is RoundingMode.DOWN else ~negative))
    if rounding.is_stochastic:
        if noise is None:
            raise ValueError(f"round_steps(noise): got None, expected random bits, which {rounding.value!r} wants")
        if rounding is RoundingMode.STOCHASTIC_EQUAL:
            return whole + ((fraction > 0) & (noise >= 2 ** (NOISE_BITS - 1)))
        # In float64 the threshold is exact, and never 0 or 1.
        return whole + ((noise.to(torch.float64) + 0.5) * 2.0**-NOISE_BITS < fraction)
    if odd is None:
        odd = whole.remainder(2) == 1
    if rounding is RoundingMode.ODD:
        return whole + ((fraction > 0) & ~odd)
    tie_goes_up = odd if rounding is RoundingMode.NEAREST_EVEN else ~odd
    return whole + ((fraction > 0.5) | ((fraction == 0.5) & tie_goes_up))
