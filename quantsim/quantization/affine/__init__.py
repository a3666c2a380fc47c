"""Affine quantizers: evenly spaced grids with a learnable range."""

from __future__ import annotations

from quantsim.quantization.affine.base import AffineQuantizerBase
from quantsim.quantization.affine.dynamic import DynamicQuantizeDequantize
from quantsim.quantization.affine.grouped import GroupedBlockQuantizeDequantize
from quantsim.quantization.affine.quantizers import Dequantize, Quantize, QuantizeDequantize

__all__ = [
    "AffineQuantizerBase",
    "Dequantize",
    "DynamicQuantizeDequantize",
    "GroupedBlockQuantizeDequantize",
    "Quantize",
    "QuantizeDequantize",
]
