"""Quantizers onto floating-point grids."""

from __future__ import annotations

from quantsim.quantization.float.dynamic import DynamicFloatQuantizeDequantize
from quantsim.quantization.float.quantizers import FloatQuantizeDequantize, QuantizeDequantize

__all__ = ["DynamicFloatQuantizeDequantize", "FloatQuantizeDequantize", "QuantizeDequantize"]
