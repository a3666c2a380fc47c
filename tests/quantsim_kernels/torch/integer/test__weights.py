"""Blocks of K: as long as sums certainly stay exact, and no longer."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from quantsim_kernels.torch.integer._weights import EXACT_FLOAT32, prepared_weight


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-128, 127), (-255, 255)])
def test_blocks_are_safe_and_maximal(low: int, high: int) -> None:
    weight = torch.full((3, 4096), 127, dtype=torch.int8)
    weight[1, ::2] = -127
    pieces = prepared_weight(weight).float_pieces(low, high, True)
    assert [start for (start, _), _ in pieces] == [0, *(stop for (_, stop), _ in pieces[:-1])]
    assert pieces[-1][0][1] == 4096
    peak = max(-low, high)
    for (start, stop), part in pieces:
        assert part.dtype is torch.float32
        assert torch.equal(part.to(torch.int8), weight[:, start:stop])
        assert (stop - start) * 127 * peak <= EXACT_FLOAT32
        assert stop == 4096 or (stop - start + 1) * 127 * peak > EXACT_FLOAT32


def test_small_weights_need_no_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-20, 21, (64, 8192), generator=generator).to(torch.int8)
    pieces = prepared_weight(weight).float_pieces(0, 255, True)
    assert [limits for limits, _ in pieces] == [(0, 8192)]


def test_float64_where_blocks_would_be_short() -> None:
    weight = torch.full((3, 4096), 127, dtype=torch.int8)
    for low, high, float32 in ((-(2**15), 2**15 - 1, True), (0, 255, False)):
        ((limits, part),) = prepared_weight(weight).float_pieces(low, high, float32)
        assert limits == (0, 4096)
        assert part.dtype is torch.float64
    ((_, part),) = prepared_weight(weight).float_pieces(0, 255, True, divisible=False)
    assert part.dtype is torch.float64


def test_what_is_prepared_lives_as_long_as_the_weight() -> None:
    weight = torch.ones(2, 8, dtype=torch.int8)
    prepared = prepared_weight(weight)
    assert prepared_weight(weight) is prepared
    alive = weakref.ref(prepared)
    del weight, prepared
    gc.collect()
    assert alive() is None
