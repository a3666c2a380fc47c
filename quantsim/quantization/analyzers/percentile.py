"""Percentile calibration: the range leaves out the largest and the smallest few values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantsim.errors import ConfigurationError
from quantsim.quantization.analyzers.base import NonFinitePolicy
from quantsim.quantization.analyzers.bin_grid import Histogram
from quantsim.quantization.analyzers.histogram import HistogramEncodingAnalyzer
from quantsim_kernels.reference.affine import calibration_range

__all__ = ["PercentileEncodingAnalyzer"]


class PercentileEncodingAnalyzer(HistogramEncodingAnalyzer):
    """Clips ``100 - percentile`` per cent of the values at either end of a histogram.

    Args:
        shape: Shape of the range.
        num_bins: Bins of a histogram.
        percentile: From 50 to 100.
        block_size: Elements of a block in each dimension, or ``None``.
        nonfinite: What to do with NaN and infinity.

    Raises:
        ConfigurationError: If an argument is out of range.

    Example:
        >>> analyzer = PercentileEncodingAnalyzer(shape=(), percentile=99)
        >>> analyzer.update_stats(torch.cat([torch.linspace(-1, 1, 1000), torch.tensor([50.0])]))
        >>> minimum, maximum = analyzer.compute_encodings(num_steps=255, is_symmetric=False)
        >>> bool(maximum < 1.1)
        True
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        num_bins: int = 2048,
        percentile: float = 100,
        block_size: Sequence[int] | None = None,
        *,
        nonfinite: NonFinitePolicy | str = NonFinitePolicy.RAISE,
    ) -> None:
        super().__init__(shape, num_bins, block_size=block_size, nonfinite=nonfinite)
        self.set_percentile(percentile)

    def set_percentile(self, percentile: float) -> None:
        """Sets the percentile, from 50 to 100.

        Raises:
            ConfigurationError: If it is out of range.
        """
        if not 50 <= percentile <= 100:
            raise ConfigurationError(
                "no such percentile", where="percentile", got=str(percentile), expected="50 to 100"
            )
        self.percentile = percentile

    def _range_of(self, histogram: Histogram, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        edges = histogram.edges
        if self.percentile == 100:
            first, last = (
                (edges[:, 0], edges[:, -1]) if histogram.is_first_grid else (histogram.minimum, histogram.maximum)
            )
        else:
            total = histogram.counts.cumsum(1)
            everything = total[:, -1:].contiguous()
            upper = torch.searchsorted(total, everything * self.percentile / 100)
            lower = torch.searchsorted(total, everything * (1 - self.percentile / 100))
            first, last = edges.gather(1, lower)[:, 0], edges.gather(1, upper)[:, 0]
        if is_symmetric and num_steps == 3:
            # Who asks for a percentile has said how much to clip: two-bit grids get no half step of clipping more
            # (which calibration_range gives by dividing the maximum by 2 instead of 1).
            last = last.clamp(min=0) * 2
        return calibration_range(first, last, 0, num_steps, is_symmetric)
