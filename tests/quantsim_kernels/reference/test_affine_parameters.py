"""Scale and offset from ranges and from data."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantsim_kernels.reference.affine_parameters import (
    calibration_range,
    dynamic_scale_and_offset,
    minimum_scale,
    range_from_scale_and_offset,
    round_straight_through,
    scale_and_offset,
    symmetric_offset,
    symmetric_range,
)

GRIDS = [(-128, 127), (0, 255), (-7, 7), (-2, 1), (0, 1), (-8, 7), (0, 65535), (-(2**31), 2**31 - 1)]
REAL = st.floats(min_value=-(2.0**66), max_value=2.0**66, width=32, allow_subnormal=False)


def test_numbers_of_the_specification() -> None:
    scale, offset = scale_and_offset(torch.tensor(-1.0), torch.tensor(1.0), -128, 127, symmetric=True)
    low, high = range_from_scale_and_offset(scale, offset, -128, 127)
    assert round(low.item(), 4) == -1.0039
    assert round(high.item(), 4) == 0.9961
    low, high = symmetric_range(torch.tensor(-0.5), torch.tensor(1.0), -128, 127)
    assert round(low.item(), 4) == -1.0079
    assert high.item() == 1.0


@given(low=REAL, high=REAL, grid=st.sampled_from(GRIDS))
def test_zero_is_always_on_an_asymmetric_grid(low: float, high: float, grid: tuple[int, int]) -> None:
    low, high = min(low, high), max(low, high)
    scale, offset = scale_and_offset(torch.tensor(low), torch.tensor(high), *grid, symmetric=False)
    assert scale.dtype is offset.dtype is torch.float32
    assert scale.item() > 0
    assert offset.item() == round(offset.item())
    # Grids beyond float32's integers keep 0 only as near as float32 tells their codes apart.
    assert grid[0] - abs(grid[0]) * 2**-23 <= -offset.item() <= grid[1] + abs(grid[1]) * 2**-23
    if max(map(abs, grid)) < 2**20 and high - low > 1e-3:
        covered = range_from_scale_and_offset(scale, offset, *grid)
        assert covered[0].item() <= min(low, 0) + scale.item()
        assert covered[1].item() >= max(high, 0) - scale.item()


@given(low=REAL, high=REAL, grid=st.sampled_from(GRIDS[:6]))
def test_symmetric_range_clips_nothing_beyond_two_bits(low: float, high: float, grid: tuple[int, int]) -> None:
    low, high = min(low, high), max(low, high)
    start, end = symmetric_range(torch.tensor(low), torch.tensor(high), *grid)
    steps = grid[1] - grid[0]
    slack = 1e-6 * max(abs(low), abs(high), 1e-30)
    if steps > 3:
        assert start.item() <= min(low, 0) + slack
        assert end.item() >= max(high, 0) - slack
    scale, _ = scale_and_offset(start, end, *grid, symmetric=True)
    assert scale.item() >= minimum_scale(*grid)
    assert math.isclose(start.item(), -math.ceil(steps / 2) * scale.item(), rel_tol=1e-5)


def test_two_bit_grids_use_all_four_codes() -> None:
    low, high = symmetric_range(torch.tensor(-1.0), torch.tensor(1.0), -2, 1)
    assert (low.item(), high.item()) == (-1.0, 0.5)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_constant_tensors_get_the_smallest_scale(grid: tuple[int, int], symmetric: bool) -> None:
    low, high = calibration_range(torch.zeros(3), torch.zeros(3), *grid, symmetric)
    scale, _ = scale_and_offset(low, high, *grid, symmetric)
    assert (low <= 0).all()
    assert (high > low).all()
    torch.testing.assert_close(scale, torch.full((3,), minimum_scale(*grid)), rtol=1e-5, atol=0)


def test_ranges_stay_finite_and_keep_their_dtype() -> None:
    low, high = calibration_range(
        torch.tensor(-3e38, dtype=torch.bfloat16), torch.tensor(3e38, dtype=torch.bfloat16), -128, 127, True
    )
    assert low.dtype is high.dtype is torch.bfloat16
    assert low.isfinite()
    assert high.isfinite()


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_of_the_range(symmetric: bool) -> None:
    low, high = torch.tensor(-1.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    scale, offset = scale_and_offset(low, high, 0, 255, symmetric)
    scale.backward(retain_graph=True)
    assert low.grad is not None
    assert high.grad is not None
    assert (low.grad.item(), high.grad.item()) == pytest.approx((-1 / 255, 1 / 255))
    if symmetric:
        assert not offset.requires_grad
        assert offset.item() == symmetric_offset(0, 255)
        return
    low.grad = high.grad = None
    offset.backward()
    # o = min / s with s = (max - min) / n: do/dmin = n max / (max - min)^2, do/dmax = -n min / (max - min)^2.
    assert low.grad is not None
    assert high.grad is not None
    assert low.grad.item() == pytest.approx(255 * 3 / 16, rel=1e-5)
    assert high.grad.item() == pytest.approx(255 * 1 / 16, rel=1e-5)


def test_rounding_passes_gradients_and_infinities() -> None:
    x = torch.tensor([2.5, -0.4, float("inf")], requires_grad=True)
    y = round_straight_through(x)
    assert y.tolist() == [2.0, 0.0, float("inf")]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("symmetric", [False, True])
def test_dynamic_parameters_are_those_of_each_row(symmetric: bool) -> None:
    x = torch.randn(4, 9)
    scale, offset = dynamic_scale_and_offset(x, -8, 7, symmetric)
    assert scale.shape == offset.shape == (4, 1)
    for row in range(4):
        low, high = x[row].min(), x[row].max()
        if symmetric:
            low, high = symmetric_range(low, high, -8, 7)
        expected = scale_and_offset(low, high, -8, 7, symmetric)
        assert (scale[row, 0], offset[row, 0]) == expected
