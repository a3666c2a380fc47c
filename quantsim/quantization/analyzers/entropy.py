"""Entropy calibration: the range that loses the least information, by the Kullback-Leibler divergence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantsim.errors import ConfigurationError
from quantsim.quantization.analyzers.base import NonFinitePolicy
from quantsim.quantization.analyzers.bin_grid import Histogram
from quantsim.quantization.analyzers.histogram import HistogramEncodingAnalyzer
from quantsim_kernels.reference.affine import calibration_range

__all__ = ["EntropyEncodingAnalyzer"]

_WORKING_SET = 1 << 18


class EntropyEncodingAnalyzer(HistogramEncodingAnalyzer):
    """Shrinks the observed range as long as the quantized distribution tells less and less apart from the real one.

    For ``k = 1 .. range_candidates`` the observed range is cut at ``k / range_candidates`` of its largest magnitude,
    above and below. With P the histogram
    whose clipped counts are moved to the outermost bins inside, and Q the distribution that remains when the counts of
    the bins of one step of the grid are spread evenly over those among them that are not empty, the range with the
    smallest ``KL(P || Q) = sum(P * log(P / Q))`` is taken (the method of TensorRT's calibrator: S. Migacz, "8-bit
    inference with TensorRT", GTC 2017, here for asymmetric grids too).

    Args:
        shape: Shape of the range.
        num_bins: Bins of a histogram; should be several times the number of steps.
        range_candidates: Ranges tried.
        block_size: Elements of a block in each dimension, or ``None``.
        nonfinite: What to do with NaN and infinity.

    Raises:
        ConfigurationError: If an argument is out of range.

    Example:
        >>> analyzer = EntropyEncodingAnalyzer(shape=())
        >>> analyzer.update_stats(
        ...     torch.cat([torch.special.ndtri(torch.linspace(0.001, 0.999, 9999)), torch.tensor([90.0])])
        ... )
        >>> minimum, maximum = analyzer.compute_encodings(num_steps=255, is_symmetric=True)
        >>> float(maximum) < 10
        True
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        num_bins: int = 2048,
        *,
        range_candidates: int = 128,
        block_size: Sequence[int] | None = None,
        nonfinite: NonFinitePolicy | str = NonFinitePolicy.RAISE,
    ) -> None:
        super().__init__(shape, num_bins, block_size=block_size, nonfinite=nonfinite)
        if range_candidates < 1:
            raise ConfigurationError(
                "too few candidates", where="range_candidates", got=str(range_candidates), expected="1 or more"
            )
        self.range_candidates = int(range_candidates)

    def _range_of(self, histogram: Histogram, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        lowest, highest = calibration_range(
            histogram.minimum.clamp(max=0.0), histogram.maximum.clamp(min=0.0), 0, num_steps, is_symmetric
        )
        midpoints, counts = histogram.midpoints, histogram.counts.to(torch.float32)
        tried = torch.arange(1, self.range_candidates + 1, dtype=torch.float32, device=counts.device)
        largest = torch.maximum(-lowest, highest)

        def cut(group: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
            limit = largest[group] * (position / self.range_candidates)
            return torch.maximum(lowest[group], -limit), torch.minimum(highest[group], limit)

        divergence = torch.empty(len(counts), self.range_candidates, device=counts.device)
        pairs = torch.arange(divergence.numel(), device=counts.device)
        for part in pairs.split(max(1, _WORKING_SET // counts.shape[1])):
            group, candidate = part // self.range_candidates, part % self.range_candidates
            low, high = cut(group, tried[candidate])
            divergence.view(-1)[part] = _divergence(midpoints[group], counts[group], low, high, num_steps)
        # Among equals the widest range: it clips the least.
        best = self.range_candidates - 1 - divergence.flip(1).argmin(1)
        low, high = cut(torch.arange(len(counts), device=counts.device), tried[best])
        return calibration_range(low, high, 0, num_steps, is_symmetric)


def _divergence(midpoints: Tensor, counts: Tensor, low: Tensor, high: Tensor, steps: int) -> Tensor:
    """KL divergence of the quantized from the clipped distribution, for (pairs, bins) and (pairs,) ranges."""
    step = ((high - low) / steps)[:, None]
    code = torch.round((midpoints - low[:, None]) / step)
    inside = (code >= 0) & (code <= steps)
    code = code.clamp_(0, steps).to(torch.int64)
    kept = counts * inside
    # Clipped counts go to the outermost bins inside the range.
    positions = torch.arange(counts.shape[1], device=counts.device)
    first = torch.where(inside, positions, counts.shape[1]).amin(1).clamp(max=counts.shape[1] - 1)
    last = torch.where(inside, positions, -1).amax(1).clamp(min=0)
    below, above = positions < first[:, None], positions > last[:, None]
    clipped = kept.scatter_add(1, first[:, None], (counts * below).sum(1, keepdim=True))
    clipped = clipped.scatter_add(1, last[:, None], (counts * above).sum(1, keepdim=True))
    shape = (len(counts), steps + 1)
    # What a code still knows: how much lies in it, and which of its bins are not empty.
    mass = counts.new_zeros(shape).scatter_add_(1, code, kept)
    filled = counts.new_zeros(shape).scatter_add_(1, code, (kept > 0).to(counts.dtype))
    quantized = (mass / filled.clamp(min=1)).gather(1, code) * (kept > 0)
    real = clipped / clipped.sum(1, keepdim=True).clamp(min=1)
    # A floor for bins that only clipped counts fill, so that losing them has a finite price.
    model = (quantized / quantized.sum(1, keepdim=True).clamp(min=1e-30)).clamp(min=1e-10)
    return torch.where(real > 0, real * torch.log(real.clamp(min=1e-30) / model), 0.0).sum(1)
