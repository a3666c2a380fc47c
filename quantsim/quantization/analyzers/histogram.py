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
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.quantization.analyzers.base import EncodingAnalyzer, NonFinitePolicy
from quantsim.quantization.analyzers.bin_grid import BinGrid, Histogram, count_values, first_grid
from quantsim.quantization.analyzers.grouping import flatten_groups
from quantsim.quantization.analyzers.min_max import observed_extremes

if TYPE_CHECKING:
    from quantsim.quantization.ranks import Ranks

__all__ = ["Histogram", "HistogramEncodingAnalyzer"]

_SAMPLES_KEPT = 65536
"""Values kept before they are counted: 256 KiB, below which a histogram of 2048 bins saves nothing."""
_GROUPS_AT_ONCE = 1024
"""Groups whose bins exist at the same time while a range is computed: 8 MiB for 2048 bins."""


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

    @override
    def reset_stats(self) -> None:
        self._samples: list[Tensor] = []
        self._minimum: Tensor | None = None
        self._maximum: Tensor | None = None
        self._grid: BinGrid | None = None

    @property
    @override
    def has_stats(self) -> bool:
        return self._minimum is not None

    @override
    def update_stats(self, x: Tensor) -> None:
        groups = flatten_groups(x, self.shape, self.block_size)
        minimum, maximum = observed_extremes(
            _flat_if_one(groups), _reduced(groups), self.nonfinite, type(self).__name__
        )
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
        if self._grid is None and self._may_keep(kept):
            self._samples.append(values.clone() if shares_memory else values)
        else:
            self._count_samples(minimum, maximum)
            assert self._grid is not None
            self._grid.add(values, minimum, maximum)
        self._minimum, self._maximum = minimum, maximum

    def _count_samples(self, minimum: Tensor, maximum: Tensor) -> None:
        """Turns kept values into counts, on the grid of the union with what is about to be added."""
        if self._grid is None:
            self._grid = BinGrid(self.num_bins, minimum, maximum)
        for values in self._samples:
            self._grid.add(values, minimum, maximum)
        self._samples = []

    @override
    def merge(self, other: EncodingAnalyzer) -> None:
        other = self._check_mergeable(other)
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

    @override
    def reduce_over(self, ranks: Ranks) -> None:
        """Joins what the ranks kept; where that would be too much, adds up counts on bins that span all ranks' range.

        Few values: exactly what one process gets. Else each count is within half a bin of where one process has it.
        """
        groups = math.prod(self.shape)
        if self._minimum is None or self._maximum is None:
            self._minimum = torch.full((groups,), math.inf)
            self._maximum = -self._minimum
        self._minimum, self._maximum = ranks.smallest(self._minimum), ranks.largest(self._maximum)
        own = sum(part.shape[1] for part in self._samples)
        known = ranks.everyone((own, self._grid is not None))
        kept = sum(values for values, _ in known)
        if not any(has_grid for _, has_grid in known) and self._may_keep(kept):
            samples = torch.cat([self._minimum.new_empty(groups, 0), *self._samples], dim=1)
            self._samples = [ranks.joined(samples)]
            return
        common = BinGrid(self.num_bins, self._minimum, self._maximum)
        if self._grid is not None:
            common.merge(self._grid)
        for values in self._samples:
            common.add(values, self._minimum, self._maximum)
        common.counts = ranks.total(common.counts)
        self._samples, self._grid = [], common

    def _may_keep(self, values: int) -> bool:
        """Whether so many values of each group are kept rather than counted."""
        return values <= 2 * self.num_bins or values * math.prod(self.shape) <= _SAMPLES_KEPT

    def _histograms(self) -> Iterator[Histogram]:
        """Yields the histograms of all groups, some groups at a time."""
        assert self._minimum is not None
        assert self._maximum is not None
        samples = None if self._grid is not None else torch.cat(self._samples, dim=1)
        for start in range(0, len(self._minimum), _GROUPS_AT_ONCE):
            groups = slice(start, start + _GROUPS_AT_ONCE)
            if self._grid is not None:
                yield self._grid.histogram(groups)
                continue
            assert samples is not None
            minimum, maximum = self._minimum[groups], self._maximum[groups]
            lower, step, upper = first_grid(minimum, maximum, self.num_bins)
            used = torch.full_like(minimum, self.num_bins, dtype=torch.int64)
            counts = count_values(samples[groups], lower, upper, used, self.num_bins).to(torch.float32)
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
