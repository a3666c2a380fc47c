"""Encoding analyzers: from observed statistics to a range."""

from __future__ import annotations

from quantsim.quantization.analyzers.base import EncodingAnalyzer, NonFinitePolicy
from quantsim.quantization.analyzers.entropy import EntropyEncodingAnalyzer
from quantsim.quantization.analyzers.error_search import MseEncodingAnalyzer, SqnrEncodingAnalyzer
from quantsim.quantization.analyzers.exact_mse import ExactMseEncodingAnalyzer
from quantsim.quantization.analyzers.min_max import MinMaxEncodingAnalyzer
from quantsim.quantization.analyzers.percentile import PercentileEncodingAnalyzer
from quantsim.quantization.analyzers.token_mse import TokenMseEncodingAnalyzer

__all__ = [
    "EncodingAnalyzer",
    "EntropyEncodingAnalyzer",
    "ExactMseEncodingAnalyzer",
    "MinMaxEncodingAnalyzer",
    "MseEncodingAnalyzer",
    "NonFinitePolicy",
    "PercentileEncodingAnalyzer",
    "SqnrEncodingAnalyzer",
    "TokenMseEncodingAnalyzer",
]
