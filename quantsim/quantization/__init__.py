"""Quantizers, encoding analyzers and granularities."""

from __future__ import annotations

from quantsim.quantization import affine, analyzers, float, granularity, methods
from quantsim.quantization.analyzers.base import NonFinitePolicy
from quantsim.quantization.base import QuantizerBase

__all__ = ["NonFinitePolicy", "QuantizerBase", "affine", "analyzers", "float", "granularity", "methods"]
