"""Encoding analyzers: from observed statistics to a range."""

from __future__ import annotations

from quantsim.quantization.analyzers.base import EncodingAnalyzer, NonFinitePolicy
from quantsim.quantization.analyzers.min_max import MinMaxEncodingAnalyzer

__all__ = ["EncodingAnalyzer", "MinMaxEncodingAnalyzer", "NonFinitePolicy"]
