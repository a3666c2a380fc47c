"""Refuses layers whose sums could leave 32-bit integers."""

from __future__ import annotations

from typing import Final

import numpy as np

from quantsim.errors import ConfigurationError

__all__ = ["ACCUMULATOR_LIMIT", "require_accumulator", "weighted_sum_bound"]

ACCUMULATOR_LIMIT: Final = 2**31
"""Sums of products stay below this magnitude, in whatever order they are added."""


def weighted_sum_bound(weight: np.ndarray, low: int, high: int) -> int:
    """The largest magnitude that a sum of codes times weights can reach, partial sums included.

    Args:
        weight: Integers, shape ``(O, ...)``; sums run over all dimensions but the first.
        low: Smallest code.
        high: Largest code.

    Example:
        >>> weighted_sum_bound(np.array([[1, -2], [3, 3]]), 0, 255)
        1530
    """
    if not weight.size:
        return 0
    sums = np.abs(weight.astype(np.int64)).reshape(weight.shape[0], -1).sum(axis=1)
    return int(sums.max()) * max(abs(low), abs(high))


def require_accumulator(bound: int, *, layer: str, terms: int, operands: str) -> int:
    """Returns the bound if 32-bit integers hold it.

    Args:
        bound: Largest magnitude of a sum.
        layer: Path of the module.
        terms: How many products are summed.
        operands: What they are made of, in words.

    Raises:
        ConfigurationError: The sums could overflow; says three ways out.

    Example:
        >>> require_accumulator(1000, layer="fc", terms=4, operands="8-bit codes times 4-bit weights")
        1000
    """
    if bound >= ACCUMULATOR_LIMIT:
        raise ConfigurationError(
            "the 32-bit accumulator could overflow",
            where=layer or "the model itself",
            got=f"sums of {terms} products of {operands}, which may reach {bound} = 2^{np.log2(float(bound)):.1f}",
            expected=f"less than 2^31 = {ACCUMULATOR_LIMIT}",
            fix=(
                "(1) give the layer's input fewer bits, or a quantizer of 8 bits before the layer; "
                "(2) give its weights fewer bits; "
                "(3) split the layer along its inputs into parts that are added on a 16-bit grid"
            ),
        )
    return bound
