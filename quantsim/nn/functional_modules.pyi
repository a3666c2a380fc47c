# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false
# fmt: off

"""Written by `python -m quantsim.nn.stubs`; do not edit."""

from typing import Any

import torch
from torch import Tensor, nn

from quantsim.nn.specification import ModuleSpec

__all__ = [
    "FUNCTIONAL_MODULES",
    "Cast",
    "Concat",
    "HadamardRotation",
    "OneHot",
    "RmsNorm",
    "RotaryEmbedding",
    "Add",
    "Subtract",
    "Multiply",
    "Divide",
    "FloorDivide",
    "Remainder",
    "Fmod",
    "Pow",
    "Maximum",
    "Minimum",
    "MatMul",
    "Bmm",
    "Baddbmm",
    "Addmm",
    "Outer",
    "DynamicLinear",
    "DynamicConv2d",
    "ScaledDotProductAttention",
    "Abs",
    "Neg",
    "Sqrt",
    "RSqrt",
    "Square",
    "Reciprocal",
    "Exponential",
    "Log",
    "Erf",
    "Sin",
    "Cos",
    "Tan",
    "Asin",
    "Acos",
    "Atan",
    "Round",
    "ElementwiseCeil",
    "ElementwiseFloor",
    "ElementwiseUnarySign",
    "Clamp",
    "DynamicSoftmax",
    "DynamicLogSoftmax",
    "CustomSiLU",
    "Mean",
    "Sum",
    "Prod",
    "Max",
    "Min",
    "AMax",
    "AMin",
    "Argmax",
    "Argmin",
    "TopK",
    "Norm",
    "Normalize",
    "CumSum",
    "BatchNorm",
    "Reshape",
    "Permute",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Expand",
    "Tile",
    "Pad",
    "Split",
    "Chunk",
    "Stack",
    "StridedSlice",
    "DepthToSpaceCRDMode",
    "DepthToSpaceDCRMode",
    "Interpolate",
    "GridSample",
    "NullRequant",
    "Gather",
    "CustomGather",
    "GatherNd",
    "IndexSelect",
    "Select",
    "ScatterND",
    "ScatterElements",
    "Where",
    "MaskedFill",
    "NonZero",
    "Greater",
    "GreaterEqual",
    "Less",
    "LessEqual",
    "Equal",
    "NotEqual",
    "LogicalAnd",
    "LogicalOr",
    "LogicalNot",
]

FUNCTIONAL_MODULES: tuple[ModuleSpec, ...]

class Concat(nn.Module):
    def __init__(self, axis: int = 0) -> None: ...
    def forward(self, *tensors: Tensor) -> Tensor: ...

class Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None: ...
    def forward(self, input: Tensor) -> Tensor: ...

class OneHot(nn.Module):
    def __init__(self, num_classes: int, off_value: float, on_value: float) -> None: ...
    def forward(self, inputs: Tensor) -> Tensor: ...

class RmsNorm(nn.Module):
    def __init__(self, input_shape: list[int], axes: list[int], epsilon: float) -> None: ...
    def forward(self, x: Tensor) -> Tensor: ...

class RotaryEmbedding(nn.Module):
    def __init__(self, interleaved: bool, rotary_embedding_dim: int, head_size: int) -> None: ...
    def forward(self, x: Tensor, cos_cache: Tensor, sin_cache: Tensor, position_ids: Tensor | None = None) -> Tensor: ...

class HadamardRotation(nn.Module):
    def __init__(self, size: int, scale: float | None = None) -> None: ...
    def forward(self, x: Tensor) -> Tensor: ...

class Add(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Subtract(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Multiply(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Divide(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class FloorDivide(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Remainder(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Fmod(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Pow(nn.Module):
    def forward(self, input: Any = ..., exponent: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Maximum(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Minimum(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class MatMul(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Bmm(nn.Module):
    def forward(self, input: Any = ..., mat2: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Baddbmm(nn.Module):
    def forward(self, input: Any = ..., batch1: Any = ..., batch2: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Addmm(nn.Module):
    def forward(self, input: Any = ..., mat1: Any = ..., mat2: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Outer(nn.Module):
    def forward(self, input: Any = ..., vec2: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class DynamicLinear(nn.Module):
    def forward(self, input: Any = ..., weight: Any = ..., bias: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class DynamicConv2d(nn.Module):
    def forward(self, input: Any = ..., weight: Any = ..., bias: Any = ..., stride: Any = ..., padding: Any = ..., dilation: Any = ..., groups: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class ScaledDotProductAttention(nn.Module):
    def forward(self, query: Any = ..., key: Any = ..., value: Any = ..., attn_mask: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Abs(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Neg(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Sqrt(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class RSqrt(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Square(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Reciprocal(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Exponential(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Log(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Erf(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Sin(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Cos(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Tan(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Asin(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Acos(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Atan(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Round(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class ElementwiseCeil(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class ElementwiseFloor(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class ElementwiseUnarySign(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Clamp(nn.Module):
    def forward(self, input: Any = ..., min: Any = ..., max: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class DynamicSoftmax(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class DynamicLogSoftmax(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class CustomSiLU(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Mean(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., keepdim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Sum(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., keepdim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Prod(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., keepdim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Max(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Min(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class AMax(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., keepdim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class AMin(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., keepdim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Argmax(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., keepdim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Argmin(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., keepdim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class TopK(nn.Module):
    def forward(self, input: Any = ..., k: Any = ..., dim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Norm(nn.Module):
    def forward(self, input: Any = ..., p: Any = ..., dim: Any = ..., keepdim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Normalize(nn.Module):
    def forward(self, input: Any = ..., p: Any = ..., dim: Any = ..., eps: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class CumSum(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class BatchNorm(nn.Module):
    def forward(self, input: Any = ..., running_mean: Any = ..., running_var: Any = ..., weight: Any = ..., bias: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Reshape(nn.Module):
    def forward(self, input: Any = ..., shape: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Permute(nn.Module):
    def forward(self, input: Any = ..., dims: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Transpose(nn.Module):
    def forward(self, input: Any = ..., dim0: Any = ..., dim1: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Squeeze(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Unsqueeze(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Expand(nn.Module):
    def forward(self, input: Any = ..., sizes: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Tile(nn.Module):
    def forward(self, input: Any = ..., dims: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Pad(nn.Module):
    def forward(self, input: Any = ..., pad: Any = ..., mode: Any = ..., value: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Split(nn.Module):
    def forward(self, tensor: Any = ..., split_size_or_sections: Any = ..., dim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Chunk(nn.Module):
    def forward(self, input: Any = ..., chunks: Any = ..., dim: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Stack(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any: ...

class StridedSlice(nn.Module):
    def forward(self, input: Any = ..., ranges: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class DepthToSpaceCRDMode(nn.Module):
    def forward(self, input: Any = ..., upscale_factor: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class DepthToSpaceDCRMode(nn.Module):
    def forward(self, input: Any = ..., block_size: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Interpolate(nn.Module):
    def forward(self, input: Any = ..., size: Any = ..., scale_factor: Any = ..., mode: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class GridSample(nn.Module):
    def forward(self, input: Any = ..., grid: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class NullRequant(nn.Module):
    def forward(self, input: Any = ..., shape: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Gather(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., index: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class CustomGather(nn.Module):
    def forward(self, input: Any = ..., indices: Any = ..., axis: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class GatherNd(nn.Module):
    def forward(self, input: Any = ..., indices: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class IndexSelect(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., index: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Select(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., index: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class ScatterND(nn.Module):
    def forward(self, input: Any = ..., indices: Any = ..., updates: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class ScatterElements(nn.Module):
    def forward(self, input: Any = ..., dim: Any = ..., index: Any = ..., src: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Where(nn.Module):
    def forward(self, condition: Any = ..., input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class MaskedFill(nn.Module):
    def forward(self, input: Any = ..., mask: Any = ..., value: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class NonZero(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Greater(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class GreaterEqual(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Less(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class LessEqual(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class Equal(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class NotEqual(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class LogicalAnd(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class LogicalOr(nn.Module):
    def forward(self, input: Any = ..., other: Any = ..., *args: Any, **kwargs: Any) -> Any: ...

class LogicalNot(nn.Module):
    def forward(self, input: Any = ..., *args: Any, **kwargs: Any) -> Any: ...
