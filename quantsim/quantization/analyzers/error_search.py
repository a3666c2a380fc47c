"""SQNR and MSE calibration: the range whose quantization error on the histogram is smallest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantsim.errors import ConfigurationError
from quantsim.quantization.analyzers.base import NonFinitePolicy
from quantsim.quantization.analyzers.bin_grid import Histogram
from quantsim.quantization.analyzers.histogram import HistogramEncodingAnalyzer
from quantsim_kernels.reference.affine import minimum_scale

__all__ = ["MseEncodingAnalyzer", "SqnrEncodingAnalyzer"]

_WORKING_SET = 1 << 19
"""Elements of a temporary: 2 MiB of float32, which stays in the cache over the passes of the search."""
_ROWS = 16
"""Groups searched together; those that share a pass share the candidates that are worth a look."""
_NEAR = 1e-4
_NEAR_PER_STEP = 2e-6
"""Candidates within this relative distance of the smallest error are compared by the defining formula itself; fine
grids need more of it, because float32 holds less of their rounding error."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Grids to be tried: for each group of rows the same number of scales and offsets, shape (groups, candidates)."""

    delta: Tensor
    offset: Tensor


class SqnrEncodingAnalyzer(HistogramEncodingAnalyzer):
    """Searches scales and offsets for the smallest expected error ``sum(count * |x_hat - x|**p)`` over the bins.

    Each bin stands for its midpoint; the error of clipped bins counts ``gamma`` times. Symmetric grids try
    ``symmetric_delta_candidates`` scales; asymmetric ones all pairs of ``asymmetric_delta_candidates`` scales and
    ``offset_candidates`` offsets, cut to the observed range. The search runs once, in `compute_encodings`.

    Args:
        shape: Shape of the range.
        num_bins: Bins of a histogram.
        asymmetric_delta_candidates: Scales tried for an asymmetric grid; at least 2.
        symmetric_delta_candidates: Scales tried for a symmetric grid; at least 2.
        offset_candidates: Offsets tried for an asymmetric grid; at least 3.
        gamma: Weight of clipping against rounding errors.
        p: Exponent of the error.
        block_size: Elements of a block in each dimension, or ``None``.
        nonfinite: What to do with NaN and infinity.

    Raises:
        ConfigurationError: If an argument is out of range.

    Example:
        >>> analyzer = SqnrEncodingAnalyzer(shape=())
        >>> analyzer.update_stats(torch.cat([torch.linspace(-1, 1, 10000), torch.tensor([5.0])]))
        >>> minimum, maximum = analyzer.compute_encodings(num_steps=15, is_symmetric=True)
        >>> 0.9 < float(maximum) < 1.1
        True
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        num_bins: int = 2048,
        *,
        asymmetric_delta_candidates: int = 17,
        symmetric_delta_candidates: int = 101,
        offset_candidates: int = 21,
        gamma: float = 3.0,
        p: float = 2,
        block_size: Sequence[int] | None = None,
        nonfinite: NonFinitePolicy | str = NonFinitePolicy.RAISE,
    ) -> None:
        super().__init__(shape, num_bins, block_size=block_size, nonfinite=nonfinite)
        limits = {
            "asymmetric_delta_candidates": (asymmetric_delta_candidates, 2),
            "symmetric_delta_candidates": (symmetric_delta_candidates, 2),
            "offset_candidates": (offset_candidates, 3),
            "gamma": (gamma, 0),
            "p": (p, 1),
        }
        for name, (value, smallest) in limits.items():
            if not smallest <= value < math.inf:
                raise ConfigurationError("out of range", where=name, got=str(value), expected=f"{smallest} or more")
        self.asymmetric_delta_candidates = int(asymmetric_delta_candidates)
        self.symmetric_delta_candidates = int(symmetric_delta_candidates)
        self.offset_candidates = int(offset_candidates)
        self.gamma = float(gamma)
        self.p = float(p)

    def _range_of(self, histogram: Histogram, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        minimum, maximum = histogram.minimum.clamp(max=0.0), histogram.maximum.clamp(min=0.0)
        maximum = torch.maximum(maximum, minimum + minimum_scale(0, num_steps) * num_steps)
        make = self._symmetric_candidates if is_symmetric else self._asymmetric_candidates
        candidates = make(minimum, maximum, num_steps)
        best = self._best(histogram, candidates, num_steps)
        delta = candidates.delta.gather(1, best[:, None])[:, 0]
        low = candidates.offset.expand_as(candidates.delta).gather(1, best[:, None])[:, 0] * delta
        return low, low + num_steps * delta

    # ---------------------------------------------------------------- candidates

    def _symmetric_candidates(self, minimum: Tensor, maximum: Tensor, steps: int) -> Candidates:
        largest = 2 * torch.maximum(maximum, -minimum) / steps
        delta = self._fractions(largest, self.symmetric_delta_candidates).clamp_(min=minimum_scale(0, steps))
        return Candidates(delta=delta, offset=delta.new_full((1, 1), float((-steps) // 2)))

    def _asymmetric_candidates(self, minimum: Tensor, maximum: Tensor, steps: int) -> Candidates:
        largest = (maximum - minimum) / steps
        observed_offset = torch.round(minimum / largest)
        observed_min = largest * observed_offset
        observed_max = observed_min + largest * steps
        delta = self._fractions(largest, self.asymmetric_delta_candidates)
        count = min(steps + 2, self.offset_candidates)
        spacing = steps / (count - 2)  # two fewer: both ends are in, and the observed offset is added
        spread = torch.round(torch.arange(-steps, spacing, spacing, dtype=torch.float32, device=delta.device))
        offset = torch.cat([spread.expand(len(minimum), -1), observed_offset[:, None]], dim=1)
        # Every pair, cut to the observed range.
        low = delta[:, :, None] * offset[:, None, :]
        high = low + delta[:, :, None] * steps
        low = torch.maximum(observed_min[:, None, None], low)
        high = torch.minimum(observed_max[:, None, None], high)
        delta = ((high - low) / steps).clamp_(min=minimum_scale(0, steps))
        return Candidates(delta=delta.flatten(1), offset=torch.round(low / delta).flatten(1))

    @staticmethod
    def _fractions(largest: Tensor, count: int) -> Tensor:
        """``largest`` times 1/(count-1), 2/(count-1), ..., count/(count-1)."""
        positions = torch.arange(1, count + 1, dtype=torch.float32, device=largest.device)
        return largest[:, None] * positions / (count - 1)

    # ---------------------------------------------------------------- the search

    def _best(self, histogram: Histogram, candidates: Candidates, steps: int) -> Tensor:
        """Index of the best candidate of each group.

        A fast pass finds the candidates near the smallest error; where there are several, the defining formula
        decides. Its rounding errors, not the fast pass's, so decide ties.
        """
        midpoints, counts = histogram.midpoints, histogram.counts
        errors = self._fast_errors(midpoints, counts, candidates, steps)
        smallest, best = errors.min(dim=1)
        near = errors <= smallest[:, None] * (1 + _NEAR + _NEAR_PER_STEP * steps)
        contested = near.sum(1) > 1
        if not bool(contested.any()):
            return best
        pairs = (near & contested[:, None]).nonzero()
        exact = torch.full_like(errors, math.inf)
        offsets = candidates.offset.expand_as(candidates.delta)
        for part in pairs.split(max(1, _WORKING_SET // midpoints.shape[1])):
            group, candidate = part.unbind(1)
            delta, offset = candidates.delta[group, candidate], offsets[group, candidate]
            exact[group, candidate] = self._error(midpoints[group], counts[group], delta, offset, steps).to(exact.dtype)
        return torch.where(contested, exact.min(dim=1).indices, best)

    def _error(self, midpoints: Tensor, counts: Tensor, delta: Tensor, offset: Tensor, steps: int) -> Tensor:
        """The defining formula, for (pairs, bins) midpoints and counts, (pairs,) grids."""
        codes = midpoints.div(delta[:, None]).sub_(offset[:, None]).round_()
        clipped = (codes < 0) | (codes > steps)
        values = codes.clamp_(0, steps).add_(offset[:, None]).mul_(delta[:, None])
        error = values.sub_(midpoints).abs_().pow_(self.p).mul_(counts)
        if self.gamma != 1.0:
            error = torch.where(clipped, error * self.gamma, error)
        return error.sum(dim=-1)

    def _fast_errors(self, midpoints: Tensor, counts: Tensor, candidates: Candidates, steps: int) -> Tensor:
        """Approximate errors (groups, candidates); infinity where clipping alone is worse than the best."""
        errors = torch.full_like(candidates.delta, math.inf)
        if self.p != 2:
            return self._general_errors(midpoints, counts, candidates, steps)
        offsets = candidates.offset.expand_as(candidates.delta)
        for start in range(0, len(midpoints), _ROWS):
            part = slice(start, start + _ROWS)
            errors[part] = self._errors_of_rows(
                midpoints[part], counts[part], candidates.delta[part], offsets[part], steps
            )
        return errors

    def _errors_of_rows(self, midpoints: Tensor, counts: Tensor, delta: Tensor, offset: Tensor, steps: int) -> Tensor:
        errors = torch.full_like(delta, math.inf)
        clipping = _clipping_errors(midpoints, counts, delta, offset, steps)
        # Most promising first: the error is at least gamma times that of the clipped bins, so what has more clipping
        # than the best error of the first few needs no look.
        bound = clipping * self.gamma
        rounding = delta.double().square() * (counts.sum(1, keepdim=True).double() / 12)
        order = (bound + rounding).sum(0).argsort()
        at_once = max(1, _WORKING_SET // midpoints.numel())

        def evaluate(columns: Tensor) -> None:
            squares = _rounding_errors(midpoints, counts, delta[:, columns], offset[:, columns], steps)
            errors[:, columns] = (squares + (self.gamma - 1.0) * clipping[:, columns]).to(errors.dtype)

        first, rest = order[:at_once], order[at_once:]
        evaluate(first)
        limit = errors.min(dim=1, keepdim=True).values.double() * (1 + _NEAR + _NEAR_PER_STEP * steps)
        worthy = rest[(bound[:, rest] <= limit).any(0)]
        for columns in worthy.split(at_once):
            if len(columns):
                evaluate(columns)
        return errors

    def _general_errors(self, midpoints: Tensor, counts: Tensor, candidates: Candidates, steps: int) -> Tensor:
        groups, tried = candidates.delta.shape
        offsets = candidates.offset.expand_as(candidates.delta)
        errors = torch.empty(groups * tried, dtype=torch.float32, device=midpoints.device)
        pairs = torch.arange(groups * tried, device=midpoints.device)
        for part in pairs.split(max(1, _WORKING_SET // midpoints.shape[1])):
            group, candidate = part // tried, part % tried
            delta, offset = candidates.delta[group, candidate], offsets[group, candidate]
            errors[part] = self._error(midpoints[group], counts[group], delta, offset, steps).to(errors.dtype)
        return errors.view(groups, tried)


def _rounding_errors(midpoints: Tensor, counts: Tensor, delta: Tensor, offset: Tensor, steps: int) -> Tensor:
    """Squared error of all bins, clipped ones with weight 1, float64 (groups, candidates)."""
    low = offset[:, :, None]
    position = midpoints[:, None, :] / delta[:, :, None]
    residue = torch.round(position)
    # Not shifted by the offset as in the formula: that would cost the low bits of small positions.
    residue = torch.maximum(residue, low, out=residue)
    residue = torch.minimum(residue, low + steps, out=residue).sub_(position)
    squares = torch.bmm(residue.mul_(residue), counts[:, :, None].to(residue.dtype))[:, :, 0]
    return squares.double() * delta.double().square()


def _clipping_errors(midpoints: Tensor, counts: Tensor, delta: Tensor, offset: Tensor, steps: int) -> Tensor:
    """Squared error of the bins beyond the ends of each candidate's grid, float64 (groups, candidates).

    Midpoints rise, so the clipped bins are the first few and the last few, and prefix sums of count, count * x and
    count * x**2 give their error in no time.
    """
    x, h = midpoints.double(), counts.double()
    weighted = h * x
    prefix = x.new_zeros(3, x.shape[0], x.shape[1] + 1)
    for moment, values in enumerate((h, weighted, weighted * x)):
        torch.cumsum(values, 1, out=prefix[moment, :, 1:])
    delta, offset = delta.double(), offset.double()
    result = torch.zeros_like(delta)
    for end, is_low in ((delta * offset, True), (delta * (offset + steps), False)):
        border = end - delta / 2 if is_low else end + delta / 2
        count = torch.searchsorted(x, border, right=not is_low)
        inside = prefix.gather(2, count.expand(3, -1, -1))
        beyond = inside if is_low else prefix[:, :, -1:] - inside
        result += (beyond[2] - 2 * end * beyond[1] + end * end * beyond[0]).clamp_(min=0)
    return result


class MseEncodingAnalyzer(SqnrEncodingAnalyzer):
    """`SqnrEncodingAnalyzer` with ``gamma = 1``: the smallest mean squared error, clipping counted like rounding.

    Args:
        shape: Shape of the range.
        num_bins: Bins of a histogram.
        asymmetric_delta_candidates: Scales tried for an asymmetric grid; at least 2.
        symmetric_delta_candidates: Scales tried for a symmetric grid; at least 2.
        offset_candidates: Offsets tried for an asymmetric grid; at least 3.
        block_size: Elements of a block in each dimension, or ``None``.
        nonfinite: What to do with NaN and infinity.

    Example:
        >>> analyzer = MseEncodingAnalyzer(shape=())
        >>> analyzer.update_stats(torch.linspace(-1, 1, 1000))
        >>> minimum, maximum = analyzer.compute_encodings(num_steps=255, is_symmetric=True)
        >>> 0.97 < float(maximum) < 1.03
        True
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        num_bins: int = 2048,
        *,
        asymmetric_delta_candidates: int = 17,
        symmetric_delta_candidates: int = 101,
        offset_candidates: int = 21,
        block_size: Sequence[int] | None = None,
        nonfinite: NonFinitePolicy | str = NonFinitePolicy.RAISE,
    ) -> None:
        super().__init__(
            shape,
            num_bins,
            asymmetric_delta_candidates=asymmetric_delta_candidates,
            symmetric_delta_candidates=symmetric_delta_candidates,
            offset_candidates=offset_candidates,
            gamma=1.0,
            block_size=block_size,
            nonfinite=nonfinite,
        )
