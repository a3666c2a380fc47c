"""Quantizers of published methods: learned steps and clips, learned rounding, dropped quantization."""

from __future__ import annotations

from quantsim.quantization.methods.adaround import AdaRoundQuantizeDequantize
from quantsim.quantization.methods.clipping import PACTQuantizeDequantize, RCFQuantizeDequantize
from quantsim.quantization.methods.drop import QDropQuantizeDequantize
from quantsim.quantization.methods.gradient_scale import scale_gradient, step_gradient_factor
from quantsim.quantization.methods.learned_scale import LearnedScaleQuantizeDequantize
from quantsim.quantization.methods.selection import METHODS, Method, with_method
from quantsim.quantization.methods.step_size import LSQQuantizeDequantize
from quantsim.quantization.methods.weight_statistics import SAWBEncodingAnalyzer, SAWBQuantizeDequantize

__all__ = [
    "METHODS",
    "AdaRoundQuantizeDequantize",
    "LSQQuantizeDequantize",
    "LearnedScaleQuantizeDequantize",
    "Method",
    "PACTQuantizeDequantize",
    "QDropQuantizeDequantize",
    "RCFQuantizeDequantize",
    "SAWBEncodingAnalyzer",
    "SAWBQuantizeDequantize",
    "scale_gradient",
    "step_gradient_factor",
    "with_method",
]
