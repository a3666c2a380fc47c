"""Float-precision layers: torch layers whose tensors are cast to any floating-point format, for inference and training.

Each is a quantized module of `quantsim.nn` with another constructor, called with the exponent and fraction bits of an
IEEE-like format (or any format) and a rounding mode:

    >>> import torch
    >>> from quantsim.layers import QuantizedLinear
    >>> layer = QuantizedLinear(10, 5, exp_bits=5, sig_bits=10, rmode=1)
    >>> layer(torch.randn(2, 10)).shape
    torch.Size([2, 5])

Master weights stay in float32 and are trained through the casts; ``gradient_format`` casts gradients as well.
"""

from __future__ import annotations

from quantsim.layers import quantized_layers as _quantized_layers
from quantsim.layers.generation import FloatPrecisionLayer
from quantsim.layers.gradient_quantizers import (
    FloatGradientQuantizeDequantize,
    GradientPrecision,
    MXGradientQuantizeDequantize,
)
from quantsim.layers.placement import place_float_quantizers
from quantsim.layers.quantized_layers import *  # noqa: F403
from quantsim.layers.settings import FloatPrecisionSettings
from quantsim.layers.simulator import FloatPrecisionSimulator

__all__ = [
    "FloatGradientQuantizeDequantize",
    "FloatPrecisionLayer",
    "FloatPrecisionSettings",
    "FloatPrecisionSimulator",
    "GradientPrecision",
    "MXGradientQuantizeDequantize",
    "place_float_quantizers",
]
__all__ += _quantized_layers.__all__
