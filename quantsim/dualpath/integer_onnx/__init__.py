"""Integer graphs as ONNX."""

from __future__ import annotations

from quantsim.dualpath.integer_onnx.model import OPSET, integer_onnx_model

__all__ = ["OPSET", "integer_onnx_model"]
