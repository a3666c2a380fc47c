"""What one float tensor looks like at its quantizer: range, outliers, clipping, error, histogram."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quantsim.quantization import QuantizerBase
from quantsim.quantization.affine import Quantize
from quantsim.report.data import Histogram
from quantsim.report.histograms import grid_histogram, in_scales
from quantsim_encodings import Encoding, FloatEncoding, Format
from quantsim_kernels.affine import affine_dequantize

__all__ = ["StatisticsRecorder", "TensorStatistics", "encoding_of", "grid_ends", "tensor_statistics"]

_BULK = 0.999
_MOST_SORTED = 1_000_000
_MOST_DRAWN = 32_000_000


@dataclass(frozen=True, kw_only=True)
class TensorStatistics:
    """A tensor before it is rounded.

    Attributes:
        low: Smallest value.
        high: Largest value.
        outlier_ratio: Largest magnitude over that which 99.9 % of the values do not exceed, both in units of the scale:
            what outliers cost a grid that does not clip them.
        sqnr_db: SQNR of the rounded tensor.
        clipped: Share of values beyond the grid; None where the grid moves with the data.
        histogram: Values against the grid; None where the grid moves with the data.
    """

    low: float
    high: float
    outlier_ratio: float
    sqnr_db: float
    clipped: float | None = None
    histogram: Histogram | None = None


def encoding_of(quantizer: QuantizerBase) -> Encoding | None:
    """The encoding of a quantizer, None if it has none that is fixed."""
    try:
        return quantizer.get_encodings() if quantizer.is_initialized() else None
    except NotImplementedError:
        return None


@torch.no_grad()
def tensor_statistics(values: Tensor, quantizer: QuantizerBase, *, title: str, logarithmic: bool) -> TensorStatistics:
    """Looks at a tensor.

    Args:
        values: In floating point, at least one.
        quantizer: Its quantizer, calibrated.
        title: Name of the histogram.
        logarithmic: Draw counts on a logarithmic axis; for activations, whose tails are thin and long.

    Example:
        >>> from quantsim.quantization import affine
        >>> quantizer = affine.QuantizeDequantize(shape=(), bitwidth=8, symmetric=False)
        >>> quantizer.set_range(torch.tensor(0.0), torch.tensor(1.0))
        >>> tensor_statistics(torch.tensor([0.0, 0.5, 2.0]), quantizer, title="x", logarithmic=False).clipped
        0.3333333333333333
    """
    values = values.detach()
    finite = values.isfinite()
    if not bool(finite.all()):
        values = values.where(finite, 0.0)
    rounded = _rounded(values, quantizer).float()
    values = values.float()  # squares of half precision would overflow or vanish
    # Summed in float64, so that millions of small squares do not vanish beside the sum.
    signal = float(values.square().sum(dtype=torch.float64))
    noise = float((values - rounded).square_().sum(dtype=torch.float64))
    encoding = encoding_of(quantizer)
    histogram = None
    if encoding is not None and values.numel() <= _MOST_DRAWN:
        histogram = grid_histogram(values.cpu(), encoding, title=title, scheme="", logarithmic=logarithmic)
    return TensorStatistics(
        low=float(values.min()),
        high=float(values.max()),
        outlier_ratio=_outlier_ratio(in_scales(values, encoding)),
        sqnr_db=math.inf if noise == 0 else -math.inf if signal == 0 else 10 * math.log10(signal / noise),
        clipped=None if histogram is None else histogram.clipped,
        histogram=histogram,
    )


def _outlier_ratio(values: Tensor) -> float:
    magnitude = values.abs().flatten().float()
    largest = float(magnitude.max())
    if magnitude.numel() > _MOST_SORTED:
        magnitude = magnitude[:: -(-magnitude.numel() // _MOST_SORTED)]
    bulk = float(magnitude.kthvalue(max(math.ceil(_BULK * magnitude.numel()), 1)).values)
    return largest / bulk if bulk > 0 else 1.0


def grid_ends(encoding: Encoding | None) -> tuple[float, float] | None:
    """The ends of a fixed grid over all its channels or blocks; None if it is not fixed."""
    if isinstance(encoding, FloatEncoding) and encoding.scale is not None:
        end = float(np.max(encoding.scale)) * encoding.format.max
        return -end, end
    low, high = getattr(encoding, "min", None), getattr(encoding, "max", None)
    return None if low is None or high is None else (float(np.min(low)), float(np.max(high)))


def _rounded(values: Tensor, quantizer: QuantizerBase) -> Tensor:
    rounded = quantizer(values)
    if isinstance(quantizer, Quantize):
        scale = quantizer.get_scale()
        assert scale is not None  # it is calibrated
        return affine_dequantize(rounded, scale, quantizer.get_offset(), quantizer.block_size)
    return rounded


class StatisticsRecorder(QuantizerBase):
    """Stands where a quantizer was, looks at the first tensor that comes, and lets all pass as they are.

    Args:
        quantizer: What was there.
        title: Name of the histogram.

    Attributes:
        statistics: What was seen; None before.
    """

    def __init__(self, quantizer: QuantizerBase, title: str) -> None:
        super().__init__()
        self._original: Callable[[], QuantizerBase] = lambda: quantizer  # no submodule: it is looked at, not owned
        self._title = title
        self.statistics: TensorStatistics | None = None
        self._observation_depth = 1  # no kernel is asked to compute what is being observed

    @property
    def format(self) -> Format:
        """That of the quantizer that was there."""
        return self._original().format

    def _observe(self, x: Tensor) -> Tensor:
        if self.statistics is None and x.numel():
            self.statistics = tensor_statistics(x, self._original(), title=self._title, logarithmic=True)
        return x
