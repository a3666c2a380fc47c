"""Names of ONNX op types for the ops of the table of quantized modules, as hardware configs use them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["FUSIBLE_OPS", "GRID_KEEPING_TYPES", "ONNX_OP_TYPES"]

ONNX_OP_TYPES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Conv": ("conv",),
        "ConvTranspose": ("conv_transpose",),
        "Gemm": ("linear",),
        "MatMul": ("linear", "matmul", "bmm", "mm", "outer"),
        "BatchNormalization": ("batch_norm",),
        "LayerNormalization": ("layer_norm",),
        "RMSNormalization": ("rms_norm",),
        "GroupNormalization": ("group_norm",),
        "InstanceNormalization": ("instance_norm",),
        "LRN": ("local_response_norm",),
        "PRelu": ("prelu",),
        "Relu": ("relu",),
        "Clip": ("relu6", "hardtanh", "clamp"),
        "LeakyRelu": ("leaky_relu",),
        "Elu": ("elu",),
        "Gelu": ("gelu",),
        "HardSwish": ("hardswish",),
        "HardSigmoid": ("hardsigmoid",),
        "Mish": ("mish",),
        "Sigmoid": ("sigmoid",),
        "Softmax": ("softmax",),
        "LogSoftmax": ("log_softmax",),
        "Softplus": ("softplus",),
        "Softsign": ("softsign",),
        "Tanh": ("tanh",),
        "Sin": ("sin",),
        "Cos": ("cos",),
        "Exp": ("exp",),
        "Log": ("log",),
        "Sqrt": ("sqrt",),
        "Reciprocal": ("reciprocal",),
        "Erf": ("erf",),
        "Abs": ("abs",),
        "Neg": ("neg",),
        "Pow": ("pow",),
        "Add": ("add",),
        "Sub": ("subtract",),
        "Mul": ("multiply",),
        "Div": ("divide",),
        "Max": ("maximum",),
        "Min": ("minimum",),
        "Where": ("where",),
        "Concat": ("cat",),
        "Mean": ("mean",),
        "ReduceMean": ("mean",),
        "ReduceSum": ("sum",),
        "ReduceMax": ("amax",),
        "ReduceMin": ("amin",),
        "AveragePool": ("avg_pool",),
        "GlobalAveragePool": ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
        "MaxPool": ("max_pool",),
        "GlobalMaxPool": ("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
        "Resize": ("interpolate",),
        "Upsample": ("interpolate",),
        "GridSample": ("grid_sample",),
        "LSTM": ("lstm",),
        "GRU": ("gru",),
        "RNN": ("rnn",),
        "Gather": ("embedding", "embedding_bag", "gather", "index_select", "select"),
        "GatherND": ("gather_nd",),
        "ScatterElements": ("scatter",),
        "ScatterND": ("scatter_nd",),
        "Cast": ("cast",),
        "ChannelShuffle": ("channel_shuffle",),
        "DepthToSpace": ("pixel_shuffle", "depth_to_space"),
        "SpaceToDepth": ("pixel_unshuffle",),
        "Dropout": ("dropout", "dropout1d", "dropout2d", "dropout3d"),
        "Expand": ("expand",),
        "Flatten": ("flatten",),
        "Identity": ("identity",),
        "Pad": ("pad",),
        "Reshape": ("reshape",),
        "Slice": ("strided_slice",),
        "Split": ("split", "chunk"),
        "Squeeze": ("squeeze",),
        "Tile": ("tile",),
        "TopK": ("topk",),
        "Transpose": ("permute", "transpose"),
        "Unsqueeze": ("unsqueeze",),
        "NonMaxSuppression": (),
        "NonZero": (),
        "MaxRoiPool": (),
        "RoiAlign": (),
    }
)
"""Ops by ONNX op type; empty for types of which no module computes activations."""

FUSIBLE_OPS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({"MatMul": ("matmul", "bmm", "mm")})
"""Where a supergroup means other ops by a type than settings do: a linear layer is a ``Gemm`` there."""

GRID_KEEPING_TYPES: Final = frozenset(
    """DepthToSpace Dropout Expand Flatten Gather GatherND Identity MaxPool Pad ReduceMax ReduceMin Reshape Slice
    SpaceToDepth Split Squeeze Tile TopK Transpose Unsqueeze""".split()
)
"""Types that only move values: their outputs are not rounded unless a config says so."""
