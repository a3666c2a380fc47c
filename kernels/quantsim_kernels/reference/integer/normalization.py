"""LayerNorm and RMSNorm on integers: exact sums, a floor square root, one rounded division."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantsim_kernels.reference.integer.arithmetic import (
    Integers,
    integers,
    largest,
    require_int64,
    rounded_division,
    square_root,
)

__all__ = ["layer_norm", "rms_norm"]


def layer_norm(
    x: npt.ArrayLike,
    *,
    gain: npt.ArrayLike,
    offset: npt.ArrayLike | None = None,
    epsilon: int,
    mean_bits: int,
    root_bits: int,
    gain_bits: int,
    zero_point: int,
    low: int,
    high: int,
) -> Integers:
    """LayerNorm over the last dimension, of length N.

    With ``div`` the division rounded half away from zero::

        D = x * 2 ^ mean_bits - div(sum(x) * 2 ^ mean_bits, N)
        R = max(1, floor(sqrt((sum(D ^ 2) + epsilon) * 4 ^ root_bits)))
        y = clamp(div(D * gain + offset * R, R * 2 ^ gain_bits) + zero_point, low, high)

    Args:
        x: codes, shape ``(..., N)``; their zero point and step cancel.
        gain: shape ``(N,)``: ``round(weight * sqrt(N) * 2^root_bits / step_y * 2^gain_bits)``.
        offset: shape ``(N,)``: ``round(bias / step_y * 2^gain_bits)``; ``None`` for none.
        epsilon: ``round(eps * N * 4^mean_bits / step_x^2)``.
        mean_bits: fraction bits of the mean.
        root_bits: fraction bits of the root.
        gain_bits: fraction bits of gain and offset.
        zero_point: the integer of the result that stands for 0.
        low: smallest result.
        high: largest result.

    Raises:
        OverflowError: an intermediate may leave int64; take fewer bits.

    Example:
        >>> bits = {"mean_bits": 4, "root_bits": 4, "gain_bits": 4}
        >>> layer_norm(
        ...     [[0, 10, 20, 30]],
        ...     gain=[2 * 16 * 50 * 16] * 4,
        ...     epsilon=0,
        ...     **bits,
        ...     zero_point=0,
        ...     low=-99,
        ...     high=99,
        ... )
        array([[-67, -22,  22,  67]])
    """
    codes = integers(x, "layer_norm(x)")
    length = codes.shape[-1]
    require_int64((largest(codes) * length) << mean_bits, "layer_norm")
    total = codes.sum(axis=-1, keepdims=True) << mean_bits
    centred = (codes << mean_bits) - rounded_division(total, length)
    return _normalize(centred, gain, offset, epsilon, root_bits, gain_bits, zero_point, low, high, "layer_norm")


def rms_norm(
    x: npt.ArrayLike,
    *,
    zero_point_in: int,
    gain: npt.ArrayLike,
    offset: npt.ArrayLike | None = None,
    epsilon: int,
    root_bits: int,
    gain_bits: int,
    zero_point: int,
    low: int,
    high: int,
) -> Integers:
    """RMSNorm over the last dimension: `layer_norm` with ``D = x - zero_point_in``.

    Args:
        x: codes, shape ``(..., N)``.
        zero_point_in: the integer of ``x`` that stands for 0.
        gain: shape ``(N,)``, as in `layer_norm`.
        offset: likewise, ``None`` for none.
        epsilon: ``round(eps * N / step_x^2)``.
        root_bits: fraction bits of the root.
        gain_bits: fraction bits of gain and offset.
        zero_point: the integer of the result that stands for 0.
        low: smallest result.
        high: largest result.

    Raises:
        OverflowError: an intermediate may leave int64; take fewer bits.

    Example:
        >>> bits = {"root_bits": 8, "gain_bits": 4}
        >>> root = 2**0.5 * 2**8
        >>> rms_norm(
        ...     [[30, 40]],
        ...     zero_point_in=0,
        ...     gain=[round(root * 50 * 16)] * 2,
        ...     epsilon=0,
        ...     **bits,
        ...     zero_point=1,
        ...     low=0,
        ...     high=99,
        ... )
        array([[43, 58]])
    """
    centred = integers(x, "rms_norm(x)") - zero_point_in
    return _normalize(centred, gain, offset, epsilon, root_bits, gain_bits, zero_point, low, high, "rms_norm")


def _normalize(
    centred: Integers,
    gain: npt.ArrayLike,
    offset: npt.ArrayLike | None,
    epsilon: int,
    root_bits: int,
    gain_bits: int,
    zero_point: int,
    low: int,
    high: int,
    where: str,
) -> Integers:
    factor = integers(gain, f"{where}(gain)")
    addend = np.int64(0) if offset is None else integers(offset, f"{where}(offset)")
    squares = largest(centred) ** 2 * centred.shape[-1] + epsilon
    require_int64(squares, where)
    power = np.sum(centred * centred, axis=-1, keepdims=True) + epsilon
    require_int64(largest(power) << (2 * root_bits), where)
    root = np.maximum(square_root(power << (2 * root_bits)), 1)
    require_int64(largest(centred) * largest(factor) + largest(addend) * largest(root), where)
    require_int64(largest(root) << gain_bits, where)
    quotient = rounded_division(centred * factor + addend * root, root << gain_bits)
    return np.clip(quotient + zero_point, low, high)
