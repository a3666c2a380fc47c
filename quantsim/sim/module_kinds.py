"""What kinds of modules placement tells apart."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from torch import Tensor, nn

__all__ = ["ModuleKind", "channel_axis", "is_weight", "kind_of", "operand_inputs"]


class ModuleKind(StrEnum):
    """What a module does to the numbers that go through it."""

    MULTIPLYING = "multiplying"
    """Multiplies matrices: what a matrix engine runs."""
    EMBEDDING = "embedding"
    """Looks rows up."""
    GRID_KEEPING = "grid-keeping"
    """Its output holds values of its input, so it keeps the input's grid."""
    LOSS = "loss"
    """Part of training, not of the deployed model."""
    COMPOSITE = "composite"
    """Holds quantized modules of its own; no quantizer sits on it."""
    OTHER = "other"
    """Norms, activation functions, sums, ..."""


_MULTIPLYING: Final = frozenset(
    """linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d rnn gru lstm rnn_cell
    gru_cell lstm_cell matmul mm bmm grouped_mm addmm baddbmm addbmm einsum mv dot inner outer linear_function
    dynamic_linear dynamic_conv1d dynamic_conv2d dynamic_conv3d""".split()
)
_GRID_KEEPING: Final = frozenset(
    """identity flatten unflatten channel_shuffle pixel_shuffle pixel_unshuffle dropout dropout1d dropout2d dropout3d
    alpha_dropout feature_alpha_dropout max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d fractional_max_pool2d fractional_max_pool3d reshape permute transpose expand tile split
    chunk gather index_select squeeze unsqueeze unbind""".split()
)
_EMBEDDING: Final = frozenset({"embedding", "embedding_bag"})
_TRANSPOSED: Final = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})


def kind_of(op: str | None, module: nn.Module, parameters: Mapping[str, Tensor]) -> ModuleKind:
    """The kind of a module.

    Args:
        op: Its op in the table of quantized modules; None for a class that is not in it (then it multiplies if it has a
            matrix).
        module: The module, float or quantized.
        parameters: Its own parameters.
    """
    if isinstance(module, nn.modules.loss._Loss):
        return ModuleKind.LOSS
    if op in _MULTIPLYING:
        return ModuleKind.MULTIPLYING
    if op in _EMBEDDING:
        return ModuleKind.EMBEDDING
    if op in _GRID_KEEPING:
        return ModuleKind.GRID_KEEPING
    if op in ("multi_head_attention", "decomposed_attention"):
        return ModuleKind.COMPOSITE
    if op is None and any(is_weight(name, values) for name, values in parameters.items()):
        return ModuleKind.MULTIPLYING
    return ModuleKind.OTHER


def is_weight(name: str, values: Tensor) -> bool:
    """Whether a parameter is an operand of a multiplication: a matrix or more of floating-point numbers."""
    return values.dim() >= 2 and values.is_floating_point() and "bias" not in name


def channel_axis(op: str | None, values: Tensor) -> int | None:
    """Axis of the output channels of a weight; None for vectors, which have none."""
    if values.dim() < 2:
        return None
    return 1 if op in _TRANSPOSED else 0


def operand_inputs(op: str | None, names: tuple[str, ...]) -> frozenset[int]:
    """Indices of the inputs that meet a weight or each other in a multiplication (an LSTM's cell state does not)."""
    return frozenset(index for index, name in enumerate(names) if not (op in ("lstm", "lstm_cell") and name == "c"))
