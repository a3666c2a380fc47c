from __future__ import annotations

import pytest
import torch

from quantsim.quantization.analyzers.bin_grid import BinGrid, count_values, first_grid


def extremes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.amin(1), x.amax(1)


def grid_of(*batches: torch.Tensor, bins: int = 64) -> BinGrid:
    grid = BinGrid(bins, *extremes(batches[0]))
    for batch in batches:
        grid.add(batch, *extremes(batch))
    return grid


@pytest.mark.parametrize("bins", [2048, 100])
@pytest.mark.parametrize("spread", [1.0, 1e-6, 1e6])
def test_many_groups_are_counted_as_one(bins, spread):
    x = (torch.randn(16, 3000) + torch.randn(16, 1)) * spread
    lower, _, upper = first_grid(*extremes(x), bins)
    used = torch.full((16,), bins)
    together = count_values(x, lower, upper, used, bins)
    assert together.sum(1).tolist() == [3000] * 16
    for group in range(16):
        part = slice(group, group + 1)
        assert torch.equal(count_values(x[part], lower[part], upper[part], used[part], bins), together[part])


@pytest.mark.parametrize("groups", [1, 3])
def test_nan_is_not_counted(groups):
    x = torch.linspace(-1, 1, 10).repeat(groups, 1)
    x[:, 4] = float("nan")
    low, high = -torch.ones(groups), torch.ones(groups)
    counts = count_values(x, low, high, torch.full((groups,), 8), 16)
    assert counts.sum(1).tolist() == [9] * groups


def test_nothing_is_lost_or_moved_when_the_range_grows():
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(5, 400, generator=generator) * scale + shift for scale, shift in
               ((1, 0), (1.3, 0.2), (8, -3), (0.1, 0), (200, 50), (1, 0))]  # fmt: skip
    grid = grid_of(*batches)
    everything = torch.cat(batches, dim=1)
    assert grid.counts.sum(1).tolist() == [everything.shape[1]] * 5
    assert torch.equal(grid.minimum, everything.amin(1))
    assert torch.equal(grid.maximum, everything.amax(1))
    assert (grid.lower <= everything.amin(1) + 1e-4).all()
    assert (grid.upper >= everything.amax(1) - 1e-4).all()
    # Every count lies in the bin of its value: the cumulative histogram is the empirical distribution at the edges.
    for group in range(5):
        for bin_number in range(0, int(grid.used[group]), 7):
            edge = grid.lower[group] + (bin_number + 1) * grid.step[group]
            below = int((everything[group].double() < edge).sum())
            assert abs(int(grid.counts[group, : bin_number + 1].sum()) - below) <= 2


def test_resolution_stays_between_one_and_two_times_the_bins():
    grid = grid_of(torch.randn(2, 100), torch.randn(2, 100) * 37, torch.randn(2, 100) * 1e4)
    assert (grid.used > 64).all()
    assert (grid.used <= 128).all()


def test_range_that_grows_by_many_orders_of_magnitude():
    grid = grid_of(torch.randn(1, 100) * 1e-30, torch.randn(1, 100) * 1e30)
    assert grid.counts.sum() == 200
    assert torch.isfinite(grid.step).all()


def test_a_single_value_gets_fine_bins_once_there_are_more():
    zeros, small = torch.zeros(2, 50), torch.rand(2, 50) * 1e-5
    small[1] = 0
    grid = grid_of(zeros, small)
    assert grid.step[0] < 1e-6
    assert grid.counts.sum(1).tolist() == [100, 100]
    assert grid.counts[0, 0] >= 50
    assert (grid.counts[1] > 0).sum() == 1


def test_merge_keeps_all_counts():
    one, other = grid_of(torch.randn(3, 500)), grid_of(torch.randn(3, 700) * 5 + 1)
    one.merge(other)
    assert one.counts.sum(1).tolist() == [1200] * 3
    assert (one.maximum >= other.maximum).all()


def test_counts_beyond_float32():
    grid = grid_of(torch.tensor([[0.0, 1.0]]))
    grid.counts[0, 3] = 2**25 + 1
    histogram = grid.histogram(slice(None))
    assert histogram.counts.dtype is torch.float64
    assert histogram.counts[0, 3] == 2**25 + 1


def test_counts_of_a_lone_value_merge_where_the_value_is() -> None:
    value = torch.tensor([0.001])
    lone, grid = BinGrid(64, value, value), BinGrid(64, torch.tensor([-0.01]), torch.tensor([0.01]))
    lone.add(torch.full((1, 5), 0.001), value, value)
    grid.merge(lone)
    position = int(grid.counts[0].argmax())
    assert int(grid.counts.sum()) == int(grid.counts[0, position]) == 5
    low = float(grid.lower[0] + position * grid.step[0])
    assert low <= 0.001 <= low + float(grid.step[0])
