"""Two computation paths: fake quantization for training, integers only for hardware.

Modules with two paths (`QBaseLinear`, `QBaseConv2d`, the attention modules) are quantized modules of `quantsim.nn`
whose quantizers are `QBase` or any affine quantizer; `inference` switches them:

    >>> import torch
    >>> from quantsim.dualpath import QBaseLinear, inference
    >>> from quantsim.nn import compute_encodings
    >>> layer = QBaseLinear(16, 4, wbit=4, abit=8)
    >>> with compute_encodings(layer):
    ...     _ = layer(torch.randn(32, 16))
    >>> inference(layer)(torch.randn(2, 16)).dtype, layer.qweight.dtype
    (torch.int32, torch.int8)

Whole calibrated models become a graph of integer nodes by `to_integer`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantsim.dualpath.attention import QAttention
    from quantsim.dualpath.bert_attention import QBertSelfAttention
    from quantsim.dualpath.conversion import to_integer
    from quantsim.dualpath.integer_codes import dequantize
    from quantsim.dualpath.integer_graph import Grid, IntegerGraph, IntegerNode, IntegerOp, Value
    from quantsim.dualpath.integer_model import IntegerModel
    from quantsim.dualpath.integer_ops import ConvOPS, IntMatMul, MatMul
    from quantsim.dualpath.integer_softmax import SoftmaxRule
    from quantsim.dualpath.layers import QBaseConv2d, QBaseLinear
    from quantsim.dualpath.llama_attention import QLlamaAttention
    from quantsim.dualpath.quantizer_base import QBase
    from quantsim.dualpath.rescale import MulQuant, MulShift
    from quantsim.dualpath.switching import inference
    from quantsim.dualpath.window_attention import QWindowAttention

__all__ = [
    "ConvOPS",
    "Grid",
    "IntMatMul",
    "IntegerGraph",
    "IntegerModel",
    "IntegerNode",
    "IntegerOp",
    "MatMul",
    "MulQuant",
    "MulShift",
    "QAttention",
    "QBase",
    "QBaseConv2d",
    "QBaseLinear",
    "QBertSelfAttention",
    "QLlamaAttention",
    "QWindowAttention",
    "SoftmaxRule",
    "Value",
    "dequantize",
    "inference",
    "to_integer",
]

_HOMES = {
    "ConvOPS": "integer_ops",
    "Grid": "integer_graph",
    "IntMatMul": "integer_ops",
    "IntegerGraph": "integer_graph",
    "IntegerModel": "integer_model",
    "IntegerNode": "integer_graph",
    "IntegerOp": "integer_graph",
    "MatMul": "integer_ops",
    "MulQuant": "rescale",
    "MulShift": "rescale",
    "QAttention": "attention",
    "QBase": "quantizer_base",
    "QBaseConv2d": "layers",
    "QBaseLinear": "layers",
    "QBertSelfAttention": "bert_attention",
    "QLlamaAttention": "llama_attention",
    "QWindowAttention": "window_attention",
    "SoftmaxRule": "integer_softmax",
    "Value": "integer_graph",
    "dequantize": "integer_codes",
    "inference": "switching",
    "to_integer": "conversion",
}
_EXPORTS = ("load_chip", "nn2chip")
"""Of `quantsim.export`, which is above this package and must not be imported by it; got by name."""
_ALIASED = ("ConvOPS", "IntMatMul", "MatMul", "MulQuant", "MulShift")
"""Besides all that start with Q: names that have a form with a leading underscore too."""


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module("quantsim.export"), name)
    public = name.removeprefix("_")
    aliased = public != name and (public in _ALIASED or (public.startswith("Q") and public in _HOMES))
    if name not in _HOMES and not aliased:
        raise AttributeError(f"module 'quantsim.dualpath' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"quantsim.dualpath.{_HOMES[public]}"), public)
    globals()[name] = value
    return value
