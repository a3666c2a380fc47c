"""Optical attention's own settings; the rest is in ``test_optical.py`` and ``reference/test_attention.py``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantsim_kernels.optical import optical_matmul
from quantsim_kernels.optical_attention import optical_attention

UNIT, WIDE = torch.tensor([-1.0, 1.0]), torch.tensor([-40.0, 40.0])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_groups_of_heads_equal_repeated_heads_with_noise() -> None:
    """Broadcasting numbers the elements as repeating does."""
    q, k, v = draw(2, 4, 3, 8), draw(2, 2, 5, 8, seed=1), draw(2, 2, 5, 8, seed=2)
    repeated: Any = [x.repeat_interleave(2, 1) for x in (k, v)]
    ranges: Any = (UNIT, UNIT, WIDE, UNIT, UNIT)
    shared = optical_attention(q, k, v, *ranges, enable_gqa=True, seed=3)
    alone = optical_attention(q, *repeated, *ranges, seed=3)
    for mine, theirs in zip(shared, alone, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_second_product_takes_its_own_seed_and_a_range_for_the_weights() -> None:
    q = draw(1, 6, 8)
    _, _, extremes, weights = optical_attention(q, q, q, UNIT, UNIT, WIDE, UNIT, UNIT, seed=2, av_seed=77)
    y = optical_attention(
        q, q, q, UNIT, UNIT, WIDE, UNIT, UNIT, seed=2, av_seed=77, attn_range=torch.tensor([0.0, 1.0])
    )
    expected, ends = optical_matmul(weights, q, torch.tensor([0.0, 1.0]), UNIT, UNIT, seed=77)
    assert torch.equal(y[0], expected) and torch.equal(extremes, ends)


def test_dropout_of_torchs_generator() -> None:
    q = draw(1, 2, 40, 8)
    arguments: Any = (q, q, q, UNIT, UNIT, WIDE, UNIT, UNIT)
    torch.manual_seed(4)
    first = optical_attention(*arguments, dropout_p=0.5, noise="none", torch_dropout=True)[3]
    second = optical_attention(*arguments, dropout_p=0.5, noise="none", torch_dropout=True)[3]
    torch.manual_seed(4)
    again = optical_attention(*arguments, dropout_p=0.5, noise="none", torch_dropout=True)[3]
    assert torch.equal(first, again) and not torch.equal(first, second)
