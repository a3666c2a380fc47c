"""The bits of stochastic rounding: the stated formula, and that they look random where it matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantsim_kernels.reference.noise import element_noise, noise, noise_keys

SEEDS = [0, 1, -1, 2**63 - 1, 0x9E3779B97F4A7C15]
WORD = 0xFFFFFFFF


def stated(seed: int, index: int) -> int:
    """The formula of the docstring in Python integers."""

    def scrambled(h: int, between: int = 0) -> int:
        h = ((h ^ h >> 16) * 0x21F0AAAD + between) & WORD
        h = ((h ^ h >> 15) * 0x735A2D97) & WORD
        return ((h ^ h >> 15) * 0x2C1B3C6D) & WORD

    low, high = seed & WORD, (seed >> 32) & WORD
    high ^= scrambled(low ^ 0x1E3779B9)
    low ^= scrambled(high ^ 0x7F4A7C15)
    high ^= scrambled(low ^ 0x3C6EF372)
    return scrambled((index & WORD) ^ low, high + (index >> 32) * 0x1E3779B1) >> 8


@given(seed=st.integers(-(2**63), 2**63 - 1), index=st.integers(0, 2**40))
def test_noise_is_the_stated_formula(seed: int, index: int) -> None:
    expected = stated(seed, index)
    numbers = torch.tensor([index])
    assert noise(seed, numbers).item() == expected
    assert noise(torch.tensor(seed), numbers).item() == expected


@given(seed=st.integers(-(2**63), 2**64))
def test_keys_of_integers_equal_those_of_tensors(seed: int) -> None:
    signed = (seed + 2**63) % 2**64 - 2**63
    first, second = noise_keys(torch.tensor(signed))
    assert (int(first), int(second)) == noise_keys(seed)


def test_neighbouring_seeds_have_different_keys() -> None:
    keys = {noise_keys(seed) for seed in range(20_000)}
    assert len(keys) == 20_000
    assert len({first for first, _ in keys}) > 19_900


@pytest.mark.parametrize("seed", SEEDS)
def test_moments_and_bits_are_those_of_independent_uniform_numbers(seed: int) -> None:
    count = 2**20
    bits = element_noise((count,), seed).numpy()
    assert bits.min() >= 0
    assert bits.max() < 2**24
    uniform = (bits + 0.5) / 2**24 - 0.5
    assert abs(uniform.mean()) < 5 / np.sqrt(12 * count)
    assert abs((uniform**2).mean() * 12 - 1) < 5 * np.sqrt(0.8 / count)
    for lag in (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 768, 1024, 4096):
        correlation = (uniform[:-lag] * uniform[lag:]).mean() * 12
        assert abs(correlation) < 5 / np.sqrt(count), f"lag {lag}"
    for bit in range(24):
        assert abs(((bits >> bit) & 1).mean() - 0.5) < 5 * 0.5 / np.sqrt(count), f"bit {bit}"
    counts = np.bincount(bits >> 14, minlength=1024)
    assert abs(((counts - count / 1024) ** 2 / (count / 1024)).sum() - 1023) < 5 * np.sqrt(2 * 1023)


def test_seeds_are_independent_of_each_other() -> None:
    count = 2**18
    draws = [(element_noise((count,), seed).numpy() + 0.5) / 2**24 - 0.5 for seed in SEEDS]
    for i, first in enumerate(draws):
        for second in draws[i + 1 :]:
            assert abs((first * second).mean() * 12) < 5 / np.sqrt(count)


def test_blocks_beyond_32_bits_have_noise_of_their_own() -> None:
    index = torch.arange(1000)
    assert not torch.equal(noise(3, index), noise(3, index + 2**32))
    assert not torch.equal(noise(3, index + 2**32), noise(3, index + 2**33))


def test_elements_are_numbered_row_by_row() -> None:
    assert torch.equal(element_noise((4, 5), 9), element_noise((20,), 9).reshape(4, 5))
    assert element_noise((), 9).shape == ()
    assert element_noise((0, 3), 9).shape == (0, 3)
    assert element_noise((3,), torch.tensor(9)).dtype is torch.int32
