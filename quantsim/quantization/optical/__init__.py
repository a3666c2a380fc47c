"""Quantizers of optical hardware: evenly spaced levels between two ends that follow the data."""

from __future__ import annotations

from quantsim.quantization.optical.analyzer import OpticalRangeAnalyzer, batch_range
from quantsim.quantization.optical.quantizers import DEFAULT_LUT, OpticalQuantizeDequantize

__all__ = ["DEFAULT_LUT", "OpticalQuantizeDequantize", "OpticalRangeAnalyzer", "batch_range"]
