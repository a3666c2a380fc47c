from __future__ import annotations

import math

import numpy as np
import pytest

from quantsim.dualpath.integer_graph import Grid
from quantsim.dualpath.lowered_values import Clip, StaysFloatError
from quantsim.dualpath.rescaling import affine_multipliers, clipped_codes, multiplier_bits, multiplier_for


@pytest.mark.parametrize("reach", [1, 255, 2**16, 2**31 - 1, 2**40])
def test_products_leave_room_for_half_a_step(reach: int) -> None:
    multiplier, shift = multiplier_for(np.array([0.7, -1e-9, 3.0]), reach)
    assert np.abs(multiplier).max() < 2 ** multiplier_bits(reach)
    assert reach * int(np.abs(multiplier).max()) + 2 ** (int(shift.max()) - 1) < 2**63


def test_affine_maps_are_exact_to_thirty_bits() -> None:
    ratio, offset = np.array([0.25, -3e-4, 0.0]), np.array([7.5, -1000.25, 12.0])
    multiplier, addend, shift = affine_multipliers(ratio, offset, 2**20)
    for x in (-(2**20), -1, 0, 12345, 2**20):
        got = (x * multiplier + addend) / 2.0**shift
        assert np.allclose(got, x * ratio + offset, rtol=1e-8, atol=1e-6)
    assert all(abs(int(number)) < 2**61 for number in addend)


def test_scales_too_far_apart_are_refused() -> None:
    with pytest.raises(StaysFloatError, match="too far apart"):
        multiplier_for(2.0**31, 255)
    with pytest.raises(StaysFloatError, match="offset is too large"):
        affine_multipliers(np.array(1.0), np.array(1e25), 255)


def test_clips_become_codes() -> None:
    grid = Grid(0.5, 10, 0, 255)
    assert clipped_codes(grid, Clip()) == (0, 255)
    assert clipped_codes(grid, Clip(0.0)) == (10, 255)
    assert clipped_codes(grid, Clip(-100.0, 1000.0)) == (0, 255)
    assert Clip(0.0).then(Clip(-math.inf, 6.0)) == Clip(0.0, 6.0)
    assert Clip(2.0, 3.0).then(Clip(5.0, 7.0)) == Clip(5.0, 5.0)
