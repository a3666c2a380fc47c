"""Module forms of functional ops, so that they can have quantizers like any other module.

Each module's ``forward`` takes the arguments of the function that it stands for, with torch's names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.nn import tensor_functions
from quantsim.nn.specification import ModuleSpec

__all__ = ["FUNCTIONAL_MODULES", "Cast", "Concat", "HadamardRotation", "OneHot", "RmsNorm", "RotaryEmbedding"]


class Concat(nn.Module):
    """Joins any number of tensors along a dimension.

    Args:
        axis: The dimension.

    Example:
        >>> Concat(axis=1)(torch.zeros(2, 1), torch.ones(2, 2)).shape
        torch.Size([2, 3])
    """

    def __init__(self, axis: int = 0) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *tensors: Tensor) -> Tensor:
        """Joins ``tensors``."""
        return torch.cat(tensors, dim=self.axis)

    def extra_repr(self) -> str:
        """The dimension."""
        return f"axis={self.axis}"


class Cast(nn.Module):
    """Converts a tensor to another dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, input: Tensor) -> Tensor:
        """Converts ``input``."""
        return input.to(self.dtype)


class OneHot(nn.Module):
    """Encodes indices as vectors of ``off_value`` with ``on_value`` at the index.

    Example:
        >>> OneHot(3, off_value=0.0, on_value=2.0)(torch.tensor([1]))
        tensor([[0., 2., 0.]])
    """

    def __init__(self, num_classes: int, off_value: float, on_value: float) -> None:
        super().__init__()
        self.num_classes, self.off_value, self.on_value = num_classes, off_value, on_value

    def forward(self, inputs: Tensor) -> Tensor:
        """Encodes indices of any shape; the result has one dimension more."""
        return F.one_hot(inputs.long(), self.num_classes) * (self.on_value - self.off_value) + self.off_value


class RmsNorm(nn.Module):
    """Root-mean-square normalisation over chosen axes with a scale, ``x / sqrt(mean(x^2) + epsilon) * weight``.

    Args:
        input_shape: Shape of the input.
        axes: Axes over which the mean is taken.
        epsilon: Added to the mean square.
    """

    def __init__(self, input_shape: list[int], axes: list[int], epsilon: float) -> None:
        super().__init__()
        self.axes, self.epsilon = list(axes), epsilon
        self.weight = nn.Parameter(torch.ones(tuple(input_shape[axis] for axis in axes)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises ``x``; same shape."""
        return x * torch.rsqrt(x.square().mean(dim=self.axes, keepdim=True) + self.epsilon) * self.weight


class RotaryEmbedding(nn.Module):
    """Rotates pairs of features by position-dependent angles (ONNX RotaryEmbedding).

    Args:
        interleaved: Whether pairs are neighbours (else the halves of the rotated features).
        rotary_embedding_dim: Leading features that are rotated; 0 for all.
        head_size: Features of a head, needed for inputs of shape (batch, sequence, heads * head_size).
    """

    def __init__(self, interleaved: bool, rotary_embedding_dim: int, head_size: int) -> None:
        super().__init__()
        self.interleaved, self.rotary_embedding_dim, self.head_size = interleaved, rotary_embedding_dim, head_size

    def forward(self, x: Tensor, cos_cache: Tensor, sin_cache: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Rotates ``x`` of shape (B, heads, S, D) or (B, S, heads * D); caches are (B, S, d/2) or (positions, d/2)."""
        return tensor_functions.rotary_embedding(
            x,
            cos_cache if position_ids is None else cos_cache[position_ids],
            sin_cache if position_ids is None else sin_cache[position_ids],
            interleaved=self.interleaved,
            rotary_dim=self.rotary_embedding_dim,
            head_size=self.head_size,
        )


class HadamardRotation(nn.Module):
    """Multiplies the last dimension by a Hadamard matrix.

    Args:
        size: Size of the last dimension, a power of two.
        scale: Factor of the result; ``1 / sqrt(size)`` (which makes the rotation orthogonal) by default.
    """

    def __init__(self, size: int, scale: float | None = None) -> None:
        super().__init__()
        if size < 1 or size & (size - 1):
            raise ValueError(f"HadamardRotation(size): got {size}, expected a power of two")
        self.size = size
        self.scale = size**-0.5 if scale is None else scale

    def forward(self, x: Tensor) -> Tensor:
        """Rotates ``x``; same shape."""
        return tensor_functions.hadamard(x) * self.scale


_CLASSES = (
    ModuleSpec(module_class=Concat, op="cat", variadic_inputs=True, attributes=("axis",), fresh_output=True),
    ModuleSpec.derive(Cast, "cast", attributes="dtype"),
    ModuleSpec.derive(OneHot, "one_hot", 0, attributes="num_classes off_value on_value"),
    ModuleSpec.derive(RmsNorm, "rms_norm", parameters="weight", attributes="axes epsilon", fresh_output=True),
    ModuleSpec.derive(RotaryEmbedding, "rotary_embedding", 3, attributes="interleaved rotary_embedding_dim head_size"),
    ModuleSpec.derive(HadamardRotation, "hadamard_rotation", attributes="size scale", fresh_output=True),
)


def _row(
    name: str,
    function: Callable[..., Any],
    arguments: str,
    inputs: int | tuple[str, ...] | None = None,
    **settings: Any,
) -> ModuleSpec:
    """Makes the module class of a function, and its row.

    Args:
        name: Name of the module class.
        function: The function.
        arguments: Names of its positional arguments, separated by blanks.
        inputs: How many of the leading ones, or which, are tensors to quantize; all by default.
        settings: Other fields of the row.
    """
    names = arguments.split()

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(each, kind) for each in ("self", *names)])
    forward.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    label = f"{getattr(function, '__module__', None) or 'torch'}.{getattr(function, '__name__', name)}"
    namespace = {"forward": forward, "__module__": "quantsim.nn", "__doc__": f"Module form of `{label}`."}
    module_class = type(name, (nn.Module,), namespace)
    op = getattr(function, "__name__", name).strip("_")
    return ModuleSpec.derive(module_class, op, len(names) if inputs is None else inputs, **settings)


_ARITHMETIC = (
    _row("Add", tensor_functions.add, "input other", fresh_output=True),
    _row("Subtract", tensor_functions.subtract, "input other", fresh_output=True),
    _row("Multiply", tensor_functions.multiply, "input other", fresh_output=True),
    _row("Divide", tensor_functions.divide, "input other", fresh_output=True),
    _row("FloorDivide", torch.floor_divide, "input other", fresh_output=True),
    _row("Remainder", torch.remainder, "input other", fresh_output=True),
    _row("Fmod", torch.fmod, "input other", fresh_output=True),
    _row("Pow", torch.pow, "input exponent", fresh_output=True),
    _row("Maximum", torch.maximum, "input other", fresh_output=True),
    _row("Minimum", torch.minimum, "input other", fresh_output=True),
    _row("MatMul", torch.matmul, "input other", fresh_output=True),
    _row("Bmm", torch.bmm, "input mat2", fresh_output=True),
    _row("Baddbmm", torch.baddbmm, "input batch1 batch2", fresh_output=True),
    _row("Addmm", torch.addmm, "input mat1 mat2", fresh_output=True),
    _row("Outer", torch.outer, "input vec2", fresh_output=True),
    _row("DynamicLinear", F.linear, "input weight bias", fresh_output=True),
    _row("DynamicConv2d", F.conv2d, "input weight bias stride padding dilation groups", 3, fresh_output=True),
    _row("ScaledDotProductAttention", F.scaled_dot_product_attention, "query key value attn_mask", 3),
)

_ELEMENTWISE = (
    _row("Abs", torch.abs, "input", fresh_output=True),
    _row("Neg", torch.neg, "input", fresh_output=True),
    _row("Sqrt", torch.sqrt, "input", fresh_output=True),
    _row("RSqrt", torch.rsqrt, "input", fresh_output=True),
    _row("Square", torch.square, "input", fresh_output=True),
    _row("Reciprocal", torch.reciprocal, "input", fresh_output=True),
    _row("Exponential", torch.exp, "input", fresh_output=True),
    _row("Log", torch.log, "input", fresh_output=True),
    _row("Erf", torch.erf, "input", fresh_output=True),
    _row("Sin", torch.sin, "input", fresh_output=True),
    _row("Cos", torch.cos, "input", fresh_output=True),
    _row("Tan", torch.tan, "input", fresh_output=True),
    _row("Asin", torch.asin, "input", fresh_output=True),
    _row("Acos", torch.acos, "input", fresh_output=True),
    _row("Atan", torch.atan, "input", fresh_output=True),
    _row("Round", torch.round, "input", fresh_output=True),
    _row("ElementwiseCeil", torch.ceil, "input", fresh_output=True),
    _row("ElementwiseFloor", torch.floor, "input", fresh_output=True),
    _row("ElementwiseUnarySign", torch.sign, "input", fresh_output=True),
    _row("Clamp", torch.clamp, "input min max", 1, fresh_output=True),
    _row("DynamicSoftmax", F.softmax, "input dim", 1, fresh_output=True),
    _row("DynamicLogSoftmax", F.log_softmax, "input dim", 1, fresh_output=True),
    _row("CustomSiLU", F.silu, "input", fresh_output=True),
)

_REDUCTION = (
    _row("Mean", torch.mean, "input dim keepdim", 1, fresh_output=True),
    _row("Sum", torch.sum, "input dim keepdim", 1, fresh_output=True),
    _row("Prod", torch.prod, "input dim keepdim", 1, fresh_output=True),
    _row("Max", torch.max, "input other", 2),
    _row("Min", torch.min, "input other", 2),
    _row("AMax", torch.amax, "input dim keepdim", 1, fresh_output=True),
    _row("AMin", torch.amin, "input dim keepdim", 1, fresh_output=True),
    _row("Argmax", torch.argmax, "input dim keepdim", 1),
    _row("Argmin", torch.argmin, "input dim keepdim", 1),
    _row("TopK", torch.topk, "input k dim", 1),
    _row("Norm", torch.norm, "input p dim keepdim", 1, fresh_output=True),
    _row("Normalize", F.normalize, "input p dim eps", 1, fresh_output=True),
    _row("CumSum", torch.cumsum, "input dim", 1, fresh_output=True),
    _row("BatchNorm", tensor_functions.batch_norm, "input running_mean running_var weight bias", fresh_output=True),
)

_SHAPE = (
    _row("Reshape", torch.reshape, "input shape", 1),
    _row("Permute", torch.permute, "input dims", 1),
    _row("Transpose", torch.transpose, "input dim0 dim1", 1),
    _row("Squeeze", torch.squeeze, "input dim", 1),
    _row("Unsqueeze", torch.unsqueeze, "input dim", 1),
    _row("Expand", tensor_functions.expand, "input sizes", 1),
    _row("Tile", torch.tile, "input dims", 1),
    _row("Pad", F.pad, "input pad mode value", 1),
    _row("Split", torch.split, "tensor split_size_or_sections dim", 1, variadic_outputs=True),
    _row("Chunk", torch.chunk, "input chunks dim", 1, variadic_outputs=True),
    _row("Stack", tensor_functions.stack, "", variadic_inputs=True),
    _row("StridedSlice", tensor_functions.strided_slice, "input ranges", 1),
    _row("DepthToSpaceCRDMode", F.pixel_shuffle, "input upscale_factor", 1),
    _row("DepthToSpaceDCRMode", tensor_functions.depth_to_space, "input block_size", 1),
    _row("Interpolate", F.interpolate, "input size scale_factor mode", 1),
    _row("GridSample", F.grid_sample, "input grid", 2),
    _row("NullRequant", torch.reshape, "input shape", 1),
)

_SELECTION = (
    _row("Gather", torch.gather, "input dim index", ("input",)),
    _row("CustomGather", tensor_functions.take_along, "input indices axis", 1),
    _row("GatherNd", tensor_functions.gather_nd, "input indices", 1),
    _row("IndexSelect", torch.index_select, "input dim index", 1),
    _row("Select", torch.select, "input dim index", 1),
    _row("ScatterND", tensor_functions.scatter_nd, "input indices updates", ("input", "updates")),
    _row("ScatterElements", torch.scatter, "input dim index src", ("input", "src")),
    _row("Where", torch.where, "condition input other", ("input", "other"), fresh_output=True),
    _row("MaskedFill", torch.masked_fill, "input mask value", ("input", "value"), fresh_output=True),
    _row("NonZero", torch.nonzero, "input", 1),
    _row("Greater", torch.gt, "input other"),
    _row("GreaterEqual", torch.ge, "input other"),
    _row("Less", torch.lt, "input other"),
    _row("LessEqual", torch.le, "input other"),
    _row("Equal", torch.eq, "input other"),
    _row("NotEqual", torch.ne, "input other"),
    _row("LogicalAnd", torch.logical_and, "input other"),
    _row("LogicalOr", torch.logical_or, "input other"),
    _row("LogicalNot", torch.logical_not, "input"),
)

FUNCTIONAL_MODULES: tuple[ModuleSpec, ...] = (
    *_CLASSES,
    *_ARITHMETIC,
    *_ELEMENTWISE,
    *_REDUCTION,
    *_SHAPE,
    *_SELECTION,
)
"""One row for each module form of a functional op."""

# Real attributes, so that instances pickle and `from quantsim.nn.functional_modules import Add` works.
globals().update({spec.module_class.__name__: spec.module_class for spec in FUNCTIONAL_MODULES})
__all__ += [spec.module_class.__name__ for spec in FUNCTIONAL_MODULES if spec.module_class.__name__ not in __all__]
