"""Optical layers: modules whose matrix products run on a simulated photonic engine.

The laws of the quantizer and of the products are in `quantsim_kernels.optical`; the state (ranges, seeds) is in the
quantizers of `quantsim.quantization.optical`. What needs transformers imports it when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from quantsim.optical.linear import OtLinear
from quantsim.optical.settings import AttentionRange, OpticalSettings

if TYPE_CHECKING:
    from quantsim.optical.sdpa import optical_transformer_SDPA
    from quantsim.optical.squeezelight import RingConversion, SqueezeLightLinear
    from quantsim.optical.transformers_attention import OtBertSelfAttention, OtLlamaAttention, OtRobertaSelfAttention

__all__ = [
    "AttentionRange",
    "OpticalSettings",
    "OtBertSelfAttention",
    "OtLinear",
    "OtLlamaAttention",
    "OtRobertaSelfAttention",
    "RingConversion",
    "SqueezeLightLinear",
    "optical_transformer_SDPA",
]

_HOMES = {
    "OtBertSelfAttention": "attention",
    "OtLlamaAttention": "attention",
    "OtRobertaSelfAttention": "attention",
    "RingConversion": "squeezelight",
    "SqueezeLightLinear": "squeezelight",
    "optical_transformer_SDPA": "sdpa",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'quantsim.optical' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"quantsim.optical.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
