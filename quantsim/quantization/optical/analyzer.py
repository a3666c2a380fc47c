"""Ranges that follow the data: a batch's range, and its exponential moving average over batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from quantsim.quantization.analyzers.base import EncodingAnalyzer, NonFinitePolicy, nonfinite_error

if TYPE_CHECKING:
    from quantsim.quantization.ranks import Ranks

__all__ = ["OpticalRangeAnalyzer", "batch_range", "over_all_ranks", "smoothed"]


def batch_range(x: Tensor, quantiles: tuple[float, float] | None = None) -> Tensor:
    """Smallest and largest value of a tensor, or two quantiles of it.

    A quantile q of n sorted values is the one at position ``q * (n - 1)``, interpolated linearly between its
    neighbours (as `numpy.quantile`). Tensors of any size are exact: order statistics are selected, not sampled. The
    host never waits for the device.

    Args:
        x: Floating-point tensor with at least one element.
        quantiles: Two rising numbers from 0 to 1, or ``None``.

    Returns:
        (lo, hi), float32 of shape (2,), without gradient. NaN or infinite if ``x`` is so at these places.

    Example:
        >>> batch_range(torch.arange(11.0)), batch_range(torch.arange(11.0), (0.1, 0.85))
        (tensor([ 0., 10.]), tensor([1.0000, 8.5000]))
    """
    with torch.no_grad():
        values = x.detach()
        if quantiles is None:
            return torch.stack(torch.aminmax(values)).to(torch.float32)
        flat = values.reshape(-1).to(torch.float32)
        return torch.stack([_quantile(flat, quantile) for quantile in quantiles])


def _quantile(flat: Tensor, quantile: float) -> Tensor:
    last = flat.numel() - 1
    position = quantile * last
    below = min(math.floor(position), last)
    fraction = position - below
    lower = torch.kthvalue(flat, below + 1).values
    if fraction == 0.0:
        return lower
    return torch.lerp(lower, torch.kthvalue(flat, min(below + 1, last) + 1).values, fraction)


def smoothed(old: Tensor, batch: Tensor, smooth_factor: float) -> Tensor:
    """A range after one more batch: ``s * old + (1 - s) * batch``; the batch's own where there was none (NaN).

    A batch whose range is not finite leaves the old one as it is, so that one bad batch cannot spoil a run.

    Example:
        >>> unset = torch.full((2,), math.nan)
        >>> first = smoothed(unset, torch.tensor([-1.0, 1.0]), 0.9)
        >>> first, smoothed(first, torch.tensor([-2.0, 11.0]), 0.9)
        (tensor([-1.,  1.]), tensor([-1.1000,  2.0000]))
    """
    updated = torch.where(torch.isnan(old), batch, smooth_factor * old + (1.0 - smooth_factor) * batch)
    return torch.where(torch.isfinite(batch).all(), updated, old)


def over_all_ranks(batch: Tensor) -> Tensor:
    """The range of the batches of all ranks of the default process group, if there is one.

    Returns:
        The smallest ``lo`` and the largest ``hi``, the same on every rank; NaN on every rank if one of them is NaN or
        infinite on any.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return batch
    # What a maximum over ranks makes of NaN is nowhere said, so a third number says that there was any.
    wrong = 1.0 - torch.isfinite(batch).all().to(batch.dtype)
    ends = torch.stack((-batch[0], batch[1], wrong)).nan_to_num()
    dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    return torch.where(ends[2] > 0.0, math.nan, torch.stack((-ends[0], ends[1])))


_EMPTY: Final = (torch.finfo(torch.float32).max, torch.finfo(torch.float32).min)


class OpticalRangeAnalyzer(EncodingAnalyzer):
    """Moving average of the ranges of batches, in the order in which they come.

    While a process group exists, a batch is what all its ranks see at the same time: ranks that share a batch get the
    range that one process gets from the whole. So all ranks have to observe equally many batches.

    Args:
        smooth_factor: Weight of the old range, 0 to 1.
        quantiles: See `batch_range`.
        nonfinite: What to do with NaN and infinity.

    Example:
        >>> analyzer = OpticalRangeAnalyzer(0.9)
        >>> analyzer.update_stats(torch.tensor([-1.0, 1.0]))
        >>> analyzer.update_stats(torch.tensor([-2.0, 11.0]))
        >>> analyzer.compute_encodings(255, is_symmetric=False)
        (tensor(-1.1000), tensor(2.))
    """

    def __init__(
        self,
        smooth_factor: float = 0.9,
        quantiles: tuple[float, float] | None = None,
        *,
        nonfinite: NonFinitePolicy | str = NonFinitePolicy.RAISE,
    ) -> None:
        super().__init__((), nonfinite=nonfinite)
        self.smooth_factor = smooth_factor
        self.quantiles = quantiles
        self._range: Tensor | None = None

    @property
    def running_range(self) -> Tensor:
        """(lo, hi) after the batches so far; NaN while there are none."""
        return torch.full((2,), math.nan) if self._range is None else self._range

    @override
    def update_stats(self, x: Tensor) -> None:
        self.absorb(batch_range(x, self.quantiles), x)

    def absorb(self, batch: Tensor, x: Tensor) -> None:
        """Adds the range of the batch ``x``, for those that know it already.

        Raises:
            NonFiniteError: If it is not finite, on any rank, and the policy is to raise; the statistics stay as they
                were.
        """
        own = batch
        if not bool(torch.isfinite(batch).all()) and self.nonfinite is NonFinitePolicy.IGNORE:
            finite = x[torch.isfinite(x)]
            # A rank without any still takes part: with a range that widens no other.
            own = batch_range(finite, self.quantiles) if finite.numel() else batch.new_tensor(_EMPTY)
        batch = over_all_ranks(own)
        if torch.equal(batch, batch.new_tensor(_EMPTY)):
            return
        if not bool(torch.isfinite(batch).all()):
            raise nonfinite_error(x, type(self).__name__)
        self._range = smoothed(self.running_range.to(batch.device), batch, self.smooth_factor)

    @override
    def reset_stats(self) -> None:
        self._range = None

    @property
    @override
    def has_stats(self) -> bool:
        return self._range is not None

    @override
    def merge(self, other: EncodingAnalyzer) -> None:
        """Widens the range to include that of another analyzer: an average of ranges has no union."""
        theirs = self._check_mergeable(other)._range
        if theirs is not None:
            mine = theirs if self._range is None else self._range
            theirs = theirs.to(mine.device)
            self._range = torch.stack((torch.minimum(mine[0], theirs[0]), torch.maximum(mine[1], theirs[1])))

    @override
    def reduce_over(self, ranks: Ranks) -> None:
        """Nothing to do: each batch's range was already that of all ranks."""

    def _compute_range(self, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        assert self._range is not None
        return self._range[0], self._range[1]
