"""Histograms of many groups, each with bins of its own width that merge in whole numbers when a range grows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BinGrid", "Histogram", "count_values", "first_grid"]

_CHUNK = 1 << 23
"""Elements that `torch.histc`, whose counters are float32 and exact up to 2**24, is given at once."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Histograms of several groups, each with bins of its own width.

    Args:
        minimum: Smallest value seen, float32, shape (groups,).
        maximum: Largest value seen.
        lower: Left edge of the first bin.
        step: Width of the bins.
        counts: Shape (groups, bins); float32 where that is exact, else float64.
        is_first_grid: Whether the bins are still those of the first batch, from minimum to maximum.
    """

    minimum: Tensor
    maximum: Tensor
    lower: Tensor
    step: Tensor
    counts: Tensor
    is_first_grid: bool = True

    @property
    def edges(self) -> Tensor:
        """Edges of the bins, shape (groups, bins + 1)."""
        positions = torch.arange(self.counts.shape[1] + 1, device=self.counts.device)
        return positions * self.step[:, None] + self.lower[:, None]

    @property
    def midpoints(self) -> Tensor:
        """Centres of the bins, shape (groups, bins)."""
        first, second = self.lower, self.step + self.lower
        width = second - first
        positions = torch.arange(self.counts.shape[1], device=self.counts.device, dtype=torch.float32)
        return (first + width / 2)[:, None] + width[:, None] * positions


def first_grid(minimum: Tensor, maximum: Tensor, num_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lower edge, width and upper edge of ``num_bins`` bins; a lone value gets a range of 1 around it."""
    single = minimum == maximum
    lower = torch.where(single, minimum - 0.5, minimum)
    step = (torch.where(single, maximum + 0.5, maximum) - lower) / num_bins
    return lower, step, num_bins * step + lower


def count_values(values: Tensor, lower: Tensor, upper: Tensor, used: Tensor, capacity: int) -> Tensor:
    """Counts (groups, elements) into ``capacity`` bins of which the first ``used`` span ``lower .. upper``.

    Values beyond the ends go to the end bins; NaN is left out. The bin is ``floor((x - lower) / (upper - lower) *
    used)`` in float32, as in `torch.histc`.
    """
    groups = values.shape[0]
    if groups == 1:
        return _count_one(values.flatten(), float(lower), float(upper), int(used), capacity)
    index = (values - lower[:, None]).div_((upper - lower)[:, None]).mul_(used[:, None])
    absent = torch.isnan(index)
    limit = (used - 1)[:, None].to(index.dtype)
    index = torch.minimum(index.clamp_(min=0), limit).nan_to_num_(0.0).to(torch.int64)
    index += torch.arange(groups, device=index.device)[:, None] * capacity
    flat = index.flatten() if not bool(absent.any()) else index[~absent]
    return torch.bincount(flat, minlength=groups * capacity).view(groups, capacity)


def _count_one(values: Tensor, lower: float, upper: float, used: int, capacity: int) -> Tensor:
    counts = torch.zeros(1, capacity, dtype=torch.int64, device=values.device)
    inside = 0
    for part in values.split(_CHUNK):
        binned = torch.histc(part, bins=used, min=lower, max=upper).to(torch.int64)
        counts[0, :used] += binned
        inside += int(binned.sum())
    if inside != values.numel():  # rounding of the edges, or NaN
        counts[0, 0] += (values < lower).sum()
        counts[0, used - 1] += (values > upper).sum()
    return counts


class BinGrid:
    """Counts of all groups, with the merging of bins when a range grows.

    Invariant: bin ``i`` of group ``g`` spans ``lower[g] + i * step[g]`` to one step further; bins from ``used[g]`` on
    are empty. Between ``num_bins`` and ``2 * num_bins`` bins are in use once the range has grown.
    """

    def __init__(self, num_bins: int, minimum: Tensor, maximum: Tensor) -> None:
        self.num_bins, self.capacity = num_bins, 2 * num_bins
        self.minimum, self.maximum = minimum, maximum
        lower, step, upper = first_grid(minimum, maximum, num_bins)
        self.lower, self.step, self.upper = lower.double(), step.double(), upper.double()
        self.used = torch.full(minimum.shape, num_bins, dtype=torch.int64, device=minimum.device)
        self.counts = torch.zeros(len(minimum), self.capacity, dtype=torch.int64, device=minimum.device)
        self.is_first_grid = True

    def add(self, values: Tensor, minimum: Tensor, maximum: Tensor) -> None:
        """Counts (groups, elements) whose extremes are ``minimum`` and ``maximum``."""
        self.cover(minimum, maximum)
        self.counts += count_values(values, self.lower.float(), self.upper.float(), self.used, self.capacity)

    def cover(self, minimum: Tensor, maximum: Tensor) -> None:
        """Makes the bins of each group reach from ``minimum`` to ``maximum`` at least."""
        minimum, maximum = torch.minimum(self.minimum, minimum), torch.maximum(self.maximum, maximum)
        if torch.equal(minimum, self.minimum) and torch.equal(maximum, self.maximum):
            return
        self._replace_single_values(minimum, maximum)
        wanted_low, wanted_high = minimum.double(), maximum.double()
        below = torch.ceil((self.lower - wanted_low) / self.step).clamp_(min=0)
        above = torch.ceil((wanted_high - self.upper) / self.step).clamp_(min=0)
        if bool((below + above > 0).any()):
            self._grow(below, above)
        self.minimum, self.maximum = minimum, maximum

    def _replace_single_values(self, minimum: Tensor, maximum: Tensor) -> None:
        """A group that saw one value only has bins of arbitrary width: gives it the bins of its new range."""
        single = (self.minimum == self.maximum) & (minimum < maximum)
        if not bool(single.any()):
            return
        lower, step, upper = first_grid(minimum, maximum, self.num_bins)
        position = ((self.minimum - lower) / step).floor().clamp(0, self.num_bins - 1).to(torch.int64)
        moved = torch.zeros_like(self.counts).scatter_(1, position[:, None], self.counts.sum(1, keepdim=True))
        self.counts = torch.where(single[:, None], moved, self.counts)
        self.lower = torch.where(single, lower.double(), self.lower)
        self.step = torch.where(single, step.double(), self.step)
        self.upper = torch.where(single, upper.double(), self.upper)
        self.used = torch.where(single, self.num_bins, self.used)

    def _grow(self, below: Tensor, above: Tensor) -> None:
        total = below + self.used + above
        factor = torch.exp2(torch.ceil(torch.log2(total / self.capacity)).clamp_(min=0))
        positions = torch.arange(self.capacity, device=total.device, dtype=torch.float64)
        target = torch.floor((positions + below[:, None]) / factor[:, None]).clamp_(0, self.capacity - 1)
        self.counts = torch.zeros_like(self.counts).scatter_add_(1, target.to(torch.int64), self.counts)
        self.lower = self.lower - below * self.step
        self.step = self.step * factor
        self.used = torch.ceil(total / factor).to(torch.int64).clamp_(max=self.capacity)
        self.upper = self.lower + self.used * self.step
        self.is_first_grid = False

    def merge(self, other: BinGrid) -> None:
        """Adds another grid's counts, each at the middle of its bin."""
        self.cover(other.minimum, other.maximum)
        centres = other.lower[:, None] + other.step[:, None] * (
            torch.arange(other.capacity, device=other.counts.device, dtype=torch.float64) + 0.5
        )
        # A group that saw one value only has bins of arbitrary width: its counts belong at that value.
        single = other.minimum == other.maximum
        centres = torch.where(single[:, None], other.minimum[:, None].double(), centres)
        target = torch.floor((centres - self.lower[:, None]) / self.step[:, None]).clamp_(min=0)
        target = torch.minimum(target, (self.used - 1)[:, None].double()).to(torch.int64)
        self.counts.scatter_add_(1, target, other.counts)

    def histogram(self, groups: slice) -> Histogram:
        """Returns the counts of some groups."""
        used = int(self.used[groups].max())
        counts = self.counts[groups, :used]
        exact = int(counts.sum(1).max()) < 2**24
        return Histogram(
            minimum=self.minimum[groups],
            maximum=self.maximum[groups],
            lower=self.lower[groups].float(),
            step=self.step[groups].float(),
            counts=counts.to(torch.float32 if exact else torch.float64),
            is_first_grid=self.is_first_grid,
        )
