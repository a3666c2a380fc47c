"""Quantizers of block formats (MX, NVFP4): blocks that share a scale which their own values determine."""

from __future__ import annotations

from quantsim.quantization.mx.quantizers import MXQuantizeDequantize, NVFP4QuantizeDequantize

__all__ = ["MXQuantizeDequantize", "NVFP4QuantizeDequantize"]
