"""The random bits of stochastic rounding: a counter-based hash of a seed and an element's number.

There is no state, so every backend, block size and thread count gives the same bits. Three rounds of *xor with itself
shifted right, multiply by an odd constant* scramble the low 32 bits of the element number, with two words made from the
seed added on the way. (Two rounds leave correlations between elements 4096 apart that a test of 10**6 draws sees.)

All words are unsigned 32-bit numbers. They are held in 64-bit integers here, where no product overflows, because the
multipliers are below 2**31; kernels may use wrapping 32-bit arithmetic instead.

Sources: the form is that of Wellons, "Prospecting for hash functions" (2018), whose multipliers it uses; the seed's two
words come from a three-round Feistel network (Luby and Rackoff, 1988), so that different seeds have different words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, TypeVar

import torch
from torch import Tensor

__all__ = [
    "FEISTEL_CONSTANTS",
    "HIGH_WORD_STEP",
    "MULTIPLIERS",
    "NOISE_BITS",
    "SHIFTS",
    "element_noise",
    "noise",
    "noise_keys",
]

Word = TypeVar("Word", int, Tensor)

NOISE_BITS: Final = 24
"""Random bits of one element, as many as a float32 significand has."""

SHIFTS: Final = (16, 15, 15)
"""Right shifts of the three rounds."""

MULTIPLIERS: Final = (0x21F0AAAD, 0x735A2D97, 0x2C1B3C6D)
"""Multipliers of the three rounds, all odd and below 2**31."""

HIGH_WORD_STEP: Final = 0x1E3779B1
"""What each 2**32 elements add to the second word of the seed."""

FEISTEL_CONSTANTS: Final = (0x1E3779B9, 0x7F4A7C15, 0x3C6EF372)
"""Set the three rounds that make the seed's two words apart."""

_WORD: Final = 0xFFFFFFFF


def _scrambled(word: Word, between: Word | int = 0) -> Word:
    """Three rounds; ``between`` is added after the first one."""
    word = ((word ^ (word >> SHIFTS[0])) * MULTIPLIERS[0] + between) & _WORD  # type: ignore[assignment]
    word = ((word ^ (word >> SHIFTS[1])) * MULTIPLIERS[1]) & _WORD  # type: ignore[assignment]
    return ((word ^ (word >> SHIFTS[2])) * MULTIPLIERS[2]) & _WORD  # type: ignore[return-value]


def noise_keys(seed: Word) -> tuple[Word, Word]:
    """The two 32-bit words that a seed puts into the hash, different for different seeds modulo 2**64.

    Args:
        seed: a Python integer, or an int64 tensor, whose negative values count modulo 2**64; never read back from its
            device.

    Returns:
        Two unsigned 32-bit numbers, of the type (and device) of ``seed``, int64 for a tensor.

    Example:
        >>> first, second = noise_keys(7)
        >>> tensors = noise_keys(torch.tensor(7))
        >>> (int(tensors[0]), int(tensors[1])) == (first, second)
        True
    """
    low: Word = seed & _WORD  # type: ignore[assignment]
    high: Word = (seed >> 32) & _WORD  # type: ignore[assignment]
    high = high ^ _scrambled(low ^ FEISTEL_CONSTANTS[0])  # type: ignore[assignment]
    low = low ^ _scrambled(high ^ FEISTEL_CONSTANTS[1])  # type: ignore[assignment]
    high = high ^ _scrambled(low ^ FEISTEL_CONSTANTS[2])  # type: ignore[assignment]
    return low, high


def noise(seed: int | Tensor, index: Tensor) -> Tensor:
    """24 random bits for each element number.

    With ``low``, ``high`` the words of the number, ``k0``, ``k1`` those of :func:`noise_keys`, all modulo 2**32::

        h = low ^ k0
        h = (h ^ h >> 16) * 0x21F0AAAD + k1 + high * 0x1E3779B1
        h = (h ^ h >> 15) * 0x735A2D97
        h = (h ^ h >> 15) * 0x2C1B3C6D
        noise = h >> 8

    Args:
        seed: 64-bit integer, or a 0-d int64 tensor on the device of ``index``.
        index: element numbers, int64, not negative, any shape.

    Returns:
        Integers from 0 to 2**24 - 1, int32, in the shape of ``index``.

    Example:
        >>> bits = noise(3, torch.arange(4))
        >>> torch.equal(bits[2:], noise(torch.tensor(3), torch.tensor([2, 3])))
        True
    """
    first, second = noise_keys(seed)  # type: ignore[type-var]
    between = (second + (index >> 32) * HIGH_WORD_STEP) & _WORD
    word = (index & _WORD) ^ first
    return (_scrambled(word, between) >> (32 - NOISE_BITS)).to(torch.int32)


def element_noise(shape: Sequence[int], seed: int | Tensor, device: torch.device | str | None = None) -> Tensor:
    """:func:`noise` of the elements of a tensor, numbered row by row whatever its strides are.

    Args:
        shape: shape of the tensor.
        seed: 64-bit integer or 0-d int64 tensor.
        device: device of the result; ``None``: that of the seed, else the CPU.

    Returns:
        int32 tensor of the given shape.

    Example:
        >>> torch.equal(element_noise((2, 3), 5).flatten(), element_noise((6,), 5))
        True
    """
    if isinstance(seed, Tensor):
        device = seed.device if device is None else device
        seed = seed.to(device=device, dtype=torch.int64)
    count = math.prod(shape)
    return noise(seed, torch.arange(count, dtype=torch.int64, device=device)).reshape(tuple(shape))
