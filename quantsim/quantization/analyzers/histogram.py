"""Streaming histograms of many groups at once: what percentile, SQNR, MSE and entropy calibration look at.

Three things keep them exact and cheap:

* While little was seen, the values themselves are kept, so the histogram of several small batches (or of a weight) is
  that of their union, and a weight with very many small blocks never needs a bin count for each.
* After that, each group has bins of its own width. When a value falls outside, neighbouring bins are merged in whole
  numbers and bins are added at the ends: counts are never split, so nothing is smeared however often the range grows.
* All groups are updated by one scatter; one group by `torch.histc`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from quantsim.errors import ConfigurationError
from quantsim.quantization.analyzers.base import EncodingAnalyzer, NonFinitePolicy
from quantsim.quantization.analyzers.grouping import flatten_groups
from quantsim.quantization.analyzers.min_max import observed_extremes

__all__ = ["Histogram", "HistogramEncodingAnalyzer"]

_SAMPLES_KEPT = 65536
"""Values kept before they are counted: 256 KiB, below which a histogram of 2048 bins saves nothing."""
_CHUNK = 1 << 23
"""Elements that `torch.histc`, whose counters are float32 and exact up to 2**24, is given at once."""
_GROUPS_AT_ONCE = 1024
"""Groups whose bins exist at the same time while a range is computed: 8 MiB for 2048 bins."""


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


def _first_grid(minimum: Tensor, maximum: Tensor, num_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lower edge, width and upper edge of ``num_bins`` bins; a lone value gets a range of 1 around it."""
    single = minimum == maximum
    lower = torch.where(single, minimum - 0.5, minimum)
    step = (torch.where(single, maximum + 0.5, maximum) - lower) / num_bins
    return lower, step, num_bins * step + lower


def _count(values: Tensor, lower: Tensor, upper: Tensor, used: Tensor, capacity: int) -> Tensor:
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


class _Grid:
    """Counts of all groups, with the merging of bins when a range grows.

    Invariant: bin ``i`` of group ``g`` spans ``lower[g] + i * step[g]`` to one step further; bins from ``used[g]`` on
    are empty. Between ``num_bins`` and ``2 * num_bins`` bins are in use once the range has grown.
    """

    def __init__(self, num_bins: int, minimum: Tensor, maximum: Tensor) -> None:
        self.num_bins, self.capacity = num_bins, 2 * num_bins
        self.minimum, self.maximum = minimum, maximum
        lower, step, upper = _first_grid(minimum, maximum, num_bins)
        self.lower, self.step, self.upper = lower.double(), step.double(), upper.double()
        self.used = torch.full(minimum.shape, num_bins, dtype=torch.int64, device=minimum.device)
        self.counts = torch.zeros(len(minimum), self.capacity, dtype=torch.int64, device=minimum.device)
        self.is_first_grid = True

    def add(self, values: Tensor, minimum: Tensor, maximum: Tensor) -> None:
        self.cover(minimum, maximum)
        self.counts += _count(values, self.lower.float(), self.upper.float(), self.used, self.capacity)

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
        lower, step, upper = _first_grid(minimum, maximum, self.num_bins)
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

    def merge(self, other: _Grid) -> None:
        """Adds another grid's counts, each at the middle of its bin."""
        self.cover(other.minimum, other.maximum)
        centres = other.lower[:, None] + other.step[:, None] * (
            torch.arange(other.capacity, device=other.counts.device, dtype=torch.float64) + 0.5
        )
        target = torch.floor((centres - self.lower[:, None]) / self.step[:, None]).clamp_(min=0)
        target = torch.minimum(target, (self.used - 1)[:, None].double()).to(torch.int64)
        self.counts.scatter_add_(1, target, other.counts)

    def histogram(self, groups: slice) -> Histogram:
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


class HistogramEncodingAnalyzer(EncodingAnalyzer):
    """Base of the analyzers that look at a histogram of each group.

    Args:
        shape: Shape of the range.
        num_bins: Bins of a histogram; up to twice as many once the range has grown.
        block_size: Elements of a block in each dimension, or ``None``.
        nonfinite: What to do with NaN and infinity.

    Raises:
        ConfigurationError: If ``num_bins`` is not positive.
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        num_bins: int = 2048,
        *,
        block_size: Sequence[int] | None = None,
        nonfinite: NonFinitePolicy | str = NonFinitePolicy.RAISE,
    ) -> None:
        super().__init__(shape, block_size, nonfinite=nonfinite)
        if num_bins <= 0:
            raise ConfigurationError("too few bins", where="num_bins", got=str(num_bins), expected="1 or more")
        self.num_bins = int(num_bins)
        self.reset_stats()

    def reset_stats(self) -> None:
        self._samples: list[Tensor] = []
        self._minimum: Tensor | None = None
        self._maximum: Tensor | None = None
        self._grid: _Grid | None = None

    @property
    def has_stats(self) -> bool:
        return self._minimum is not None

    def update_stats(self, x: Tensor) -> None:
        groups = flatten_groups(x, self.shape, self.block_size)
        minimum, maximum = observed_extremes(_flat_if_one(groups), _reduced(groups), self.nonfinite, type(self).__name__)
        values = groups.to(torch.float32)
        if self.nonfinite is NonFinitePolicy.IGNORE:
            values = torch.where(torch.isfinite(values), values, math.nan)
            # Nothing finite in a group: it takes part as a lone zero of no weight.
            empty = minimum > maximum
            minimum, maximum = minimum.masked_fill(empty, 0.0), maximum.masked_fill(empty, 0.0)
        self._absorb(values, minimum.reshape(-1), maximum.reshape(-1), shares_memory=values.data_ptr() == x.data_ptr())

    def _absorb(self, values: Tensor, minimum: Tensor, maximum: Tensor, *, shares_memory: bool) -> None:
        if self._minimum is not None and self._maximum is not None:
            minimum = torch.minimum(self._minimum, minimum.to(self._minimum.device))
            maximum = torch.maximum(self._maximum, maximum.to(self._maximum.device))
        kept = sum(part.shape[1] for part in self._samples) + values.shape[1]
        if self._grid is None and (kept <= 2 * self.num_bins or kept * values.shape[0] <= _SAMPLES_KEPT):
            self._samples.append(values.clone() if shares_memory else values)
        else:
            self._count_samples(minimum, maximum)
            assert self._grid is not None
            self._grid.add(values, minimum, maximum)
        self._minimum, self._maximum = minimum, maximum

    def _count_samples(self, minimum: Tensor, maximum: Tensor) -> None:
        """Turns kept values into counts, on the grid of the union with what is about to be added."""
        if self._grid is None:
            self._grid = _Grid(self.num_bins, minimum, maximum)
        for values in self._samples:
            self._grid.add(values, minimum, maximum)
        self._samples = []

    def merge(self, other: Self) -> None:
        self._check_mergeable(other)
        if other._minimum is None or other._maximum is None:
            return
        for values in other._samples:
            self._absorb(values, other._minimum, other._maximum, shares_memory=False)
        if other._grid is not None:
            minimum, maximum = other._minimum, other._maximum
            if self._minimum is not None and self._maximum is not None:
                minimum, maximum = torch.minimum(self._minimum, minimum), torch.maximum(self._maximum, maximum)
            self._count_samples(minimum, maximum)
            assert self._grid is not None
            self._grid.merge(other._grid)
            self._minimum, self._maximum = minimum, maximum

    def _histograms(self) -> Iterator[Histogram]:
        """Yields the histograms of all groups, some groups at a time."""
        assert self._minimum is not None and self._maximum is not None
        samples = None if self._grid is not None else torch.cat(self._samples, dim=1)
        for start in range(0, len(self._minimum), _GROUPS_AT_ONCE):
            groups = slice(start, start + _GROUPS_AT_ONCE)
            if self._grid is not None:
                yield self._grid.histogram(groups)
                continue
            assert samples is not None
            minimum, maximum = self._minimum[groups], self._maximum[groups]
            lower, step, upper = _first_grid(minimum, maximum, self.num_bins)
            used = torch.full_like(minimum, self.num_bins, dtype=torch.int64)
            counts = _count(samples[groups], lower, upper, used, self.num_bins).to(torch.float32)
            yield Histogram(minimum=minimum, maximum=maximum, lower=lower, step=step, counts=counts)

    def _compute_range(self, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        ranges = [self._range_of(histogram, num_steps, is_symmetric) for histogram in self._histograms()]
        return torch.cat([low for low, _ in ranges]), torch.cat([high for _, high in ranges])

    def _range_of(self, histogram: Histogram, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        """Returns minimum and maximum, float32, shape (groups,)."""
        raise NotImplementedError


def _flat_if_one(groups: Tensor) -> Tensor:
    return groups.flatten() if groups.shape[0] == 1 else groups


def _reduced(groups: Tensor) -> tuple[int, ...]:
    return (0,) if groups.shape[0] == 1 else (1,)
