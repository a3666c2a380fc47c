"""Torch functions by what they do to numbers: multiply, copy, or neither. Names are those of ``__name__``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from torch import nn

from quantsim.nn import BaseQuantizationMixin, QuantizationMixin
from quantsim.sim.rms_norm import is_rms_norm_name

__all__ = [
    "COPYING_OPERATIONS",
    "GEMM_OPERATIONS",
    "IGNORED_OPERATIONS",
    "JOINING_OPERATIONS",
    "OPERATION_FAMILIES",
    "OPERATION_NAMES",
    "canonical_op",
    "known_ops",
    "op_of_module",
]

GEMM_OPERATIONS: Final[Mapping[str, int]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("linear", "bilinear", "matmul", "mm", "bmm", "mv", "dot", "einsum", "tensordot", "chain_matmul"), 1
        ),
        **dict.fromkeys(("addmm", "addbmm", "baddbmm", "addmv", "addr", "conv1d", "conv2d", "conv3d"), 1),
        **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "_convolution", "convolution"), 1),
        **dict.fromkeys(("inner", "outer", "multi_dot", "grouped_mm", "cdist"), 1),
        "scaled_dot_product_attention": 2,
        "flex_attention": 2,
        "multi_head_attention_forward": 6,
    }
)
"""Functions that multiply matrices, and how many products one call stands for."""

COPYING_OPERATIONS: Final[frozenset[str]] = frozenset(
    """reshape contiguous clone flatten unflatten transpose permute swapaxes swapdims movedim moveaxis expand expand_as
    repeat repeat_interleave tile roll flip fliplr flipud rot90 squeeze unsqueeze view view_as narrow select
    index_select gather take take_along_dim __getitem__ chunk split tensor_split unbind unfold max_pool1d
    max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d pixel_shuffle
    pixel_unshuffle channel_shuffle masked_select detach alias _reshape_alias ravel t mT mH adjoint diagonal topk sort
    msort kthvalue""".split()
)
"""Functions whose result holds only values of their first tensor: they keep its grid."""

JOINING_OPERATIONS: Final[frozenset[str]] = frozenset({"cat", "stack"})
"""Functions whose result holds the values of several tensors: it has their grid if they share one."""

IGNORED_OPERATIONS: Final[frozenset[str]] = frozenset(
    """__get__ __set__ size dim numel shape to type float half bfloat16 double cpu cuda type_as new_zeros new_ones
    new_full new_empty new_tensor zeros_like ones_like full_like empty_like rand_like randn_like zero_ fill_
    copy_ requires_grad_ detach_ dropout feature_dropout alpha_dropout dropout1d dropout2d dropout3d
    is_floating_point is_contiguous __len__ __repr__ __format__ item tolist numpy data_ptr stride storage_offset
    element_size __setitem__ masked_fill masked_fill_ resolve_conj resolve_neg pin_memory share_memory_
    _has_torch_function register_hook finfo backward record_stream embedding histc bucketize""".split()
)
"""Functions that do no arithmetic on activations: conversions, creation, masks, look-ups, counts, dropout."""

OPERATION_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "__add__": "add",
        "__radd__": "add",
        "__iadd__": "add_",
        "__sub__": "sub",
        "__rsub__": "sub",
        "rsub": "sub",
        "subtract": "sub",
        "__isub__": "sub_",
        "__mul__": "mul",
        "__rmul__": "mul",
        "__imul__": "mul_",
        "multiply": "mul",
        "__truediv__": "div",
        "__rtruediv__": "div",
        "__rdiv__": "div",
        "__itruediv__": "div_",
        "__idiv__": "div_",
        "divide": "div",
        "true_divide": "div",
        "__matmul__": "matmul",
        "__rmatmul__": "matmul",
        "__pow__": "pow",
        "__rpow__": "pow",
        "__neg__": "neg",
        "_grouped_mm": "grouped_mm",
        "grouped_mm_fallback": "grouped_mm",
        "concat": "cat",
        "concatenate": "cat",
    }
)
"""One name for an operation that torch knows by several."""

_SAME_OP: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sub": "subtract",
        "mul": "multiply",
        "div": "divide",
        "clip": "clamp",
        "decomposed_attention": "scaled_dot_product_attention",
    }
)
"""Names of ops in the table of quantized modules that mean the same."""

OPERATION_FAMILIES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "conv": frozenset({"conv1d", "conv2d", "conv3d"}),
        "conv_transpose": frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}),
        "avg_pool": frozenset(f"{kind}avg_pool{dims}d" for kind in ("", "adaptive_") for dims in (1, 2, 3)),
        "max_pool": frozenset(f"{kind}max_pool{dims}d" for kind in ("", "adaptive_") for dims in (1, 2, 3)),
    }
)
"""One name for ops that differ in the number of dimensions."""


def canonical_op(name: str) -> str:
    """The one name of an op that torch, or the table of quantized modules, knows by several.

    Example:
        >>> (
        ...     canonical_op("__matmul__"),
        ...     canonical_op("mul"),
        ...     canonical_op("true_divide"),
        ...     canonical_op("softmax"),
        ... )
        ('matmul', 'multiply', 'divide', 'softmax')
    """
    name = OPERATION_NAMES.get(name, name).rstrip("_")
    return _SAME_OP.get(name, name)


def op_of_module(module: nn.Module) -> str | None:
    """The op of a module, float or quantized; None if its class is not in the table of quantized modules.

    Example:
        >>> op_of_module(nn.Conv2d(1, 1, 1)), op_of_module(nn.Module())
        ('conv2d', None)
    """
    float_class = getattr(type(module), "_wrapped_class", None) or type(module)
    for base in float_class.__mro__:
        quantized = base if issubclass(base, BaseQuantizationMixin) else QuantizationMixin.cls_to_qcls.get(base)
        spec = getattr(quantized, "_spec", None)
        if spec is not None:
            return canonical_op(spec.op)
    return "rms_norm" if is_rms_norm_name(float_class.__name__) else None


def known_ops() -> frozenset[str]:
    """Ops that a pattern may name: those of the table of quantized modules, and families of them."""
    specs = (getattr(quantized, "_spec", None) for quantized in QuantizationMixin.cls_to_qcls.values())
    return frozenset(canonical_op(spec.op) for spec in specs if spec is not None) | frozenset(OPERATION_FAMILIES)
