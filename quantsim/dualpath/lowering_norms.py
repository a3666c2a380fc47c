"""Integer forms of LayerNorm and RMSNorm, and of RMSNorm written as square, mean, root and products."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx

from quantsim.dualpath.integer_graph import Grid, IntegerOp
from quantsim.dualpath.lowered_values import (
    Codes,
    Constant,
    Lowered,
    Mapped,
    MeanSquare,
    Normalization,
    Pending,
    StaysFloatError,
)
from quantsim.dualpath.lowering import Emitter, Lowering, Rule, arguments_of
from quantsim.dualpath.lowering_products import mean

__all__ = ["EMITTERS", "RULES", "add_to_mean_square", "root_of_mean_square", "times_root"]

_LIMIT: Final = 61
"""Intermediates stay below 2^61."""

_MOST_MEAN_BITS: Final = 8
_MOST_GAIN_BITS: Final = 16


def layer_norm(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.layer_norm`` over the last dimension."""
    arguments = arguments_of(node)
    return _norm(lowering, arguments, float(arguments["eps"]), centred=True)


def rms_norm(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.rms_norm`` over the last dimension."""
    arguments = arguments_of(node)
    epsilon = torch.finfo(torch.float32).eps if arguments["eps"] is None else float(arguments["eps"])
    return _norm(lowering, arguments, epsilon, centred=False)


def mean_or_mean_square(lowering: Lowering, node: fx.Node) -> Lowered:
    """``aten.mean``: of squares over the last dimension it may become a root mean square."""
    source = node.args[0]
    form = lowering.form(source)
    if isinstance(form, Mapped) and form.square:
        arguments = arguments_of(node)
        rank = len(node.meta["val"].shape)
        if arguments["keepdim"] and [axis % rank for axis in arguments["dim"] or ()] == [rank - 1]:
            return MeanSquare(form.codes)
    return mean(lowering, node)


def add_to_mean_square(form: MeanSquare, number: float) -> MeanSquare:
    """The epsilon of a norm."""
    if form.is_root or number < 0:
        raise StaysFloatError("a number is added to the root of a mean square")
    return replace(form, epsilon=form.epsilon + number)


def root_of_mean_square(node: fx.Node, form: MeanSquare) -> MeanSquare:
    """The reciprocal of the root."""
    is_root = node.target is torch.ops.aten.rsqrt.default or (
        node.target is torch.ops.aten.pow.Tensor_Scalar and node.args[1] == -0.5
    )
    if form.is_root or not is_root:
        raise StaysFloatError("a mean square is read by something else than the reciprocal of its root")
    return replace(form, is_root=True)


def times_root(lowering: Lowering, other: Any, root: MeanSquare) -> Normalization:
    """The operand over the root of its mean square."""
    codes = lowering.codes(other)
    if not root.is_root or codes.value.name != root.codes.value.name:
        raise StaysFloatError("a mean square is read by something else than its own norm")
    length = codes.value.shape[-1]
    if not isinstance(length, int):
        raise StaysFloatError("it normalises over the batch")
    return Normalization(codes, np.ones(length), None, root.epsilon, centred=False)


def _norm(lowering: Lowering, arguments: dict[str, Any], epsilon: float, *, centred: bool) -> Normalization:
    if len(arguments["normalized_shape"]) != 1:
        raise StaysFloatError("it normalises over several dimensions; integer norms run over the last one")
    codes = lowering.codes(arguments["input"])
    codes.scale  # noqa: B018 (refuses scales of channels)
    length = int(arguments["normalized_shape"][0])
    gain, offset = (_parameter(lowering, arguments.get(name)) for name in ("weight", "bias"))
    return Normalization(codes, np.ones(length) if gain is None else gain, offset, epsilon, centred)


def _parameter(lowering: Lowering, node: Any) -> np.ndarray | None:
    form = lowering.form(node)
    if not isinstance(form, Constant):
        raise StaysFloatError("its weight is no constant")
    return None if form.value is None else _numbers(form.value)


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy().reshape(-1)


def emit_normalization(lowering: Lowering, form: Normalization, grid: Grid) -> Codes:
    """Integer mean, variance, root and one rounded division; as many fraction bits as 64-bit integers hold."""
    codes, length = form.codes, form.gain.size
    zero_point = codes.grid.zero_point
    reach = codes.grid.high - codes.grid.low if form.centred else codes.reach
    mean_bits = 0
    if form.centred:
        largest = max(abs(codes.grid.low), abs(codes.grid.high))
        spare = (_LIMIT - 1 - _bits(length) - 2 * _bits(reach)) // 2
        mean_bits = max(min(_MOST_MEAN_BITS, spare, _LIMIT - _bits(length * largest)), 0)
    squares = length * (reach << mean_bits) ** 2
    epsilon = round(form.epsilon * length * 4.0**mean_bits / codes.scale**2)
    root_bits = max((_LIMIT - 1 - _bits(squares + epsilon)) // 2, 0)
    if _bits(squares + epsilon) + 2 * root_bits > _LIMIT:
        raise StaysFloatError(f"the squares of {length} codes of {_bits(reach)} bits leave 64-bit integers")
    step = float(grid.scale)
    gain = form.gain * (math.sqrt(length) * 2.0**root_bits / step)
    offset = None if form.offset is None else form.offset / step
    root = math.isqrt((squares + epsilon) << (2 * root_bits)) + 1
    gain_bits = _gain_bits(gain, offset, reach << mean_bits, root)
    constants = {"gain": np.rint(gain * 2.0**gain_bits).astype(np.int64)}
    if offset is not None:
        constants["offset"] = np.rint(offset * 2.0**gain_bits).astype(np.int64)
    attributes: dict[str, Any] = {
        "epsilon": epsilon,
        "root_bits": root_bits,
        "gain_bits": gain_bits,
        "zero_point": grid.zero_point,
        "low": grid.low,
        "high": grid.high,
    }
    attributes.update({"mean_bits": mean_bits} if form.centred else {"zero_point_in": zero_point})
    op = IntegerOp.LAYER_NORM if form.centred else IntegerOp.RMS_NORM
    return lowering.emit(op, (codes.value.name,), codes.value.shape, grid, constants, attributes)


def _gain_bits(gain: np.ndarray, offset: np.ndarray | None, reach: int, root: int) -> int:
    """The most fraction bits with which neither products nor the divisor leave 64-bit integers."""

    def fits(bits: int) -> bool:
        numerator = reach * float(np.abs(gain).max(initial=0.0)) * 2.0**bits
        if offset is not None:
            numerator += root * float(np.abs(offset).max(initial=0.0)) * 2.0**bits
        return max(numerator, root * 2.0**bits) < 2.0**_LIMIT

    possible = [bits for bits in range(_MOST_GAIN_BITS + 1) if fits(bits)]
    if not possible:
        raise StaysFloatError("its gain or offset is too large for its grid")
    return possible[-1]


def _bits(number: int) -> int:
    return int(number).bit_length()


RULES: dict[Any, Rule] = {
    torch.ops.aten.layer_norm.default: layer_norm,
    torch.ops.aten.mean.dim: mean_or_mean_square,
}
if hasattr(torch.ops.aten, "rms_norm"):
    RULES[torch.ops.aten.rms_norm.default] = rms_norm

EMITTERS: dict[type[Pending], Emitter] = {Normalization: emit_normalization}
